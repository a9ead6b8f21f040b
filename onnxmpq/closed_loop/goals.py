"""Goals of the loop: least effect within budgets, least latency, or the cheapest plan above a quality floor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from onnxmpq.allocate import EFFECT, LATENCY, QUANTITIES, SIZE, Budgets, Limits, Problem, Solution, solve
from onnxmpq.closed_loop.loop import NOISE, Loop, UnfitPlanError, same
from onnxmpq.closed_loop.reach import out_of_reach
from onnxmpq.closed_loop.types import Keeps, Outcome, Refiner, Round, Trial
from onnxmpq.cost import MOST_CULPRITS, PlanCosts
from onnxmpq.errors import BudgetError, CrashError, NothingFasterError
from onnxmpq.progress import Progress
from onnxmpq.workbench import Workbench

ROUNDS = 5
FLOOR_ROUNDS = 9
LEAST_S = 1e-9  # that a plan can be predicted to take
QUALITY_PRICE = 0.01  # of latency that `fastest` pays for an effect that is e times less: 2.3 % for ten times less
SLACKS = (NOISE, 3 * NOISE)  # shares of latency among which that is weighed; it never pays more than the last
CONTENDERS = 3  # fastest plans that are measured once more, and longer, before one of them is kept
NEAR = 0.15  # beyond a latency limit, where a longer measurement may still find a plan within it
JUST_FASTER = (0.99, 0.97)  # of the latency below which a plan is faster than the original
NO_EFFECT = 1e-6  # less than this is not worth anything
FLOOR_PRECISION = 0.9  # of the predicted effect, where the search for a quality floor ends
LEAST_EFFECT_SHARE = 1e-4  # of the fastest plan's effect, where that search starts from below


def close_the_loop(
    problem: Problem,
    budgets: Budgets,
    bench: Workbench,
    costs: PlanCosts,
    progress: Progress,
    *,
    refiner: Refiner | None = None,
    keeps: Keeps | None = None,
    most_effect: float | None = None,
    trial: Trial | None = None,
) -> Outcome:
    """Plan within the budgets until the measured model holds them. Raises BudgetError or NothingFasterError.

    trial: what a plan has to stand before it is kept; one that crashes is left out.

    keeps: quality floors; the fastest (`budgets.smallest`: the smallest) plan that keeps them is made then, of no more
    predicted effect than `most_effect`.
    """
    return reach(Loop(problem, budgets, bench, costs, progress, refiner, trial), keeps, most_effect)


def reach(loop: Loop, keeps: Keeps | None = None, most_effect: float | None = None) -> Outcome:
    """As `close_the_loop`, going on with what the loop has measured before."""
    if keeps is not None:
        return _without_unfit(loop, lambda: _above_floor(loop, keeps, most_effect))
    return _without_unfit(loop, lambda: _fastest(loop) if loop.budgets.fastest else _within_budget(loop))


def closest(loop: Loop) -> Outcome:
    """The measured plan that misses the limits by least, of equal ones that of least effect.

    Raises ModelError where no plan runs.
    """

    def nearest() -> Outcome:
        measure_extremes(loop)
        ran = [r for r in loop.rounds if math.isfinite(r.measured_s)]
        if not ran:
            raise loop.failures[0]
        return loop.keep(min(ran, key=lambda r: (loop.shortfall(r), r.effect)), refine=False)

    return _without_unfit(loop, nearest)


def _without_unfit(loop: Loop, plan: Callable[[], Outcome]) -> Outcome:
    """`plan`, again without the kernel that made the kept plan crash or be damaged. Raises ModelError for too many."""
    for left in reversed(range(MOST_CULPRITS + 1)):
        try:
            return plan()
        except UnfitPlanError as unfit:
            if not left:
                raise unfit.error from None
            loop.leave_out(unfit.turn, unfit.error)
    raise AssertionError("unreachable")


def _within_budget(loop: Loop) -> Outcome:
    """Least effect within the limits; the limit handed to the solver follows what was measured."""
    allowance, calm = 1.0, False
    for _ in range(ROUNDS):
        problem = loop.on_original_kernels() if calm else loop.problem
        goal = SIZE if loop.budgets.smallest else EFFECT
        solution = solve(problem, goal, loop.limits(None if calm else loop.allowed_s(allowance)))
        turn = loop.attempt(solution) if solution is not None else None
        if turn is not None and loop.fits(turn):
            return loop.keep(_second_look(loop, turn))
        if loop.original_will_do and not calm:
            calm = True
            continue
        if turn is None:
            break
        if not math.isfinite(turn.measured_s):
            continue
        repeated = sum(same(turn.assignment, r.assignment) for r in loop.rounds) and turn is not loop.rounds[-1]
        if repeated or turn.measured_s > loop.targets.latency_s:
            miss = loop.targets.latency_s / turn.measured_s
            allowance *= min(miss, 0.995) if repeated else max(min(miss, 1.0), 0.97)
    fitting = [r for r in loop.rounds if loop.fits(r)]
    if fitting:
        return loop.keep(min(fitting, key=loop.merit))
    return _last_resort(loop)


def _second_look(loop: Loop, first: Round) -> Round:
    """The corrected table may allow a plan of less effect: try it once, keep the better of the two."""
    limits = loop.limits(loop.limit_s() or loop.targets.latency_s)
    if loop.budgets.smallest:
        return first
    solution = solve(loop.problem, EFFECT, limits)
    if solution is None or loop.problem.effect(solution.assignment) >= first.effect * 0.98:
        return first
    second = loop.attempt(solution)
    return second if loop.fits(second) and second.effect < first.effect else first


def _fastest(loop: Loop) -> Outcome:
    """Least measured latency within the other limits, but for what much less effect is worth."""
    loop.try_known()
    for _ in range(ROUNDS):
        solution = _cheapest(loop, loop.problem, None)
        if solution is None:
            return _last_resort(loop)
        count = len(loop.rounds)
        loop.attempt(solution)
        if len(loop.rounds) == count:
            break
    fitting = [r for r in loop.rounds if loop.meets(r)]
    if not fitting:
        return _last_resort(loop)
    fitting = [loop.measured_again(r) for r in sorted(fitting, key=lambda r: r.measured_s)[:CONTENDERS]]
    least = min(r.measured_s for r in fitting)
    as_fast = [r for r in fitting if r.measured_s <= least * (1.0 + SLACKS[-1])]
    best = min(as_fast, key=lambda r: (r.measured_s >= loop.faster_s, _price(r.measured_s, r.effect)))
    return loop.keep(_faster(loop, best))


def _price(latency_s: float, effect: float) -> float:
    """The objective of the plan that `fastest` gives, to be least: log latency, and a little of log effect.

    The prediction for a model of some microseconds may be 0 or less, as a sum of costs with more error than that.
    """
    return math.log(max(latency_s, LEAST_S)) + QUALITY_PRICE * math.log(max(effect, NO_EFFECT))


def _faster(loop: Loop, best: Round) -> Round:
    """The plan, if it is faster than the original. Raises NothingFasterError."""
    if best.measured_s < loop.faster_s:
        return best
    raise NothingFasterError(
        f"nothing beats the original on this machine: the best plan measures {best.measured_s * 1e3:.3f} ms, "
        f"fp32 {loop.original_s * 1e3:.3f} ms. Keep the original, or give --size to make it smaller"
    )


def _above_floor(loop: Loop, keeps: Keeps, most_effect: float | None) -> Outcome:
    """The fastest (or smallest) plan that keeps the floors; the smallest on float32's kernels where others are slow."""
    kept, unmet = _bisected(loop, keeps, most_effect, calm=False)
    if not kept and loop.budgets.smallest and loop.original_will_do:
        kept, unmet = _bisected(loop, keeps, most_effect, calm=True)
    if not kept:
        why = ", ".join(unmet) or "plans of so little effect are no faster or smaller than asked"
        raise BudgetError(f"no plan that saves anything keeps the quality floor: {why}; lower the floor")
    best = min(kept, key=lambda r: r.size_bytes if loop.budgets.smallest else r.measured_s)
    if not loop.budgets.smallest:
        best = _faster_known(loop, keeps, best, most_effect)
    if loop.budgets.smallest or best.measured_s < loop.faster_s:
        return loop.keep(best, refine=False)
    return loop.keep(_gentlest_faster(loop, keeps, best), refine=False)


