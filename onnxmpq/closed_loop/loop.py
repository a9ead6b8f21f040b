"""One turn of the loop: build a plan, measure it, learn from it; and what it takes to keep one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from onnxmpq.allocate import EFFECT, LATENCY, QUANTITIES, SIZE, Budgets, Limits, Option, Problem, Solution, solve
from onnxmpq.closed_loop.types import Outcome, Refiner, Round, Trial
from onnxmpq.cost import CostTable, PlanCosts, changed_regions
from onnxmpq.errors import CrashError, DamagedGraphError, ModelError, UsageError
from onnxmpq.progress import Progress
from onnxmpq.schemes import FP32, Scheme
from onnxmpq.trials import culprit
from onnxmpq.workbench import Workbench

NOISE = 0.01  # measured latencies closer than this are equal
LESS_LATENCY = 0.99  # of what was aimed at, at least, after each closing measurement that missed the limit
SOLVER_TOLERANCE = 1e-6  # relative, by which a plan may exceed a limit of what is only modelled
GRAPHS_HELD = 2  # challenger and incumbent
DOUBT = 0.05  # so near to the limit, a second and longer measurement decides
SURPRISE = 0.7  # of what was predicted, below which a plan was more likely lucky than fast


@dataclass
class Targets:
    """limits: what was asked for, by quantity, in its unit. latency_s: the limit of the latency, or "no slower than the
    original" where no latency was asked for."""

    limits: Mapping[str, float]
    latency_s: float

    @property
    def asked_for_latency(self) -> bool:
        return LATENCY in self.limits


class UnfitPlanError(Exception):
    """The plan that was to be kept crashes, or its graph is damaged; the loop has to find another."""

    def __init__(self, turn: Round, error: ModelError) -> None:
        super().__init__(str(error))
        self.turn, self.error = turn, error


