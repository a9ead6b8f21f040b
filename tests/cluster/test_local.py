"""Workers that are started here: `--cluster local:N`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnxmpq.cluster import connected
from onnxmpq.cluster.local import STARTS, dask_loggers
from onnxmpq.errors import ClusterError
from onnxmpq.progress import Silent
from onnxmpq.tasks import current
from tests.cluster.conftest import ROOT
from tests.cluster.work import dies_first, doubled, run, tasks


def test_local_workers_come_back_however_long_they_take(tmp_path: Path) -> None:
    """A LocalCluster closes the nanny of a worker that takes longer than this setting."""
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    import dask  # noqa: PLC0415

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}):
        rows = [(str(tmp_path), n) for n in range(2)]
        assert run("local:1", tasks(dies_first, rows)) == {f"layer {n}": n for n in range(2)}


def test_local_workers_whose_nanny_has_closed_are_started_again() -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    with connected("local:1", Silent()):
        pool: Any = current()
        cluster = pool.client.cluster
        for _ in range(2):
            cluster.sync(cluster.workers[0].close)
            assert [result for _, result in pool.run(tasks(doubled, [(n,) for n in range(3)]))] == [0, 2, 4]


_CANNOT_START = r"--cluster local:1: workers end while they start \((ModuleNotFoundError|exit code 0)"
"""Dask before 2026.8 may lose the error."""


def test_local_workers_that_cannot_start_end_the_run(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    monkeypatch.setattr("onnxmpq.cluster.local._PRELOADED", "no_such_module")
    with pytest.raises(ClusterError, match=_CANNOT_START):
        run("local:1", tasks(doubled, [(1,)]))
    assert capfd.readouterr().err.count("Traceback") <= STARTS


def levels(_number: int) -> dict[str, int]:
    return {logger.name: logger.level for logger in dask_loggers()}


def test_nothing_of_dask_is_written_to_the_terminal() -> None:
    """Some of its loggers have levels of their own."""
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    before = levels(0)
    assert {"distributed", "distributed.client"} <= before.keys()
    with connected("local:1", Silent()):
        [there] = [found for _, found in current().run(tasks(levels, [(0,)]))]  # type: ignore[union-attr]
        for found in (there, levels(0)):
            assert found.keys() >= before.keys()
            assert set(found.values()) == {logging.CRITICAL}
    assert levels(0) == before


UNGUARDED_SCRIPT = """
from onnxmpq.cluster import connected
from onnxmpq.cluster.local import STARTS, dask_loggers
from onnxmpq.progress import Silent
from onnxmpq.tasks import current

print("top level", flush=True)
with connected("local:2", Silent()):
    print(current().width)
"""


@pytest.mark.parametrize(
    ("in_file", "said", "imports"),
    [
        (True, 'put what it does under `if __name__ == "__main__":`', 3),
        (False, "<stdin> is no file; save it in one", 1),
    ],
    ids=["no main guard", "standard input"],
)
def test_a_script_that_workers_cannot_import(tmp_path: Path, in_file: bool, said: str, imports: int) -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script) if in_file else "-"],
        stdin=script.open(),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1, done.stderr  # of the script itself
    assert done.stdout.count("top level") <= imports
