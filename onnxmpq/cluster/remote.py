"""Functions that run on workers, and the values that travel to them and back."""

from __future__ import annotations

import functools
import hashlib
import pickle
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

from onnxmpq.isolation import Kept, portable, release_memory
from onnxmpq.isolation import call as in_child
from onnxmpq.keys import source
from onnxmpq.provenance import VERSIONS, describe_runtime, machine_id, other_features, other_versions

TAG = "onnxmpq-"
"""Of Dask's resources, those with this prefix are devices: their workers do nothing but measurements."""


@dataclass(frozen=True)
class Identity:
    """described: as `describe_runtime`. source: hash of the package's source. blas: kernels of NumPy's BLAS, by which
    last bits differ. tags: names of devices. machine: tells it from others."""

    described: dict[str, str]
    source: str
    blas: str
    machine: str
    tags: frozenset[str] = frozenset()

    def apart_from(self, here: Identity) -> str:
        """Differences for which its results may have other bits than those made here; empty where there are none."""
        features = other_features(self.described, here.described)
        lines = [
            *self.other_programs(here),
            *([f"this machine's CPU is {features}"] if features else []),
            *([f"BLAS runs {self.blas} (here {here.blas})"] if self.blas != here.blas else []),
        ]
        return "; ".join(lines)

    def other_programs(self, here: Identity) -> list[str]:
        """Versions that differ, and the package's source where its version does not tell."""
        found = other_versions(self.described, here.described)
        if not found and self.source != here.source:
            return [f"another source of onnxmpq {self.described[VERSIONS[0]]}"]
        return found


def identity(dask_worker: Any = None) -> Identity:
    """Of this process. dask_worker: that it is, given by Dask to functions with an argument of this name."""
    kernels = sorted({str(row.get("architecture", "")) for row in threadpool_info() if row.get("user_api") == "blas"})
    resources = dask_worker.state.total_resources if dask_worker is not None else {}
    tags = frozenset(name.removeprefix(TAG) for name in resources if name.startswith(TAG))
    return Identity(describe_runtime(), source(), " ".join(kernels), machine_id(), tags)


@dataclass(frozen=True, eq=False)
class Box:
    """A value as a whole: Dask looks into lists and dicts that travel by themselves.

    It travels pickled, as one buffer: Dask would hand out its arrays as slices of what it has received, at any address,
    and onnxruntime's reductions give other last bits for values that are not aligned.
    """

    value: Any

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Box], tuple[bytes | pickle.PickleBuffer]]:
        return _box, (_pickled(self.value, protocol),)

    def opened(self) -> Any:
        return self.value


def _pickled(value: Any, protocol: int) -> bytes | pickle.PickleBuffer:
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return pickle.PickleBuffer(content) if protocol >= 5 else content  # as a buffer it is not copied once more


def _box(content: bytes) -> Box:
    return Box(pickle.loads(content))


@dataclass(frozen=True)
class Spooled:
    """A value in a file that all workers see. sha256: of the file."""

    path: Path
    sha256: str

    def opened(self) -> Any:
        return _loaded(self.path, self.sha256)


@functools.lru_cache(maxsize=3)  # as many as a task has: the model, what tasks have in common, a mark
def _loaded(path: Path, sha256: str) -> Any:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} was changed while it was in use")
    return pickle.loads(content)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a task, or what it raised, in a line and with its traceback. Travels as a `Box` does."""

    worker: str
    result: Any = None
    error: str = ""
    trace: str = field(default="", repr=False)

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Outcome], tuple[Any, ...]]:
        return _outcome, (self.worker, _pickled(self.result, protocol), self.error, self.trace)


def _outcome(worker: str, result: bytes, error: str, trace: str) -> Outcome:
    return Outcome(worker, pickle.loads(result), error, trace)


def perform(function: Callable[..., Any], places: Sequence[int], parcel: Box, *shared: Box | Spooled) -> Outcome:
    """A task: `function` of the values in `parcel`, with the shared ones at these places."""
    from distributed import get_worker  # noqa: PLC0415

    worker = get_worker().address
    try:
        arguments = list(parcel.value)
        for place, value in zip(places, shared, strict=True):
            arguments.insert(place, value.opened())
        _tidied(shared)
        with threadpool_limits(1, user_api="blas"):
            return Outcome(worker, function(*arguments))
    except Exception as error:
        return Outcome(worker, None, f"{type(error).__name__}: {error}", traceback.format_exc())


_arrived: weakref.WeakSet[Box | Spooled] = weakref.WeakSet()


def _tidied(shared: Sequence[Box | Spooled]) -> None:
    """Gives back to the system the memory that unpacking a new value has taken."""
    if any(value not in _arrived for value in shared):
        release_memory()
        _arrived.update(shared)


def sees(path: Path, content: str) -> bool:
    """True if this worker reads that text in that file."""
    try:
        return path.read_text(encoding="utf-8") == content
    except OSError:
        return False


# ---- devices -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Stands for a value that the device keeps."""

    key: int


@dataclass(frozen=True, eq=False)
class Call:
    """`function(*arguments)` in the device's child. made: values to keep first, (key, function, arguments) each.
    dropped: keys of values to forget. session: of the client."""

    session: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    made: tuple[tuple[int, Callable[..., Any], tuple[Any, ...]], ...]
    dropped: tuple[int, ...]
    doing: str
    limit_s: float | None


@dataclass(frozen=True, eq=False)
class Measured:
    """Its result or what it raised, pickled. missing: the device has lost what was to be kept."""

    content: bytes = b""
    failed: bool = False
    missing: bool = False


_kept: dict[str, dict[int, Kept[Any]]] = {}


def measure(parcel: Box) -> Measured:
    """A call on the device. What another client had kept is forgotten: it sends it again."""
    asked: Call = parcel.value
    if asked.session not in _kept:
        _kept.clear()
    kept = _kept.setdefault(asked.session, {})
    for key in asked.dropped:
        kept.pop(key, None)
    try:
        for key, function, arguments in asked.made:
            kept[key] = Kept(function, *_resolved(arguments, kept))
        given = _resolved(asked.arguments, kept)
    except KeyError:
        return Measured(missing=True)
    try:
        result = in_child(asked.function, *given, doing=asked.doing, limit_s=asked.limit_s)
    except Exception as error:
        return Measured(pickle.dumps(portable(error)), failed=True)
    return Measured(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))


def _resolved(arguments: Sequence[Any], kept: dict[int, Kept[Any]]) -> list[Any]:
    return [kept[a.key] if isinstance(a, Reference) else a for a in arguments]
