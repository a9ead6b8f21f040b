"""docs/api.md: its examples run, and it knows every public name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import onnxmpq
from onnxmpq.report.tables import SENSITIVITY
from tests.conftest import SAMPLES

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_effort: object) -> None:
    shutil.copytree(SAMPLES, tmp_path / "samples", ignore=shutil.ignore_patterns("*.py", "*.txt"))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} >= {"small.onnx", "small.plan.json", "sensitivity.csv", "costs.json"}


@pytest.mark.parametrize("name", [n for n in onnxmpq.__all__ if n != "errors"])
def test_every_name_is_described(name: str) -> None:
    assert re.search(rf"`(onnxmpq\.)?{name}[`(]", PAGE)


def test_columns_are_described() -> None:

    for column in SENSITIVITY:
        assert f"`{column}`" in PAGE
