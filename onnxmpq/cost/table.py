"""The cost table: what a plan's latency is made of, and the prediction for any plan.

latency = base + Σ node(region, kernel) + Σ over tensors that change format: once per tensor (the quantization that
all int8 readers share) and once per reader (its own dequantization, layout change, or lost fusion).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from onnxmpq.model import Model
from onnxmpq.schemes import Format, Scheme, writes

Assignment = Mapping[str, Scheme]


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
    """Seconds for changing a tensor's format: to int8 for a reader, back to float for a reader."""

    quantize_s: float = 0.0
    dequantize_s: float = 0.0


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


@dataclass(frozen=True)
class CostTable:
    """Measured or modelled costs of one model on one target.

    node_s: region -> kernel name (`Scheme.kernel`) -> seconds. shared: tensor -> once-per-tensor transition.
    edges: `Edge.key` -> per-reader transition. base_s: what no decision changes.
    meta: runtime version, CPU, threads, date, model hash: what the table is valid for.
    """

    node_s: dict[str, dict[str, float]]
    shared: dict[str, Transition] = field(default_factory=dict)
    edges: dict[str, Transition] = field(default_factory=dict)
    base_s: float = 0.0
    meta: dict[str, str] = field(default_factory=dict)

    def offers(self, region: str, scheme: Scheme) -> bool:
        """Whether the table knows what the scheme costs there."""
        return scheme.kernel in self.node_s.get(region, {})

    def predict_s(self, model: Model, assignment: Assignment) -> float:
        """Seconds for one run of the model under an assignment."""
        total = self.base_s
        for region in model.regions:
            scheme = assignment.get(region.name)
            total += self.node_s.get(region.name, {}).get(scheme.kernel if scheme else "fp32", 0.0)
        return total + sum(cost for _, cost in self.transitions_s(model, assignment))

    def transitions_s(self, model: Model, assignment: Assignment) -> Iterator[tuple[Edge, float]]:
        """The edges that change format and what each costs; a shared cost goes to the first of its readers."""
        formats, counted = Formats(model, assignment), set[tuple[str, Format]]()
        for edge in edges_of(model):
            written, read = formats.written(edge.producer), formats.read(edge.consumer)
            if written is read:
                continue
            own, shared = self.edges.get(edge.key, Transition()), self.shared.get(edge.tensor, Transition())
            first = (edge.tensor, read) not in counted
            counted.add((edge.tensor, read))
            if read is Format.INT8:
                yield edge, own.quantize_s + (shared.quantize_s if first else 0.0)
            else:
                yield edge, own.dequantize_s + (shared.dequantize_s if first else 0.0)

    def to_json(self) -> str:
        return json.dumps({"schema": "onnxmpq.cost-table/1", **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CostTable:
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError where the text is something else."""
        data: dict[str, Any] = json.loads(text)
        if data.pop("schema") != "onnxmpq.cost-table/1":
            raise ValueError("not a cost table of schema onnxmpq.cost-table/1")
        data["shared"] = {k: Transition(**v) for k, v in data["shared"].items()}
        data["edges"] = {k: Transition(**v) for k, v in data["edges"].items()}
        return cls(**data)
