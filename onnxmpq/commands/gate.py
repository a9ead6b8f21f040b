"""The gate: a converted model judged by floors and limits (`onnxmpq validate`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from onnxmpq.allocate import LATENCY, MEMORY, QUANTITIES, SIZE
from onnxmpq.errors import GateError, UsageError
from onnxmpq.feeds import Feeds, in_words
from onnxmpq.model import source_bytes
from onnxmpq.profiling import Footprint, memory_unmet
from onnxmpq.quality import Validation, Verdict, judge, unresolved
from onnxmpq.request import GateOptions, Source
from onnxmpq.shown import Shown


@dataclass(frozen=True, repr=False)
class Judged(Shown):
    """asked: floors and limits as spelled, by option. missed: those that are not kept, a line each, and why the model
    is bad where no floor was given. warnings: all that were shown. sessions: of the original and of the converted
    model; None where none was opened for that. shape: that latency is about, in words, "" for a sample's.
    doubts: of the warnings, those that make passing mean less: too few samples for a floor, kernels that saturate,
    labels that look wrong."""

    found: Validation
    verdict: Verdict
    original_bytes: int
    result_bytes: int
    samples_from: str
    synthetic: bool
    asked: dict[str, str]
    missed: tuple[str, ...]
    warnings: tuple[str, ...]
    sessions: tuple[Footprint, Footprint] | None = None
    shape: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """None where nothing was judged: no floor or limit was given, and the samples are made up."""
        return None if self.synthetic and not self.asked else not self.missed

    @property
    def error(self) -> GateError | None:
        """None where the model passes."""
        return GateError("; ".join(self.missed)) if self.missed else None

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        _, facts = self.found.shown()
        return self.in_words(), facts

    def figures(self) -> dict[str, Any]:
        """JSON-ready, beside the validation's own."""
        return {
            "worst_sqnr_db": self.found.worst_sqnr_db,
            "divergence": self.found.divergence,
            "agreement": self.found.agreement,
            "original_bytes": self.original_bytes,
            "result_bytes": self.result_bytes,
            "data": {"source": self.samples_from, "made_up": self.synthetic},
            "shape": self.shape or None,
            "sessions": self.sessions and dict(zip(("original", "result"), map(asdict, self.sessions), strict=True)),
            "quality": asdict(self.verdict),
            "asked": self.asked,
            "missed": list(self.missed),
            "warnings": list(self.warnings),
            "passed": self.passed,
        }

    def in_words(self) -> str:
        """The last line: passed or not, and the quality."""
        asked = ", ".join(f"{name} {value}" for name, value in self.asked.items()) or "no floor or limit was given"
        why = "; ".join(self.verdict.reasons)
        asked += f"; inputs timed: {self.shape}" if self.shape else ""
        quality = f"quality {self.verdict.level}" + (f" ({why})" if why else "")
        if self.passed is None:
            return f"not judged: {asked}; {quality}"
        if not self.passed:
            return f"FAILED: {'; '.join(self.missed)}"
        return f"passed: {asked}; {quality}{self._although_bad()}" + "".join(f"; but {line}" for line in self.doubts)

    def _although_bad(self) -> str:
        if self.verdict.level != "bad":
            return ""
        floors = {name for name in self.asked if name not in (LATENCY, SIZE, MEMORY)}
        return "; passed although it is bad: " + ("the floors that were given decide" if floors else "--no-guard")


def decided(
    options: GateOptions,
    found: Validation,
    original: Source,
    result: Source,
    feeds: Feeds,
    sessions: tuple[Footprint, Footprint] | None = None,
) -> Judged:
    """A validation against what was asked. Raises UsageError for a floor that the outputs do not have, or a limit that
    cannot be measured. sessions: of the original and of the converted model."""
    options.floors.require_classes(any(o.kl_nats is not None for o in found.outputs))
    sizes = source_bytes(original), source_bytes(result)
    verdict = judge(found, synthetic=feeds.synthetic)
    memory = {} if options.memory is None else {MEMORY: options.memory}
    asked = {**options.floors.asked(), **options.limits.spelled(), **memory}
    missed = [*options.floors.unmet(found), *_beyond(options, found, sizes), *_beyond_memory(options, sessions)]
    if options.floors.empty and options.guard and verdict.level == "bad":
        missed.append(f"the model is bad: {'; '.join(verdict.reasons)}; --no-guard lets it pass")
    doubts = (*_unresolved(options, found), *_saturated(found))
    return Judged(
        found,
        verdict,
        *sizes,
        feeds.source,
        feeds.synthetic,
        {name.replace("_", "-"): value for name, value in asked.items()},
        tuple(missed),
        doubts,
        sessions,
        shape=in_words(options.shapes),
        doubts=doubts,
    )


def _saturated(found: Validation) -> Iterator[str]:
    """Outputs that this machine's kernels compute in another way than the graph says."""
    for output in found.outputs:
        if line := output.disagreement():
            yield f"{line}: `onnxmpq check MODEL --calib SAMPLES` says which int8 kernels saturate here"


def _unresolved(options: GateOptions, found: Validation) -> tuple[str, ...]:
    rows = min((o.rows for o in found.deciding if o.rows), default=None)
    return unresolved(options.floors, found.samples, rows, shares=options.metric is None)


def _beyond_memory(options: GateOptions, sessions: tuple[Footprint, Footprint] | None) -> list[str]:
    if options.memory_limit is None:
        return []
    if sessions is None:
        raise UsageError("--memory: fp8 is emulated here, so no session was measured; leave it out")
    unmet = memory_unmet(options.memory_limit, *sessions)
    return [unmet] if unmet else []


def _beyond(options: GateOptions, found: Validation, sizes: tuple[int, int]) -> list[str]:
    """Limits that the model is beyond, in words."""
    missed, timing = [], found.timing
    if (limit := options.limits.limits.get(LATENCY)) is not None:
        if timing is None:
            raise UsageError("--latency: fp8 is emulated here, so no time was taken; leave it out")
        if timing.result_s > limit.of(timing.original_s):
            low, high = (ratio * timing.original_s for ratio in (timing.ratio_low, timing.ratio_high))
            show = QUANTITIES[LATENCY].unit.show
            missed.append(
                f"latency {show(timing.result_s)} (95 % interval {show(low)} to {show(high)}), at most "
                f"{show(limit.of(timing.original_s))} asked"
            )
    if (limit := options.limits.limits.get(SIZE)) is not None and sizes[1] > limit.of(sizes[0]):
        show = QUANTITIES[SIZE].unit.show
        missed.append(f"size {show(sizes[1])}, at most {show(limit.of(sizes[0]))} asked")
    return missed
