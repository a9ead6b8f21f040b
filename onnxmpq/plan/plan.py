"""The plan: what every layer becomes, in a file that can be read, edited, kept and applied again.

The file is JSON of schema `onnxmpq.plan/2`. `apply` needs nothing but the model and the plan: activation parameters
are in it, and so are weights that were rounded for the samples. Other weights are rounded again by the named method,
which is deterministic; so are those of a layer whose scheme was edited to one with another weight format.

`decisions_sha256` is the hash of all that decides on the written model. A plan whose decisions have another hash was
edited: what was measured is of another model then, and is dropped when the plan is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from onnxmpq.deployment import DeployCpu
from onnxmpq.errors import PlanError
from onnxmpq.files import as_path, dump_json, is_number, nearest, parse_json, read_text, shown, weights_path
from onnxmpq.model import Step
from onnxmpq.plan.forecast import Forecast
from onnxmpq.plan.words import in_units
from onnxmpq.provenance import SchemaMismatch, require_schema
from onnxmpq.ranges import BITS, QuantParams
from onnxmpq.schemes import FP32, ActivationType
from onnxmpq.shown import Shown
from onnxmpq.weights import PackedWeight, content_of_aside, found_beside, written_beside

SCHEMA = "onnxmpq.plan/2"
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-37, 1e38  # within float32
_LARGEST_ARRAY, _CHUNK = 2**28, 2**20  # bytes
_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class PlannedRegion:
    """One region of the plan.

    node: head node of the prepared graph; original: the nodes of the input model it stands for. latency_ms,
    size_bytes, effect: predicted, the effect of weights alone. effect_activations: of the tensors that it is the first
    to quantize; None in files of versions without it. reason: why it was left in float32, empty where it was not.
    """

    node: str
    op_type: str
    scheme: str
    original: tuple[str, ...] = ()
    latency_ms: float | None = None
    size_bytes: int | None = None
    effect: float | None = None
    effect_activations: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class PlannedPoint:
    """A point of the trade-off curve. number: from 1, cheapest first. schemes: region -> scheme, of regions that are
    not left in float32. predicted: `latency_ms`, `size_bytes`, `effect` and what else the target models."""

    number: int
    schemes: dict[str, str]
    predicted: dict[str, float]


RETOUCHED = (
    "measured, met or quality were edited in the plan's file and are left out, as they are those of no measurement; "
    "`onnxmpq apply --measure` takes them again"
)


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """model: name, sha256 and bytes of the source file. prediction: latency_ms, size_bytes, effect, solver bound and
    gap. measured: what was measured last: size_bytes, latency_ms with its confidence interval, original_latency_ms.
    met: False where a budget is missed and the closest plan was asked for (--best-effort), None where nobody knows.
    quality: level of the verdict, and its reasons. rounding: the method for weights that are not in `weights`.
    notes: what the file cannot say by itself. opset: that the model was converted to, where one was asked for.
    steps_left_out: steps of preparing that changed an output. steps_added: optional ones that were taken.
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

    Provenance. options: that were asked for, without files. data: of the calibration samples, `samples`, `sha256` and
    `made_up`. created: date and time (UTC) where costs were measured, else empty: equal inputs give equal plans.
    decisions_sha256: hash of the decisions when the plan was written. figures_sha256: of `measured`, `met` and
    `quality` as they were taken; empty in files of versions without it. chosen: region -> scheme, as solved for. edits:
    how the plan differs from that, in words; empty where it does not.

    forecast: what the predictions were made from. points: of the trade-off curve, where one was asked for; with
    point_weights, by region and format, rounded for the samples, of all schemes that the points use.
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
    met: bool | None = True
    quality: dict[str, Any] = field(default_factory=dict)
    output_sha256: str = ""
    notes: tuple[str, ...] = ()
    rescaling: dict[str, float] = field(default_factory=dict)
    factors: str = ""
    order: str = ""
    opset: int | None = None
    steps_left_out: tuple[str, ...] = ()
    steps_added: tuple[str, ...] = ()
    keep_io: bool = True
    deploy_cpu: str = DeployCpu.ANY.value
    exactness: str = ""
    compensation: dict[str, float] = field(default_factory=dict)
    weights: dict[str, PackedWeight] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    decisions_sha256: str = ""
    figures_sha256: str = ""
    chosen: dict[str, str] = field(default_factory=dict)
    edits: tuple[str, ...] = ()
    forecast: Forecast | None = None
    points: tuple[PlannedPoint, ...] = ()
    point_weights: dict[str, dict[str, PackedWeight]] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)

    @property
    def schemes(self) -> dict[str, str]:
        """Region -> scheme name, for regions that are not left in float32."""
        return {r.node: r.scheme for r in self.layers if r.scheme != FP32}

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        counts = Counter(r.scheme for r in self.layers)
        figures = {"measured": self.measured, "predicted": self.prediction}
        return f"{self.model.get('name', 'model')} for {self.target}", [
            ("asked", ", ".join(f"{name} {value}" for name, value in self.budgets.items())),
            ("regions", ", ".join(f"{count} {name}" for name, count in counts.most_common())),
            *((name, in_units(row)) for name, row in figures.items()),
            ("quality", str(self.quality.get("level", ""))),
            ("edited", ", ".join(self.edits or self.differences())),
            ("curve", f"{len(self.points)} points" if self.points else ""),
        ]

    def decided(self) -> str:
        """SHA-256 (hex) of all that decides on the written model: schemes, parameters, rounded weights."""
        parts = hashlib.sha256()
        for part in _decisions(self):
            parts.update(hashlib.sha256(part).digest() if isinstance(part, bytes) else part.digest())
        return parts.hexdigest()

    def sealed(self) -> Plan:
        """The plan as it was solved for: with the hash of its decisions, and no edits."""
        chosen = {r.node: r.scheme for r in self.layers}
        return replace(self, decisions_sha256=self.decided(), chosen=chosen, edits=()).with_figures()

    def with_figures(self) -> Plan:
        """The plan with the hash of its figures, which were just taken."""
        return replace(self, figures_sha256=self._figured())

    def _figured(self) -> str:
        figures = {"measured": self.measured, "met": self.met, "quality": self.quality}
        return hashlib.sha256(dump_json(figures, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def changed(self) -> bool:
        """True where the decisions are not those that the plan was written with: what was measured is stale."""
        return bool(self.decisions_sha256) and self.decided() != self.decisions_sha256

    @property
    def retouched(self) -> bool:
        """True where figures are not those that were taken: somebody has edited them."""
        return bool(self.figures_sha256) and self._figured() != self.figures_sha256

    def without_figures(self) -> Plan:
        """The plan without measurements and verdict, and with a note that says so."""
        unknown = {"level": "unknown", "reasons": [RETOUCHED]}
        notes = tuple(dict.fromkeys((*self.notes, RETOUCHED)))
        return replace(self, measured={}, met=None, quality=unknown, notes=notes).with_figures()

    def differences(self) -> list[str]:
        """ "Conv_3: int8 -> fp32" for every region whose scheme is not the one that was solved for."""
        now = {r.node: r.scheme for r in self.layers}
        names = dict.fromkeys((*self.chosen, *(now if self.chosen else ())))
        pairs = ((name, self.chosen.get(name, FP32), now.get(name, FP32)) for name in names)
        return [f"{name}: {before} -> {after}" for name, before, after in pairs if before != after]

    def without_stale(self) -> Plan:
        """The plan without what belongs to other decisions: measurements, verdict, predictions of changed regions."""
        anew = (replace(r, effect_activations=None) for r in self.layers)  # another region may be the first to quantize
        rows = tuple(
            replace(r, latency_ms=None, size_bytes=None, effect=None) if self.chosen.get(r.node) != r.scheme else r
            for r in anew
        )
        return replace(
            self,
            layers=rows if self.chosen else self.layers,
            prediction={},
            measured={},
            met=None,
            quality={},
            output_sha256="",
            notes=(),
            exactness="",
            compensation={},
            created="",
            figures_sha256="",
        )

    def beside(self) -> Iterator[bytes]:
        """The file that goes with the plan's, piece by piece; nothing where the plan holds all of its arrays."""
        return written_beside(_arrays(self))

    def to_json(self) -> str:
        return dump_json({"schema": SCHEMA, **asdict(self)}) + "\n"

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
            raise PlanError(f"{where}: no plan: it is JSON, but no object of fields; write the plan again")
        try:
            require_schema(data.pop("schema", None), SCHEMA)
        except SchemaMismatch as error:
            raise PlanError(f"{where}: {error}; convert the model again") from None
        try:
            plan = _plan(data)
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PlanError(f"{where}: a field is missing, unknown or of the wrong type ({error})") from None
        if plan.changed:
            return plan.without_stale()
        return plan.without_figures() if plan.retouched else plan


def _plan(data: dict[str, Any]) -> Plan:
    """Raises PlanError for an unknown field; KeyError, TypeError, AttributeError or ValueError for a wrong one."""
    data["layers"] = _regions(data["layers"])
    for steps in ("steps_left_out", "steps_added"):
        data[steps] = tuple(Step(s) for s in data.get(steps, ()))
    for name in ("notes", "edits"):
        data[name] = tuple(_text(line) for line in data.get(name, ()))
    data["activations"] = {t: _params(t, p) for t, p in data["activations"].items()}
    data["weights"] = {r: _packed(p, f"weights.{r}") for r, p in data.get("weights", {}).items()}
    data["biases"] = {r: _text(b) for r, b in data.get("biases", {}).items()}
    data["points"] = tuple(_point(p, i) for i, p in enumerate(data.get("points", ()), 1))
    data["point_weights"] = {
        r: {f: _packed(p, f"point_weights.{r}") for f, p in row.items()}
        for r, row in data.get("point_weights", {}).items()
    }
    if data.get("forecast") is not None:
        data["forecast"] = Forecast.from_dict(data["forecast"])
    data.setdefault("deploy_cpu", DeployCpu.VNNI.value)
    plan = _entry(Plan, data, "")
    if plan.deploy_cpu not in tuple(DeployCpu):
        raise ValueError(f"deploy_cpu {plan.deploy_cpu!r} is none of {', '.join(DeployCpu)}")
    if plan.opset is not None and type(plan.opset) is not int:
        raise TypeError(f"opset {plan.opset!r} is no number")
    if not isinstance(plan.keep_io, bool):
        raise TypeError(f"keep_io {plan.keep_io!r} is neither true nor false")
    if not (plan.met is None or isinstance(plan.met, bool)):
        raise TypeError(f"met {plan.met!r} is neither true, false nor null")
    for name in _TABLES:
        if not isinstance(getattr(plan, name), dict):
            raise TypeError(f"{name} is {shown(getattr(plan, name))}, no table")
    for name in _TEXTS:
        _text(getattr(plan, name))
    for table in (plan.budgets, plan.runtime, plan.chosen, plan.patterns):
        for value in table.values():
            _text(value)
    return plan


_TABLES = (
    *("model", "budgets", "runtime", "prediction", "measured", "quality"),
    *("rescaling", "compensation", "options", "data", "chosen", "patterns"),
)
_TEXTS = (
    *("target", "dialect", "rounding", "output_sha256", "factors", "order"),
    *("exactness", "created", "decisions_sha256", "figures_sha256"),
)


def _entry(made: type[_Entry], held: Any, where: str) -> _Entry:
    """A dataclass from a table of its fields. Raises PlanError for a field that it does not have."""
    if not isinstance(held, dict):
        raise TypeError(f"{where.rstrip('.')} is {shown(held)}, no table")
    known = [row.name for row in fields(made)]  # type: ignore[arg-type]
    for name in held:
        if name not in known:
            hint = nearest(name, known, "the fields are")
            raise PlanError(f"field '{where}{name}' is unknown; {hint} take it out, or correct it")
    return made(**held)


def _regions(entries: Any) -> tuple[PlannedRegion, ...]:
    rows = tuple(_region(entry, f"layers[{number}].") for number, entry in enumerate(entries))
    seen: set[str] = set()
    for row in rows:
        if row.node in seen:
            raise ValueError(f"layers: node {row.node!r} stands there twice")
        seen.add(row.node)
    return rows


def _region(entry: Any, where: str) -> PlannedRegion:
    held = {**entry, "original": tuple(entry.get("original", ()))} if isinstance(entry, dict) else entry
    row = _entry(PlannedRegion, held, where)
    for value in (row.node, row.op_type, row.scheme, row.reason, *row.original):
        _text(value)
    for figure in (row.latency_ms, row.size_bytes, row.effect, row.effect_activations):
        if figure is not None and not is_number(figure):
            raise TypeError(f"{where}: {shown(figure)} is no number")
    return row


def _point(entry: Any, number: int) -> PlannedPoint:
    point = _entry(PlannedPoint, entry, f"points[{number - 1}].")
    if point.number != number or not isinstance(point.schemes, dict) or not isinstance(point.predicted, dict):
        raise ValueError(f"points: entry {number} is not point {number} of the curve")
    for value in (*point.schemes, *point.schemes.values()):
        _text(value)
    return point


def _decisions(plan: Plan) -> Iterator[bytes | hashlib._Hash]:
    """All that decides on the written model, in parts."""
    decided = (
        *(plan.model.get("sha256"), plan.target, plan.dialect, sorted(plan.schemes.items()), plan.rounding),
        *(plan.opset, list(plan.steps_left_out), list(plan.steps_added), plan.keep_io, plan.deploy_cpu),
        {t: asdict(p) for t, p in plan.activations.items()},
    )
    yield dump_json(decided, indent=None, sort_keys=True).encode()
    yield from map(_content, (plan.factors, plan.order))
    for region in sorted(plan.weights):
        packed = plan.weights[region]
        yield f"{region}\t{packed.format}\t{packed.block}\t{packed.tensor_scale!r}".encode()
        yield from map(_content, (packed.codes, packed.scales, packed.multipliers))
    for region in sorted(plan.biases):
        yield region.encode()
        yield _content(plan.biases[region])


def _content(text: str) -> hashlib._Hash | bytes:
    """Hash of the bytes that were packed into a text, whatever library compressed them; of a damaged text, or one that
    unpacks to more than `_LARGEST_ARRAY`, that of the text itself. Of an array in another file, what says its hash."""
    if content := content_of_aside(text):
        return content.encode()
    hasher, engine, length = hashlib.sha256(), zlib.decompressobj(), 0
    try:
        pending = base64.b64decode(text, validate=True)
        while pending and not engine.eof:
            chunk = engine.decompress(pending, _CHUNK)
            pending, length = engine.unconsumed_tail, length + len(chunk)
            hasher.update(chunk)
            if length > _LARGEST_ARRAY:
                break
    except (binascii.Error, ValueError, zlib.error):
        length = _LARGEST_ARRAY + 1
    return hasher if length <= _LARGEST_ARRAY else hashlib.sha256(text.encode())


def _params(tensor: str, entry: Mapping[str, Any]) -> QuantParams:
    params = _entry(QuantParams, entry, f"activations.{tensor}.")
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


def _packed(entry: Mapping[str, Any], where: str) -> PackedWeight:
    packed = _entry(PackedWeight, entry, f"{where}.")
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


def read_plan(path: str | Path) -> Plan:
    """Raises PlanError where the file cannot be read or is no plan."""
    try:
        text = read_text(as_path(path, "a .plan.json file"))
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: cannot be read ({error}); give the path of a .plan.json file") from None
    return _with_arrays(Plan.from_json(text, str(path)), weights_path(Path(path)))


def _arrays(plan: Plan) -> Iterator[str]:
    """Packed arrays of weights, by name: the order of the file beside the plan."""
    rows = [(name, "", packed) for name, packed in plan.weights.items()]
    rows += [(name, f, packed) for name, row in plan.point_weights.items() for f, packed in row.items()]
    for _, _, packed in sorted(rows, key=lambda row: row[:2]):
        yield from (packed.codes, packed.scales, packed.multipliers)


def _with_arrays(plan: Plan, file: Path) -> Plan:
    """The plan with its arrays that are in a file of their own."""
    found = found_beside(_arrays(plan), file)
    if not found:
        return plan

    def whole(packed: PackedWeight) -> PackedWeight:
        codes, scales, multipliers = (found.get(t, t) for t in (packed.codes, packed.scales, packed.multipliers))
        return replace(packed, codes=codes, scales=scales, multipliers=multipliers)

    return replace(
        plan,
        weights={r: whole(p) for r, p in plan.weights.items()},
        point_weights={r: {f: whole(p) for f, p in row.items()} for r, row in plan.point_weights.items()},
    )
