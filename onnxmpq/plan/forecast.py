"""The forecast of a plan: all that its predictions were made from, so that an edited plan can be predicted again.

A plan file holds it. It needs neither samples nor measurements to be read back, only the prepared model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxmpq.allocate import EFFECT, QUANTITIES, Option, Problem
from onnxmpq.cost import CostTable
from onnxmpq.deployment import DeployCpu, scheme_for
from onnxmpq.errors import PlanError, UsageError
from onnxmpq.files import dump_json, is_number, parse_json
from onnxmpq.model import Model
from onnxmpq.schemes import Scheme, scheme_named

Figures = dict[str, float]
"""By the names that plans and reports use: `latency_ms`, `size_bytes`, `energy_mj`, `effect`."""
Choices = dict[str, dict[str, Figures]]
"""Region -> scheme -> figures of the scheme alone, before transitions and without the effect of activations."""
_AGAIN = "convert the model again"


@dataclass(frozen=True)
class Forecast:
    """choices: see `Choices`. common: region -> scheme -> what is stored once for several layers -> bytes.
    activations: root tensor -> divergence caused by quantizing it. fixed: by figure, what no decision changes.
    costs: the cost table, as its own file has it.
    """

    choices: Choices
    activations: dict[str, float]
    fixed: Figures
    costs: dict[str, Any]
    common: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem) -> Forecast:
        """Of the allocation problem that a plan solves."""
        common = {
            region: found
            for region, row in problem.options.items()
            if (found := {o.scheme.name: dict(o.common) for o in row if o.common})
        }
        return cls(
            {region: {o.scheme.name: _figures(o) for o in row} for region, row in problem.options.items()},
            dict(problem.activations),
            {q.figure: q.per_unit * problem.fixed.get(name, 0.0) for name, q in QUANTITIES.items()},
            parse_json(problem.table.to_json()),
            common,
        )

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Forecast:
        """Inverse of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError where it is something else."""
        known = ("choices", "activations", "fixed", "costs", "common")
        if unknown := [key for key in held if key not in known]:
            raise ValueError(f"forecast: field {unknown[0]!r} is unknown; the fields are {', '.join(known)}")
        found = cls(**{name: _table(held, name) for name in known[:4]}, common=_table(held, "common", {}))
        numbers = [found.activations, found.fixed]
        numbers += [_table(row, scheme) for row in found.choices.values() for scheme in row]
        numbers += [stored for row in found.common.values() for stored in row.values()]
        for table in numbers:
            for name, value in table.items():
                if not is_number(value):
                    raise TypeError(f"forecast: {name} is {value!r}, not a number")
        return found

    def problem(self, model: Model, cpu: DeployCpu) -> Problem:
        """The allocation problem again. Raises PlanError where it is not of this model, or damaged."""
        try:
            table = CostTable.from_json(dump_json(self.costs))
            options = {r.name: self._options(model, r.name, cpu) for r in model.regions}
        except KeyError as error:
            raise PlanError(f"forecast: no entry {error}; {_AGAIN}") from None
        except (TypeError, ValueError, AttributeError, UsageError) as error:
            raise PlanError(f"forecast: {error}; {_AGAIN}") from None
        fixed = {name: self.fixed.get(q.figure, 0.0) / q.per_unit for name, q in QUANTITIES.items()}
        return Problem(model, options, self.activations, table, fixed)

    def _options(self, model: Model, region: str, cpu: DeployCpu) -> tuple[Option, ...]:
        common = self.common.get(region, {})
        return tuple(
            Option(
                scheme_for(model.region(region), scheme_named(name), cpu),
                {q: figures.get(row.figure, 0.0) / row.per_unit for q, row in QUANTITIES.items()},
                figures[EFFECT],
                common.get(name, {}),
            )
            for name, figures in self.choices[region].items()
        )

    def unknown(self, assignment: Mapping[str, Scheme]) -> list[str]:
        """Regions whose scheme was not on the menu, so that nothing about it is known."""
        return [r for r, scheme in assignment.items() if scheme.name not in self.choices.get(r, {})]


def _figures(option: Option) -> Figures:
    costs = {q.figure: q.per_unit * option.cost(name) for name, q in QUANTITIES.items() if option.cost(name)}
    return {**costs, EFFECT: option.effect}


def _table(held: Mapping[str, Any], name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    value = held[name] if default is None else held.get(name, default)
    if not isinstance(value, dict):
        raise TypeError(f"forecast: {name} is {value!r:.40}, no table")
    return value
