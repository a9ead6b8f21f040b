"""A device: a worker with a tag, on which functions that take time are called, one at a time, in a child of its own."""

from __future__ import annotations

import pickle
import secrets
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from onnxmpq.cluster.remote import TAG, Box, Call, Identity, Measured, Reference, identity, measure
from onnxmpq.errors import ClusterError, LostError
from onnxmpq.isolation import Kept
from onnxmpq.model import WeightStore

R = TypeVar("R")
TRIES = 3
CONNECTION_S = 60.0  # beyond a call's own limit


class RemoteDevice:
    """Implements `measuring.Device`. addresses: workers with the tag, of one kind; all calls go to one of them, as long
    as it is there."""

    def __init__(self, client: Any, addresses: list[str], name: str) -> None:
        self.client, self.name, self.session = client, name, secrets.token_hex(8)
        self._addresses, self._number = addresses, 0
        self._there: dict[int, weakref.ref[Kept[Any]]] = {}
        self._identity: Identity = client.run(identity, workers=[self.address])[self.address]

    @property
    def address(self) -> str:
        return self._addresses[0]

    @property
    def described(self) -> dict[str, str]:
        return self._identity.described

    @property
    def machine(self) -> str:
        return f"{self.name} {self._identity.machine}"

    def call(self, function: Callable[..., R], *arguments: Any, doing: str, limit_s: float | None = None) -> R:
        """As `isolation.call`, there. Raises ClusterError where the device is lost for good."""
        for _ in range(TRIES):
            made, dropped = self._to_make(arguments), self._gone()
            asked = Call(self.session, function, _by_key(arguments), made, dropped, doing, limit_s)
            answer = self._asked(asked, limit_s)
            if answer is None or answer.missing:  # it was started again, and has forgotten all
                self._there.clear()
                continue
            self._there |= {key: self._now[key] for key, *_ in made}
            content = pickle.loads(answer.content)
            if answer.failed:
                raise content
            result: R = content
            return result
        raise ClusterError(f"--device {self.name}: {self.address} was lost {TRIES} times while {doing}")

    def _asked(self, call: Call, limit_s: float | None) -> Measured | None:
        """None where the worker is lost; another one of its kind then takes its place."""
        self._number += 1
        try:
            where = {"workers": [self.address]}
            parcel = self.client.scatter(Box(call), hash=False, **where)
            future = self.client.submit(
                measure,
                parcel,
                key=f"onnxmpq-measure-{self.session}-{self._number}",
                resources={f"{TAG}{self.name}": 1},
                pure=False,
                retries=0,
                **where,
            )
            found: Measured = future.result(timeout=None if limit_s is None else 2 * limit_s + CONNECTION_S)
        except Exception as error:
            if self.client.status != "running":
                raise LostError("the scheduler is gone; run the same command again") from None
            self._move(error)
            return None
        return found

    def _move(self, why: Exception) -> None:
        """To the next worker with the tag that is there now. Raises ClusterError."""
        present = self.client.run(identity, on_error="ignore")
        alike = [a for a, i in present.items() if self.name in i.tags and i.described == self.described]
        if not alike:
            raise ClusterError(f"--device {self.name}: {self.address} was lost ({type(why).__name__}: {why})")
        self._addresses = alike

    def _to_make(self, arguments: tuple[Any, ...]) -> tuple[tuple[int, Callable[..., Any], tuple[Any, ...]], ...]:
        """Values that the call needs and the device does not keep yet, inner ones first."""
        self._now: dict[int, weakref.ref[Kept[Any]]] = {}
        rows: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []

        def add(kept: Kept[Any]) -> None:
            if kept.key in self._there or kept.key in self._now:
                return
            for inner in kept.arguments:
                if isinstance(inner, Kept):
                    add(inner)
            self._now[kept.key] = weakref.ref(kept)
            rows.append((kept.key, kept.function, _by_key(kept.arguments)))

        for argument in arguments:
            if isinstance(argument, Kept):
                add(argument)
        return tuple(rows)

    def _gone(self) -> tuple[int, ...]:
        """Keys of values that nobody needs any more."""
        gone = tuple(key for key, reference in self._there.items() if reference() is None)
        for key in gone:
            del self._there[key]
        return gone


def _by_key(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values to keep as references, and stores of weights without files, which are this machine's."""
    return tuple(
        Reference(a.key) if isinstance(a, Kept) else a.resident() if isinstance(a, WeightStore) else a
        for a in arguments
    )
