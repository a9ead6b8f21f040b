"""Pages and overlays from files that were kept: what `onnxmpq report` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxmpq.errors import UsageError
from onnxmpq.files import check_writable, require_report_format, write_text
from onnxmpq.page.compare import render_comparison
from onnxmpq.page.document import read_document
from onnxmpq.page.overlay import overlay_paths, write_overlays
from onnxmpq.page.render import render


def make_page(files: Sequence[Path], output: Path | None = None, overlay: Path | None = None) -> list[Path]:
    """Write the page of a plan or report, or the comparison of two; the files that were written.

    output: None for a name like the first file's. overlay: node data for Model Explorer beside it (`write_overlays`).
    Raises UsageError, OutputError, and PlanError for a file that is neither.
    """
    if len(files) not in (1, 2):
        raise UsageError(f"report takes one plan or report, or two to compare, not {len(files)}")
    if overlay is not None and len(files) == 2:
        raise UsageError("--model-explorer is of one plan; give one file")
    destination = output or default_output(files)
    require_report_format(destination, "-o", among=(".html",))
    if overlay is not None:
        require_report_format(overlay, "--model-explorer", among=(".json",))
    for path in (destination, *([] if overlay is None else overlay_paths(overlay).values())):
        check_writable(path)
    documents = [read_document(file) for file in files]
    if len(documents) == 2:
        page = render_comparison(documents[0], documents[1], (files[0].name, files[1].name))
    else:
        page = render(documents[0])
    write_text(destination, page)
    return [destination, *([] if overlay is None else write_overlays(overlay, documents[0]))]


def default_output(files: Sequence[Path]) -> Path:
    """model.plan.json -> model.html; of two, model.vs.other.html."""
    return files[0].with_name(".vs.".join(_stem(file) for file in files) + ".html")


def _stem(file: Path) -> str:
    return file.name.removesuffix(".json").removesuffix(".plan")
