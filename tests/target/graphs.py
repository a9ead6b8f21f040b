"""A small graph with every kind of region, and a shipped sample; both with their tensors' shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from onnxmpq.cost.chains import Menu
from onnxmpq.model import Model, RegionKind, prepare
from onnxmpq.schemes import Scheme, scheme_named
from onnxmpq.target import Target

SAMPLE = Path(__file__).parents[2] / "samples" / "digits_cnn.onnx"

SMALL = """<ir_version: 10, opset_import: ["" : 21]>
small (float[1, 8, 16, 16] x) => (float[1, 10] y)
{
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
    b = Relu (a)
    c = Add (b, b)
    d = GlobalAveragePool (c)
    e = Flatten (d)
    y = MatMul (e, v)
}"""

CONV_MACS = 32 * 8 * 9 * 16 * 16
MATMUL_MACS = 32 * 10


def small_model() -> Model:
    proto = onnx.parser.parse_model(SMALL)
    for name, shape in (("w", (32, 8, 3, 3)), ("v", (32, 10))):
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return prepare(proto)


def sample_model() -> Model:
    return prepare(SAMPLE)


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """tensor -> shape, one sample where the batch is dynamic."""
    graph = onnx.shape_inference.infer_shapes(model.proto, data_prop=True).graph
    return {
        v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim)
        for v in (*graph.input, *graph.value_info, *graph.output)
    }


def menu_of(model: Model, target: Target) -> Menu:
    """Every scheme that the target's file offers for each region."""
    found: dict[str, Sequence[Scheme]] = {}
    for region in model.regions:
        menu = target.menu if region.kind is RegionKind.LAYER else target.activation_menu
        found[region.name] = [scheme_named(name) for name in menu.get(region.op_type, ("fp32",))]
    return found
