"""A scheduler and workers, each a process, for the tests of this folder; they are skipped where Dask is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import onnxmpq

ROOT = Path(onnxmpq.__file__).parents[1]


@contextmanager
def local_cluster(workers: int, *, processes: bool = True) -> Iterator[Any]:
    """A client of a cluster of processes, or threads, with one thread each."""
    distributed = pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    from onnxmpq.cluster.local import forked  # noqa: PLC0415

    with (
        forked(),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=processes,
            dashboard_address=None,
            worker_dashboard_address=None,
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def worker(address: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """One more worker of the scheduler at this address."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    process = subprocess.Popen(
        [*command, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def scheduler(address: str = "tcp://127.0.0.1:0") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of its own, and the address at which it answers."""
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"Scheduler at:\s+(\S+)", line):
                break
        else:
            raise RuntimeError("the scheduler has not begun")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # or it would wait with its pipe full
        yield process, found[1]
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with local_cluster(2) as found:
        yield found
