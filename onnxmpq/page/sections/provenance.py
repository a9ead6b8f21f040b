"""Sources of the model, the plan and the figures: files, versions, CPU, samples, options."""

from __future__ import annotations

from collections.abc import Iterator

from onnxmpq.page import figures
from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element
from onnxmpq.page.sections.types import Section
from onnxmpq.page.tables import short
from onnxmpq.page.tree import Tree

MOST = 200
_LONGEST = 600  # characters of a value
_TITLES = {"cpu": "CPU", "cpu_features": "CPU features", "platform": "system"}


def build(document: Document) -> Markup | None:
    rows = [(name, value) for name, value in _rows(document) if value][:MOST]
    items = [
        item for name, value in rows for item in (element("dt", short(name)), element("dd", short(value, _LONGEST)))
    ]
    return element("dl", *items) if items else None


def _rows(document: Document) -> Iterator[tuple[str, str]]:
    tree, plan = document.tree, document.plan
    yield "source model", document.model
    yield "its size", _bytes(plan.number("model", "bytes"))
    yield "its SHA-256", plan.text("model", "sha256")
    yield "result's SHA-256", plan.text("output_sha256")
    yield "budgets and floors", ", ".join(f"{k.replace('_', '-')} {v.text()}" for k, v in plan.items("budgets"))
    yield "target", plan.text("target")
    yield "dialect", plan.text("dialect")
    yield "deployment CPU", plan.text("deploy_cpu")
    yield "opset asked for", _whole(plan.number("opset"))
    yield "samples", tree.text("calibration")
    yield "samples are made up", "yes" if tree.flag("synthetic") else ""
    yield "validation samples", _whole(tree.number("validation", "samples"))
    yield "made on", plan.text("created") or tree.text("created")
    yield "edited", ", ".join(plan.texts("edits"))
    yield "rounding", plan.text("rounding")
    yield "steps of preparing left out", ", ".join(plan.texts("steps_left_out"))
    yield "optional steps of preparing", ", ".join(plan.texts("steps_added"))
    for name, value in plan.items("runtime"):
        yield _TITLES.get(name, name), _scalar(value)
    yield "timings", _timings(tree.at("timings"))
    for name, place in (("data", plan.at("data")), ("option", plan.at("options")), ("pattern", plan.at("patterns"))):
        yield from _flat(name, place)


def _flat(prefix: str, place: Tree, depth: int = 3) -> Iterator[tuple[str, str]]:
    """Fields of a table and of the tables in it."""
    for name, value in place.items():
        if value.items() and depth > 1:
            yield from _flat(name, value, depth - 1)
        else:
            yield f"{prefix}: {name}", _scalar(value)


def _scalar(value: Tree) -> str:
    found = value.value
    if isinstance(found, list):
        return ", ".join(str(v) for v in found[:MOST] if isinstance(v, str | int | float))
    return str(found) if isinstance(found, str | int | float) and found != "" else ""


def _timings(timings: Tree) -> str:
    reused, total = timings.number("reused"), timings.number("total")
    if reused is None or total is None:
        return ""
    return f"{total:.0f} plans, {reused:.0f} of them timed within the last hour; {timings.text('machine')}"


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} bytes ({figures.size(value)})"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


SECTION = Section("provenance", "Provenance", build)
