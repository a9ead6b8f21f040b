"""Values on their way to workers and back."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from onnxmpq.cluster.remote import Box, Outcome


def travelled(value: Any, shift: int) -> Any:
    """As Dask hands it out: buffers are slices of what was received, at any address."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    slices = []
    for buffer in buffers:
        raw = buffer.raw()
        received = bytearray(shift + raw.nbytes)
        received[shift:] = raw
        slices.append(memoryview(received)[shift:])
    return pickle.loads(content, buffers=slices)


@pytest.mark.parametrize("shift", [1, 4, 8, 16])
def test_arrays_arrive_aligned_and_writable(shift: int) -> None:
    """onnxruntime's ReduceMean gives other last bits for values that are not."""
    sent = {"a": np.arange(300, dtype=np.float32), "b": [np.ones((3, 5)), "text"]}
    for found in (travelled(Box(sent), shift).value, travelled(Outcome("tcp://a", sent, "e", "t"), shift).result):
        for array, before in ((found["a"], sent["a"]), (found["b"][0], sent["b"][0])):
            np.testing.assert_array_equal(array, before)
            assert array.ctypes.data % 16 == 0 and array.flags.aligned and array.flags.writeable
        assert found["b"][1] == "text"
    whole = travelled(Outcome("tcp://a", sent, "e", "t"), shift)
    assert (whole.worker, whole.error, whole.trace) == ("tcp://a", "e", "t")
