"""Run the fp32 model on calibration samples and keep a histogram of every tensor that may be quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.runtime import SessionSettings, open_session, run

CHUNK_BYTES = 192 * 2**20  # activations held at once
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Observation:
    """histograms: tensor -> histogram. shapes: tensor -> shape in a run of one sample."""

    histograms: dict[str, Histogram]
    shapes: dict[str, tuple[int, ...]]


def with_outputs(proto: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A shallow copy of the graph whose outputs are these float tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=t) for t in dict.fromkeys(tensors))
    return copy


def tensor_shapes(model: Model, feeds: Feeds, tensors: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor in a run of the first sample."""
    session = open_session(with_outputs(model.proto, tensors), SessionSettings(threads=2, optimize=False))
    values = run(session, feeds.batch([0]), tensors)
    return {t: tuple(np.shape(v)) for t, v in zip(tensors, values, strict=True)}


def chunks(shapes: dict[str, tuple[int, ...]], samples: int, limit: int = CHUNK_BYTES) -> Iterator[list[str]]:
    """Tensors in order, cut so that one chunk for `samples` samples stays below `limit` bytes where it can."""
    chunk: list[str] = []
    held = 0
    for tensor, shape in shapes.items():
        size = 4 * int(np.prod(shape)) * samples
        if chunk and held + size > limit:
            yield chunk
            chunk, held = [], 0
        chunk.append(tensor)
        held += size
    if chunk:
        yield chunk


def observe(
    model: Model, feeds: Feeds, tensors: Sequence[str], *, threads: int = 1, tick: Tick = lambda _: None
) -> Observation:
    """Histograms of float tensors over all samples; `tick` gets the number of samples of each run done.

    Raises CalibrationError naming the first tensor in graph order that is not finite.
    """
    shapes = tensor_shapes(model, feeds, tensors)
    histograms = {t: Histogram() for t in tensors}
    for chunk in chunks(shapes, 1):
        session = open_session(with_outputs(model.proto, chunk), SessionSettings(threads=threads))
        for inputs in feeds.batches(1):
            for tensor, values in zip(chunk, run(session, inputs, chunk), strict=True):
                if not np.isfinite(values).all():
                    raise CalibrationError(
                        f"the model itself computes NaN or infinity at tensor {tensor!r} for a calibration sample; "
                        "check the preprocessing of the samples"
                    )
                histograms[tensor].add(np.asarray(values, dtype=np.float32))
            tick(1)
    return Observation(histograms, shapes)
