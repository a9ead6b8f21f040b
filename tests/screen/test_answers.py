"""Answers where there is no terminal."""

from __future__ import annotations

import pytest
from rich.table import Table

from onnxmpq.screen import stdout
from onnxmpq.screen.answers import WIDTH


def test_a_text_is_one_line_and_a_table_as_wide_as_it_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    text = "not judged: " + " ".join(["no floor or limit was given;"] * 9)
    table = Table("what")
    table.add_row(text)
    stdout().print(text, markup=False, highlight=False)
    assert capsys.readouterr().out == text + "\n"
    stdout().print(table)
    rows = capsys.readouterr().out.splitlines()
    assert max(map(len, rows)) == WIDTH and len(rows) > 5
