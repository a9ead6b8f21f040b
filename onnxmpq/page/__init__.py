"""The page: a report or a plan as one HTML file that needs no network, and overlays for other viewers.

Its only input is the JSON of a report or a plan, which may come from others: values are read by `tree.py`, which
believes no type, and text becomes markup in `markup.py` alone. Sections are rows of a table (`sections/`).
"""

from onnxmpq.page.compare import compared, differing, render_comparison
from onnxmpq.page.document import Document, as_document, read_document
from onnxmpq.page.fleet import FleetRow, render_fleet
from onnxmpq.page.formats import write_report
from onnxmpq.page.make import default_output, make_page
from onnxmpq.page.overlay import node_data, overlay_paths, write_overlays
from onnxmpq.page.render import render

__all__ = [
    "Document",
    "FleetRow",
    "as_document",
    "compared",
    "default_output",
    "differing",
    "make_page",
    "node_data",
    "overlay_paths",
    "read_document",
    "render",
    "render_comparison",
    "render_fleet",
    "write_overlays",
    "write_report",
]
