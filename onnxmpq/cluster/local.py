"""Workers on this machine: a `LocalCluster` whose processes start fast, cost little and come back when they end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from onnxmpq.errors import ClusterError
from onnxmpq.files import scratch_folder

_LOST_WORKER = "distributed.deploy.lost-worker-timeout"
"""Dask's setting after which a LocalCluster closes the nanny of a worker that ended and has not come back, by default
15 s: a busy machine may take longer to start one."""
_FOLDER = "temporary-directory"
_METHOD = "distributed.worker.multiprocessing-method"
_QUIET_SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.worker.memory.pause": False,  # a worker with one task gains nothing by waiting
}
"""By default a worker looks at its stack 100 times a second, and each process at its clock 50 times, which takes 3 %
of a core each; at its memory 10 times, and at the whole machine twice, which takes 1.5 % for two workers and the client
(distributed 2026.8.0)."""
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 2**28, "MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TOP_PAD_": 2**24}
"""Bytes. Dask gives freed memory back to the system above 64 KB. Each array over 128 KB then comes from there page by
page, which makes tasks a tenth slower; so it does, to a lesser degree, by what glibc begins with."""
_PRELOADED = "onnxmpq.cluster.preloaded"
FORKS = sys.platform == "linux"
STARTS = 3
"""Workers that may end by themselves while they start, one after the other, before no more are started."""
UNGUARDED = 79
"""Exit code of a worker that imports the script that has started it, and comes upon the call that did."""
_GUARD = 'workers import the script that starts them; put what it does under `if __name__ == "__main__":`'
_WORKER_NAME = "Dask Worker"
_UNKNOWN_EXIT = 255


@dataclass(eq=False)
class _Start:
    """Of a worker. why: it has ended by itself before it was done."""

    why: str = ""
    done: bool = False

    def note(self, why: str, failed: list[_Start]) -> None:
        """Say why it failed, among others that did."""
        self.why = why
        if self not in failed:
            failed.append(self)


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """A `LocalCluster` with one thread a worker, that waits for its workers to come back as long as they take.

    Workers start while the program goes on: to wait for them would take longer than to start them. Its `failed_starts`
    say why they ended by themselves while they started, since one has last begun to work.

    Dask reads how to start a process and when to give it up from its configuration, which is of the whole program.
    Raises ClusterError where workers cannot import the program.
    """
    _require_importable()
    import dask  # noqa: PLC0415
    import distributed  # noqa: PLC0415
    from distributed.core import Status  # noqa: PLC0415

    failed: list[_Start] = []

    class Patient(distributed.LocalCluster):  # type: ignore[misc]  # mypy does not read Dask
        failed_starts = failed

        def _update_worker_status(self, *change: Any) -> None:
            with dask.config.set({_LOST_WORKER: "1 day"}):
                super()._update_worker_status(*change)

    class Watched(distributed.Nanny):  # type: ignore[misc]
        start_of_worker = _Start()

        async def start(self) -> Any:
            with suppress(Exception):  # noted below; Dask would log it three times
                await super().start()
            return self

        def _on_worker_exit_sync(self, exitcode: int) -> None:
            start = self.start_of_worker
            if not start.done and 0 <= exitcode != _UNKNOWN_EXIT:  # below 0: something killed it
                start.note(_GUARD if exitcode == UNGUARDED else f"exit code {exitcode}", failed)
            super()._on_worker_exit_sync(exitcode)

        async def kill(self, *how: Any, **more: Any) -> None:
            if self.process is None or self.process.process is not None:  # or it has ended, and Dask before 2026.8
                await super().kill(*how, **more)  # fails to close the nanny, which whoever closes it waits for

        async def instantiate(self) -> Any:
            if given_up(failed, workers):
                raise RuntimeError(failed[-1].why)
            start = self.start_of_worker = _Start()
            try:
                status = await super().instantiate()
            except Exception as error:  # it could still say why
                start.note(f"{type(error).__name__}: {error}", failed)
                raise
            if status == Status.running:
                start.done = True
                failed.clear()
            return status

    with scratch_folder("files of workers") as folder, forked():  # Dask leaves locks of workers that a signal ended
        settings = {**_QUIET_SETTINGS, _FOLDER: str(folder)}
        with dask.config.set(settings):  # of the scheduler, and of what starts workers later
            cluster = Patient(
                n_workers=0,
                threads_per_worker=1,
                processes=True,
                worker_class=Watched,
                memory_limit=1.0 / workers,
                dashboard_address=":0",
                config=settings,  # of the workers
                preload=_PRELOADED,
                local_directory=str(folder),
            )
            with cluster:
                cluster.scale(workers)  # returns at once
                yield cluster


def dask_loggers() -> list[logging.Logger]:
    """That Dask has given a level, which decides what it writes to stderr: one for all, and some of their own."""
    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith("distributed.")]
    own = [logger for name in names if (logger := logging.getLogger(name)).level != logging.NOTSET]
    return [logging.getLogger("distributed"), logging.getLogger("asyncio"), *own]


def given_up(failed: list[_Start], workers: int) -> bool:
    """True if so many starts of workers have failed, none having begun to work, that the next ones would as well."""
    return any(start.why == _GUARD for start in failed) or len(failed) >= max(STARTS, workers)


def _require_importable() -> None:
    """Raises ClusterError for a program that workers cannot import: a script from standard input. Ends a worker that
    imports the script that asks for workers."""
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):  # it imports what has started it
        if process.name.startswith(_WORKER_NAME):
            os._exit(UNGUARDED)
        raise ClusterError(f"--cluster local:N: {_GUARD}")
    main = sys.modules.get("__main__")
    script = None if getattr(main, "__spec__", None) is not None else getattr(main, "__file__", None)
    if script is not None and not os.path.exists(script):
        raise ClusterError(f"--cluster local:N: workers import the program, and {script} is no file; save it in one")


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
    from `workers`; one that closed by itself stays there. What it returns raises ClusterError where none can start."""
    from distributed.core import Status  # noqa: PLC0415

    def restored() -> None:  # in the loop of the cluster, which owns these dicts
        for name, nanny in list(cluster.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del cluster.workers[name]
        if cluster.worker_spec.keys() - cluster.workers.keys():
            cluster.scale(len(cluster.worker_spec))

    def restore() -> None:
        wanted, failed = len(cluster.worker_spec), cluster.failed_starts
        if not given_up(failed, wanted):
            cluster.loop.add_callback(restored)
        elif not cluster.scheduler.workers:
            why = failed[-1].why
            if why != _GUARD:
                why = f"workers end while they start ({why}); see what they wrote above"
            raise ClusterError(f"--cluster local:{wanted}: {why}")

    return restore


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
