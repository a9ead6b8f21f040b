"""The linter's errors against the compiler: over the linter's own cases, and over random layers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from benchmarks.tensorrt.weights import BITS, EMBEDDING, LAYERS, Spelling, graph
from onnxmpq.lint import lint
from tests.lint.cases import CASES

RANDOM = 100


@dataclass(frozen=True)
class Question:
    """A graph, its name, and what the linter says: the rules that it breaks as errors, and those as warnings."""

    name: str
    proto: onnx.ModelProto

    @property
    def errors(self) -> tuple[str, ...]:
        return self._broken("error")

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._broken("warning")

    def _broken(self, severity: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f.rule for f in lint(self.proto, "tensorrt") if f.severity == severity))


def cases() -> Iterator[Question]:
    """Of each rule of the dialect a graph that breaks it and one that does not."""
    for case in CASES:
        if case.dialect == "tensorrt":
            yield Question(f"{case.rule}: breaks it", case.breaks)
            yield Question(f"{case.rule}: keeps it", case.keeps)


def random_layers(seed: int = 0) -> Iterator[Question]:
    """Layers whose weights and activations are quantized in random ways, sensible or not."""
    generator = random.Random(seed)
    for number in range(RANDOM):
        layer = generator.choice([*LAYERS, EMBEDDING])
        element = generator.choice(["int4", "int8", "float8e4m3fn", "int8", "float8e4m3fn", "uint8", "uint4"])
        length = layer.shape[layer.input_axis]
        sizes = [str(b) for b in (16, 32, 64, 128) if length % b == 0]
        narrow = BITS[element] == 4
        granularity = generator.choice([*sizes, "channel", "tensor"] if narrow else ["channel", "channel", "tensor"])
        activations = "" if layer is EMBEDDING else generator.choice(["", "int8", "float8e4m3fn", "float8e4m3fn"])
        step = activations if narrow and activations and generator.random() < 0.7 else ""
        zero = generator.choice([None, None, None, 3])
        if element.startswith("uint"):
            zero = 8
        if element == "float8e4m3fn":
            zero = None
        along = "input" if granularity.isdigit() else "output"
        scales = generator.choice(["float", "float", "float16"])
        spelling = Spelling(layer, element, granularity, along, scales, step, activations, zero)
        name = f"random {number}: {layer.name}, {spelling.scheme}, {granularity}, {scales}, zero point {zero}"
        yield Question(name, graph(spelling))
