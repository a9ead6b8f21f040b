"""Run a model on samples, and count what its int8 kernels would saturate on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxmpq.execution import with_outputs
from onnxmpq.feeds import Array, Feeds, InputSpec
from onnxmpq.isolation import call, isolated, keep, kept
from onnxmpq.progress import Progress
from onnxmpq.runtimes import Session, SessionSettings, input_specs, open_session, run
from onnxmpq.saturation.counts import Counts, Int64Array, codes_of, count
from onnxmpq.saturation.layers import Suspect, Suspects, Watched
from onnxmpq.trials import OWN_THREADS

_SETTINGS = SessionSettings(threads=OWN_THREADS, optimize=False)  # fused, a node's codes cannot be read


@dataclass(frozen=True, eq=False)
class Seen:
    """A layer that can saturate, and how often it did; all counts are 0 where it could not be counted (`reason`).

    affected, saturated: per output channel, int64 [O]. values: output values of all channels. sums: pair sums of all.
    """

    layer: Suspect
    affected: Int64Array
    saturated: Int64Array
    values: int = 0
    sums: int = 0

    @property
    def did(self) -> int:
        """Channels that saturated."""
        return int(np.count_nonzero(self.saturated))

    @property
    def counted(self) -> bool:
        return self.layer.watched is not None


@dataclass(frozen=True)
class Observed:
    """layers: those that can saturate. integer_layers: how many kernels of uint8 activations and int8 weights there
    are, those that cannot saturate among them. made_up: the samples are."""

    samples: int
    source: str
    made_up: bool
    layers: tuple[Seen, ...]
    integer_layers: int


def specs(proto: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """The inputs a model asks for. Raises ModelError where it cannot be loaded, CrashError where loading crashes."""
    return call(_specs, proto, doing="loading the model")


def observe(suspects: Suspects, feeds: Feeds, progress: Progress | None = None) -> Observed:
    """Counts of each layer over all samples, of its activation codes in the unoptimised model.

    One sample is held at a time. Raises ModelError where the model cannot be run, CrashError where that crashes.
    """
    watched = [s.watched for s in suspects.found if s.watched is not None]
    counted = iter(_counted(suspects.proto, watched, feeds, progress or Progress()) if watched else [])
    nothing = np.zeros(0, np.int64)
    seen = []
    for suspect in suspects.found:
        if suspect.watched is None:
            seen.append(Seen(suspect, nothing, nothing))
            continue
        found = next(counted)
        values = found.positions * suspect.channels
        pairs = -(-suspect.watched.filters.shape[2] // 2)
        seen.append(Seen(suspect, found.affected, found.saturated, values, values * pairs))
    return Observed(len(feeds), feeds.source, feeds.synthetic, tuple(seen), suspects.integer_layers)


@isolated()
def _counted(proto: onnx.ModelProto, layers: Sequence[Watched], feeds: Feeds, progress: Progress) -> list[Counts]:
    session, there = keep(_open, with_outputs(proto, [w.source.tensor for w in layers])), kept(layers)
    totals = [Counts.none(w.filters.shape[0] * w.filters.shape[1]) for w in layers]
    with progress.stage("counting overflows", len(feeds)) as tick:
        for number, inputs in enumerate(feeds.batches(1)):
            found = call(_count_run, session, there, inputs, doing=f"running sample {feeds.label(number)}")
            totals = [total + fresh for total, fresh in zip(totals, found, strict=True)]
            tick(1)
    return totals


def _specs(proto: onnx.ModelProto) -> tuple[InputSpec, ...]:
    return input_specs(open_session(proto, _SETTINGS))


def _open(proto: onnx.ModelProto) -> Session:
    return open_session(proto, _SETTINGS)


def _count_run(session: Session, layers: Sequence[Watched], inputs: Mapping[str, Array]) -> list[Counts]:
    names = list(dict.fromkeys(w.source.tensor for w in layers))
    values = dict(zip(names, run(session, inputs, names), strict=True))
    return [count(w, codes_of(values[w.source.tensor], w.source)) for w in layers]
