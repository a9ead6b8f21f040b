"""The cost table: what a plan's latency is made of, and the prediction for any plan.

latency = base + Σ node(region, kernel) + Σ over tensors that change format: once per tensor (the quantization that
all int8 readers share) and once per reader (its own dequantization, layout change, or lost fusion).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from onnxmpq.cost.layout import Layouts
from onnxmpq.errors import TargetError
from onnxmpq.files import dump_json, parse_json
from onnxmpq.model import Model
from onnxmpq.provenance import require_schema
from onnxmpq.runtimes import Rules
from onnxmpq.schemes import FP32, Format, Scheme, writes
from onnxmpq.shown import Shown

Assignment = Mapping[str, Scheme]
SCHEMA = "onnxmpq.cost-table/3"


@dataclass(frozen=True)
class Edge:
    """A float tensor on its way from the region that makes it to one that reads it; None is the outside."""

    tensor: str
    producer: str | None
    consumer: str | None

    @property
    def key(self) -> str:
        return f"{self.tensor}\t{self.consumer or ''}"


@dataclass(frozen=True)
class Transition:
    """Seconds and joules for changing a tensor on its way to a reader: its format (to a quantized one, back to float),
    or its layout (to the runtime's own, back to the graph's)."""

    quantize_s: float = 0.0
    dequantize_s: float = 0.0
    into_layout_s: float = 0.0
    out_of_layout_s: float = 0.0
    quantize_j: float = 0.0
    dequantize_j: float = 0.0


def edges_of(model: Model) -> tuple[Edge, ...]:
    """Every tensor between two regions, from the graph's inputs, or to its outputs."""
    producers = {t: r.name for t, r in model.producers.items()}
    inner = [Edge(t, producers.get(t), r.name) for r in model.regions for t in r.inputs]
    outer = [Edge(t, producers[t], None) for t in model.output_names if t in producers]
    return (*inner, *outer)


@dataclass(frozen=True)
class Formats:
    """The format of a tensor at its producer's end and at each reader's end, under one assignment."""

    model: Model
    assignment: Assignment

    @cached_property
    def _ops(self) -> dict[str, str]:
        return {r.name: r.op_type for r in self.model.regions}

    def written(self, region: str | None) -> Format:
        scheme = self.assignment.get(region) if region else None
        return writes(scheme, self._ops[region]) if scheme and region else Format.FLOAT

    def read(self, region: str | None) -> Format:
        scheme = self.assignment.get(region) if region else None
        return scheme.reads if scheme else Format.FLOAT