class Loop:
    """State of the loop: what was measured, and the problem as corrected by it. Raises nothing by itself."""

    def __init__(
        self,
        problem: Problem,
        budgets: Budgets,
        bench: Workbench,
        costs: PlanCosts,
        progress: Progress,
        refiner: Refiner | None = None,
        trial: Trial | None = None,
    ) -> None:
        self.problem, self.bench, self.costs = problem, bench, costs
        self.progress, self.original_s, self.refiner, self.trial = progress, costs.original_s, refiner, trial
        self.size_overhead = 1.0
        self.caution = 1.0  # of a latency limit: what is aimed at, after closing measurements that missed it
        self.retarget(budgets)
        self.rounds: list[Round] = []
        self.failures: list[ModelError] = []
        self.solutions: list[Solution] = []  # of the rounds
        self._graphs: dict[int, onnx.ModelProto] = {}  # of the last rounds that were asked for, by number

    def retarget(self, budgets: Budgets) -> None:
        """Go on with other budgets; everything that was measured stays known."""
        limits = {name: limit.of(self.original(name)) for name, limit in budgets.limits.items()}
        self.budgets = budgets
        self.targets = Targets(limits, limits.get(LATENCY, self.original_s))

    def original(self, name: str) -> float:
        """Total of the original; of the latency, as measured."""
        taken = QUANTITIES[name].original(self.bench.model, self.problem.table)
        return self.original_s if name == LATENCY or taken is None else taken

    # ---- one turn ------------------------------------------------------------------------------

    def attempt(self, solution: Solution) -> Round:
        """Build and measure a solution, and learn from it."""
        known = next((r for r in self.rounds if same(r.assignment, solution.assignment)), None)
        if known is not None:
            return known
        proto = self.bench.build(solution.assignment)
        predicted_s = self.problem.latency_s(solution.assignment)
        latency_s = self._latency_s(solution.assignment, proto, predicted_s)
        turn = Round(
            dict(solution.assignment),
            predicted_s,
            latency_s,
            self.bench.file_bytes(proto),
            self.problem.effect(solution.assignment),
            {n: self.problem.total(n, solution.assignment) for n, q in QUANTITIES.items() if q.modelled},
        )
        predicted_bytes = self.problem.size_bytes(solution.assignment)
        self.size_overhead = max(self.size_overhead, turn.size_bytes / max(predicted_bytes, 1.0))
        self.rounds.append(turn)
        self.solutions.append(solution)
        self._hold(len(self.rounds) - 1, proto)
        table = self.costs.table
        self.problem = replace(self.problem, table=table, options=_with_costs(self.problem, table))
        if not math.isfinite(latency_s):
            self._learn_from(self.failures[-1], solution.assignment)
            return turn
        what = "measured" if self.costs.measured else "by the costs"
        self.progress.say(
            f"round {len(self.rounds)}: predicted {predicted_s * 1e3:.3f} ms, {what} {latency_s * 1e3:.3f} ms "
            f"(fp32 {self.original_s * 1e3:.3f} ms), {turn.size_bytes / 1e6:.3f} MB"
        )
        return turn

    def _latency_s(self, assignment: Mapping[str, Scheme], proto: onnx.ModelProto, predicted_s: float) -> float:
        """As measured, again and until it can be told where the limit is near, or where it is too good to be true;
        infinite where the plan does not run."""
        try:
            latency_s = self.costs.latency_s(assignment, proto)
            near = self.targets.asked_for_latency and abs(latency_s / self.targets.latency_s - 1.0) < DOUBT
            doubtful = near or latency_s < SURPRISE * predicted_s
            again_s = self.costs.again_s(proto, self.limit_s()) if doubtful else None
        except ModelError as error:
            self.failures.append(error)
            self.progress.warn(f"round {len(self.rounds) + 1}: {error}; going on with other plans")
            return math.inf
        return latency_s if again_s is None else again_s

    def _learn_from(self, error: ModelError, assignment: Mapping[str, Scheme]) -> None:
        """Plan without the kernel that an error names, or that makes the plan crash."""
        named = error.region if isinstance(error, DamagedGraphError) else ""
        region = named if named in assignment else _blamed(assignment, error)
        if region is None and isinstance(error, CrashError) and error.searchable and self.trial is not None:
            changed = changed_regions(self.bench.model, assignment)
            region = culprit(changed, lambda some: self.bench.build({r: assignment[r] for r in some}), self.trial)
        if region is None:
            return
        if isinstance(error, CrashError | DamagedGraphError):
            self.progress.warn(f"{assignment[region].kernel} at {region} is the cause and is left out of other plans")
        self.problem = _without(self.problem, region, assignment[region].kernel)

    def leave_out(self, turn: Round, error: ModelError) -> None:
        """A plan that was measured but does not run otherwise is a plan like those that cannot be measured."""
        self.failures.append(error)
        self.progress.warn(f"round {self.rounds.index(turn) + 1}: {error}; going on with other plans")
        self.rounds[self.rounds.index(turn)] = replace(turn, measured_s=math.inf)
        self._learn_from(error, turn.assignment)

    def measured_again(self, turn: Round) -> Round:
        """The round with a second and longer measurement in place of its first, where that is to be had."""
        latency_s = self.costs.again_s(self.proto_of(turn))
        return turn if latency_s is None else self.revised(turn, latency_s)

    def revised(self, turn: Round, latency_s: float) -> Round:
        """The round with a better measurement in place of its own; decisions follow it from now on."""
        number = next(i for i, r in enumerate(self.rounds) if same(r.assignment, turn.assignment))
        self.rounds[number] = replace(self.rounds[number], measured_s=latency_s)
        return self.rounds[number]

    def correct_effects(self, excess: Mapping[tuple[str, str], float]) -> None:
        """Learn what kernels lose beyond the predicted effects. excess: divergence by (region, kernel), infinite where
        the kernel may not be used at all."""
        options = {}
        for region, row in self.problem.options.items():
            more = [excess.get((region, o.scheme.kernel), 0.0) for o in row]
            left = [replace(o, effect=o.effect + m) for o, m in zip(row, more, strict=True) if math.isfinite(m)]
            options[region] = tuple(left) or row  # the only scheme that the user left
        self.problem = replace(self.problem, options=options)
        for number, r in enumerate(self.rounds):
            if self.problem.holds(r.assignment):
                self.rounds[number] = replace(r, effect=self.problem.effect(r.assignment))
            else:
                self.rounds[number] = replace(r, measured_s=math.inf)  # never to be chosen

    def fits(self, turn: Round) -> bool:
        """Within every limit; where no latency was asked for, no slower than the original either."""
        if self.targets.asked_for_latency or on_original_kernels(turn.assignment):
            return self.meets(turn)  # those kernels are the original's: as fast by construction
        return self.meets(turn) and self.fits_in_time(turn)

    def fits_in_time(self, turn: Round) -> bool:
        """True if a round is no slower than the limit of the latency or, without one, than the original."""
        return turn.measured_s <= self.targets.latency_s * (1.0 + NOISE)

    def limits(self, latency_s: float | None = None) -> Limits:
        """Those that the solver is given: of the size with room for what files take beyond its prediction, of the
        latency as named here."""
        limits = Limits(**self.targets.limits)
        size = limits.upper.get(SIZE)
        return limits.but(latency=latency_s, size=None if size is None else size / self.size_overhead)

    @property
    def faster_s(self) -> float:
        """Less than this is faster than the original, by more than noise."""
        return self.original_s * (1.0 - NOISE)

    @property
    def original_will_do(self) -> bool:
        """Nothing was asked for that follows from kernels, such as latency and energy: plans on float32's kernels will
        do, and no clock judges them."""
        stored = all(QUANTITIES[name].of_storage for name in self.targets.limits)
        return stored and all(self.on_original_kernels().options.values())  # the user may have set other kernels

    def on_original_kernels(self) -> Problem:
        kept = {r: tuple(o for o in row if o.scheme.kernel == FP32) for r, row in self.problem.options.items()}
        return replace(self.problem, options=kept)

    def allowed_s(self, allowance: float) -> float:
        """The latency the solver is given; without a budget the original's, as measured or as the table has it."""
        if self.targets.asked_for_latency:
            return self.limit_s() * allowance
        return max(self.targets.latency_s, self.problem.latency_s({})) * (1.0 + NOISE)

    def merit(self, turn: Round) -> float:
        """The quantity that is minimal among plans that fit."""
        return float(turn.size_bytes) if self.budgets.smallest else turn.effect

    def _refined(self, turn: Round) -> Round:
        """The plan that loses least when really run, of this one and others as fast and as small."""
        if self.refiner is None or self.budgets.smallest:
            return turn
        scale = self.problem.latency_s(turn.assignment) / turn.measured_s
        allowed_s = max(self.limit_s(), turn.measured_s * (1.0 + NOISE)) * scale
        on_original = self.original_will_do and on_original_kernels(turn.assignment)
        problem = self.on_original_kernels() if on_original else self.problem
        for solution in self.refiner.proposals(problem, turn.assignment, self.limits(allowed_s)):
            other = self.attempt(solution)
            as_fast = self.limit_s() or turn.measured_s * (1.0 + NOISE)
            holds = self.fits(other) and (on_original or other.measured_s <= as_fast)
            if other is not turn and holds and self._prefers(other, turn):
                turn = other
        return turn

    def _prefers(self, challenger: Round, incumbent: Round) -> bool:
        """By the refiner; not where one of the two crashes on its samples."""
        assert self.refiner is not None
        try:
            return self.refiner.prefers(self.proto_of(challenger), self.proto_of(incumbent))
        except CrashError as error:
            if self._crashes(challenger):  # else `keep` finds it out of the incumbent
                self.leave_out(challenger, error)
            return False

    def _crashes(self, turn: Round) -> bool:
        try:
            if self.trial is not None:
                self.trial(self.proto_of(turn))
        except CrashError:
            return True
        return False

    def proto_of(self, turn: Round) -> onnx.ModelProto:
        """The graph of a round, built again where it is no longer held: the same bytes."""
        number = self.rounds.index(turn)
        if number not in self._graphs:
            self._hold(number, self.bench.build(turn.assignment))
        return self._graphs[number]

    def _hold(self, number: int, proto: onnx.ModelProto) -> None:
        """Only so many graphs are in memory: a round is its assignment."""
        self._graphs[number] = proto
        while len(self._graphs) > GRAPHS_HELD:
            del self._graphs[next(iter(self._graphs))]

    def keep(self, turn: Round, *, refine: bool = True) -> Outcome:
        """The outcome that hands out a round, or with `refine` one as fast and small that loses less when run.

        It has run on all samples as users will run it. Raises UnfitPlanError where it does not.
        """
        turn = self._refined(turn) if refine else turn
        proto, solution = self.proto_of(turn), self.solutions[self.rounds.index(turn)]
        try:
            if self.trial is not None:
                self.trial(proto)
        except ModelError as error:
            raise UnfitPlanError(turn, error) from error
        solution = self._certified(turn, solution)
        return Outcome(
            turn.assignment,
            proto,
            solution,
            self.problem,
            tuple(r for r in self.rounds if math.isfinite(r.measured_s)),
            turn,
            self.original_s,
            self.targets.limits.get(SIZE),
            self.costs.measured,
            self.meets(turn),
        )

    def meets(self, turn: Round) -> bool:
        """True if a round is within every limit that was asked for."""
        return self.shortfall(turn) <= 1.0

    def shortfall(self, turn: Round) -> float:
        """Distance of a round from the limits: the product of what it takes over what was asked, of the limits that it
        misses; 1 where it misses none, infinite where it does not run."""
        if not math.isfinite(turn.measured_s):
            return math.inf
        taken, missed = turn.taken, 1.0
        for name, limit in self.targets.limits.items():
            tolerance = SOLVER_TOLERANCE if QUANTITIES[name].modelled else 0.0
            missed *= max(taken[name] / (limit * (1.0 + tolerance)), 1.0)
        return missed

    def _certified(self, turn: Round, solution: Solution) -> Solution:
        """The kept plan with the bound it is held against: the least effect that any plan as fast, small and frugal
        has, by the corrected table. Where the size is to be least, its own bound stands."""
        if self.budgets.smallest:
            return solution
        limits = self.limits(self.limit_s()).upper
        reached = {name: max(limit, self.problem.total(name, turn.assignment)) for name, limit in limits.items()}
        best = solve(self.problem, EFFECT, Limits(**reached))
        bound = min(best.bound, turn.effect) if best else turn.effect
        gap = 1.0 - bound / turn.effect if turn.effect > 0 else 0.0
        return Solution(solution.assignment, turn.effect, bound, max(gap, 0.0), best is not None and best.proven)

    def limit_s(self) -> float:
        """The latency that is aimed at; 0 where none was asked for."""
        return self.targets.latency_s * self.caution if self.targets.asked_for_latency else 0.0

    def aim_lower(self, measured_s: float) -> None:
        """A plan that seemed to hold the latency misses it by its closing measurement: aim lower by as much."""
        self.caution *= min(self.targets.latency_s / measured_s, LESS_LATENCY)

    def known(self) -> list[Solution]:
        """The plans that profiling met, mixed by chance or uniform, fastest first."""
        legal = sorted((seconds, n) for n, (a, seconds) in enumerate(self.costs.known) if self.problem.holds(a))
        return [Solution(dict(self.costs.known[n][0]), seconds, 0.0, 1.0, False) for seconds, n in legal]

    def try_known(self) -> None:
        """Measure again the fastest plan that profiling met: it may beat the solver's."""
        for solution in self.known()[:1]:
            self.attempt(solution)


