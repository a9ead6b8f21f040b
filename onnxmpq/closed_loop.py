"""Close the loop: plan, build, measure the real model, correct the cost table, plan again, until the budget holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx

from onnxmpq.allocate import Budgets, Limits, Option, Problem, Solution, solve
from onnxmpq.cost.judge import Judge
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import Dialect, Rewrite
from onnxmpq.errors import BudgetError, ModelError, NothingFasterError
from onnxmpq.model import Model
from onnxmpq.output import serialize
from onnxmpq.progress import Progress
from onnxmpq.ranges import QuantParams
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import FP32, Scheme

ROUNDS = 5
NOISE = 0.01  # measured latencies closer than this are equal
DOUBT = 0.05  # so near to the limit, a second and longer measurement decides
FASTEST_SLACK = 0.01  # `fastest` may spend this share of latency on quality


@dataclass(frozen=True)
class Workbench:
    """Everything a rewritten model is built from, for any assignment."""

    model: Model
    dialect: Dialect
    activations: Mapping[str, QuantParams]
    weights: Mapping[tuple[str, str], QuantizedWeight]

    def build(self, assignment: Mapping[str, Scheme]) -> onnx.ModelProto:
        """The mixed-precision graph of an assignment."""
        return self.dialect.rewrite(Rewrite(self.model, assignment, self.activations, self.weights, self.model.roots))


@dataclass(frozen=True)
class Round:
    """One turn of the loop: what was predicted and what was measured."""

    assignment: dict[str, Scheme]
    predicted_s: float
    measured_s: float
    size_bytes: int
    effect: float
    energy_j: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The plan that was kept. original_s: fp32, measured beside it. solution: for bound and gap."""

    assignment: dict[str, Scheme]
    proto: onnx.ModelProto
    solution: Solution
    problem: Problem
    rounds: tuple[Round, ...]
    kept: Round
    original_s: float
    latency_limit_s: float | None
    size_limit_bytes: float | None
    measured: bool = True


@dataclass
class _Targets:
    """Limits in absolute units. latency_s also holds "no slower than the original" where no latency was asked for."""

    latency_s: float
    size_bytes: float | None
    energy_j: float | None
    asked_for_latency: bool


def close_the_loop(
    problem: Problem, budgets: Budgets, bench: Workbench, judge: Judge, original_bytes: int, progress: Progress
) -> Outcome:
    """Plan within the budgets until the measured model holds them. Raises BudgetError or NothingFasterError."""
    loop = _Loop(problem, budgets, bench, judge, original_bytes, progress)
    return loop.fastest() if budgets.fastest else loop.within_budget()


