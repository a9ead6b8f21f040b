"""docs/faq.md quotes messages that exist, one row for every exit code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from onnxmpq.errors import exit_codes

ROOT = Path(__file__).parents[1]
TABLE = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs" / "faq.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]
QUOTED = [
    (int(code), quoted) for code, message, _ in TABLE for quoted in re.findall(r"`([^`]+)`", message) if " " in quoted
]


@cache
def literals() -> str:
    """All literal texts of the package, one below the other: of f-strings the parts between their values."""
    found = []
    for path in sorted((ROOT / "onnxmpq").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_exit_code_has_a_row() -> None:
    assert [int(code) for code, *_ in TABLE] == [code for code, _ in exit_codes() if code]


@pytest.mark.parametrize(("code", "quoted"), QUOTED, ids=[f"{code} {quoted}" for code, quoted in QUOTED])
def test_a_quoted_message_is_one_of_the_package(code: int, quoted: str) -> None:
    """... stands for names and figures."""
    if quoted.startswith("onnxmpq "):
        return  # a command
    fragments = [part.strip() for part in quoted.split("...") if len(part.strip(" ;:,()")) > 2]
    assert fragments
    for fragment in fragments:
        assert fragment in literals(), f"exit code {code}: no message has {fragment!r}"
