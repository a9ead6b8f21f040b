"""Exact allocation as a mixed-integer program, solved by HiGHS (Huangfu & Hall 2018).

Variables: x[r, s] = 1 where region r has scheme s (Multiple-Choice Knapsack, Chen et al. 2021, eq. 6); per edge two
transition variables, quantize and dequantize, tied to the formats at its ends by q - d = read - written; per tensor
one shared transition of each kind; per activation tensor a[t] = 1 where any region touches it in int8. Formats are
linear in x, so all variables but x are continuous and take 0/1 values at the optimum.

No clock stops the solver, or the plan would depend on how busy the machine is: a number of nodes does, which shrinks
with the size of the problem (`WORK`). HiGHS then hands back the best plan that it has met and the bound, and both are
the same in every run, on however many cores.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import highspy
import numpy as np
from numpy.typing import NDArray

from onnxmpq.allocate.problem import Goal, Limits, Option, Problem, Solution
from onnxmpq.allocate.quantities import EFFECT, QUANTITIES, SIZE, goals
from onnxmpq.cost import Edge, Transition, groups_with_a_choice
from onnxmpq.runtimes import FOLLOWS, STARTS, Requires, State
from onnxmpq.schemes import Scheme, writes

WORK = 400_000
"""Most branch-and-bound nodes, times variables. The zoo's problems are proven after at most 57 nodes, in 1.5 s; random
ones of 300 layers after 11, in 4 s. Networks of up to 300 layers that all cost and lose the same within 2 % may need
thousands of nodes, of which 2 to 10 are done in a second: about a minute then, and a gap of one percent."""
FEWEST_NODES = 100
RELATIVE_GAP = 1e-5  # one bad choice may be most of the sum; the others must still be told apart
_TIE_BREAK = 1e-7  # weight of the other goals, relative to their fp32 values, between plans of equal value
_SMALL = 400  # variables up to which HiGHS goes without its presolve, which once in thousands drops the optimum
_RESOLUTION = 1e4  # the largest coefficient of the objective; the solver ignores costs below 1e-7
_NO_TRANSITION = Transition()


@dataclass
class _Sum:
    """A linear expression: coefficient per variable and a constant."""

    terms: dict[int, float] = field(default_factory=dict)
    constant: float = 0.0

    def put(self, variable: int, value: float) -> None:
        """Add value · variable; a value of 0 adds no term."""
        if value:
            self.terms[variable] = self.terms.get(variable, 0.0) + value

    def add(self, other: _Sum, factor: float = 1.0) -> _Sum:
        for variable, value in other.terms.items():
            self.put(variable, factor * value)
        self.constant += factor * other.constant
        return self


@contextmanager
def _native_stdout_dropped() -> Iterator[None]:
    """Drops what native code writes to stdout: HiGHS introduces itself before it can be told to be silent."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def solve(
    problem: Problem, goal: Goal, limits: Limits, *, work: int = WORK, transitions: bool = True
) -> Solution | None:
    """The plan of least `goal` within the limits; None where there is none.

    work: nodes times variables, after which the best plan so far is taken, as not proven. transitions=False ignores
    transition costs (the pure per-layer MCKP, for comparison).
    """
    return _Program(problem, transitions).solve(goal, limits, work)


