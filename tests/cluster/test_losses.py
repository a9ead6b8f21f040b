"""Workers that may be lost with a task before it is given up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from onnxmpq.errors import ClusterError
from onnxmpq.progress import Silent
from onnxmpq.tasks import Task


@pytest.mark.parametrize(("others", "most"), [((), 5), (("another task",), 15)], ids=["alone", "with others"])
def test_a_task_is_given_up(others: tuple[str, ...], most: int) -> None:
    from onnxmpq.cluster.run import Run, _Tried  # noqa: PLC0415

    pool: Any = SimpleNamespace(client=None, lost=set(others), progress=Silent())
    run = Run[int](pool, [])
    tried = _Tried(Task("key", "layer 0", int, ()))
    for _ in range(most - 1):
        run._lost(tried, "gone")
    with pytest.raises(ClusterError, match=rf"layer 0: {most} workers were lost with it \(gone\); see their logs"):
        run._lost(tried, "gone")
