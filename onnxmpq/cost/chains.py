"""Plans as a runtime really executes them: chains of quantized regions continued or broken by its rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from onnxmpq.cost.layout import laid_out
from onnxmpq.cost.table import Assignment
from onnxmpq.model import Model, Region
from onnxmpq.runtimes import Becomes, Fact, Requires, Rules, State
from onnxmpq.schemes import FP32, Scheme, writes

Menu = Mapping[str, Sequence[Scheme]]


def legalize(model: Model, rules: Rules, plan: Assignment, menu: Menu) -> dict[str, Scheme]:
    """The plan that the runtime would really execute.

    A quantized region of which a rule requires what does not hold goes back to float. A float region that the runtime
    makes quantized gets the first such scheme of its menu. Layers that have one scheme get that of the first of them
    which all offer, and are float where that is none, or where one of them goes back to float.
    """
    groups = groups_with_a_choice(rules, menu)
    wanted = dict(plan)
    for group in groups:
        shared = _names(menu, group)
        scheme = next((s for r in group if (s := plan.get(r)) is not None and s.name in shared), None)
        if scheme is None and FP32 not in shared:
            scheme = next(s for s in menu[group[0]] if s.name in shared)
        _set(wanted, group, scheme)
    legal = _Legal(model, rules, wanted, menu).assignment
    for _ in groups:  # each time one more of them, at least, is float for good
        apart = [g for g in groups if len({_name(legal.get(r)) for r in g}) > 1]
        if not apart:
            break
        for group in apart:
            _set(wanted, group, None)
        legal = _Legal(model, rules, wanted, menu).assignment
    return legal


def groups_with_a_choice(rules: Rules, menu: Menu) -> list[tuple[str, ...]]:
    """Groups of regions that have one scheme, without those for which no scheme is on the menu of all."""
    return [group for group in rules.together if _names(menu, group)]


def _names(menu: Menu, group: Sequence[str]) -> set[str]:
    """Of the schemes that all regions of a group offer."""
    return set.intersection(*({s.name for s in menu.get(region, ())} for region in group))


def _name(scheme: Scheme | None) -> str:
    return FP32 if scheme is None else scheme.name


def _set(plan: dict[str, Scheme], group: Sequence[str], scheme: Scheme | None) -> None:
    for region in group:
        plan.pop(region, None)
        if scheme is not None and not scheme.is_fp32:
            plan[region] = scheme


class _Legal:
    """One pass in graph order; what stands before a region is settled when the region is looked at."""

    def __init__(self, model: Model, rules: Rules, plan: Assignment, menu: Menu) -> None:
        self.plan, self.menu = plan, menu
        self.ops = {r.name: r.op_type for r in model.regions}
        self.requires: dict[str, list[Requires]] = defaultdict(list)
        self.becomes: dict[str, list[Becomes]] = defaultdict(list)
        for rule in rules.chains:
            if isinstance(rule, Requires):
                self.requires[rule.region].append(rule)
            else:
                self.becomes[rule.region].append(rule)
        self.settled, self.laid_out = set[str](), set[str]()
        self.assignment: dict[str, Scheme] = {}
        producers = model.producers
        for region in model.regions:
            if laid_out(region, rules.layout, None, producers, self.laid_out):  # by what stands before it
                self.laid_out.add(region.name)
            scheme = self._settle(region)
            if scheme is not None:
                self.assignment[region.name] = scheme
            self.settled.add(region.name)
            if laid_out(region, rules.layout, scheme, producers, self.laid_out):
                self.laid_out.add(region.name)

    def _settle(self, region: Region) -> Scheme | None:
        scheme = self.plan.get(region.name)
        if scheme is not None and scheme.reads.quantized:
            allowed = all(any(map(self._holds, rule.any_of)) for rule in self.requires[region.name])
            return scheme if allowed else None
        if any(all(map(self._holds, rule.all_of)) for rule in self.becomes[region.name]):
            return next((s for s in self.menu.get(region.name, ()) if s.reads.quantized), scheme)
        return scheme

    def _holds(self, fact: Fact) -> bool:
        """By what is settled; of regions further down, by the plan."""
        if fact.state is State.LAID_OUT:
            return fact.region in self.laid_out
        scheme = (self.assignment if fact.region in self.settled else self.plan).get(fact.region)
        if scheme is None:
            return False
        return (scheme.reads if fact.state is State.READS else writes(scheme, self.ops[fact.region])).quantized
