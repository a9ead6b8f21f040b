"""The page's input: a report, or a plan, which holds less. Both are JSON, and may come from others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from onnxmpq.errors import PlanError
from onnxmpq.files import parse_json, read_text
from onnxmpq.page.tree import Tree
from onnxmpq.plan import SCHEMA, Plan

Kind = Literal["report", "plan"]
FP32 = "fp32"


@dataclass(frozen=True)
class RegionView:
    """One region. Milliseconds, effects and bytes are None where the document does not have them.

    original: nodes of the source model that it stands for. reason: why it was left in float32.
    """

    order: int
    name: str
    op_type: str
    pattern: str
    scheme: str
    ms_fp32: float | None
    ms: float | None
    effect_weights: float | None
    effect_activations: float | None
    bytes_fp32: float | None
    bytes: float | None
    original: tuple[str, ...]
    reason: str
    shared_with: tuple[str, ...] = ()

    @property
    def layer(self) -> bool:
        """True if it has weights."""
        return self.bytes is not None

    @property
    def effect(self) -> float | None:
        """Of its weights, and of the activations that it is the first to quantize."""
        if self.effect_weights is None:
            return None
        return self.effect_weights + (self.effect_activations or 0.0)


@dataclass(frozen=True)
class Document:
    """kind: what the file is. tree: the report; of a plan, a report that holds nothing else."""

    kind: Kind
    tree: Tree

    @property
    def plan(self) -> Tree:
        return self.tree.at("plan")

    @property
    def model(self) -> str:
        """Name of the source model."""
        return self.plan.text("model", "name") or self.tree.text("model") or "model"

    @cached_property
    def regions(self) -> tuple[RegionView, ...]:
        """In the order of execution: those of the report, or those that the plan decides on."""
        planned = {row.text("node"): row for row in self.plan.rows("layers")}
        rows = self.tree.rows("regions")
        found = _of_report(rows, planned) if rows else _of_plan(planned, self.plan.at("forecast", "choices"))
        return tuple(found)

    @property
    def full(self) -> bool:
        """True if it holds every region, transitions, and effects of activations, as a report does."""
        return bool(self.tree.rows("regions"))

    @cached_property
    def has_fp32(self) -> bool:
        """True if the regions have figures in float32 to compare with."""
        return any(r.ms_fp32 is not None for r in self.regions)

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Schemes of the plan: float32 first, then by the number of regions."""
        counts: dict[str, int] = {}
        for region in self.regions:
            counts[region.scheme] = counts.get(region.scheme, 0) + 1
        return tuple(sorted(counts, key=lambda s: (s != FP32, -counts[s], s)))


def _of_report(rows: list[Tree], planned: dict[str, Tree]) -> Iterator[RegionView]:
    for order, row in enumerate(rows, 1):
        name = row.text("name")
        plan = planned.get(name, Tree(None))
        yield RegionView(
            order,
            name,
            row.text("op_type"),
            row.text("pattern") or row.text("op_type"),
            row.text("scheme") or FP32,
            row.number("latency_ms_fp32"),
            row.number("latency_ms"),
            row.number("effect"),
            row.number("effect_activations"),
            row.number("bytes_fp32"),
            row.number("bytes"),
            tuple(plan.texts("original")),
            plan.text("reason"),
            tuple(row.texts("shared_with")),
        )


def _of_plan(planned: dict[str, Tree], choices: Tree) -> Iterator[RegionView]:
    """choices: figures by region and scheme, where the plan keeps what its predictions were made from."""
    for order, (name, row) in enumerate(planned.items(), 1):
        fp32 = choices.at(name, FP32)
        layer = row.number("size_bytes") is not None
        yield RegionView(
            order,
            name,
            row.text("op_type"),
            row.text("op_type"),
            row.text("scheme") or FP32,
            fp32.number("latency_ms"),
            row.number("latency_ms"),
            row.number("effect"),
            row.number("effect_activations"),
            fp32.number("size_bytes") if layer else None,
            row.number("size_bytes"),
            tuple(row.texts("original")),
            row.text("reason"),
        )


def as_document(content: Any, where: str = "the report") -> Document:
    """Of parsed JSON. Raises PlanError where it is neither a report nor a plan."""
    tree = Tree(content)
    schema = tree.text("schema")
    if schema.startswith("onnxmpq.report/") and tree.at("plan"):
        return Document("report", tree)
    if schema.startswith("onnxmpq.plan/") and tree.at("layers"):
        return Document("plan", Tree({"plan": content}))
    says = f"its schema is {schema!r:.60}" if schema else "it names no schema"
    raise PlanError(f"{where}: no plan and no report of onnxmpq ({says}); give a .plan.json file or a report as .json")


def read_document(path: Path) -> Document:
    """Raises PlanError where the file cannot be read or is something else."""
    try:
        text = read_text(path)
        data = parse_json(text)
        if isinstance(data, dict) and data.get("schema") == SCHEMA:  # an edited plan has stale measurements
            data = parse_json(Plan.from_json(text, str(path)).to_json())
        return as_document(data, str(path))
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: cannot be read ({error}); give a .plan.json file or a report as .json") from None
