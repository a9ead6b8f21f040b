"""Weights that several layers have are once in the file, however they come by them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.dialects.sharing import share_constants
from onnxmpq.output import serialize
from onnxmpq.runtimes import SessionSettings, open_session, run
from tests.graphs import feeds_for, graph, prepared

SIDE = 96
LAYERS = """a = MatMul (x, w)  b = Relu (a)
            c = MatMul (b, w)  d = Relu (c)
            t = Transpose <perm = [1, 0]> (w)
            e = MatMul (d, t)  f = Relu (e)
            i = Identity (w)
            y = MatMul (f, i)"""


def shared() -> onnx.ModelProto:
    """Four layers, one weight: read twice, transposed, and through Identity."""
    return graph(LAYERS, f"float[N, {SIDE}] x", f"float[N, {SIDE}] y", f"float[{SIDE}, {SIDE}] w")


def test_the_first_of_equal_weights_is_found_through_transpose_and_identity() -> None:
    model = prepared(shared())
    keys = list(model.weights)
    assert len(keys) == 4 and model.shared_weights == dict.fromkeys(keys, keys[0])


@pytest.mark.parametrize("scheme", ["w8", "w4", "int8", "w4a8"])
def test_one_copy_in_the_file(scheme: str) -> None:
    proto, feeds = shared(), feeds_for(shared())
    goal = {"latency": "fastest"} if scheme in ("int8", "w4a8") else {"size": "smallest"}
    result = onnxmpq.convert(
        proto, calibration=feeds.arrays, schemes=[scheme], guard=False, best_effort=True, cache=False, **goal
    )
    used = [row for row in result.plan.layers if row.scheme == scheme]
    if len(used) < 4:
        pytest.skip(f"{scheme} was not worth it in all layers here")
    large = [t for t in result.model.graph.initializer if np.prod(t.dims) >= SIDE * SIDE // 8]
    assert len([t for t in large if np.prod(t.dims) >= SIDE * SIDE]) == 1, [(t.name, list(t.dims)) for t in large]
    bits = 8 if scheme in ("w8", "int8") else 4
    assert len(serialize(result.model)) < SIDE * SIDE * bits / 8 * 1.5 + 12_000
    plain = run(open_session(result.model, SessionSettings(optimize=False)), feeds.batch([0]))
    for settings in (SessionSettings(), SessionSettings(exact_integers=True)):
        found = run(open_session(result.model, settings), feeds.batch([0]))
        assert np.allclose(found[0], plain[0], atol=0.1 * np.abs(plain[0]).max())


def test_what_is_left_in_float_is_not_written_twice_either() -> None:
    proto = shared()
    before = run(open_session(proto), feeds_for(proto).batch([0]))
    model = prepared(proto).proto
    share_constants(model, lambda name: name)
    assert [list(t.dims) for t in model.graph.initializer] == [[SIDE, SIDE]]
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(run(open_session(model), feeds_for(proto).batch([0]))[0], before[0])


def test_inputs_and_small_constants_stay() -> None:
    proto = graph(
        "a = Add (x, b)  c = Add (a, d)  e = MatMul (c, v)  y = MatMul (e, w)",
        "float[N, 96] x, float[96, 96] w",
        "float[N, 96] y",
        "float[96] b, float[96] d, float[96, 96] v, float[96, 96] w",
    )
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(list(tensor.dims), np.float32), tensor.name))
    held = serialize(proto)
    share_constants(proto, lambda name: name)
    assert serialize(proto) == held