class _Loop:
    def __init__(
        self,
        problem: Problem,
        budgets: Budgets,
        bench: Workbench,
        judge: Judge,
        original_bytes: int,
        progress: Progress,
    ) -> None:
        self.problem, self.budgets, self.bench, self.judge = problem, budgets, bench, judge
        self.progress, self.original_s = progress, judge.original_s
        size = budgets.size.of(original_bytes) if budgets.size else None
        asked = budgets.latency.of(self.original_s) if budgets.latency else None
        energy = budgets.energy.of(problem.energy_j({})) if budgets.energy else None
        self.targets = _Targets(asked or self.original_s, size, energy, asked is not None)
        self.size_overhead = 1.0
        self.rounds: list[Round] = []
        self.failures: list[ModelError] = []
        self.built: dict[int, tuple[onnx.ModelProto, Solution]] = {}

    # ---- one turn ------------------------------------------------------------------------------

    def _try(self, solution: Solution) -> Round:
        """Build and measure a solution, and learn from it."""
        known = next((r for r in self.rounds if _same(r.assignment, solution.assignment)), None)
        if known is not None:
            return known
        proto = self.bench.build(solution.assignment)
        predicted_s = self.problem.latency_s(solution.assignment)
        latency_s = self._latency_s(solution.assignment, proto)
        turn = Round(
            dict(solution.assignment),
            predicted_s,
            latency_s,
            len(serialize(proto)),
            self.problem.effect(solution.assignment),
            self.problem.energy_j(solution.assignment),
        )
        predicted_bytes = self.problem.size_bytes(solution.assignment)
        self.size_overhead = max(self.size_overhead, turn.size_bytes / max(predicted_bytes, 1.0))
        self.rounds.append(turn)
        self.built[len(self.rounds) - 1] = (proto, solution)
        table = self.judge.table
        self.problem = replace(self.problem, table=table, options=_with_costs(self.problem, table))
        if not math.isfinite(latency_s):
            self.problem = _without_named(self.problem, solution.assignment, str(self.failures[-1]))
            return turn
        what = "measured" if self.judge.measured else "modelled"
        self.progress.say(
            f"round {len(self.rounds)}: predicted {predicted_s * 1e3:.3f} ms, {what} {latency_s * 1e3:.3f} ms "
            f"(fp32 {self.original_s * 1e3:.3f} ms), {turn.size_bytes / 1e6:.3f} MB"
        )
        return turn

    def _latency_s(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto) -> float:
        """As measured, twice where the limit is near; infinite where the provider cannot run the plan."""
        try:
            latency_s = self.judge.latency_s(assignment, proto)
            near = self.targets.asked_for_latency and abs(latency_s / self.targets.latency_s - 1.0) < DOUBT
            again_s = self.judge.again_s(proto) if near else None
        except ModelError as error:
            self.failures.append(error)
            self.progress.warn(f"round {len(self.rounds) + 1}: {error}; going on with other plans")
            return math.inf
        return latency_s if again_s is None else again_s

    def _size_limit(self) -> float | None:
        return None if self.targets.size_bytes is None else self.targets.size_bytes / self.size_overhead

    def _fits(self, turn: Round) -> bool:
        if not math.isfinite(turn.measured_s):
            return False
        small = self.targets.size_bytes is None or turn.size_bytes <= self.targets.size_bytes
        frugal = self.targets.energy_j is None or turn.energy_j <= self.targets.energy_j * (1.0 + 1e-6)
        if not self.targets.asked_for_latency and all(s.kernel == "fp32" for s in turn.assignment.values()):
            return small and frugal  # the session unfolds it to the original's kernels: as fast by construction
        slack = 0.0 if self.targets.asked_for_latency else NOISE
        return small and frugal and turn.measured_s <= self.targets.latency_s * (1.0 + slack)

    def _limits(self, latency_s: float | None = None) -> Limits:
        return Limits(latency_s, self._size_limit(), self.targets.energy_j)

    @property
    def _original_will_do(self) -> bool:
        """Neither latency nor energy was asked for: plans on float32's kernels will do, and no clock judges them."""
        return not self.targets.asked_for_latency and self.targets.energy_j is None

    def _on_original_kernels(self) -> Problem:
        kept = {r: tuple(o for o in row if o.scheme.kernel == FP32) for r, row in self.problem.options.items()}
        return replace(self.problem, options=kept)

    def _allowed_s(self, allowance: float) -> float:
        """The latency the solver is given; without a budget the original's, as measured or as the table has it."""
        if self.targets.asked_for_latency:
            return self.targets.latency_s * allowance
        return max(self.targets.latency_s, self.problem.latency_s({})) * (1.0 + NOISE)

    def _merit(self, turn: Round) -> float:
        """What is asked to be least among plans that fit."""
        return float(turn.size_bytes) if self.budgets.smallest else turn.effect

    def _keep(self, turn: Round) -> Outcome:
        proto, solution = self.built[self.rounds.index(turn)]
        solution = self._certified(turn, solution)
        return Outcome(
            turn.assignment,
            proto,
            solution,
            self.problem,
            tuple(r for r in self.rounds if math.isfinite(r.measured_s)),
            turn,
            self.original_s,
            self.targets.latency_s if self.targets.asked_for_latency else None,
            self.targets.size_bytes,
            self.judge.measured,
        )

    def _certified(self, turn: Round, solution: Solution) -> Solution:
        """The kept plan with the bound it is held against: the least effect that any plan as fast, small and frugal
        has, by the corrected table."""
        latency_s = max(self.problem.latency_s(turn.assignment), self._limit_s())
        size, energy = self._size_limit(), self.targets.energy_j
        limits = Limits(
            latency_s,
            None if size is None else max(size, self.problem.size_bytes(turn.assignment)),
            None if energy is None else max(energy, turn.energy_j),
        )
        best = solve(self.problem, "effect", limits)
        bound = min(best.bound, turn.effect) if best else turn.effect
        gap = 1.0 - bound / turn.effect if turn.effect > 0 else 0.0
        return Solution(solution.assignment, turn.effect, bound, max(gap, 0.0), best is not None and best.proven)

    def _limit_s(self) -> float:
        return self.targets.latency_s if self.targets.asked_for_latency else 0.0

    # ---- goals ---------------------------------------------------------------------------------

    def within_budget(self) -> Outcome:
        """Least effect within the limits; the limit handed to the solver follows what was measured."""
        allowance, calm = 1.0, False
        for _ in range(ROUNDS):
            problem = self._on_original_kernels() if calm else self.problem
            goal: Any = "size" if self.budgets.smallest else "effect"
            solution = solve(problem, goal, self._limits(None if calm else self._allowed_s(allowance)))
            turn = self._try(solution) if solution is not None else None
            if turn is not None and self._fits(turn):
                return self._keep(self._second_look(turn))
            if self._original_will_do and not calm:
                calm = True
                continue
            if turn is None:
                break
            if not math.isfinite(turn.measured_s):
                continue
            repeated = sum(_same(turn.assignment, r.assignment) for r in self.rounds) and turn is not self.rounds[-1]
            if repeated or turn.measured_s > self.targets.latency_s:
                miss = self.targets.latency_s / turn.measured_s
                allowance *= min(miss, 0.995) if repeated else max(min(miss, 1.0), 0.97)
        fitting = [r for r in self.rounds if self._fits(r)]
        if fitting:
            return self._keep(min(fitting, key=self._merit))
        return self._last_resort()

    def _second_look(self, first: Round) -> Round:
        """The corrected table may allow a plan of less effect: try it once, keep the better of the two."""
        limits = self._limits(self.targets.latency_s)
        if self.budgets.smallest:
            return first
        solution = solve(self.problem, "effect", limits)
        if solution is None or self.problem.effect(solution.assignment) >= first.effect * 0.98:
            return first
        second = self._try(solution)
        return second if self._fits(second) and second.effect < first.effect else first

    def _last_resort(self) -> Outcome:
        """Nothing fitted yet: measure the fastest (or smallest) plans, then give up with what is possible."""
        self._try_known()
        for goal, limits in (
            ("latency", self._limits()),
            ("latency", Limits()),
            ("size", Limits()),
            ("energy", Limits()),
        ):
            solution = solve(self.problem, goal, limits)  # type: ignore[arg-type]
            if solution is not None:
                self._try(solution)
            fitting = [r for r in self.rounds if self._fits(r)]
            if fitting:
                return self._keep(min(fitting, key=self._merit))
        if self.failures and not any(math.isfinite(r.measured_s) for r in self.rounds):
            raise self.failures[0]
        raise BudgetError(self._out_of_reach())

    def _out_of_reach(self) -> str:
        ran = [r for r in self.rounds if math.isfinite(r.measured_s)]
        fastest = min(ran, key=lambda r: r.measured_s)
        smallest = min(ran, key=lambda r: r.size_bytes)
        parts = []
        if self.targets.asked_for_latency and fastest.measured_s > self.targets.latency_s:
            holders = ", ".join(f"{name} {s * 1e3:.3f} ms" for name, s in self._slowest(fastest))
            parts.append(
                f"latency {self.targets.latency_s * 1e3:.3g} ms cannot be met: the fastest plan measures "
                f"{fastest.measured_s * 1e3:.3f} ms (fp32 {self.original_s * 1e3:.3f} ms); most of it is in {holders}"
            )
        if self.targets.size_bytes is not None and smallest.size_bytes > self.targets.size_bytes:
            holders = ", ".join(f"{name} {b / 1e3:.1f} kB" for name, b in self._largest(smallest))
            parts.append(
                f"size {self.targets.size_bytes / 1e6:.3g} MB cannot be met: the smallest plan takes "
                f"{smallest.size_bytes / 1e6:.3f} MB; most of it is in {holders}"
            )
        frugal = min(ran, key=lambda r: r.energy_j)
        if self.targets.energy_j is not None and frugal.energy_j > self.targets.energy_j:
            parts.append(
                f"energy {self.targets.energy_j * 1e3:.3g} mJ cannot be met: the best plan takes "
                f"{frugal.energy_j * 1e3:.3g} mJ, modelled"
            )
        if not parts:
            parts.append(
                "the budgets cannot be met together, though each alone can: the fastest plan takes "
                f"{fastest.measured_s * 1e3:.3f} ms at {fastest.size_bytes / 1e6:.3f} MB, the smallest "
                f"{smallest.measured_s * 1e3:.3f} ms at {smallest.size_bytes / 1e6:.3f} MB"
            )
        return "; ".join(parts) + ". Raise the budget"

    def _slowest(self, turn: Round) -> list[tuple[str, float]]:
        costs = {r: self.problem.option(r, turn.assignment.get(r)).latency_s for r in self.problem.options}
        return sorted(costs.items(), key=lambda item: -item[1])[:3]

    def _largest(self, turn: Round) -> list[tuple[str, float]]:
        sizes = {r: self.problem.option(r, turn.assignment.get(r)).size_bytes for r in self.problem.options}
        return sorted(sizes.items(), key=lambda item: -item[1])[:3]

    def fastest(self) -> Outcome:
        """Least measured latency (and the size limit, if there is one); ties go to the plan of less effect."""
        self._try_known()
        for _ in range(ROUNDS):
            solution = self._fastest_solution()
            if solution is None:
                return self._last_resort()
            count = len(self.rounds)
            self._try(solution)
            if len(self.rounds) == count:
                break
        size = self.targets.size_bytes
        fitting = [r for r in self.rounds if math.isfinite(r.measured_s) and (size is None or r.size_bytes <= size)]
        if not fitting:
            return self._last_resort()
        least = min(r.measured_s for r in fitting)
        best = min((r for r in fitting if r.measured_s <= least * (1.0 + NOISE)), key=lambda r: r.effect)
        if best.measured_s >= self.original_s * (1.0 - NOISE):
            raise NothingFasterError(
                f"nothing beats the original on this machine: the best plan measures {best.measured_s * 1e3:.3f} ms, "
                f"fp32 {self.original_s * 1e3:.3f} ms. Keep the original, or give --size to make it smaller"
            )
        return self._keep(best)

    def _try_known(self) -> None:
        """Measure again the fastest plan that profiling met: mixed by chance or uniform, it may beat the solver's."""
        legal = [(a, s) for a, s in self.judge.known if self.problem.holds(a)]
        if legal:
            assignment, seconds = min(legal, key=lambda pair: pair[1])
            self._try(Solution(dict(assignment), seconds, 0.0, 1.0, False))

    def _fastest_solution(self) -> Solution | None:
        limits = self._limits()
        least = solve(self.problem, "latency", limits)
        if least is None:
            return None
        relaxed = replace(limits, latency_s=self.problem.latency_s(least.assignment) * (1.0 + FASTEST_SLACK))
        return solve(self.problem, "effect", relaxed) or least


def _without_named(problem: Problem, assignment: Mapping[str, Scheme], message: str) -> Problem:
    """The problem without the kernel of the region whose node a message names, where it names one."""
    nodes = re.findall(r"[('\"]([^()'\"]+)[)'\"]", message)  # the runtime may have added a suffix to the name
    hit = [r for r in assignment for n in nodes if n == r or n.startswith((f"{r}_", f"{r}/", f"{r}:"))]
    named = max(hit, key=len, default=None)
    if named is None:
        return problem
    kernel = assignment[named].kernel
    row = tuple(o for o in problem.options[named] if o.scheme.is_float or o.scheme.kernel != kernel)
    return replace(problem, options={**problem.options, named: row})


def _same(one: Mapping[str, Scheme], other: Mapping[str, Scheme]) -> bool:
    return {k: s.name for k, s in one.items()} == {k: s.name for k, s in other.items()}


def _with_costs(problem: Problem, table: CostTable) -> dict[str, tuple[Option, ...]]:
    return {
        region: tuple(replace(o, latency_s=table.scheme_s(region, o.scheme)) for o in options)
        for region, options in problem.options.items()
    }