@dataclass(frozen=True, repr=False)
class CostTable(Shown):
    """Measured or modelled costs of one model on one target.

    node_s: region -> scheme name, or the kernel's name where schemes share its cost (`Scheme.kernel`) -> seconds.
    shared: tensor -> once-per-tensor transition. edges: `Edge.key` -> per-reader transition.
    base_s: what no decision changes.
    meta: runtime version, CPU, threads, date, model hash: what the table is valid for.
    rules: of the runtime, for this model: which plans it executes as they are, and the layout of feature maps. Of a
        table from a file, the layout alone; the runtime has the rest.
    node_j: as node_s, in joules; empty where the target has no energies.
    """

    node_s: dict[str, dict[str, float]]
    shared: dict[str, Transition] = field(default_factory=dict)
    edges: dict[str, Transition] = field(default_factory=dict)
    base_s: float = 0.0
    meta: dict[str, str] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    node_j: dict[str, dict[str, float]] = field(default_factory=dict)

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        fp32_s = self.base_s + sum(row.get(FP32, 0.0) for row in self.node_s.values())
        kernels = dict.fromkeys(k for row in self.node_s.values() for k in row)
        return f"{len(self.node_s)} regions, {fp32_s * 1e3:.3f} ms in float32", [
            ("kernels", ", ".join(kernels)),
            ("changes", f"{len(self.edges)} between regions"),
            *((name, str(self.meta[name])) for name in ("target", "cpu", "threads", "date") if name in self.meta),
        ]

    def offers(self, region: str, scheme: Scheme) -> bool:
        """True where the table has the cost of the scheme for the region."""
        costs = self.node_s.get(region, {})
        return scheme.name in costs or scheme.kernel in costs

    def scheme_s(self, region: str, scheme: Scheme | None) -> float:
        """Seconds of a region in a scheme (None: left in float); 0 where the table does not know."""
        return _cost(self.node_s.get(region, {}), scheme)

    def scheme_j(self, region: str, scheme: Scheme | None) -> float:
        """Joules of a region in a scheme (None: left in float); 0 where the table does not know."""
        return _cost(self.node_j.get(region, {}), scheme)

    def predict_s(self, model: Model, assignment: Assignment) -> float:
        """Seconds for one run of the model under an assignment."""
        total = self.base_s + sum(self.scheme_s(r.name, assignment.get(r.name)) for r in model.regions)
        total += sum(cost for _, cost in self.transitions_s(model, assignment))
        return total + sum(cost for _, cost in self.reorders_s(model, assignment))

    def predict_j(self, model: Model, assignment: Assignment) -> float:
        """Joules for one run of the model under an assignment. Raises TargetError where there are no energies."""
        if not self.node_j:
            raise TargetError("the cost table has no energies; choose a target whose file gives them")
        total = sum(self.scheme_j(r.name, assignment.get(r.name)) for r in model.regions)
        for _, read, own, shared in self._changes(model, assignment):
            quantizes = read.quantized
            total += own.quantize_j + shared.quantize_j if quantizes else own.dequantize_j + shared.dequantize_j
        return total

    def transitions_s(self, model: Model, assignment: Assignment) -> Iterator[tuple[Edge, float]]:
        """The edges that change format and what each costs; a shared cost goes to the first of its readers."""
        for edge, read, own, shared in self._changes(model, assignment):
            if read.quantized:
                yield edge, own.quantize_s + shared.quantize_s
            else:
                yield edge, own.dequantize_s + shared.dequantize_s

    def reorders_s(self, model: Model, assignment: Assignment) -> Iterator[tuple[Edge, float]]:
        """The edges that change the memory layout of a feature map, and what each costs beyond its transition."""
        if not self.rules.layout:
            return
        layouts = Layouts(model, self.rules.layout, assignment)
        for edge in edges_of(model):
            change, own = layouts.change(edge.producer, edge.consumer), self.edges.get(edge.key)
            if change and own is not None:
                yield edge, own.into_layout_s if change == "into_layout" else own.out_of_layout_s

    def _changes(self, model: Model, assignment: Assignment) -> Iterator[tuple[Edge, Format, Transition, Transition]]:
        """Edges that change format: the format read, the edge's own transition and its part of the shared one."""
        formats, counted = Formats(model, assignment), set[tuple[str, Format]]()
        for edge in edges_of(model):
            written, read = formats.written(edge.producer), formats.read(edge.consumer)
            if written is read:
                continue
            first = (edge.tensor, read) not in counted
            counted.add((edge.tensor, read))
            shared = self.shared.get(edge.tensor, Transition()) if first else Transition()
            yield edge, read, self.edges.get(edge.key, Transition()), shared

    def to_json(self) -> str:
        held = asdict(replace(self, rules=Rules()))
        del held["rules"]
        return dump_json({"schema": SCHEMA, **held, "layout": dict(self.rules.layout)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CostTable:
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError where the text is something else,
        SchemaMismatch where it is of another schema."""
        data: dict[str, Any] = parse_json(text)
        require_schema(data.pop("schema", None), SCHEMA)
        data["shared"] = {k: Transition(**v) for k, v in data["shared"].items()}
        data["edges"] = {k: Transition(**v) for k, v in data["edges"].items()}
        layout = data.pop("layout", {})
        for name, texts in (("meta", data.get("meta", {})), ("layout", layout)):
            if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
                raise TypeError(f"{name} is no table of texts")
        rules = Rules(layout=layout)
        return cls(**data, rules=rules)


def _cost(costs: Mapping[str, float], scheme: Scheme | None) -> float:
    """By scheme name first, then by the kernel that it shares with others."""
    if scheme is None:
        return costs.get(FP32, 0.0)
    return costs.get(scheme.name, costs.get(scheme.kernel, 0.0))
