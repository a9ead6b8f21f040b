"""The linter against the compiler: what it finds no error in builds (docs/tensorrt.md#rules)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.tensorrt.rules import Question, cases, random_layers
from onnxmpq.compilers import compile_model
from onnxmpq.isolation import Child

pytest.importorskip("tensorrt_rtx", reason='needs the compiler: pip install "onnxmpq[tensorrt]"')

STRICTER = frozenset(
    {
        "valid",
        "opset",
        "unsigned",
        "positive-scale",
        "int4-weights-only",
        "int4-blocks",
        "int4-readers",
        "pairs",
        "fp8-operators",
        "one-type",
    }
)
"""Rules whose source speaks of ONNX or of TensorRT for data centres, and that TensorRT-RTX does not have."""


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    found = Child("TensorRT-RTX")
    yield found
    found.close()


def disagreements(questions: Iterator[Question], child: Child) -> list[str]:
    """What the compiler refuses without an error of the linter, and errors of rules that should be shared."""
    found = []
    for question in questions:
        built = compile_model(question.proto, "sm89", child=child).built
        if built == bool(question.errors) and not (built and STRICTER.issuperset(question.errors)):
            found.append(f"{question.name}: built: {built}, errors: {question.errors}")
    return found


def test_the_cases_of_the_rules(child: Child) -> None:
    assert disagreements(cases(), child) == []


def test_random_layers(child: Child) -> None:
    """A third of them; `python -m benchmarks.tensorrt random` asks about all."""
    assert disagreements((q for i, q in enumerate(random_layers()) if i % 3 == 0), child) == []
