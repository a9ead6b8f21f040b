"""A report in the format that the suffix of its file says."""

from __future__ import annotations

import json
from pathlib import Path

from onnxmpq.files import write_text
from onnxmpq.page.document import as_document
from onnxmpq.page.render import render


def write_report(path: Path, report: str) -> None:
    """Write a report, given as JSON: as it is, or as a page where the suffix is .html. Raises OutputError."""
    page = path.suffix.lower() == ".html"
    write_text(path, render(as_document(json.loads(report))) if page else report)