def _blamed(assignment: Mapping[str, Scheme], error: ModelError) -> str | None:
    """The region whose node the runtime blames, where it names one; it may have added a suffix to the name."""
    hit = [r for r in assignment for n in error.blamed if n == r or n.startswith((f"{r}_", f"{r}/", f"{r}:"))]
    return max(hit, key=len, default=None)


def _without(problem: Problem, region: str, kernel: str) -> Problem:
    """The problem without a kernel of a region."""
    row = tuple(o for o in problem.options[region] if o.scheme.is_fp32 or o.scheme.kernel != kernel)
    if not row:
        raise UsageError(f"--set: {kernel} does not run at {region}, and no other scheme was left; set another one")
    return replace(problem, options={**problem.options, region: row})


def on_original_kernels(assignment: Mapping[str, Scheme]) -> bool:
    """True if a plan only stores weights in another way, so that the session runs the original's kernels."""
    return all(s.kernel == FP32 for s in assignment.values())


def same(one: Mapping[str, Scheme], other: Mapping[str, Scheme]) -> bool:
    return {k: s.name for k, s in one.items()} == {k: s.name for k, s in other.items()}


def _with_costs(problem: Problem, table: CostTable) -> dict[str, tuple[Option, ...]]:
    return {
        region: tuple(replace(o, costs={**o.costs, LATENCY: table.scheme_s(region, o.scheme)}) for o in options)
        for region, options in problem.options.items()
    }
