"""Models in every scheme of a target, and in random mixes, rounded to nearest: do they build, and how narrow."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.zoo import arrays, zoo
from onnxmpq.context import Context
from onnxmpq.dialects import DIALECTS
from onnxmpq.feeds import load_feeds
from onnxmpq.menu import (
    bounded_activations,
    candidates,
    observed_tensors,
    one_activation_format,
    within_float16,
    without_underflow,
)
from onnxmpq.model import prepare
from onnxmpq.progress import Progress
from onnxmpq.ranges import observe_ranges
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.schemes import Scheme
from onnxmpq.target import load_target
from onnxmpq.workbench import prepare_bench

SAMPLES = Path(__file__).parents[2] / "samples"
ZOO = ("gpt_char", "mobilenet_v1_0.25", "resnet20_cifar10", "squeezenet1.1", "vit_tiny", "yolov8n")
DIGITS = ("digits_cnn", "digits_transformer", "digits_gru", "digits_lstm")
MIXES = 3


@dataclass(frozen=True)
class Written:
    """A model in one scheme, wherever it has it, or in a mix. shapes: of the inputs, one sample."""

    model: str
    scheme: str
    regions: int
    proto: onnx.ModelProto
    shapes: Mapping[str, tuple[int, ...]]


def written(target: str, names: tuple[str, ...] = (*DIGITS, *ZOO)) -> Iterator[Written]:
    """Every model in every scheme that the target offers it, fp32 first, and `MIXES` random mixes."""
    for name in names:
        source, samples = _subject(name)
        yield from _of_model(name, source, samples, target)


def _subject(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    if name in DIGITS:
        with np.load(SAMPLES / "digits_calib.npz") as data:
            return str(SAMPLES / f"{name}.onnx"), {k: data[k][:4] for k in data.files}
    entry = zoo().load(name)
    return entry.model, arrays(entry, "calib", 2)


def _of_model(name: str, source: Any, samples: dict[str, np.ndarray], target: str) -> Iterator[Written]:
    model = prepare(source)
    feeds = load_feeds(samples, input_specs(open_session(model.proto)), limit=4)
    device, context = load_target(target), Context(Progress())
    shapes = {n: tuple(a.shape) for n, a in feeds.batch([0]).items()}
    whole = candidates(model, device, DIALECTS[device.dialect])
    schemes = sorted({s.name for row in whole.values() for s in row} - {"fp32"})
    yield Written(name, "fp32", 0, model.proto, shapes)
    for wanted in (*schemes, *[f"mix {i + 1}" for i in range(MIXES)]):
        mixed = wanted.startswith("mix")
        asked = schemes if mixed else [wanted]
        menu = one_activation_format(model, candidates(model, device, DIALECTS[device.dialect], (), asked))
        observation = observe_ranges(model, observed_tensors(model, menu), feeds, context)
        menu = bounded_activations(model, menu, observation.histograms)
        menu = within_float16(model, menu, observation.histograms)
        bench = prepare_bench(model, menu, observation, DIALECTS[device.dialect], context)
        menu = without_underflow(model, menu, bench.weights)
        generator = random.Random(wanted)
        plan: dict[str, Scheme] = {}
        for region, row in menu.items():
            others = [s for s in row if not s.is_fp32]
            chosen = generator.choice(row) if mixed else (others[-1] if others else None)
            if chosen is not None and not chosen.is_fp32:
                plan[region] = chosen
        yield Written(name, wanted, len(plan), bench.build(plan), shapes)
