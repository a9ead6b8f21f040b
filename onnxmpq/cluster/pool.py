"""The workers that do tasks: those whose results have the same bits as this machine's, and that are no devices."""

from __future__ import annotations

import hashlib
import math
import pickle
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from onnxmpq.cluster.remote import Box, Identity, Spooled, identity, sees
from onnxmpq.cluster.run import CONNECT_S, GONE, Run, Shared
from onnxmpq.errors import ClusterError, LostError
from onnxmpq.progress import Progress
from onnxmpq.tasks import Task

Result = TypeVar("Result")
_ALIKE = "workers need the same packages and CPU features"
LOOK_S = 2.0  # between two looks at who is there
WAIT_S, RETURN_S = 30.0, 180.0
"""Seconds in which workers may come, as a scheduler is often there first; and come back, as those that die are started
again, which takes long on a busy machine."""


class Pool:
    """Implements `tasks.Elsewhere` with the workers of one scheduler, which may come and go."""

    def __init__(
        self,
        client: Any,
        progress: Progress,
        folder: Path | None = None,
        *,
        restore: Callable[[], None] | None = None,
    ) -> None:
        """restore: of workers on this machine, starts those again that have ended for good; returns at once."""
        self.client, self.progress, self.folder = client, progress, folder
        self.restore, self.local = restore, restore is not None
        self.here, self.token, self.scheduler = identity(), secrets.token_hex(4), client.scheduler_info()["id"]
        self.known: dict[str, Identity] = {}
        self.threads: dict[str, int] = {}
        self.left_out: dict[str, str] = {}
        self.paused: set[str] = set()  # by Dask, as their memory is nearly full: they take no tasks for a while
        self.lost: set[str] = set()  # keys of tasks that a worker was lost with
        self._looked = self._asked = float("-inf")
        self._refused, self._waited = False, False
        self._lasting, self._lasts = ExitStack(), ("", Shared(Box(None)))

    # ---- who is there --------------------------------------------------------------------------

    @property
    def width(self) -> int:
        self._wait_once()
        return max(sum(self.threads.values()), 1)

    @property
    def sees_files(self) -> bool:
        return self.local

    @property
    def task_bytes(self) -> float:
        self._wait_once()
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        limits = [w["memory_limit"] / w["nthreads"] for a, w in workers.items() if a in self.threads]
        return min((limit for limit in limits if limit), default=math.inf)

    def look(self, *, now: bool = False) -> dict[str, int]:
        """Threads of each worker that may be given tasks, by address. At most every `LOOK_S` the scheduler is asked."""
        if now or time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            if self.restore is not None:
                self.restore()
            present = self._present()
            self._identify([address for address in present if address not in self.known | self.left_out])
            usable = present.keys() & self.known.keys() - self.paused
            self.threads = {a: n for a, n in present.items() if a in usable and not self.known[a].tags}
            self._refused = bool(present) and self.left_out.keys() >= present.keys()
        return self.threads

    def _present(self) -> dict[str, int]:
        """Threads of all workers, by address; notes which of them are paused. Raises LostError."""
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                present: dict[str, int] = self.client.nthreads()
                if time.monotonic() - self._asked >= LOOK_S:
                    workers = self.client.scheduler_info(n_workers=-1)["workers"]
                    self.paused = {a for a, about in workers.items() if about.get("status") == "paused"}
                    self._asked = time.monotonic()
                return present
            except OSError:  # the connection has broken, perhaps for a moment
                if self.client.status not in ("connecting", "running") or time.monotonic() > deadline:
                    raise LostError(GONE) from None
            time.sleep(0.2)

    def require_workers(self, *, again: bool = False) -> None:
        """Waits for workers. again: all were lost. Raises ClusterError where none comes, or none can be used."""
        self._waited = True
        if again:
            what = "paused by Dask, as their memory is nearly full" if self.paused else "lost"
            self.progress.say(f"all workers are {what}; waiting {RETURN_S:.0f} s for them or others to come")
        self._wait_for(lambda: bool(self.look(now=True)), RETURN_S if again else WAIT_S, again=again)
        if self.threads:
            workers, at_once = _count(len(self.threads), "worker"), _count(self.width, "task")
            self.progress.say(f"{workers} of the cluster, {at_once} at a time")
            return
        devices = [a for a, i in self.known.items() if i.tags]
        if paused := sorted(a for a in self.paused & self.known.keys() if a not in devices):
            raise ClusterError(
                f"all workers ({', '.join(paused)}) are paused by Dask, as their memory is nearly full; "
                "give them more (`dask worker --memory-limit`), or fewer of them the machine"
            )
        if self.left_out and not again:
            unseen = all(reason == self._unseen for reason in self.left_out.values())
            advice = "mount it there at the same path, or leave it out" if unseen else _ALIKE
            raise ClusterError(f"no worker can be used: {_first(self.left_out)}; {advice}")
        if devices:
            raise ClusterError(f"all workers ({', '.join(devices)}) are devices, which do nothing but measurements")
        if again:
            raise ClusterError(
                f"all workers were lost, and none has come back in {RETURN_S:.0f} s; start some, and run "
                "the same command again: what is done is in the cache"
            )
        raise ClusterError("the scheduler has no workers; start some with `dask worker ADDRESS`")

    def _wait_once(self) -> None:
        """For workers on this machine, which start beside other work, when they are needed first."""
        if not self._waited:
            self.require_workers()

    def device(self, name: str) -> list[str]:
        """Addresses of the workers with this tag, all of them machines of one kind. Raises ClusterError."""

        def tagged() -> list[str]:
            self.look(now=True)
            return [address for address, i in self.known.items() if name in i.tags]

        self._wait_for(lambda: bool(tagged()), WAIT_S)
        found = tagged()
        if not found:
            others = sorted({tag for i in self.known.values() for tag in i.tags})
            there = f"; those there are: {', '.join(others)}" if others else ""
            wrong = f"; {_first(self.left_out)}" if self.left_out else ""
            tag = f'dask worker ADDRESS --resources "onnxmpq-{name}=1"'
            raise ClusterError(f"--device {name}: no worker has that tag{there}{wrong}; start one with: {tag}")
        first = self.known[found[0]]
        for address in found[1:]:
            other = self.known[address]
            if other.described["cpu"] != first.described["cpu"] or other.apart_from(first):
                cpus = f"{found[0]} ({first.described['cpu']}) and {address} ({other.described['cpu']})"
                raise ClusterError(f"--device {name}: {cpus} are of different kinds; give them different tags")
        return found

    def _wait_for(self, what: Callable[[], bool], seconds: float, *, again: bool = False) -> None:
        """again: there have been some, though others that are there may be left out."""
        deadline = time.monotonic() + seconds
        while not what() and (again or not self._refused) and time.monotonic() < deadline:
            time.sleep(0.2)

    def _identify(self, addresses: list[str]) -> None:
        if not addresses:
            return
        answers = self.client.run(identity, workers=addresses, on_error="return")
        for address in addresses:
            answer = answers.get(address)
            if isinstance(answer, Identity):
                programs = answer.other_programs(self.here)
                apart = "; ".join(programs) if answer.tags else answer.apart_from(self.here)
            elif isinstance(answer, OSError) or answer is None:  # it has gone meanwhile
                continue
            else:
                apart = f"onnxmpq cannot be imported there ({answer})"
            if not apart and self.folder is not None and not self._sees_folder(address):
                apart = self._unseen
            if apart:
                self.left_out[address] = apart
                self.progress.warn(f"worker {address} is left out: {apart}")
            else:
                self.known[address] = answer

    @property
    def _unseen(self) -> str:
        return f"it does not see --cluster-folder {self.folder}"

    def _unwritable(self, error: OSError) -> ClusterError:
        return ClusterError(
            f"--cluster-folder {self.folder}: cannot be written ({error.strerror}); give a folder that is there "
            "on this machine and on all workers"
        )

    def _sees_folder(self, address: str) -> bool:
        assert self.folder is not None
        path, content = self.folder / f".onnxmpq-{self.token}", self.token
        try:
            path.write_text(content, encoding="utf-8")
            return bool(self.client.run(sees, path.absolute(), content, workers=[address]).get(address))
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            with suppress(OSError):
                path.unlink()

    # ---- tasks ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Forget what stayed for later steps."""
        self._lasting.close()
        self._lasts = ("", Shared(Box(None)))

    @contextmanager
    def shared(self, key: str, value: Any, *, lasting: bool = False) -> Iterator[Shared]:
        if not lasting:
            with self._travelling(key, value) as there:
                yield there
            return
        if self._lasts[0] != key:
            self.close()
            self._lasts = (key, self._lasting.enter_context(self._travelling(key, value)))
        yield self._lasts[1]

    @contextmanager
    def _travelling(self, key: str, value: Any) -> Iterator[Shared]:
        """Through a file of the folder that all see, else from worker to worker."""
        if self.folder is None:
            yield Shared(Box(value))
            return
        path = self.folder.absolute() / f"onnxmpq-{key[:32]}-{self.token}.pickle"
        try:
            try:
                content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
                path.write_bytes(content)
            except OSError as error:
                raise self._unwritable(error) from None
            yield Shared(Spooled(path, hashlib.sha256(content).hexdigest()))
        finally:
            with suppress(OSError):
                path.unlink()

    def run(self, tasks: Iterable[Task[Result]]) -> Iterator[tuple[Task[Result], Result]]:
        self._wait_once()
        return Run(self, tasks).results()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _first(left_out: dict[str, str]) -> str:
    address, why = next(iter(left_out.items()))
    more = f", and {len(left_out) - 1} more" if len(left_out) > 1 else ""
    return f"{address}: {why}{more}"
