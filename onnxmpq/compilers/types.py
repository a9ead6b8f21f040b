"""The interface of a compiler, and its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import onnx

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Message:
    """A line of the compiler about a graph. node: as the model names it, "" where it is about the whole model."""

    severity: Severity
    node: str
    text: str


@dataclass(frozen=True)
class ShapeRange:
    """Shapes that a dynamic input may have: the smallest, the one to be fastest at, and the largest."""

    least: tuple[int, ...]
    typical: tuple[int, ...]
    most: tuple[int, ...]


Ranges = Mapping[str, ShapeRange]
"""By name of the input."""


@dataclass(frozen=True)
class Answer:
    """Answer of a compiler about one graph.

    engine_bytes: of the serialized engine, None where none was built. weight_bytes: of the constants in it, None where
    the compiler does not tell.
    """

    messages: tuple[Message, ...]
    engine_bytes: int | None = None
    weight_bytes: int | None = None

    @property
    def built(self) -> bool:
        return self.engine_bytes is not None


class Compiler(Protocol):
    """A compiler that builds a graph for a device which need not be there.

    All methods may raise CompilerError where its package is missing or too old. They run in a process of their own,
    since a compiler may end the program.
    """

    @property
    def name(self) -> str:
        """Such as TensorRT-RTX."""
        ...

    def version(self) -> str:
        """The installed version."""
        ...

    def capabilities(self) -> tuple[str, ...]:
        """Devices that it builds for, by the names that users give, such as sm89."""
        ...

    def build(self, proto: onnx.ModelProto, capability: str, ranges: Ranges) -> Answer:
        """Parse and build. Every node of the graph has a name, and no two have the same one.

        ranges: of all inputs with dynamic dimensions.
        """
        ...


@dataclass(frozen=True)
class Kind:
    """Constants of one element type that a DequantizeLinear reads. bytes: as packed in the model."""

    element: str
    tensors: int
    elements: int
    bytes: int


@dataclass(frozen=True)
class Stored:
    """Constants of a model: its quantized weights by type, and the bytes of everything else, scales among it."""

    kinds: Sequence[Kind]
    other_bytes: int

    @property
    def bytes(self) -> int:
        return self.other_bytes + sum(k.bytes for k in self.kinds)

    def at(self, bits: Mapping[str, int]) -> int:
        """Bytes with some types stored in so many bits an element; the others as they are."""
        return self.other_bytes + sum(
            k.elements * bits[k.element] // 8 if k.element in bits else k.bytes for k in self.kinds
        )