def _faster_known(loop: Loop, keeps: Keeps, best: Round, most_effect: float | None) -> Round:
    """The fastest of `best` and the plans that profiling met, such as one scheme everywhere, which keep the floor."""
    tried = 0
    for solution in loop.known():
        if tried == CONTENDERS or solution.value >= best.measured_s * (1.0 - NOISE):
            return best
        if most_effect is not None and loop.problem.effect(solution.assignment) > most_effect:
            continue
        tried, turn = tried + 1, loop.attempt(solution)
        try:
            if loop.fits(turn) and turn.measured_s < best.measured_s and not keeps(loop.proto_of(turn)):
                return turn
        except CrashError as error:
            loop.leave_out(turn, error)
    return best


def _gentlest_faster(loop: Loop, keeps: Keeps, best: Round) -> Round:
    """A plan that is just faster than the original, of least effect: a floor need not follow the predicted effect.

    best: of those that keep the floor so far. Raises NothingFasterError where no faster one keeps it.
    """
    for share in JUST_FASTER:
        solution = solve(loop.problem, EFFECT, loop.limits(loop.faster_s * share))
        turn = loop.attempt(solution) if solution is not None else None
        if turn is not None and loop.fits(turn) and turn.measured_s < loop.faster_s and not keeps(loop.proto_of(turn)):
            return turn
    raise NothingFasterError(
        f"no plan that keeps the quality floor is faster than the original: the best measures "
        f"{best.measured_s * 1e3:.3f} ms, fp32 {loop.original_s * 1e3:.3f} ms. Lower the floor, or add "
        "--size smallest"
    )


