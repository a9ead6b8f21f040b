"""The account of `convert --dry-run`: the plan and its figures, as predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxmpq.allocate import LATENCY, QUANTITIES, SIZE
from onnxmpq.quality import Floors
from onnxmpq.shipping import Job, predicted
from onnxmpq.shown import Shown

SCHEMA = "onnxmpq.prediction/1"


@dataclass(frozen=True, repr=False)
class Prediction(Shown):
    """Of a plan that was neither timed nor run as a whole.

    figures, original: by the names that plans have (`latency_ms`, `size_bytes`, ...). effect: divergence from fp32,
    summed over decisions. schemes: by region, of those that are not left in float32. met: False where a budget is
    missed (`--best-effort`). notes: what was not looked at. warnings: as they were shown.
    """

    budgets: dict[str, str]
    figures: dict[str, float]
    original: dict[str, float]
    effect: float
    schemes: dict[str, str]
    met: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"schema": SCHEMA, **asdict(self)}

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        counts = Counter(self.schemes.values())
        rows = [(name, f"{before} -> {after} ({ratio})") for name, before, after, ratio in self._compared()]
        return f"budgets {'met' if self.met else 'NOT met'} by prediction: {self._asked()}", [
            *rows,
            ("divergence", f"{self.effect:.3g}"),
            ("regions", ", ".join(f"{count} {name}" for name, count in counts.most_common())),
            ("notes", "; ".join(self.notes)),
        ]

    def _asked(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.budgets.items())

    def _compared(self) -> Iterator[tuple[str, str, str, str]]:
        """Quantity, of the original, of the plan, ratio."""
        for name, quantity in QUANTITIES.items():
            before, after = (figures.get(quantity.figure) for figures in (self.original, self.figures))
            if before and after is not None:
                shown = [quantity.unit.show(value / quantity.per_unit) for value in (before, after)]
                yield name, shown[0], shown[1], f"{after / before:.2f}x"

    def render(self, console: Console) -> None:
        """Draw a table of the figures, and a line for the rest."""
        table = Table("predicted", "fp32", "plan", "ratio")
        for row in self._compared():
            table.add_row(*row)
        table.add_row("divergence", "", f"{self.effect:.3g}", "")
        console.print(table)
        counts = Counter(self.schemes.values())
        console.print(
            "regions: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()), highlight=False
        )
        for note in self.notes:
            console.print(note, highlight=False, markup=False)
        met = "met" if self.met else "NOT met, this is the closest plan"
        console.print(
            f"dry run: {self._asked()}: {met} by prediction; nothing was written", highlight=False, markup=False
        )


def predict_job(job: Job, budgets: dict[str, str]) -> Prediction:
    """The prediction of a job. budgets: as spelled. Raises what `shipping.predicted` does."""
    outcome = predicted(job)
    problem, taken = outcome.problem, outcome.kept.taken
    figures = {q.figure: q.in_figures(taken[name]) for name, q in QUANTITIES.items() if taken.get(name)}
    original = {
        QUANTITIES[LATENCY].figure: QUANTITIES[LATENCY].in_figures(outcome.original_s),
        QUANTITIES[SIZE].figure: float(job.bench.model.source_bytes),
        **{
            q.figure: q.in_figures(problem.total(name, {}))
            for name, q in QUANTITIES.items()
            if q.modelled and problem.total(name, {})
        },
    }
    schemes = {region: scheme.name for region, scheme in sorted(outcome.assignment.items())}
    return Prediction(
        budgets, figures, original, problem.effect(outcome.assignment), schemes, outcome.met, _notes(job.floors)
    )


def _notes(floors: Floors) -> tuple[str, ...]:
    asked = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in floors.asked().items())
    return (f"not predicted, convert measures it: {asked}",) if asked else ()
