"""Quantities that a plan can be limited in, one row each: latency, size, energy. A new budget is a row in `QUANTITIES`.

Solver, loop, messages and reports iterate over the rows. Two of them have more to them elsewhere: the latency is timed
by the loop, and without a limit is held to the original's; the size is that of the written file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnxmpq.cost import CostTable, Transition, base_bytes, region_bytes
from onnxmpq.model import Model, Region
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import Scheme
from onnxmpq.target import Target

RoundedWeights = Mapping[tuple[str, str], QuantizedWeight]
"""By (region, weight format)."""
LATENCY, SIZE, EFFECT = "latency", "size", "effect"
BYTES: Mapping[str, float] = {
    **{"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
}


@dataclass(frozen=True)
class Unit:
    """A unit in which values are shown. value: of one, in the quantity's own unit. digits: format of a figure."""

    symbol: str
    value: float
    digits: str = ".3f"

    def show(self, value: float, digits: str = "") -> str:
        return f"{value / self.value:{digits or self.digits}} {self.symbol}"


def _of_no_region(region: Region, scheme: Scheme, table: CostTable, weights: RoundedWeights) -> float:
    return 0.0


def _nothing(of: Model | CostTable) -> float:
    return 0.0


def _free(transition: Transition) -> tuple[float, float]:
    return 0.0, 0.0


def _on_any_target(target: Target) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One row. Values are in one unit, that of `units`: seconds, bytes, joules.

    How it is asked for and shown:

    name: of the option and of the request's field. units: what the option accepts, in lower case, and their values.
    examples: of the option, for messages. least: the word that asks for the minimum instead of a limit, "" for none.
    unit: of totals in messages and reports. part: of one region's share. best: what the plan with least of it is
    called. figure: its name in plans, reports and curves, with the unit; per_unit: of the figure, per own unit. whole:
    the figure is a whole number. require: raises TargetError where a target cannot tell it.

    What a plan takes of it:

    of_option: cost of a region in a scheme. base: what no decision changes, by the cost table; fixed: by the model.
    on_format: of a tensor that becomes quantized, and float again. on_layout: of one that changes into the runtime's
    layout, and back. total: of a plan; None: fixed and the options' costs, added up. original: of the model as it came;
    None where that takes a cost table and there is none yet.

    modelled: what is predicted is all that is known of it; else it is measured, or counted in the file.
    of_storage: what is stored decides on it, not the kernels that run. room: share by which a limit that a message
    proposes is above what a plan took, for the next time is not exactly like the last.
    """

    name: str
    units: Mapping[str, float]
    examples: str
    least: str = ""
    unit: Unit
    part: Unit
    best: str
    figure: str
    per_unit: float = 1.0
    whole: bool = False
    require: Callable[[Target], None] = _on_any_target
    of_option: Callable[[Region, Scheme, CostTable, RoundedWeights], float] = _of_no_region
    base: Callable[[CostTable], float] = _nothing
    fixed: Callable[[Model], float] = _nothing
    on_format: Callable[[Transition], tuple[float, float]] = _free
    on_layout: Callable[[Transition], tuple[float, float]] = _free
    total: Callable[[CostTable, Model, Mapping[str, Scheme]], float] | None = None
    original: Callable[[Model, CostTable | None], float | None]
    modelled: bool = True
    of_storage: bool = False
    room: float = 0.002

    def in_figures(self, value: float) -> float:
        """A value as plans, reports and curves have it."""
        return round(value) if self.whole else value * self.per_unit


def _joules(table: CostTable, model: Model, assignment: Mapping[str, Scheme]) -> float:
    """Joules for one run; 0 where the table has no energies."""
    return table.predict_j(model, assignment) if table.node_j else 0.0


_MILLISECONDS = Unit("ms", 1e-3)
_MILLIJOULES = Unit("mJ", 1e-3, ".3g")
_ROWS = (
    Quantity(
        name=LATENCY,
        units={"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9},
        examples="5ms, 60%, fastest",
        least="fastest",
        unit=_MILLISECONDS,
        part=_MILLISECONDS,
        best="fastest",
        figure="latency_ms",
        per_unit=1e3,
        of_option=lambda region, scheme, table, _: table.scheme_s(region.name, scheme),
        base=lambda table: table.base_s,
        on_format=lambda t: (t.quantize_s, t.dequantize_s),
        on_layout=lambda t: (t.into_layout_s, t.out_of_layout_s),
        total=lambda table, model, assignment: table.predict_s(model, assignment),
        original=lambda model, table: None if table is None else table.predict_s(model, {}),
        modelled=False,
        room=0.05,  # what two measurements of the same plan may differ by
    ),
    Quantity(
        name=SIZE,
        units=BYTES,
        examples="3MB, 25%, smallest",
        least="smallest",
        unit=Unit("MB", 1e6),
        part=Unit("kB", 1e3, ".1f"),
        best="smallest",
        figure="size_bytes",
        whole=True,
        of_option=lambda region, scheme, _, weights: region_bytes(region, scheme, weights),
        fixed=base_bytes,
        original=lambda model, _: model.source_bytes,
        modelled=False,
        of_storage=True,  # the room is for the second rounding, which changes a few bytes
    ),
    Quantity(
        name="energy",
        units={"j": 1.0, "mj": 1e-3, "uj": 1e-6, "µj": 1e-6, "nj": 1e-9},
        examples="3mJ, 50%",
        unit=_MILLIJOULES,
        part=_MILLIJOULES,
        best="most frugal",
        figure="energy_mj",
        per_unit=1e3,
        require=Target.require_energy,
        of_option=lambda region, scheme, table, _: table.scheme_j(region.name, scheme),
        on_format=lambda t: (t.quantize_j, t.dequantize_j),
        total=_joules,
        original=lambda model, table: None if table is None else table.predict_j(model, {}),
    ),
)
QUANTITIES: Mapping[str, Quantity] = {row.name: row for row in _ROWS}
"""By name, in the order of reports."""


def goals() -> tuple[str, ...]:
    """Names of all that can be least, or limited: the effect on the outputs (nats or relative squared error) first."""
    return (EFFECT, *QUANTITIES)