def _bisected(loop: Loop, keeps: Keeps, most_effect: float | None, *, calm: bool) -> tuple[list[Round], list[str]]:
    """Bisection over the predicted effect: the more of it a plan may have, the faster or smaller it is.

    calm: only plans on float32's kernels. Returns the plans that keep the floors, and what the last other one missed.
    """
    unmet: list[str] = []
    kept: list[Round] = []
    low, high = 0.0, most_effect
    for _ in range(FLOOR_ROUNDS):
        limit = (low * high) ** 0.5 if low and high else high
        solution = _cheapest(loop, loop.on_original_kernels() if calm else loop.problem, limit)
        if solution is None:
            break
        turn = loop.attempt(solution)
        high = high or turn.effect
        try:
            missing = keeps(loop.proto_of(turn)) if loop.fits(turn) else []
        except CrashError as error:
            loop.leave_out(turn, error)
            continue
        if missing:
            unmet, high = missing, min(limit or high, turn.effect)
            low = low or high * LEAST_EFFECT_SHARE
        else:  # plans of less effect are kept as well, or are as slow
            kept += [turn] if loop.fits(turn) else []
            low = max(low, turn.effect, limit or 0.0)
        if low >= high * FLOOR_PRECISION:
            break
    return kept, unmet


def _cheapest(loop: Loop, problem: Problem, most_effect: float | None) -> Solution | None:
    """The smallest plan of at most so much effect, or the fastest, but for what much less effect is worth."""
    limits = loop.limits(loop.targets.limits.get(LATENCY)).but(effect=most_effect)
    if loop.budgets.smallest:
        return solve(problem, SIZE, limits)
    least = solve(problem, LATENCY, limits)
    if least is None:
        return None
    least_s, found = problem.latency_s(least.assignment), [least]
    for slack in SLACKS:
        allowed_s = least_s * (1.0 + slack)
        if not least_s < loop.faster_s < allowed_s:  # quality may not cost all that there is to gain
            solution = solve(problem, EFFECT, limits.but(latency=allowed_s))
            found += [solution] if solution is not None else []
    return min(found, key=lambda s: _price(problem.latency_s(s.assignment), problem.effect(s.assignment)))


def _last_resort(loop: Loop) -> Outcome:
    """Nothing fitted yet: measure the fastest (or smallest) plans, then give up with what is possible."""
    measure_extremes(loop)
    fitting = [r for r in loop.rounds if loop.fits(r)] or _near_misses(loop)
    if fitting:
        return loop.keep(min(fitting, key=loop.merit))
    if loop.failures and not any(math.isfinite(r.measured_s) for r in loop.rounds):
        raise loop.failures[0]
    raise BudgetError(out_of_reach(loop))


def _near_misses(loop: Loop) -> list[Round]:
    """A plan that only seemed to miss the latency, by little, if there is one: the fastest are measured again and
    longer, so that other work on the machine does not end a conversion."""
    if not loop.targets.asked_for_latency:
        return []
    near_s = loop.targets.latency_s * (1.0 + NEAR)
    near = [r for r in loop.rounds if r.measured_s <= near_s and loop.meets(replace(r, measured_s=0.0))]
    for turn in sorted(near, key=lambda r: r.measured_s)[:CONTENDERS]:
        again = loop.measured_again(turn)
        if loop.fits(again):
            return [again]
    return []


def measure_extremes(loop: Loop) -> None:
    """Measure the plans at the ends of what is possible: fastest, smallest, and so on; until one fits."""
    loop.try_known()
    for goal, limits in ((LATENCY, loop.limits()), *((name, Limits()) for name in QUANTITIES)):
        solution = solve(loop.problem, goal, limits)
        if solution is not None:
            loop.attempt(solution)
        if any(map(loop.fits, loop.rounds)):
            return
