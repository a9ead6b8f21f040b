"""Differences between the session that users open and the graph, by more than rounding.

The default session and one without optimisation differ in where values are rounded: fused kernels round once what the
graph rounds twice. A kernel that saturates, or a fusion that drops a node, makes far larger differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnxmpq.closed_loop import culprits
from onnxmpq.deployment import DeployCpu, unproven
from onnxmpq.errors import ModelError
from onnxmpq.feeds import Feeds
from onnxmpq.quality import Validation, fusion_sqnr_db
from onnxmpq.runtimes import SessionSettings, holds_fp8, probes
from onnxmpq.schemes import Scheme
from onnxmpq.weights import Compensated, with_biases
from onnxmpq.workbench import Workbench

ROUNDING_DB = 30.0
"""SQNR of the default session against the unoptimised one, from which on rounding explains the difference. In a model
that is far from fp32, rounding makes more noise: there it is enough to be `MARGIN_DB` better than the model's own SQNR.
docs/overflow.md has both for sound models and for kernels that saturate."""
MARGIN_DB = 6.0
SHARE = 0.25  # of the noise at the limit, which a region has to make alone to be named
SAMPLES = 8
SATURATES = "its kernel saturates on this CPU (docs/overflow.md)"
FUSED = "the runtime's fusion computes something else than the graph"
SUM = "no region alone; what several make adds up"


@dataclass(frozen=True)
class Disagreement:
    """sqnr_db: of the default session against the unoptimised graph, at the worst output.

    rounding: True where rounding explains it. regions: else those that differ alone, with their own SQNR in dB;
    reasons: by region, why.
    """

    sqnr_db: float
    rounding: bool
    regions: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def in_words(self) -> str:
        if self.rounding:
            if math.isinf(self.sqnr_db):
                return ""
            return f"CPUs differ by float32 rounding (here {self.sqnr_db:.0f} dB from the graph as written)"
        found = [f"{name} ({db:.1f} dB alone: {self.reasons[name]})" for name, db in self.regions.items()]
        return (
            f"the default session differs from the unoptimised graph by more than rounding (SQNR {self.sqnr_db:.1f} "
            f"dB): {', '.join(found) or SUM}"
        )


def as_shipped(bench: Workbench, compensated: Compensated) -> Workbench:
    """The bench with the weights and biases of the second rounding."""
    weights = {(name, weight.format.name): weight for name, weight in compensated.weights.items()}
    return replace(bench, model=with_biases(bench.model, compensated.biases), weights=weights)


def disagreement(
    shipped: Workbench, assignment: Mapping[str, Scheme], feeds: Feeds, settings: SessionSettings, quality: Validation
) -> Disagreement | None:
    """The SQNR between both, and the regions at fault where rounding does not explain it; None for float8.

    shipped: see `as_shipped`. feeds: some samples. settings: of the default session. quality: of the unoptimised graph
    too. Raises ModelError where the model as a whole does not run.
    """
    feeds = feeds.take(list(range(min(SAMPLES, len(feeds)))))
    proto = shipped.build(assignment)
    if holds_fp8(proto):  # computed as the graph says
        return None
    own = min((o.sqnr_unfused_db for o in quality.outputs if o.sqnr_unfused_db is not None), default=ROUNDING_DB)
    limit = min(ROUNDING_DB, own + MARGIN_DB)
    whole = fusion_sqnr_db(proto, feeds, settings)
    if whole >= limit:
        return Disagreement(whole, rounding=True)

    def noise(group: tuple[str, ...]) -> float:
        try:
            return _noise(fusion_sqnr_db(shipped.build({name: assignment[name] for name in group}), feeds, settings))
        except ModelError:
            return 0.0  # no plan that anyone ships

    found = culprits(tuple(assignment), lambda _: 0.0, noise, SHARE * _noise(limit))
    cpu = DeployCpu.AVX2 if probes.saturates() and not settings.exact_integers else DeployCpu.NONE
    saturating = {name for name, _, _ in unproven(shipped.model, assignment, shipped.weights, cpu)}
    reasons = {name: SATURATES if name in saturating else FUSED for name in found}
    return Disagreement(whole, False, {name: -10.0 * math.log10(value) for name, value in found.items()}, reasons)


def _noise(sqnr_db: float) -> float:
    """Power of the noise over that of the signal."""
    return float(10.0 ** (-sqnr_db / 10.0))
