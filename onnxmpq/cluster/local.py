"""Workers on this machine: a `LocalCluster` whose processes start fast, cost little and come back when they end."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

_LOST_WORKER = "distributed.deploy.lost-worker-timeout"
"""Dask's setting after which a LocalCluster closes the nanny of a worker that ended and has not come back, by default
15 s: a busy machine may take longer to start one."""
_METHOD = "distributed.worker.multiprocessing-method"
_QUIET_SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "500ms",
}
"""By default a worker looks at its stack 100 times a second, and each process at its clock 50 times, which takes 3 %
of a core each; at its memory 10 times, and at the whole machine twice, which takes 1.5 % for two workers and the client
(distributed 2026.8.0)."""
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 2**28, "MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TOP_PAD_": 2**24}
"""Bytes. Dask gives freed memory back to the system above 64 KB. Each array over 128 KB then comes from there page by
page, which makes tasks a tenth slower; so it does, to a lesser degree, by what glibc begins with."""
_PRELOADED = "onnxmpq.cluster.preloaded"
FORKS = sys.platform == "linux"


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """A `LocalCluster` with one thread a worker, that waits for its workers to come back as long as they take.

    Workers start while the program goes on: to wait for them would take longer than to start them.

    Dask reads how to start a process and when to give it up from its configuration, which is of the whole program.
    """
    import dask  # noqa: PLC0415
    import distributed  # noqa: PLC0415

    class Patient(distributed.LocalCluster):  # type: ignore[misc]  # mypy does not read Dask
        def _update_worker_status(self, *change: Any) -> None:
            with dask.config.set({_LOST_WORKER: "1 day"}):
                super()._update_worker_status(*change)

    with forked(), dask.config.set(_QUIET_SETTINGS):  # of the scheduler, and of what starts workers later
        cluster = Patient(
            n_workers=0,
            threads_per_worker=1,
            processes=True,
            memory_limit=1.0 / workers,
            dashboard_address=":0",
            config=_QUIET_SETTINGS,  # of the workers
            preload=_PRELOADED,
        )
        with cluster:
            cluster.scale(workers)  # returns at once
            yield cluster


@contextmanager
def forked() -> Iterator[None]:
    """A block in which Dask's processes are forked by a server that has imported what tasks need. It has no threads and
    no sessions, and stays until this program ends. Where there can be none they start as Dask has it."""
    import dask  # noqa: PLC0415
    import distributed  # noqa: F401, PLC0415 (brings the settings)

    runs = FORKS and _server_runs(dask.config.get("distributed.nanny.pre-spawn-environ"))
    with dask.config.set({_METHOD: "forkserver"} if runs else {}):
        yield


def restorer(cluster: Any) -> Callable[[], None]:
    """Starts the workers of a LocalCluster whose nanny has closed. Dask's `adapt` does so only where the nanny is gone
    from `workers`; one that closed by itself stays there."""
    from distributed.core import Status  # noqa: PLC0415

    def restored() -> None:  # in the loop of the cluster, which owns these dicts
        for name, nanny in list(cluster.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del cluster.workers[name]
        if cluster.worker_spec.keys() - cluster.workers.keys():
            cluster.scale(len(cluster.worker_spec))

    return lambda: cluster.loop.add_callback(restored)


def _server_runs(environment: dict[str, Any]) -> bool:
    """Starts Python's fork server, unless the program has one: what it imports and how it keeps memory are settled when
    it starts. environment: what Dask gives to processes. False where there can be none."""
    home = str(Path(__file__).parents[2])
    given = {
        **{name: str(value) for name, value in {**environment, **_MEMORY}.items()},
        "PYTHONHASHSEED": "6640",  # as Dask has it
        "PYTHONPATH": os.pathsep.join([home, *filter(None, sys.path)]),
        "PYTHONSAFEPATH": "1",  # this package, not one that lies in the current folder
    }
    before = {name: os.environ.get(name) for name in given}
    try:
        os.environ.update(given)
        multiprocessing.set_forkserver_preload([_PRELOADED])
        forkserver.ensure_running()
    except OSError:  # no process more, or this user may not run the interpreter
        return False
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return True