class _Program:
    def __init__(self, problem: Problem, transitions: bool) -> None:
        self.problem, self.transitions = problem, transitions
        self.count = 0
        self.integral: list[int] = []
        self.rows: list[tuple[_Sum, float, float]] = []  # lower <= expression <= upper
        self.choice: dict[tuple[str, int], int] = {}
        self.reads: dict[str, _Sum] = {}
        self.writes: dict[str, _Sum] = {}
        self.totals: dict[Goal, _Sum] = {goal: _Sum() for goal in goals()}
        self._choices()
        self._stored_once()
        self.laid_out = self._layouts()
        self._edges()
        self._activations()
        self._chains()
        self._together()
        for goal, total in self.totals.items():
            total.constant += problem.base(goal)

    def _variable(self, integral: bool = False) -> int:
        if integral:
            self.integral.append(self.count)
        self.count += 1
        return self.count - 1

    def _row(self, expression: _Sum, lower: float, upper: float) -> None:
        self.rows.append((expression, lower, upper))

    def _choices(self) -> None:
        for region in self.problem.model.regions:
            self.reads[region.name], self.writes[region.name] = _Sum(), _Sum()
            options = self.problem.options.get(region.name, ())
            if len(options) == 1:
                self._count_option(region.name, region.op_type, options[0], None)
                continue
            one = _Sum()
            for number, option in enumerate(options):
                variable = self._variable(integral=True)
                self.choice[region.name, number] = variable
                one.terms[variable] = 1.0
                self._count_option(region.name, region.op_type, option, variable)
            if options:
                self._row(one, 1.0, 1.0)

    def _count_option(self, region: str, op_type: str, option: Option, variable: int | None) -> None:
        def put(expression: _Sum, value: float) -> None:
            if variable is None:
                expression.constant += value
            else:
                expression.put(variable, value)

        for goal, total in self.totals.items():
            put(total, option.cost(goal))
        put(self.reads[region], float(option.scheme.reads.quantized))
        put(self.writes[region], float(writes(option.scheme, op_type).quantized))

    def _stored_once(self) -> None:
        """A weight that several regions store in the same way counts once: a variable that is 1 where one does."""
        users: dict[str, list[tuple[_Sum, float]]] = defaultdict(list)
        for region, options in self.problem.options.items():
            for number, option in enumerate(options):
                uses = _Sum({self.choice[region, number]: 1.0}) if len(options) > 1 else _Sum(constant=1.0)
                for stored, size in option.common.items():
                    users[stored].append((uses, size))
        total = self.totals[SIZE]
        for found in (f for f in users.values() if len(f) > 1):
            once = self._variable()
            total.put(once, found[0][1])
            for uses, size in found:
                total.add(uses, -size)
                self._at_most(uses, [_Sum({once: 1.0})])

    def _written(self, edge: Edge) -> _Sum:
        return self.writes[edge.producer] if edge.producer else _Sum()

    def _read(self, edge: Edge) -> _Sum:
        return self.reads[edge.consumer] if edge.consumer else _Sum()

    def _edges(self) -> None:
        if not self.transitions:
            return
        table, laid_out = self.problem.table, self.laid_out
        by_tensor: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for edge in self.problem.edges:
            cost = table.edges.get(edge.key, _NO_TRANSITION)
            written, read, shared = self._written(edge), self._read(edge), edge.tensor in table.shared
            pair = self._change(written, read, {n: q.on_format(cost) for n, q in QUANTITIES.items()}, shared)
            if pair is not None:
                by_tensor[edge.tensor].append(pair)
            before, after = (laid_out.get(end or "", _Sum()) for end in (edge.producer, edge.consumer))
            self._change(before, after, {n: q.on_layout(cost) for n, q in QUANTITIES.items()})
        for tensor, pairs in by_tensor.items():
            self._shared(table.shared.get(tensor, _NO_TRANSITION), pairs)

    def _change(
        self, before: _Sum, after: _Sum, costs: Mapping[str, tuple[float, float]], needed: bool = False
    ) -> tuple[int, int] | None:
        """Variables (0 to 1, and 1 to 0) of a 0/1 state that may change from `before` to `after`, with their costs."""
        values = [value for pair in costs.values() for value in pair]
        constant = not before.terms and not after.terms and before.constant == after.constant
        if constant or not (any(values) or needed):
            return None
        up, down = self._variable(), self._variable()
        for name, (on_up, on_down) in costs.items():
            self.totals[name].put(up, on_up)
            self.totals[name].put(down, on_down)
        self._row(_Sum({up: 1.0, down: -1.0}).add(after, -1.0).add(before), 0.0, 0.0)
        if any(value < 0 for value in values):  # else the solver keeps both at their least by itself
            self._row(_Sum({up: 1.0}).add(after, -1.0), -np.inf, 0.0)
            self._row(_Sum({up: 1.0}).add(before), -np.inf, 1.0)
            self._row(_Sum({down: 1.0}).add(before, -1.0), -np.inf, 0.0)
            self._row(_Sum({down: 1.0}).add(after), -np.inf, 1.0)
        return up, down

    def _shared(self, shared: Transition, pairs: list[tuple[int, int]]) -> None:
        costs = {name: quantity.on_format(shared) for name, quantity in QUANTITIES.items()}
        for column in range(2):
            if any(cost[column] > 0 for cost in costs.values()):
                once = self._variable()
                for name, cost in costs.items():
                    self.totals[name].put(once, cost[column])
                for pair in pairs:
                    self._row(_Sum({once: 1.0, pair[column]: -1.0}), 0.0, np.inf)

    def _layouts(self) -> dict[str, _Sum]:
        """Per region, 1 where it works in the runtime's own layout (as in `cost.layout.laid_out`)."""
        producers, found = self.problem.model.producers, dict[str, _Sum]()
        for region in self.problem.model.regions:
            role = self.problem.table.rules.layout.get(region.name)
            if role == STARTS:
                found[region.name] = self.writes[region.name]
            elif role == FOLLOWS:
                sources = [found.get(p.name, _Sum()) if (p := producers.get(t)) else _Sum() for t in region.inputs]
                found[region.name] = sources[0] if len(sources) == 1 else self._all_of(sources)
        return found

    def _all_of(self, conditions: list[_Sum]) -> _Sum:
        """A variable that is 1 where all conditions are, else 0."""
        if any(not c.terms and c.constant == 0.0 for c in conditions):
            return _Sum()
        result = _Sum({self._variable(): 1.0})
        for condition in conditions:
            self._row(_Sum().add(result).add(condition, -1.0), -np.inf, 0.0)
        self._implied(result, conditions)
        return result

    def _activations(self) -> None:
        model, roots = self.problem.model, self.problem.model.roots
        touching: dict[str, list[_Sum]] = defaultdict(list)
        for region in model.regions:
            for tensor in region.inputs:
                touching[roots.get(tensor, tensor)].append(self.reads[region.name])
            for tensor in region.outputs:
                touching[roots.get(tensor, tensor)].append(self.writes[region.name])
        for tensor, effect in self.problem.activations.items():
            rounded = self._variable()
            self.totals[EFFECT].put(rounded, effect)
            for expression in touching.get(tensor, []):
                if expression.terms or expression.constant:
                    self._row(_Sum({rounded: 1.0}).add(expression, -1.0), 0.0, np.inf)

    def _chains(self) -> None:
        """The runtime's rules for chains of quantized regions, as linear constraints."""
        states = {State.READS: self.reads, State.WRITES: self.writes, State.LAID_OUT: self.laid_out}
        for rule in self.problem.table.rules.chains:
            own = self.reads[rule.region]
            if isinstance(rule, Requires):
                self._at_most(own, [states[f.state][f.region] for f in rule.any_of])
            elif own.terms:  # else it has no choice
                self._implied(own, [states[f.state][f.region] for f in rule.all_of])

    def _together(self) -> None:
        """One scheme for all regions of a group."""
        for group in groups_with_a_choice(self.problem.table.rules, self._offered):
            first, *others = [self._by_scheme(region) for region in group]
            for other in others:
                for name in first.keys() | other.keys():
                    self._row(_Sum().add(first.get(name, _Sum())).add(other.get(name, _Sum()), -1.0), 0.0, 0.0)

    @property
    def _offered(self) -> dict[str, tuple[Scheme, ...]]:
        return {region: tuple(o.scheme for o in options) for region, options in self.problem.options.items()}

    def _by_scheme(self, region: str) -> dict[str, _Sum]:
        """1 for the scheme that a region has."""
        options = self.problem.options[region]
        if len(options) == 1:
            return {options[0].scheme.name: _Sum(constant=1.0)}
        return {o.scheme.name: _Sum({self.choice[region, number]: 1.0}) for number, o in enumerate(options)}

    def _at_most(self, own: _Sum, others: list[_Sum]) -> None:
        """own <= sum of the others."""
        expression = _Sum().add(own)
        for other in others:
            expression.add(other, -1.0)
        self._row(expression, -np.inf, 0.0)

    def _implied(self, own: _Sum, conditions: list[_Sum]) -> None:
        """own = 1 where all conditions are 1."""
        expression = _Sum().add(own)
        for condition in conditions:
            expression.add(condition, -1.0)
        self._row(expression, 1.0 - len(conditions), np.inf)

    def solve(self, goal: Goal, limits: Limits, work: int) -> Solution | None:
        scale = {g: self._scale(g) for g in self.totals}
        objective = np.zeros(max(self.count, 1))
        for name, total in self.totals.items():
            weight = _RESOLUTION * (1.0 if name == goal else _TIE_BREAK)
            for variable, value in total.terms.items():
                objective[variable] += weight * value / scale[name]
        rows = list(self.rows)
        for name, limit in limits.upper.items():
            total = self.totals[name]
            scaled = _Sum({v: c / scale[name] for v, c in total.terms.items()}, total.constant / scale[name])
            rows.append((scaled, -np.inf, limit / scale[name]))
        with _native_stdout_dropped():
            solver = self._posed(objective, rows)
            solver.setOptionValue("mip_max_nodes", max(work // max(self.count, 1), FEWEST_NODES * work // WORK, 1))
            solver.setOptionValue("mip_rel_gap", RELATIVE_GAP)
            solver.setOptionValue("presolve", "on" if self.count > _SMALL else "off")
            solver.run()
        if solver.getInfo().primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return None
        return self._solution(goal, solver, scale[goal])

    def _scale(self, goal: Goal) -> float:
        return max((abs(v) for v in self.totals[goal].terms.values()), default=1.0) or 1.0

    def _posed(self, objective: NDArray[np.float64], rows: list[tuple[_Sum, float, float]]) -> highspy.Highs:
        """The program in a solver that is silent and has one thread, so that its way does not depend on the machine."""
        count = len(objective)
        constants = np.array([e.constant for e, _, _ in rows])
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = count, len(rows)
        program.col_cost_, program.col_lower_, program.col_upper_ = objective, np.zeros(count), np.ones(count)
        program.row_lower_ = np.array([low for _, low, _ in rows]) - constants
        program.row_upper_ = np.array([high for _, _, high in rows]) - constants
        kinds = [highspy.HighsVarType.kContinuous] * count
        for variable in self.integral:
            kinds[variable] = highspy.HighsVarType.kInteger
        program.integrality_ = kinds
        matrix = program.a_matrix_
        matrix.format_, matrix.num_col_, matrix.num_row_ = highspy.MatrixFormat.kRowwise, count, len(rows)
        matrix.start_ = np.cumsum([0, *(len(e.terms) for e, _, _ in rows)], dtype=np.int32)
        matrix.index_ = np.array([v for e, _, _ in rows for v in sorted(e.terms)], np.int32)
        matrix.value_ = np.array([e.terms[v] for e, _, _ in rows for v in sorted(e.terms)])
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", 1)
        solver.passModel(program)
        return solver

    def _solution(self, goal: Goal, solver: highspy.Highs, scale: float) -> Solution:
        values, info = solver.getSolution().col_value, solver.getInfo()
        assignment: dict[str, Scheme] = {}
        for (region, number), variable in self.choice.items():
            scheme = self.problem.options[region][number].scheme
            if values[variable] > 0.5 and not scheme.is_fp32:
                assignment[region] = scheme
        for region, options in self.problem.options.items():
            if len(options) == 1 and not options[0].scheme.is_fp32:
                assignment[region] = options[0].scheme
        total = self.totals[goal]
        value = total.constant + sum(c * values[v] for v, c in total.terms.items())
        gap = max(float(info.mip_gap), 0.0) if self.integral else 0.0
        proven = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
        return Solution(assignment, float(value), float(value) - gap * abs(float(value)), gap, proven)
