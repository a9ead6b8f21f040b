"""The prepared model against the original: they must compute the same, or the step of preparing that is to blame is
found and left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.errors import CrashError, ModelError
from onnxmpq.feeds import Array, Feeds
from onnxmpq.model import GraphIndex, Model, Step, prepare, random_tensors, sink, sources_of
from onnxmpq.ranges import explain_nonfinite, none_finite
from onnxmpq.runtimes import SessionSettings, absolute, open_session, run
from onnxmpq.samples.first import RUNNING, first
from onnxmpq.trials import OWN_THREADS

TOLERANCE = 1e-3  # of an output's largest value
OWN_NOISE = 10.0  # times what the original changes by when its kernels and the last bits of its inputs change
HALF_TOLERANCE = 0.03  # where the original computes in 16 bits, with some 50 roundings to 2**-11 one after the other
WAYS = (
    SessionSettings(threads=OWN_THREADS, mapped=True),
    SessionSettings(threads=OWN_THREADS, optimize=False, mapped=True),
)
"""Settings of the first runs: with the kernels, fused and not, that later steps run in this process."""
Values = list[Any]  # per output: an array, or what sequences and maps are in Python
Inputs = Mapping[str, Array]


def agreeing(source: str | Path | onnx.ModelProto, model: Model, feeds: Feeds, opset: int | None = None) -> Model:
    """The model, if it computes what its source does; else prepared anew without the steps that change an output.

    Compared on the first, last, largest and smallest sample, by outputs that do not depend on random numbers. Values
    count where the source's are finite. Raises ModelError where the source itself does not run or computes no finite
    value, CrashError where it ends the runtime. opset: as for `prepare`.
    """
    samples = [feeds.batch([number]) for number in dict.fromkeys((0, len(feeds) - 1, *feeds.extremes))]
    drawn = random_tensors(model.structure.graph).intersection(model.output_names)
    skipped = [name in drawn for name in model.output_names]
    judge = _Judge(absolute(source), samples, skipped, first(outputs_of, absolute(source), samples, doing=RUNNING))
    _require_finite(model, judge.reference[0][0], feeds)
    found, worst = model, judge.deviation(model)
    tolerance = HALF_TOLERANCE if model.from_halves else TOLERANCE
    if worst > tolerance:
        judge = judge.inside(model, lambda: prepare(source, opset, tuple(Step)), tolerance)
        tolerance = max(tolerance, OWN_NOISE * judge.noise())
        if judge.deviation(model) > tolerance:
            found = _without_culprits(source, model, opset, judge, tolerance)
    if drawn:
        names = ", ".join(map(repr, sorted(drawn)))
        note = f"output {names} depends on random numbers: it was not compared, and no quality is known of it"
        found = replace(found, notes=(*found.notes, note))
    return found


def _exposed(model: Model, tensors: Sequence[str]) -> onnx.ModelProto:
    """The graph as it is written, with these tensors as further outputs: with constants in other graphs, bodies have
    other kernels."""
    proto = model.proto
    sink(proto)
    proto.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors)
    return proto


def outputs_of(model: onnx.ModelProto | bytes | str, samples: Sequence[Inputs]) -> list[list[Values]]:
    """Outputs by way and sample. Raises ModelError."""
    found: list[list[Values]] = []
    for settings in WAYS:
        session = open_session(model, settings)
        found.append([run(session, inputs) for inputs in samples])
        del session  # before the next one is opened
    return found


@dataclass(frozen=True)
class _Judge:
    """reference: outputs of the source by way and sample. skipped: by output, True where it is not compared. inner:
    tensors of prepared models that are compared behind their outputs."""

    source: Any
    samples: Sequence[Inputs]
    skipped: Sequence[bool]
    reference: list[list[Values]]
    inner: Sequence[str] = ()

    def inside(self, model: Model, prepared_bare: Callable[[], Model], tolerance: float) -> _Judge:
        """By the float tensors that integers among the outputs are made of, instead of these: where two scores are
        equal, any other rounding makes another label.

        prepared_bare: the model prepared without any step. It says what these tensors are, where its own outputs are
        those of the source.
        """
        first_one = self.reference[0][0]
        labels = [isinstance(v, np.ndarray) and not np.issubdtype(v.dtype, np.floating) for v in first_one]
        if not any(labels):
            return self
        names = [name for name, label in zip(model.output_names, labels, strict=True) if label]
        bare, index = prepared_bare(), GraphIndex(model.structure)
        there = {t for node in bare.structure.graph.node for t in node.output}.difference(model.output_names)
        inner = [t for t in sources_of(index, names) if t in there]
        if not inner or self.deviation(bare) > tolerance:
            return self
        skipped = [*(s or label for s, label in zip(self.skipped, labels, strict=True)), *(False for _ in inner)]
        proto = _exposed(bare, inner)
        return _Judge(proto, self.samples, skipped, first(outputs_of, proto, self.samples, doing=RUNNING), inner)

    def deviation(self, model: Model) -> float:
        """Of a prepared model, in the worst way; infinite where it does not run."""
        try:
            found = first(outputs_of, _exposed(model, self.inner), self.samples, doing=RUNNING)
        except (ModelError, CrashError):  # the source runs, so preparing is to blame
            return float("inf")
        return max(self._worst(a, b) for a, b in zip(self.reference, found, strict=True))

    def noise(self) -> float:
        """Deviation of the source from itself: fused and unfused, run again, and with other last bits in its inputs."""
        generator = np.random.default_rng(0)
        nearby = [{name: _nudged(values, generator) for name, values in i.items()} for i in self.samples]
        again, moved = (first(outputs_of, self.source, s, doing=RUNNING) for s in (self.samples, nearby))
        fused, unfused = self.reference
        return max(self._worst(fused, other) for other in (unfused, again[0], moved[0], moved[1]))

    def _worst(self, before: list[Values], after: list[Values]) -> float:
        return max(
            (
                deviation(a, b)
                for one, two in zip(before, after, strict=True)
                for a, b, skipped in zip(one, two, self.skipped, strict=True)
                if not skipped
            ),
            default=0.0,
        )


def deviation(before: Any, after: Any) -> float:
    """Largest difference of two values of an output, relative to the largest value of the first; infinite where shape
    or type differ, or where only the second is not finite. Of integers, strings and truth values the share that
    differs."""
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            return max(map(deviation, before, after), default=0.0)
        return 0.0 if type(before) is type(after) and before == after else float("inf")
    if before.shape != after.shape or before.dtype != after.dtype:
        return float("inf")
    if not np.issubdtype(before.dtype, np.floating):
        return float(np.mean(before != after)) if before.size else 0.0
    finite = np.isfinite(before)
    a, b = before[finite].astype(np.float64), after[finite].astype(np.float64)
    if not np.isfinite(b).all():
        return float("inf")
    reach = float(np.abs(a).max(initial=0.0)) or 1.0
    return float(np.abs(a - b).max(initial=0.0)) / reach


def _nudged(values: NDArray[Any], generator: np.random.Generator) -> Array:
    if not np.issubdtype(values.dtype, np.floating):
        return values
    factors = 1.0 + 2.0 * float(np.finfo(values.dtype).eps) * generator.choice([-1.0, 1.0], values.shape)
    return np.asarray(np.asarray(values, np.float64) * factors, values.dtype)


def _require_finite(model: Model, sample: Values, feeds: Feeds) -> None:
    """Some output must have a finite value. Raises ModelError."""
    if not none_finite(sample):
        return
    where = explain_nonfinite(model.proto, feeds.batch([0])) or "its prepared graph computes neither"
    raise ModelError(
        f"the model computes NaN or infinity at output {model.output_names[0]!r} for calibration sample "
        f"{feeds.label(0)}: {where}; check the preprocessing of the samples, or the model there"
    )


def _without_culprits(source: Any, model: Model, opset: int | None, judge: _Judge, tolerance: float) -> Model:
    """The model prepared without the steps that make it differ, found by bisection one after the other.

    Raises ModelError where it differs without any step.
    """
    steps, culprits = tuple(Step), [Step(s) for s in model.left_out]

    def attempt(taken: Sequence[Step]) -> tuple[Model, bool]:
        made = prepare(source, opset, [s for s in steps if s not in taken or s in culprits], model.added.__contains__)
        return made, judge.deviation(made) <= tolerance

    bare, fine = attempt(())
    if not fine:
        first(outputs_of, bare.proto, judge.samples, doing=RUNNING)  # which says so where it does not even run
        what = "" if opset is None else f" at opset {opset}; leave the opset out, or"
        raise ModelError(
            f"the prepared model computes something else than the original{what}; please report this model"
        )
    while True:
        agrees, differs = 0, len(steps)  # with so many steps taken
        while differs - agrees > 1:
            middle = (agrees + differs) // 2
            if attempt(steps[:middle])[1]:
                agrees = middle
            else:
                differs = middle
        culprits.append(steps[differs - 1])
        found, fine = attempt(steps)
        if fine:
            return found
