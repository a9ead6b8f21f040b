"""Findings as text and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxmpq.lint.types import Finding

SCHEMA = "onnxmpq.check/1"


def count(findings: Sequence[Finding]) -> str:
    """1 error and 2 warnings."""
    found = Counter(f.severity for f in findings)
    parts = [f"{n} {what}{'' if n == 1 else 's'}" for what in ("error", "warning") if (n := found[what])]
    return " and ".join(parts) or "no errors or warnings"


def as_dict(findings: Sequence[Finding], model: str, dialect: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "model": model, "dialect": dialect, "findings": [asdict(f) for f in findings]}


def render(findings: Sequence[Finding], model: str, dialect: str, console: Console) -> None:
    """Draw a line for the whole, and a table of what was found."""
    console.print(f"{model}, dialect {dialect}: {count(findings)}", highlight=False, markup=False)
    if not findings:
        return
    table = Table("", "rule", "node", "what")
    for column in table.columns[2:]:
        column.overflow = "fold"
    for f in sorted(findings, key=lambda f: f.severity):
        table.add_row(f.severity, f.rule, Text(f.node or "the model"), Text(f.message))
    console.print(table)
