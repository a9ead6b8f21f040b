"""What a child calls in tests, and a child that crashes where a test wants it to."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import onnx

from onnxmpq.errors import CalibrationError
from onnxmpq.isolation import Child

R = TypeVar("R")


def add(one: Any, other: Any) -> Any:
    return one + other


def die(signal_name: str = "SIGSEGV") -> None:
    os.kill(os.getpid(), getattr(signal, signal_name))
    time.sleep(60)


def die_the_first_time(marker: Path, signal_name: str) -> str:
    if not marker.exists():
        marker.touch()
        die(signal_name)
    return "alive"


def leave(code: int) -> None:
    os._exit(code)


def hang() -> None:
    time.sleep(600)


def babble() -> str:
    """Writes to the standard output as native code does."""
    os.write(1, b"not an answer\n")
    print("neither is this")
    sys.stdout.flush()
    return "answer"


def anonymous_bytes() -> int:
    """Of this process (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


_LAST: list[bytearray] = []


def leave_holes(count: int, size: int) -> int:
    """Fill memory and free all but the last piece, which keeps the rest from being given back by itself."""
    pieces = [bytearray(b"x" * size) for _ in range(count)]
    _LAST.append(pieces[-1])
    return anonymous_bytes()


def listen() -> str:
    return sys.stdin.read()


def refuse() -> None:
    raise CalibrationError("input 'x' holds NaN")


class Odd(Exception):
    """Cannot be made from its message."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} is not {other}")


def be_odd() -> None:
    raise Odd(1, 2)


def pid() -> int:
    return os.getpid()


def temporary(size: int) -> str:
    import tempfile  # noqa: PLC0415 (reads the environment when it is imported)

    path = Path(tempfile.mkdtemp()) / "left behind"
    path.write_bytes(bytes(size))
    return str(path)


def main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class Counted:
    """A value that is made in the child and says how often."""

    def __init__(self, log: Path, content: bytes) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write("made\n")
        self.content = content


def content_of(counted: Counted) -> bytes:
    return counted.content


class Faulty(Child):
    """A child that dies of SIGSEGV where it is given a graph that computes this node in int8. most: so many times."""

    def __init__(self, node: str, most: int = 10**9) -> None:
        super().__init__()
        self.node, self.left, self.crashes = node, most, 0

    def call(self, function: Callable[..., R], *arguments: Any, doing: str = "", limit_s: float | None = None) -> R:
        if self.left and any(in_int8(a, self.node) for a in arguments if isinstance(a, onnx.ModelProto)):
            self.left -= 1
            self.crashes += 1
            return super().call(die, doing=doing)  # type: ignore[return-value]
        return super().call(function, *arguments, doing=doing, limit_s=limit_s)


def in_int8(proto: onnx.ModelProto, node: str) -> bool:
    """Whether a graph computes a layer in int8: its input and its weight are both dequantized just before it."""
    dequantized = {t for n in proto.graph.node if n.op_type == "DequantizeLinear" for t in n.output}
    return any(n.name == node and dequantized.issuperset(n.input[:2]) for n in proto.graph.node)


class Hunted(Child):
    """A child that is killed from outside in the middle of its calls of these numbers."""

    def __init__(self, calls: set[int]) -> None:
        super().__init__()
        self.calls, self.count, self.kills = calls, 0, 0

    def call(self, function: Callable[..., R], *arguments: Any, doing: str = "", limit_s: float | None = None) -> R:
        number, self.count = self.count, self.count + 1
        if number not in self.calls:
            return super().call(function, *arguments, doing=doing, limit_s=limit_s)
        hunter = threading.Thread(target=self._hunt)
        hunter.start()
        try:
            return super().call(function, *arguments, doing=doing, limit_s=limit_s)
        finally:
            hunter.join()

    def _hunt(self) -> None:
        time.sleep(0.02)
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            self.kills += 1


def constant_about(dialect: str) -> tuple[str, tuple[str, ...]]:
    return "1.0", ("sm89",)


def die_of_anything(*arguments: object) -> None:
    die("SIGSEGV")
