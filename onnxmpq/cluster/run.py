"""One stage's tasks on the workers: handed out as they are freed, tried again elsewhere, and given up with a name."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from onnxmpq.cluster.remote import Box, Outcome, Spooled, perform
from onnxmpq.errors import ClusterError, LostError
from onnxmpq.tasks import Task

if TYPE_CHECKING:
    from onnxmpq.cluster.pool import Pool

Result = TypeVar("Result")
ERRORS = 3
"""Errors of a task, each on another worker where there is one, after which it is given up."""
LOSSES, MOST_LOSSES = 5, 15
"""Workers that may be lost with a task before it is given up: something else may have ended them. The second number is
where workers have been lost with other tasks as well."""
SLOW, SLOW_S = 4.0, 60.0
"""A task that takes so many times as long as the longest one that is done, and so many seconds, is given to another
worker as well once nothing else is left to hand out."""
POLL_S = 1.0
CONNECT_S = 20.0
"""In which a client may find its scheduler again."""
GONE = "the scheduler is gone or was started again; what is done is in the cache: run the same command again"


class Shared:
    """A value that travels once, and the future that stands for it once it has."""

    def __init__(self, content: Box | Spooled) -> None:
        self.content = content
        self.future: Any = None


class _Tried(Generic[Result]):
    """A task, its futures with the worker of each, and what has become of others.

    part_of: the one that it was a part of. root: key of the task that was handed out first.
    """

    def __init__(self, task: Task[Result], part_of: _Tried[Result] | None = None) -> None:
        self.task = task
        self.root: str = part_of.root if part_of else task.key
        self.futures: dict[Any, str] = {}
        self.errors: list[Outcome] = list(part_of.errors) if part_of else []
        self.losses: int = part_of.losses if part_of else 0
        self.tries = 0
        self.since = time.monotonic()


class Run(Generic[Result]):
    """Hands out few more tasks than there are threads, so that what is held and lost stays small."""

    def __init__(self, pool: Pool, tasks: Iterable[Task[Result]]) -> None:
        self.pool, self.client, self.tasks = pool, pool.client, iter(tasks)
        self.open: dict[Any, _Tried[Result]] = {}
        self.done: SimpleQueue[Any] = SimpleQueue()
        self.longest_s = 0.0
        self.all_out = False

    def results(self) -> Iterator[tuple[Task[Result], Result]]:
        """Raises ClusterError."""
        try:
            while self._hand_out():
                try:
                    future = self.done.get(timeout=POLL_S)
                except Empty:
                    self._poll()
                    continue
                tried = self.open.pop(future, None)
                if tried is None:  # of a task that another worker has done meanwhile
                    continue
                outcome = self._outcome(future, tried.futures.pop(future))
                if outcome is not None and not outcome.error:
                    self._finish(tried)
                    yield tried.task, outcome.result
                else:
                    self._again(tried, outcome)
        except Exception:
            self._require_scheduler()  # without it everything else that goes wrong is a consequence
            raise
        finally:
            with suppress(Exception):  # what went wrong is said already
                self._cancel(list(self.open))

    # ---- handing out ---------------------------------------------------------------------------

    def _hand_out(self) -> bool:
        """Fill the workers; False when all is done."""
        self._level()
        while not self.all_out and not (self.open and self.pool.paused and not self.pool.look()):
            self._workers()
            running = len({id(t) for t in self.open.values()})
            if running >= self.pool.width + max(1, self.pool.width // 4):
                break
            task = next(self.tasks, None)
            if task is None:
                self.all_out = True
            else:
                self._submit(_Tried(task))
        return bool(self.open)

    def _level(self) -> None:
        """Moves a task that waits at one worker to another that has nothing to do, such as one that has just come back.
        Tasks of workers that are gone are lost."""
        there: dict[str, list[Any]] = {address: [] for address in self.pool.look()}
        for future, tried in list(self.open.items()):
            if future.done():
                continue
            if (address := tried.futures[future]) in there:
                there[address].append(future)
            elif address not in self.pool.paused:  # there it goes on
                self.client.cancel([future])
                self.done.put(future)
        idle = [address for address, has in there.items() if not has]
        for address in idle:
            busiest = max(there, key=lambda a: len(there[a]) - self.pool.threads[a])
            if len(there[busiest]) <= self.pool.threads[busiest]:
                break
            fresh = [f for f in there[busiest] if address not in (o.worker for o in self.open[f].errors)]
            if not fresh:  # they have failed there already
                continue
            future = fresh[-1]  # the last one that it was given
            there[busiest].remove(future)
            tried = self.open.pop(future)
            del tried.futures[future]
            self.client.cancel([future])
            there[address].append(self._submit(tried, avoid=there.keys() - {address}))

    def _workers(self, avoid: Iterable[str] = ()) -> list[str]:
        """Addresses, that with the fewest tasks for its threads first. Raises ClusterError where nobody is left."""
        self._require_scheduler()
        threads = self.pool.look()
        if not threads:
            self.pool.require_workers(again=True)
            threads = self.pool.threads
        load = dict.fromkeys(threads, 0.0)
        for tried in {id(t): t for t in self.open.values()}.values():
            for address in tried.futures.values():
                if address in load:
                    load[address] += 1.0 / threads[address]
        shunned = set(avoid)
        return sorted((a for a in load if a not in shunned), key=load.__getitem__) or sorted(load, key=load.__getitem__)

    def _submit(self, tried: _Tried[Result], avoid: Iterable[str] = ()) -> Any:
        task = tried.task
        self.pool.look(now=True)  # to send something to a worker that has gone takes Dask `CONNECT_S` to refuse
        try:
            workers = self._workers({*avoid, *(o.worker for o in tried.errors)})
        except ClusterError as error:
            if not tried.losses or isinstance(error, LostError):
                raise
            lost = "1 worker was" if tried.losses == 1 else f"{tried.losses} workers were"
            raise ClusterError(f"{task.about}: {lost} lost with it; {error}") from None
        places = [n for n, a in enumerate(task.arguments) if isinstance(a, Shared)]
        own = Box([a for a in task.arguments if not isinstance(a, Shared)])
        tried.tries += 1
        try:
            shared = [self._placed(task.arguments[n], workers[0]) for n in places]
            parcel = self.client.scatter(own, workers=workers[:1], hash=False, direct=self.pool.local or None)
        except Exception as error:  # the worker has gone since it was looked for
            self._lost(tried, f"{type(error).__name__}: {error}")
            return self._submit(tried, avoid)
        key = f"onnxmpq-{task.key[:40]}-{self.pool.token}-{tried.tries}"
        future = self.client.submit(
            perform, task.function, places, parcel, *shared, key=key, workers=workers[:1], pure=False, retries=0
        )
        tried.futures[future], self.open[future] = workers[0], tried
        tried.since = time.monotonic()
        future.add_done_callback(self.done.put)
        return future

    def _placed(self, shared: Shared, worker: str) -> Any:
        """A shared value on some worker; others fetch it from there. Sent anew where the last copy is lost."""
        if shared.future is None or shared.future.status != "finished":
            shared.future = self.client.scatter(
                shared.content, workers=[worker], hash=False, direct=self.pool.local or None
            )
        return shared.future

    # ---- what becomes of them ------------------------------------------------------------------

    def _outcome(self, future: Any, worker: str) -> Outcome | None:
        """None where the worker, or what it had made, is lost."""
        if future.status == "finished":
            try:
                found: Outcome = future.result(timeout=300)
            except Exception as lost:
                self._require_scheduler()
                self.pool.progress.detail(f"a result was lost: {type(lost).__name__}: {lost}")
                return None
            return found
        self._require_scheduler()
        if future.status == "error":
            error = future.exception()
            if type(error).__name__ not in ("KilledWorker", "FutureCancelledError"):
                return Outcome(worker, None, f"{type(error).__name__}: {error}")
        return None

    def _again(self, tried: _Tried[Result], outcome: Outcome | None) -> None:
        """Another try, unless the other worker of a slow task may still do it. Raises ClusterError."""
        if outcome is None:
            self._lost(tried, "its worker was lost")
        else:
            tried.errors.append(outcome)
            if len(tried.errors) >= ERRORS:
                where = ", ".join(dict.fromkeys(o.worker for o in tried.errors))
                self.pool.progress.detail(outcome.trace)
                raise ClusterError(f"{tried.task.about}: failed {ERRORS} times ({outcome.error}; on {where})")
            self.pool.progress.say(f"{tried.task.about}: {outcome.error} on {outcome.worker}; trying again")
        if tried.futures:
            return
        parts = tried.task.smaller() if outcome is None and tried.task.smaller else []
        for part in [_Tried(task, tried) for task in parts] or [tried]:
            self._submit(part)

    def _lost(self, tried: _Tried[Result], why: str) -> None:
        tried.losses += 1
        self.pool.lost.add(tried.root)
        if tried.losses >= (LOSSES if len(self.pool.lost) == 1 else MOST_LOSSES):
            raise ClusterError(f"{tried.task.about}: {tried.losses} workers were lost with it ({why}); see their logs")
        self.pool.progress.detail(f"{tried.task.about}: {why}; another one does it")

    def _finish(self, tried: _Tried[Result]) -> None:
        self.longest_s = max(self.longest_s, time.monotonic() - tried.since)
        self._cancel(list(tried.futures))

    def _poll(self) -> None:
        """For all that no callback tells: a scheduler that is gone, and tasks that take too long."""
        self._require_scheduler()
        for future, tried in list(self.open.items()):
            if future.status in ("lost", "cancelled", "error"):
                self.done.put(future)
            elif self.all_out and len(tried.futures) == 1 and self._is_slow(tried):
                self.pool.progress.say(f"{tried.task.about}: slow on {tried.futures[future]}; also given to another")
                self._submit(tried, avoid=tried.futures.values())

    def _is_slow(self, tried: _Tried[Result]) -> bool:
        took = time.monotonic() - tried.since
        return len(self.pool.threads) > 1 and took > max(SLOW_S, SLOW * self.longest_s)

    def _cancel(self, futures: list[Any]) -> None:
        for future in futures:
            self.open.pop(future, None)
        if futures and self.client.status == "running":
            self.client.cancel(futures)

    def _require_scheduler(self) -> None:
        """Raises ClusterError where the scheduler is gone, or another one has its place."""
        deadline = time.monotonic() + CONNECT_S
        while self.client.status == "connecting" and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            same = self.client.status == "running" and self.client.scheduler_info()["id"] == self.pool.scheduler
        except Exception:  # it went away just now
            same = False
        if not same:
            raise LostError(GONE)
