"""Sessions are created as their settings ask."""

from __future__ import annotations

import numpy as np

from onnxmpq.runtime import SessionSettings, open_session, run
from tests.graphs import feeds_for, residual_cnn


def test_a_lean_session_keeps_no_memory_and_computes_the_same() -> None:
    proto = residual_cnn()
    usual, lean = open_session(proto), open_session(proto, SessionSettings(lean=True))
    options = lean.get_session_options()
    assert usual.get_session_options().enable_cpu_mem_arena
    assert not options.enable_cpu_mem_arena and not options.enable_mem_pattern
    inputs = feeds_for(proto, 2).batch([0])
    for one, other in zip(run(usual, inputs), run(lean, inputs), strict=True):
        np.testing.assert_array_equal(one, other)
