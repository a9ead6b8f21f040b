"""Docstrings say what a thing is; none opens with a question."""

from __future__ import annotations

import ast
from pathlib import Path

import onnxmpq

PACKAGE = Path(onnxmpq.__file__).parent
QUESTIONS = ("What", "Whether", "Which", "How")


def test_no_docstring_opens_with_a_question() -> None:
    found, seen = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            seen += bool(text)
            if text.split(" ", 1)[0] in QUESTIONS:
                found.append(f"{path.relative_to(PACKAGE)}: {text[:60]}")
    assert seen > 500, "the walk sees the package"
    assert not found
