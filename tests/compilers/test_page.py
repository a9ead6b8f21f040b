"""The tables of docs/tensorrt.md: what a script writes, and a part of it built again."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

import pytest

from benchmarks.tensorrt import page, placement, weights
from benchmarks.tensorrt.__main__ import summary, weight_rows
from onnxmpq.compilers import compile_model
from onnxmpq.isolation import Child

TEXT = page.PAGE.read_text()
VERSION = re.search(r"TensorRT-RTX (\d+(?:\.\d+)+)", TEXT)
needs_compiler = pytest.mark.skipif(
    VERSION is None or VERSION[1] not in {d.version for d in importlib.metadata.distributions(name="tensorrt_rtx")},
    reason='needs the compiler of the page: pip install "onnxmpq[tensorrt]"',
)


def test_writing_what_is_there_changes_nothing() -> None:
    for heading in ("## Weights", "## Placement", "## Models"):
        rows = [[c.strip() for c in line[1:-1].split("|")] for line in page.table_behind(TEXT, heading)[2:]]
        assert page.with_rows(TEXT, heading, rows) == TEXT
        assert page.with_rows(TEXT, heading, rows[:-1]) != TEXT


def test_models_of_both_targets_share_a_line() -> None:
    rows = [
        ("l4", "m", "fp16", "3", "2500000", "1000000", "1500000"),
        ("rtx5090", "m", "fp16", "3", "no: words", "1000000", ""),
        ("l4", "m", "w8a8-int8", "2", "2500000", "900000", "900000"),
    ]
    assert list(page.model_cells(rows)) == [
        ("m", "fp16", "3", "1.00", "1.50, 2.50", ", no: words"),
        ("m", "w8a8-int8", "2", "0.90", "0.90, 2.50", "-"),
    ]


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    found = Child("TensorRT-RTX")
    yield found
    found.close()


@needs_compiler
def test_engines_have_the_bytes_of_the_page(child: Child) -> None:
    known = page.table_behind(TEXT, "## Placement")
    asked = [p for p in placement.placements() if p.question in ("the graph's output", "scales of an fp8 product")]
    assert len(asked) == 4
    for place in asked:
        answer = compile_model(place.proto, "sm89", child=child).answer
        assert any(f"| {place.spelling} | {answer.engine_bytes} | {answer.weight_bytes} |" in row for row in known)


@needs_compiler
def test_ways_of_storing_weights_build_as_the_page_says(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product with int4 weights; in the page's lines others stand beside it."""
    some = [s for s in weights.spellings() if s.layer.name == "MatMul" and s.scheme.startswith("int4 × ")]
    monkeypatch.setattr(weights, "spellings", lambda: iter(some))
    known = [[c.strip() for c in row[1:-1].split("|")] for row in page.table_behind(TEXT, "## Weights")[2:]]
    found = list(summary(weight_rows(child)))
    assert len(found) >= 3
    for layer, scheme, _, builds, refuses in found:
        assert any(layer in k[0].split("; ") and k[1] == scheme and k[3:] == [builds, refuses] for k in known), scheme
