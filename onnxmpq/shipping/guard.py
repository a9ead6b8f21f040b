"""The plan that is handed out: within the budgets, above the quality floors or, without a floor, not bad.

The closing measurement decides on budgets, held-out samples decide on quality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxmpq.allocate import LATENCY, SIZE, Budgets
from onnxmpq.closed_loop import Outcome, option, reach
from onnxmpq.errors import AlreadyMetError, BudgetError, NothingFasterError, QualityError
from onnxmpq.quality import Level, Validation
from onnxmpq.shipping.beside import with_comparisons
from onnxmpq.shipping.budgets import WithinBudgets
from onnxmpq.shipping.job import Job, Shipped
from onnxmpq.shipping.quality import Quality

FLOOR_ATTEMPTS = 4
LESS_EFFECT = 0.6  # of the last attempt's, where the held-out samples say that it does not keep a floor
BETTER: dict[Level, tuple[Level, ...]] = {"bad": ("good", "noticeable"), "noticeable": ("good",)}


def finish(job: Job) -> Shipped:
    """The plan within the budgets and above the floors, as measured last.

    Raises BudgetError, NothingFasterError, QualityError, or AlreadyMetError where nothing needs to be quantized.
    """
    job.floors.require_classes(any(v.classes for v in job.effects.divergence.views))
    guard = _Guard(job)
    shipped = guard.run()
    require_quantized(job, shipped.outcome)
    return with_comparisons(job, guard.quality, shipped)


def require_quantized(job: Job, outcome: Outcome) -> None:
    """Raises AlreadyMetError where a plan leaves everything in float32, BudgetError where that is beyond budgets,
    NothingFasterError where the fastest plan was asked for."""
    if not outcome.assignment and not outcome.met:
        raise BudgetError(
            "no quantized plan keeps the quality floor, within the budgets or beyond them; keep the original, lower "
            "the floor, or give more samples"
        )
    smaller = SIZE in job.budgets.limits and outcome.met  # by preparing alone, which the original is not
    if outcome.assignment or smaller:
        return
    if job.budgets.fastest:
        raise NothingFasterError(
            "no plan that quantizes anything is faster than the original; keep it, or give --size to make it smaller"
        )
    raise AlreadyMetError("the budgets are met without quantizing anything; keep the original, or ask for less")


class _Guard:
    def __init__(self, job: Job) -> None:
        self.job, self.progress, self.quality = job, job.context.progress, Quality(job)
        self.within = WithinBudgets(job, self.quality)
        self.loop = self.within.loop

    def run(self) -> Shipped:
        """As the goals of the job ask. Raises BudgetError, NothingFasterError, QualityError."""
        floors, budgets = self.job.floors, self.job.budgets
        if floors.empty:
            return self._guarded()
        if budgets.fastest or budgets.smallest:
            return self._above(floors.unmet, "the quality floor")
        return self._within_above()

    def _guarded(self) -> Shipped:
        """Within the budgets; `fastest` prefers the fastest plan that is good. Raises QualityError for a bad result."""
        shipped = self.within.settled(self.within.reach)
        verdict = shipped.verdict
        if not self.job.guard or verdict.level not in BETTER:
            return shipped
        self.progress.say(f"quality is {verdict.level}: {'; '.join(verdict.reasons)}")
        for level in BETTER[verdict.level] if self.job.budgets.fastest else ():
            self.progress.say(f"looking for the fastest plan whose quality is {level}")
            try:
                return self._above(self.quality.worse_than(level), f"quality that is {level}")
            except (BudgetError, NothingFasterError) as error:
                self.progress.say(f"there is none: {error}")
        if verdict.level == "bad":
            ways = [f"leave out {' and '.join(self.job.narrowed)}"] if self.job.narrowed else []
            ways.append(self._way_out())
            raise QualityError("; ".join([f"the result would be bad: {'; '.join(verdict.reasons)}", *ways]))
        return shipped

    def _above(self, unmet: Callable[[Validation], list[str]], what: str) -> Shipped:
        """The fastest or smallest plan that keeps a quality, also on the held-out samples. Raises BudgetError."""
        most_effect: float | None = None
        missed: list[str] = []
        keeps = self.quality.on_calibration(unmet)
        for _ in range(FLOOR_ATTEMPTS):
            limit = most_effect
            shipped = self.within.settled(lambda: reach(self.loop, keeps, limit))  # noqa: B023 (called in this turn only)
            missed = unmet(shipped.validation)
            if not missed:
                return shipped
            self.progress.say(f"not kept on held-out samples: {', '.join(missed)}; planning with less")
            most_effect = shipped.outcome.kept.effect * LESS_EFFECT
        raise BudgetError(
            f"{what} is kept on calibration samples, but not on held-out ones: {', '.join(missed)}; "
            "give more samples, or a lower floor"
        )

    def _within_above(self) -> Shipped:
        """Within budgets and above floors; with `best_effort` above the floors, if need be beyond the budgets."""
        job = self.job
        try:
            shipped = self.within.settled(lambda: reach(self.loop))
            unmet = job.floors.unmet(shipped.validation)
            if not unmet:
                return shipped
            raise BudgetError(
                f"within the budgets the quality floor cannot be kept: {', '.join(unmet)} (on "
                f"{shipped.validation.samples} samples); raise the budgets, give the floor alone, or add --best-effort"
            )
        except BudgetError:
            if not job.best_effort:
                raise
        self.progress.say("best effort: the floor is kept, the budgets are not")
        return self._above_only()

    def _above_only(self) -> Shipped:
        """Above the floors, beyond the budgets: the fastest plan where a latency was asked for and one is faster than
        the original, else the smallest."""
        floors, budgets = self.job.floors, self.job.budgets
        relaxed = [Budgets(fastest=True)] if LATENCY in budgets.limits else []
        try:
            for goal in (*relaxed, Budgets(smallest=True)):
                self.loop.retarget(goal)
                try:
                    shipped = self._above(floors.unmet, "the quality floor")
                    break
                except (BudgetError, NothingFasterError):
                    if goal.smallest:
                        raise
        finally:
            self.loop.retarget(budgets)
        return replace(shipped, outcome=self.within.judged(shipped.outcome))

    def _way_out(self) -> str:
        """The nearest budget whose result is not bad, in words."""
        budgets, loop = self.job.budgets, self.loop
        if budgets.fastest:
            return "no plan that is faster than the original is better; --no-guard writes it all the same"
        name = next((name for name in (LATENCY, SIZE) if name in budgets.asked), None)
        if name is None:
            larger = " or ".join(f"--{other}" for other in budgets.limits)
            return f"give a larger {larger}; --no-guard writes it all the same"
        others = {other: limit for other, limit in budgets.limits.items() if other != LATENCY}
        loop.retarget(Budgets(others, fastest=True) if name == LATENCY else Budgets(smallest=True))
        try:
            nearest = self._above(self.quality.worse_than("noticeable"), "quality that is not bad").outcome.kept
        except (BudgetError, NothingFasterError):
            return f"no {name} below the original's gives a better one; --no-guard writes it all the same"
        finally:
            loop.retarget(budgets)
        return f"{option(loop, name, nearest)} gives one that is not; --no-guard writes this one all the same"
