"""The machine that latencies are about: this one, or a device that is measured where it is.

Whatever takes the time of a model calls `timed`: in this program's child, or on the device of the innermost
`measured_on` block. Nothing else runs there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import onnx

from onnxmpq.isolation import call
from onnxmpq.provenance import describe_runtime

R = TypeVar("R")


class Device(Protocol):
    """Another machine. described: as `provenance.describe_runtime` says it there. machine: tells it from others."""

    @property
    def described(self) -> dict[str, str]: ...

    @property
    def machine(self) -> str: ...

    def call(self, function: Callable[..., R], *arguments: Any, doing: str, limit_s: float | None = None) -> R:
        """As `isolation.call`, there. Raises ClusterError where the device is lost."""
        ...


_devices: list[Device] = []


def timed(function: Callable[..., R], *arguments: Any, doing: str, limit_s: float | None = None) -> R:
    """`function(*arguments)`, where time is taken; otherwise as `isolation.call`."""
    where = _devices[-1].call if _devices else call
    return where(function, *arguments, doing=doing, limit_s=limit_s)


def movable(model: onnx.ModelProto | bytes | str) -> onnx.ModelProto | bytes | str:
    """A model as it can be opened where time is taken: a path is one of this machine."""
    return onnx.load(model) if _devices and isinstance(model, str) else model


def described() -> dict[str, str]:
    """Versions and CPU of where time is taken."""
    return _devices[-1].described if _devices else describe_runtime()


def elsewhere() -> str:
    """Tells the device that is measured from others; empty for this machine."""
    return _devices[-1].machine if _devices else ""


@contextmanager
def measured_on(device: Device) -> Iterator[None]:
    """A block in which time is taken on this device."""
    _devices.append(device)
    try:
        yield
    finally:
        _devices.remove(device)
