"""The example of a progress of one's own in docs/screen.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnxmpq.progress import Progress

PAGE = (Path(__file__).parents[2] / "docs" / "screen.md").read_text(encoding="utf-8")


def test_the_example_of_a_callback(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class" in code]
    heard: list[Progress] = []
    convert = SimpleNamespace(convert=lambda *_, progress, **__: heard.append(progress))
    names: dict[str, Any] = {"onnxmpq": convert, "samples": {}}
    exec(compile(example, "docs/screen.md", "exec"), names)
    [progress] = heard
    with progress.stage("counting", 4) as tick:
        tick(1)
        tick(2)
    with progress.stage("solving", 0) as tick:
        tick(5)
    assert capsys.readouterr().out.splitlines() == ["counting 1/4", "counting 3/4", "solving 5"]
