"""Overlays: node data for Google's Model Explorer, one file for each of scheme, latency and effect.

Format: a table `results` by node name, each with `value` and optional colours, a `name`, and a `gradient` from 0 (the
least value) to 1. A file without graph ids belongs to the graph that is open. Source: node_data_builder.py and
common/types.ts of google-ai-edge/model-explorer, "Create custom node data" in its API guide. Nodes are found by the
name that they have in the model, as the ONNX adapter hands it on; a name that a graph does not have is passed over, so
one file serves the source model and the converted one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxmpq.files import write_text
from onnxmpq.page.colours import Palette
from onnxmpq.page.document import Document, RegionView

_GRADIENT = [{"stop": 0, "bgColor": "#f4f6f8"}, {"stop": 1, "bgColor": "#d9534f"}]
_COLOURS = {  # those of the page in light; Model Explorer has no dark mode
    **{"s0": "#a9b2bc", "s1": "#2f6fdb", "s2": "#0f9d8a", "s3": "#8a5bd6", "s4": "#d9822b"},
    **{"s5": "#c2478b", "s6": "#6b8f23", "s7": "#a8503c", "s8": "#3aa0c9"},
}
_Number = Callable[[RegionView], float | None]
_NUMBERS: Mapping[str, tuple[str, _Number]] = {
    "latency": ("latency, ms", lambda r: r.ms),
    "effect": ("effect (divergence from fp32)", lambda r: r.effect),
}


def node_data(document: Document) -> dict[str, dict[str, Any]]:
    """Node data by what it is about. The head of a region has its figures; its other nodes have the scheme."""
    return {"scheme": _schemes(document), **{what: _numbers(document, *row) for what, row in _NUMBERS.items()}}


def overlay_paths(path: Path) -> dict[str, Path]:
    """overlay.json -> overlay.scheme.json and so on, by what they are about."""
    return {what: path.with_name(f"{path.stem}.{what}.json") for what in ("scheme", *_NUMBERS)}


def write_overlays(path: Path, document: Document) -> list[Path]:
    """The files that were written. Raises OutputError."""
    paths = overlay_paths(path)
    for what, content in node_data(document).items():
        write_text(paths[what], json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return list(paths.values())


def _schemes(document: Document) -> dict[str, Any]:
    palette = Palette(document.shown)
    results: dict[str, Any] = {}
    for region in document.regions:
        entry = {"value": region.scheme, "bgColor": _COLOURS[palette.of(region.scheme)], "textColor": "#ffffff"}
        for node in (region.name, *region.original):
            results.setdefault(node, entry)
    return {"name": "scheme", "results": results, "showExpandedSummaryOnGroupNode": True}


def _numbers(document: Document, name: str, of: _Number) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for region in document.regions:
        value = of(region)
        if value is not None:
            for node in (region.name, *region.original[:1]):  # once a model, or the sums of groups would count it twice
                results.setdefault(node, {"value": value})
    return {"name": name, "results": results, "gradient": _GRADIENT}
