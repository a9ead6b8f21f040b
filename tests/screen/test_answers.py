"""Answers where there is no terminal."""

from __future__ import annotations

import pytest
from rich.table import Table

from onnxmpq.screen import stdout


def test_a_text_is_one_line_and_so_is_a_row_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    text = "not judged: " + " ".join(["no floor or limit was given;"] * 9)
    table = Table("what")
    table.add_row(text)
    stdout().print(text, markup=False, highlight=False)
    assert capsys.readouterr().out == text + "\n"
    stdout().print(table)
    rows = capsys.readouterr().out.splitlines()
    assert any(text in row for row in rows) and len(rows) == 5
