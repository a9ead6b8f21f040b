"""The plan: what every layer becomes, in a file that can be read, edited, kept and applied again.

The file is JSON of schema `onnxmpq.plan/2`. `apply` needs nothing but the model and the plan: activation parameters
are in it, and so are weights that were rounded for the samples. Other weights are rounded again by the named method,
which is deterministic; so are those of a layer whose scheme was edited to one with another weight format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from onnxmpq.deployment import DeployCpu
from onnxmpq.documents import parse_json, read_text
from onnxmpq.elements import ActivationType
from onnxmpq.errors import PlanError
from onnxmpq.model import Step
from onnxmpq.provenance import SchemaMismatch, require_schema
from onnxmpq.ranges import BITS, QuantParams
from onnxmpq.weights import PackedWeight

SCHEMA = "onnxmpq.plan/2"
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-37, 1e38  # within float32


@dataclass(frozen=True)
class PlannedRegion:
    """One region of the plan.

    node: head node of the prepared graph; original: the nodes of the input model it stands for. latency_ms,
    size_bytes, effect: predicted. reason: why it was left in float32, empty where it was not.
    """

    node: str
    op_type: str
    scheme: str
    original: tuple[str, ...] = ()
    latency_ms: float | None = None
    size_bytes: int | None = None
    effect: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """model: name, sha256 and bytes of the source file. prediction: latency_ms, size_bytes, effect, solver bound and
    gap. measured: what was measured last: size_bytes, latency_ms with its confidence interval, original_latency_ms.
    met: False where a budget is missed and the closest plan was asked for (--best-effort). quality: level of the
    verdict, and its reasons. rounding: the method for weights that are not in `weights`.
    notes: what the file cannot say by itself. opset: that the model was converted to, where one was asked for.
    steps_left_out: steps of preparing that changed an output.
    keep_io: False where inputs and outputs may be 16 bits wide.
    deploy_cpu: a `deployment.DeployCpu`. A file without the field is of a version that always used the full range of
    int8, which is what "vnni" means, so that it is applied to the same bytes as before. exactness: on which CPUs the
    int8 arithmetic is exact, in words; empty where there is none or the target is no CPU.
    patterns: schemes that the user set (`--set`, `--exclude`), "int8|w8" by pattern; the last that matches decides.
    factors: of the channels that were rescaled, float32 packed as text, empty where none were; rescaling: divergence of
    a quick model without and with them, by candidate. order: of channels after that, int32 packed as text, empty where
    none changed places.
    weights: by region, rounded for the samples. biases: by region, float32 packed as text, only where corrected.
    compensation: divergence on samples held back for it, at "first" and after each technique tried on the whole plan.
    """

    model: dict[str, Any]
    target: str
    dialect: str
    budgets: dict[str, str]
    layers: tuple[PlannedRegion, ...]
    activations: dict[str, QuantParams]
    rounding: str = "nearest"
    runtime: dict[str, str] = field(default_factory=dict)
    prediction: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    met: bool = True
    quality: dict[str, Any] = field(default_factory=dict)
    output_sha256: str = ""
    notes: tuple[str, ...] = ()
    rescaling: dict[str, float] = field(default_factory=dict)
    factors: str = ""
    order: str = ""
    opset: int | None = None
    steps_left_out: tuple[str, ...] = ()
    keep_io: bool = True
    deploy_cpu: str = DeployCpu.ANY.value
    exactness: str = ""
    compensation: dict[str, float] = field(default_factory=dict)
    weights: dict[str, PackedWeight] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)

    @property
    def schemes(self) -> dict[str, str]:
        """Region -> scheme name, for regions that are not left in float32."""
        return {r.node: r.scheme for r in self.layers if r.scheme != "fp32"}

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the plan") -> Plan:
        """Inverse of `to_json`. Raises PlanError naming the place and the field."""
        try:
            data = parse_json(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"{where}: line {error.lineno}: not JSON ({error.msg}); write the plan again") from None
        except ValueError as error:
            raise PlanError(f"{where}: no plan ({error}); write the plan again") from None
        if not isinstance(data, dict):
            raise PlanError(f"{where}: no plan, which is a table; write the plan again")
        try:
            require_schema(data.pop("schema", None), SCHEMA)
        except SchemaMismatch as error:
            raise PlanError(f"{where}: {error}; convert the model again") from None
        try:
            data["layers"] = _regions(data["layers"])
            data["steps_left_out"] = tuple(Step(s) for s in data.get("steps_left_out", ()))
            data["notes"] = tuple(_text(note) for note in data.get("notes", ()))
            data["activations"] = {t: _params(t, p) for t, p in data["activations"].items()}
            data["weights"] = {r: _packed(p) for r, p in data.get("weights", {}).items()}
            data["biases"] = {r: _text(b) for r, b in data.get("biases", {}).items()}
            data.setdefault("deploy_cpu", DeployCpu.VNNI.value)
            plan = cls(**data)
            if plan.deploy_cpu not in tuple(DeployCpu):
                raise ValueError(f"deploy_cpu {plan.deploy_cpu!r} is none of {', '.join(DeployCpu)}")
            if plan.opset is not None and type(plan.opset) is not int:
                raise TypeError(f"opset {plan.opset!r} is no number")
            for name, flag in (("keep_io", plan.keep_io), ("met", plan.met)):
                if not isinstance(flag, bool):
                    raise TypeError(f"{name} {flag!r} is neither true nor false")
            for table in (
                plan.model,
                plan.budgets,
                plan.runtime,
                plan.prediction,
                plan.measured,
                plan.quality,
                plan.rescaling,
                plan.compensation,
                plan.patterns,
            ):
                if not isinstance(table, dict):
                    raise TypeError(f"{table!r:.40} is no table")
            for text_field in (
                plan.target,
                plan.dialect,
                plan.rounding,
                plan.output_sha256,
                plan.factors,
                plan.order,
                plan.exactness,
            ):
                _text(text_field)
            return plan
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PlanError(f"{where}: a field is missing, unknown or of the wrong type ({error})") from None


def _regions(entries: Any) -> tuple[PlannedRegion, ...]:
    rows = tuple(PlannedRegion(**{**entry, "original": tuple(entry.get("original", ()))}) for entry in entries)
    seen: set[str] = set()
    for row in rows:
        for value in (row.node, row.op_type, row.scheme, row.reason, *row.original):
            _text(value)
        if row.node in seen:
            raise ValueError(f"layers: node {row.node!r} stands there twice")
        seen.add(row.node)
    return rows


def _params(tensor: str, entry: Mapping[str, Any]) -> QuantParams:
    params = QuantParams(**entry)
    scale, zero_point = params.scale, params.zero_point
    if type(scale) not in (int, float) or not _SMALLEST_SCALE < scale < _LARGEST_SCALE:
        raise ValueError(f"activations: {tensor!r}: scale {scale!r} is no positive float32")
    if type(params.bits) is not int or not 2 <= params.bits <= BITS:
        raise ValueError(f"activations: {tensor!r}: bits {params.bits!r} is not in 2..{BITS}")
    if params.type not in get_args(ActivationType):
        raise ValueError(
            f"activations: {tensor!r}: type {params.type!r} is none of {', '.join(get_args(ActivationType))}"
        )
    largest = params.levels if params.type == "uint8" else 0
    if type(zero_point) is not int or not 0 <= zero_point <= largest:
        raise ValueError(f"activations: {tensor!r}: zero_point {zero_point!r} is not in 0..{largest}")
    return params


def _packed(entry: Mapping[str, Any]) -> PackedWeight:
    packed = PackedWeight(**entry)
    if type(packed.block) is not int or packed.block < 1:
        raise TypeError(f"block is {packed.block!r}, not a number of weights")
    if type(packed.tensor_scale) not in (int, float) or not _SMALLEST_SCALE < packed.tensor_scale < _LARGEST_SCALE:
        raise ValueError(f"tensor_scale {packed.tensor_scale!r} is no positive float32")
    for value in (packed.format, packed.codes, packed.scales, packed.multipliers):
        _text(value)
    return packed


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def read_plan(path: Path) -> Plan:
    """Raises PlanError where the file cannot be read or is no plan."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: cannot be read ({error}); give the path of a .plan.json file") from None
    return Plan.from_json(text, str(path))
