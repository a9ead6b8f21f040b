"""Run the fp32 model on calibration samples and keep a histogram of every tensor that may be quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxmpq.errors import CalibrationError
from onnxmpq.execution import MEMORY, MemoryBudget, at_a_time, cut_to_fit, run_samples, tensor_shapes
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.ranges.estimators import ESTIMATORS
from onnxmpq.ranges.headroom import widened
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.ranges.nonfinite import explain_nonfinite, none_finite
from onnxmpq.ranges.params import BITS, QuantParams
from onnxmpq.schemes import ActivationType

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Observation:
    """histograms: tensor -> histogram. shapes: tensor -> shape in a run of the largest sample.

    estimators: names of `ESTIMATORS` to make ranges with; of several the one of least effect on the outputs is taken,
    the first where effects are not known. headroom: tensor -> factor by which all its ranges are widened.
    """

    histograms: dict[str, Histogram]
    shapes: dict[str, tuple[int, ...]]
    estimators: tuple[str, ...] = ("mse",)
    headroom: Mapping[str, float] = field(default_factory=dict)

    def estimate(self, tensor: str, estimator: str, bits: int = BITS, kind: ActivationType = "uint8") -> QuantParams:
        """Parameters of a tensor by one estimator."""
        return widened(ESTIMATORS[estimator](self.histograms[tensor], bits, kind), self.headroom.get(tensor, 1.0))


def observe(
    model: Model,
    feeds: Feeds,
    tensors: Sequence[str],
    *,
    threads: int = 1,
    memory: MemoryBudget = MEMORY,
    tick: Tick = lambda _: None,
) -> Observation:
    """Histograms of float tensors over all samples; `tick` gets the number of tensors done in each run.

    threads: samples that run side by side, one thread each. A session shows as many tensors as `memory` has room for,
    for one sample; the model runs once more for every further part. Which tensors are shown together follows from the
    model, not from `tensors`: what is shown is not fused, and so has part in the last bits of all values.

    The model's own outputs are looked at too. Raises CalibrationError naming the sample for which none of them has a
    finite value, and the first node that makes it so.
    """
    between = (t for r in model.regions for t in (*r.inputs, *r.outputs))
    shapes = tensor_shapes(model, feeds, list(dict.fromkeys((*between, *tensors))), feeds.largest)
    histograms = {t: Histogram() for t in tensors}
    for chunk in cut_to_fit(shapes, lambda tensor: [_float_bytes(shapes[tensor])], [memory.shown]):
        if not histograms.keys().isdisjoint(chunk):
            _observe_chunk(model, feeds, chunk, shapes, histograms, threads, memory, tick)
    return Observation(histograms, {t: shapes[t] for t in tensors})


def _observe_chunk(
    model: Model,
    feeds: Feeds,
    chunk: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    histograms: Mapping[str, Histogram],
    threads: int,
    memory: MemoryBudget,
    tick: Tick,
) -> None:
    """Add the values of a chunk's tensors on all samples to those of them that have a histogram."""
    shown = list(dict.fromkeys((*chunk, *model.output_names)))
    wanted = [t for t in shown if t in histograms or t in model.output_names]
    at_once = at_a_time(threads, sum(_float_bytes(shapes.get(t, ())) for t in wanted), memory)
    runs = run_samples(model.store, feeds, wanted, shown=shown, threads=at_once)
    for sample, found in enumerate(runs):
        made = dict(zip(wanted, found, strict=True))
        if none_finite([made[t] for t in model.output_names]):
            raise CalibrationError(_not_finite(model, feeds, sample, model.output_names[0]))
        for tensor, values in made.items():
            if tensor in histograms and tensor in chunk:
                histograms[tensor].add(np.asarray(values, dtype=np.float32))
        tick(sum(t in histograms for t in chunk))


def _float_bytes(shape: Sequence[int]) -> int:
    """Of a float32 tensor."""
    return 4 * int(np.prod(shape))


def _not_finite(model: Model, feeds: Feeds, sample: int, tensor: str) -> str:
    where = explain_nonfinite(model.proto, feeds.batch([sample])) or f"it appears at tensor {tensor!r}"
    return (
        f"the model itself computes NaN or infinity for calibration sample {feeds.label(sample)}: {where}; "
        "check the preprocessing of the samples, or the model there"
    )
