"""Tiny graphs written as ONNX text, with seeded random weights, and ways to run and feed them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model, prepare
from onnxmpq.runtimes import SessionSettings, input_specs, open_session, run

Array = NDArray[np.generic]


def graph(
    body: str, inputs: str, outputs: str, weights: str = "", *, opset: int = 21, seed: int = 0
) -> onnx.ModelProto:
    """A model from its parts in ONNX text. Every tensor in `weights` becomes a random initializer (`fill`)."""
    ir_version = 10 if opset >= 21 else 8
    text = (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}'
    )
    return fill(onnx.parser.parse_model(text), seed)


def fill(proto: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Turn value infos that no node computes into random float32 initializers of spread 1/√fan_in."""
    generator = np.random.default_rng(seed)
    made = {t for node in proto.graph.node for t in node.output}
    for info in [v for v in proto.graph.value_info if v.name not in made]:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        fan_in = max(int(np.prod(shape[1:])), 1) if len(shape) > 2 else max(shape[0], 1) if len(shape) == 2 else 4
        values = generator.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
        proto.graph.value_info.remove(info)
    return proto


def samples_for(proto: onnx.ModelProto, count: int = 4, seed: int = 1) -> dict[str, Array]:
    """`count` random samples per input; dynamic axes but the first are 5 long; int64 inputs count from 0 to 7."""
    generator = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    constants = {t.name for t in proto.graph.initializer}
    for info in proto.graph.input:
        if info.name in constants:
            continue
        shape = [d.dim_value or 5 for d in info.type.tensor_type.shape.dim]
        shape[0] = count
        if info.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            found[info.name] = generator.integers(0, 8, shape)
        else:
            found[info.name] = generator.standard_normal(shape).astype(np.float32)
    return found


def feeds_for(proto: onnx.ModelProto, count: int = 4, seed: int = 1) -> Feeds:
    """`samples_for` as the pipeline holds them."""
    return Feeds(samples_for(proto, count, seed), input_specs(open_session(proto)), "random samples of a test")


def outputs_of(
    proto: onnx.ModelProto, inputs: Mapping[str, Array], *, optimize: bool = True, exact_integers: bool = False
) -> dict[str, Array]:
    """Output name -> value of one run."""
    session = open_session(proto, SessionSettings(optimize=optimize, exact_integers=exact_integers))
    return dict(zip([o.name for o in proto.graph.output], run(session, dict(inputs)), strict=True))


def prepared(proto: onnx.ModelProto) -> Model:
    """The model as the pipeline sees it; checks on the way that it computes what `proto` does."""
    model = prepare(proto)
    inputs = feeds_for(proto, 1).batch([0])
    before, after = outputs_of(proto, inputs), outputs_of(model.proto, inputs)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    return model


def initializer(proto: onnx.ModelProto, name: str) -> Array:
    return next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)


# ---- graphs that several rooms use -------------------------------------------------------------


def conv_relu(opset: int = 21) -> onnx.ModelProto:
    return graph(
        """c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b)
           y = Relu (c)""",
        "float[N, 3, 8, 8] x",
        "float[N, 16, 8, 8] y",
        "float[16, 3, 3, 3] w, float[16] b",
        opset=opset,
    )


def residual_cnn() -> onnx.ModelProto:
    """conv - relu - pool - (conv - relu - conv) + shortcut - relu - pool - flatten - gemm."""
    return graph(
        """a0 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0, b0)
           a = Relu (a0)
           p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
           r0 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (p, w1, b1)
           r1 = Relu (r0)
           r2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r1, w2, b2)
           s0 = Add (r2, p)
           s = Relu (s0)
           g = GlobalAveragePool (s)
           f = Flatten (g)
           y = Gemm <transB = 1> (f, w3, b3)""",
        "float[N, 3, 16, 16] x",
        "float[N, 10] y",
        "float[16, 3, 3, 3] w0, float[16] b0, float[16, 16, 3, 3] w1, float[16] b1, float[16, 16, 3, 3] w2, "
        "float[16] b2, float[10, 16] w3, float[10] b3",
    )


def token_model() -> onnx.ModelProto:
    """Embedding of int64 tokens plus a float side input, two MatMul layers with GELU between, two outputs."""
    return graph(
        """e = Gather (table, tokens)
           h = Add (e, extra)
           m0 = MatMul (h, w0)
           m = Add (m0, b0)
           d = Div (m, root2)
           f = Erf (d)
           o = Add (f, one)
           q = Mul (m, o)
           gelu = Mul (q, half)
           k0 = MatMul (gelu, w1)
           logits = Add (b1, k0)
           pooled = ReduceMean <keepdims = 0> (gelu, axis)""",
        "int64[N, T] tokens, float[N, T, 32] extra",
        "float[N, T, 12] logits, float[N, 64] pooled",
        "float[8, 32] table, float[32, 64] w0, float[64] b0, float[64, 12] w1, float[12] b1, "
        "float root2 = {1.4142135}, float one = {1.0}, float half = {0.5}, int64[1] axis = {1}",
    )


def steps_to_take() -> onnx.ModelProto:
    """Something to do for each step that folds, at opset 9."""
    return graph(
        """one = Constant <value = float {1}> ()  v = Add (w, one)
           i = Identity (r)  r = Relu (x)
           c = Conv <kernel_shape = [1, 1]> (i, v)  y = Mul (c, m)""",
        "float[N, 3, 4, 4] x",
        "float[N, 2, 4, 4] y",
        "float[2, 3, 1, 1] w, float[1, 2, 1, 1] m",
        opset=9,
    )
