"""Which nodes are decided together."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import pytest

from onnxmpq.model import Model, RegionKind
from tests.graphs import conv_relu, graph, prepared, residual_cnn, token_model

LAYER, ARITHMETIC, PASSTHROUGH, FLOAT = RegionKind


@dataclass(frozen=True)
class Cut:
    """A graph and the regions it must be cut into, as `pattern: kind`."""

    id: str
    proto: onnx.ModelProto
    regions: tuple[tuple[str, RegionKind], ...]


def vector(body: str, weights: str = "", outputs: str = "float[N, M] y") -> onnx.ModelProto:
    return graph(body, "float[N, 16] x", outputs, weights)


def image(body: str, weights: str = "", outputs: str = "float[N, C, H, W] y") -> onnx.ModelProto:
    return graph(body, "float[N, 8, 8, 8] x", outputs, weights)


CONV = "Conv <kernel_shape = [1, 1]> "
CUTS = [
    Cut("Conv and Relu", conv_relu(), (("Conv+Relu", LAYER),)),
    Cut(
        "Conv and ReLU6",
        image(f"c = {CONV}(x, w)  y = Clip (c, low, high)", "float[8,8,1,1] w, float low = {0.0}, float high = {6.0}"),
        (("Conv+Clip", LAYER),),
    ),
    Cut(
        "Clip with computed bounds",
        image(
            f"c = {CONV}(x, w)  m = ReduceMax <keepdims = 0> (x)  y = Clip (c, low, m)",
            "float[8,8,1,1] w, float low = {0.0}",
        ),
        (("Conv", LAYER), ("ReduceMax", FLOAT), ("Clip", FLOAT)),
    ),
    Cut(
        "Relu with two readers in front",
        image(f"c = {CONV}(x, w)  r = Relu (c)  y = Add (r, c)", "float[8,8,1,1] w"),
        (("Conv", LAYER), ("Relu", FLOAT), ("Add", ARITHMETIC)),
    ),
    Cut(
        "SiLU",
        image(f"c = {CONV}(x, w)  s = Sigmoid (c)  y = Mul (c, s)", "float[8,8,1,1] w"),
        (("Conv", LAYER), ("SiLU", ARITHMETIC)),
    ),
    Cut(
        "gate by another tensor",
        image(f"c = {CONV}(x, w)  s = Sigmoid (x)  y = Mul (c, s)", "float[8,8,1,1] w"),
        (("Conv", LAYER), ("Sigmoid", ARITHMETIC), ("Mul", ARITHMETIC)),
    ),
    Cut(
        "MatMul and bias",
        vector("m = MatMul (x, w)  y = Add (b, m)", "float[16,4] w, float[4] b"),
        (("MatMul+Add", LAYER),),
    ),
    Cut(
        "MatMul, bias and Relu",
        vector("m = MatMul (x, w)  a = Add (m, b)  y = Relu (a)", "float[16,4] w, float[4] b"),
        (("MatMul+Add+Relu", LAYER),),
    ),
    Cut(
        "MatMul and a matrix",
        vector("m = MatMul (x, w)  y = Add (m, b)", "float[16,4] w, float[1,4] b"),
        (("MatMul", LAYER), ("Add", FLOAT)),
    ),
    Cut("Gemm", vector("y = Gemm <transB = 1> (x, w, b)", "float[4,16] w, float[4] b"), (("Gemm", LAYER),)),
    Cut("Gemm with alpha", vector("y = Gemm <alpha = 0.5> (x, w)", "float[16,4] w"), (("Gemm", LAYER),)),
    Cut(
        "constant on the left",
        vector("t = Transpose (x)  y = MatMul (w, t)", "float[16,16] w"),
        (("Transpose", PASSTHROUGH), ("MatMul", LAYER)),
    ),
    Cut(
        "constant on the left and a row, which is no bias of its channels",
        vector("t = Transpose (x)  m = MatMul (w, t)  y = Add (m, b)", "float[4,16] w, float[4] b"),
        (("Transpose", PASSTHROUGH), ("MatMul", LAYER), ("Add", FLOAT)),
    ),
    Cut("vector", vector("y = MatMul (x, w)", "float[16] w", "float[N] y"), (("MatMul", LAYER),)),
    Cut(
        "recurrent, and what its states are made into",
        graph(
            "y, h = GRU <hidden_size = 8> (x, w, r)  z = Relu (y)",
            "float[T, N, 16] x",
            "float[T, 1, N, 8] z, float[1, N, 8] h",
            "float[1, 24, 16] w, float[1, 24, 8] r",
        ),
        (("GRU", LAYER), ("Relu", FLOAT)),
    ),
    Cut(
        "recurrent with computed weights",
        graph(
            "v = Relu (w)  y = RNN <hidden_size = 8> (x, v, v)",
            "float[T, N, 8] x, float[1, 8, 8] w",
            "float[T, 1, N, 8] y",
        ),
        (("Relu", FLOAT), ("RNN", FLOAT)),
    ),
    Cut(
        "GELU spelled out",
        token_model(),
        (
            ("Gather", LAYER),
            ("Add", ARITHMETIC),
            ("MatMul+Add", LAYER),
            ("GELU", FLOAT),
            ("MatMul+Add", LAYER),
            ("ReduceMean", FLOAT),
        ),
    ),
    Cut(
        "residual network",
        residual_cnn(),
        (
            ("Conv+Relu", LAYER),
            ("MaxPool", PASSTHROUGH),
            ("Conv+Relu", LAYER),
            ("Conv", LAYER),
            ("Add+Relu", ARITHMETIC),
            ("GlobalAveragePool", ARITHMETIC),
            ("Flatten", PASSTHROUGH),
            ("Gemm", LAYER),
        ),
    ),
    Cut(
        "product of activations",
        vector("t = Transpose (x)  y = MatMul (x, t)"),
        (("Transpose", PASSTHROUGH), ("MatMul", ARITHMETIC)),
    ),
    Cut("a tensor with itself", vector("y = Mul (x, x)"), (("Mul", FLOAT),)),
    Cut(
        "computed weight",
        vector("w = Transpose (x)  m = MatMul (x, w)  y = Relu (m)"),
        (("Transpose", PASSTHROUGH), ("MatMul", ARITHMETIC), ("Relu", FLOAT)),
    ),
]


@pytest.mark.parametrize("case", CUTS, ids=lambda case: case.id)
def test_regions(case: Cut) -> None:
    model = prepared(case.proto)
    assert tuple((r.pattern, r.kind) for r in model.regions) == case.regions
    consistent(model)


def consistent(model: Model) -> None:
    """Every node in one region at most; inputs and outputs join the regions to the whole graph."""
    nodes = [n for r in model.regions for n in r.nodes]
    assert len(nodes) == len(set(nodes))
    producers = model.producers
    given = {i.name for i in model.proto.graph.input}
    for region in model.regions:
        assert set(region.inputs) <= producers.keys() | given
    floats = {o.name for o in model.proto.graph.output}
    assert floats <= producers.keys() | given


def test_roots_follow_what_only_moves() -> None:
    model = prepared(residual_cnn())
    assert model.roots == {"p": "a", "f": "g"}


def test_a_shared_weight_belongs_to_both_layers() -> None:
    model = prepared(vector("a = MatMul (x, w)  y = MatMul (a, w)", "float[16,16] w"))
    assert [r.params.weight for r in model.layers] == ["w", "w"]


@dataclass(frozen=True)
class Weights:
    """A layer, with its multiply-accumulates for one sample and the shape of its matrix view."""

    id: str
    proto: onnx.ModelProto
    matrix: tuple[int, int]
    macs: int


WEIGHTS = [
    Weights("Conv", conv_relu(), (16, 27), 16 * 27 * 64),
    Weights(
        "depthwise", image("y = Conv <kernel_shape = [3, 3], group = 8> (x, w)", "float[8,1,3,3] w"), (8, 9), 8 * 9 * 36
    ),
    Weights("MatMul", vector("y = MatMul (x, w)", "float[16,4] w"), (4, 16), 64),
    Weights("Gemm", vector("y = Gemm (x, w)", "float[16,4] w"), (4, 16), 64),
    Weights("transposed Gemm", vector("y = Gemm <transB = 1> (x, w)", "float[4,16] w"), (4, 16), 64),
    Weights("stack", image("y = MatMul (x, w)", "float[8,8,3] w"), (24, 8), 8 * 8 * 3 * 8),
    Weights("vector", image("y = MatMul (x, w)", "float[8] w", "float[N, C, H] y"), (1, 8), 8 * 8 * 8),
    Weights("left", image("y = MatMul (w, x)", "float[3, 8] w"), (3, 8), 8 * 3 * 8 * 8),
    Weights(
        "recurrent",
        graph(
            't = Transpose <perm = [1, 0, 2]> (x)  y = LSTM <hidden_size = 8, direction = "bidirectional"> (t, w, r)',
            "float[N, 5, 16] x",
            "float[5, 2, N, 8] y",
            "float[2, 32, 16] w, float[2, 32, 8] r",
        ),
        (64, 16),
        5 * 64 * (16 + 8),
    ),
]


@pytest.mark.parametrize("case", WEIGHTS, ids=lambda case: case.id)
def test_matrix_view_and_macs(case: Weights) -> None:
    model = prepared(case.proto)
    [region] = model.layers
    matrix = model.weight(region)
    assert (matrix.shape, region.params.macs) == (case.matrix, case.macs)
    stored = onnx.numpy_helper.to_array(model.store[region.params.weight])
    assert (region.params.stored(matrix) == stored).all()
