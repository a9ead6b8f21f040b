"""Divergence of a whole plan, predicted by adding up the effects of its decisions: D(z₀, z₀ + Σ Δz).

The sum knows how decisions interact: one effect vector per decision gives every pair's cross term. From few samples
the cross terms are partly noise, which an optimiser exploits, so what they say beyond their general level is shrunk:

    prediction = level · (1 - trust) · Σ D(z₀, z₀ + Δz) + trust · D(z₀, z₀ + Σ Δz)

level is the typical ratio of superposed to separable over random plans, trust the reliability of the deviations from it
(`sensitivity/reliability.py`). Nothing is run for that; everything is in the effects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmpq.allocate.problem import Option, Problem, quantized_roots
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity import FEWEST_SAMPLES, Code, Effects, level_and_trust

RANDOM_PLANS = 40
LEAST_SHARE = 0.1  # of its single effect that a decision counts for, however much others seem to make up for it
Assignment = dict[str, Scheme]


@dataclass(frozen=True, eq=False)
class Predictor:
    """Divergence of plans by superposed effects. level, trust: see above; trust 0 is the separable prediction."""

    problem: Problem
    effects: Effects
    level: float = 1.0
    trust: float = 0.0

    @classmethod
    def fitted(cls, problem: Problem, effects: Effects, seed: int = 0) -> Predictor:
        """Level and trust from random plans of this problem; separable where there are too few samples."""
        predictor = cls(problem, effects)
        if len(effects.reference) < FEWEST_SAMPLES:
            return predictor
        generator = np.random.default_rng(seed)
        plans = [random_plan(problem, generator) for _ in range(RANDOM_PLANS)]
        separable = np.stack([predictor.separable_per_sample(p) for p in plans])
        superposed = np.stack([predictor.superposed_per_sample(p) for p in plans])
        level, trust = level_and_trust(separable, superposed, generator)
        return cls(problem, effects, level, trust)

    def divergence(self, assignment: Assignment) -> float:
        """Predicted divergence of a plan from fp32 (nats, or relative squared error)."""
        superposed = self.effects.measure.mean(self.effects.reference, self._total(assignment))
        superposed += sum(self.effects.of_half(region, scheme) for region, scheme in assignment.items())
        separable = self.level * (1.0 - self.trust) * self.problem.effect(assignment)
        return separable + self.trust * superposed

    def superposed_per_sample(self, assignment: Assignment) -> NDArray[np.float64]:
        """float64 [samples]: D(z₀, z₀ + Σ Δz)."""
        return self.effects.measure.per_sample(self.effects.reference, self._total(assignment))

    def separable_per_sample(self, assignment: Assignment) -> NDArray[np.float64]:
        """float64 [samples]: Σ D(z₀, z₀ + Δz)."""
        total = np.zeros(len(self.effects.reference))
        for change in self._changes(assignment):
            total += self.effects.alone(change)
        return total

    def around(self, assignment: Assignment) -> Problem:
        """The problem with each decision's effect as it is beside the others of this plan, instead of alone."""
        total, model = self._total(assignment), self.problem.model
        options: dict[str, tuple[Option, ...]] = {}
        for region, row in self.problem.options.items():
            rest = total - self._of_choice(region, assignment.get(region))
            options[region] = tuple(self._beside(region, option, rest) for option in row)
        chosen, activations = set(quantized_roots(model, assignment)), {}
        for tensor, alone in self.problem.activations.items():
            change = self.effects.activations[tensor]
            rest = total - change if tensor in chosen else total
            activations[tensor] = self._marginal(alone, change, rest)
        return replace(self.problem, options=options, activations=activations)

    def _beside(self, region: str, option: Option, rest: Code) -> Option:
        if option.effect == 0.0:
            return option
        half = self.effects.of_half(region, option.scheme)
        beside = self._marginal(option.effect - half, self._of_choice(region, option.scheme), rest)
        return replace(option, effect=beside + half)

    def _marginal(self, alone: float, change: Code, rest: Code) -> float:
        measure, reference = self.effects.measure.mean, self.effects.reference
        beside = measure(reference, rest + change) - measure(reference, rest)
        return max(self.level * (1.0 - self.trust) * alone + self.trust * beside, LEAST_SHARE * alone)

    def _changes(self, assignment: Assignment) -> list[Code]:
        """Effect vectors of all decisions of a plan."""
        own = [change for region, scheme in assignment.items() for change in self.effects.own(region, scheme)]
        tensors = quantized_roots(self.problem.model, assignment)
        return own + [self.effects.activations[t] for t in tensors if t in self.effects.activations]

    def _total(self, assignment: Assignment) -> Code:
        return sum_of(self._changes(assignment), self.effects.reference)

    def _of_choice(self, region: str, scheme: Scheme | None) -> Code:
        return sum_of(self.effects.own(region, scheme) if scheme else (), self.effects.reference)


def sum_of(changes: Iterable[Code], like: Code) -> Code:
    """Σ changes, float32, shaped as `like` also where there are none."""
    total = np.zeros_like(like)
    for change in changes:
        total += change
    return total


def random_plan(problem: Problem, generator: np.random.Generator, freedom: float | None = None) -> Assignment:
    """A random scheme for a share `freedom` of the regions, for a random share where it is None."""
    plan = Assignment()
    freedom = generator.uniform() if freedom is None else freedom
    for region, row in problem.options.items():
        option = row[generator.integers(len(row))] if generator.uniform() < freedom else row[0]
        if not option.scheme.is_fp32:
            plan[region] = option.scheme
    return plan
