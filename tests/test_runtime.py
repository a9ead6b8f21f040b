"""Sessions are created as their settings ask."""

from __future__ import annotations

import numpy as np

from onnxmpq.execution import with_outputs
from onnxmpq.runtime import SessionSettings, open_session, run
from tests.graphs import feeds_for, graph, residual_cnn


def test_a_lean_session_keeps_no_memory_and_computes_the_same() -> None:
    proto = residual_cnn()
    usual, lean = open_session(proto), open_session(proto, SessionSettings(lean=True))
    options = lean.get_session_options()
    assert usual.get_session_options().enable_cpu_mem_arena
    assert not options.enable_cpu_mem_arena and not options.enable_mem_pattern
    inputs = feeds_for(proto, 2).batch([0])
    for one, other in zip(run(usual, inputs), run(lean, inputs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_output_that_is_an_input_outlives_what_was_fed() -> None:
    proto = with_outputs(graph("y = Relu (x)", "float[N, 4096] x", "float[N, 4096] y"), ["x", "y"])
    session = open_session(proto)
    kept = [run(session, {"x": np.full((1, 4096), float(n), np.float32)})[0] for n in range(20)]
    assert [float(values.min()) for values in kept] == [float(values.max()) for values in kept] == list(range(20))
