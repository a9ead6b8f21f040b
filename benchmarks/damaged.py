"""Quantized versions of a labelled model, from harmless to ruined: what limits of quality are calibrated on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.zoo import arrays, static_int8, zoo
from onnxmpq.context import Context
from onnxmpq.dialects import DIALECTS
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import Menu, candidates, observed_tensors, weight_formats
from onnxmpq.model import Model, prepare
from onnxmpq.ranges import QuantParams, observe_ranges
from onnxmpq.rounding import PerChannel, QuantizedWeight
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.samples import Samples, gather_samples
from onnxmpq.schemes import SCHEMES, Scheme, scheme_named
from onnxmpq.sensitivity import effects_of_menu
from onnxmpq.target.load import load_target
from onnxmpq.weights import round_for_inputs, without
from onnxmpq.workbench import Workbench, prepare_bench

INT8 = SCHEMES["int8"]
WEIGHT_ONLY = tuple(Scheme(f"w{b}_channel", "", PerChannel(b)) for b in (8, 6, 5, 4, 3))
BOTH = tuple(scheme_named(name) for name in ("int8", "w6a6", "w5a5", "w4a4"))
MILD = ("w8_channel", "w6_channel", "w5_channel", "w4_channel", "int8", "w4a8", "w6a6", "w5a5")
HARSH = ("w4_channel", "w3_channel", "w5a5", "w4a4")
DEFAULT_SAMPLES = 64
LARGEST_PAIR = 128  # codes: 255 * 128 still fits the int16 that AVX2's u8 x s8 kernel adds pairs of products in


@dataclass(frozen=True)
class Digits:
    """A sample model with the interface of a zoo entry."""

    name: str
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / f"{self.name}.onnx"

    @property
    def meta(self) -> dict[str, Any]:
        return {"metric": "top1"}

    def feeds(self, split: str, batch: int, limit: int | None) -> Iterator[dict[str, np.ndarray]]:
        images = np.load(self.folder / f"digits_{split}.npz")["image"][:limit]
        yield from ({"image": images[i : i + batch]} for i in range(0, len(images), batch))

    def score(self, run: Any, limit: int | None, batch: int) -> float:
        labels = np.load(self.folder / "digits_test_labels.npy")[:limit]
        classes = np.concatenate([run(f)[0].argmax(axis=1) for f in self.feeds("test", batch, limit)])
        return float((classes == labels).mean())


def load_entry(name: str) -> Any:
    """A model of the zoo, or one of the two samples."""
    samples = Path(__file__).parent.parent / "samples"
    return Digits(name, samples) if (samples / f"{name}.onnx").is_file() else zoo().load(name)


class Damage:
    """Builds quantized versions of one model. data: samples as `convert` would divide them."""

    def __init__(self, name: str) -> None:
        self.entry, self.context = load_entry(name), Context()
        self.model: Model = prepare(self.entry.model)
        known = arrays(self.entry, "calib", DEFAULT_SAMPLES + DEFAULT_SAMPLES // 3)
        self.data: Samples = gather_samples(self.model, known, None, DEFAULT_SAMPLES, self.context)
        self.known, self.dialect = known, DIALECTS["onnxruntime"]
        offered = candidates(self.model, load_target("cpu"), self.dialect)
        self.layers = {r.name for r in self.model.layers}
        self.offered = Menu(
            {
                r.name: (*offered[r.name], *(s for s in (*WEIGHT_ONLY, *BOTH[1:]) if self._takes(r, s)))
                for r in self.model.regions
            }
        )
        self.observation = observe_ranges(
            self.model, observed_tensors(self.model, self.offered), self.data.calibration, self.context
        )
        self.bench = prepare_bench(self.model, self.offered, self.observation, self.dialect, self.context)

    def _takes(self, region: Any, scheme: Scheme) -> bool:
        return region.layer is not None and self.dialect.supports(region, scheme, self.model.opset)

    def unseen(self, count: int) -> Feeds:
        specs = input_specs(open_session(self.model.proto))
        return load_feeds(arrays(self.entry, "test", count), specs, limit=count)

    def uniform(self, scheme: Scheme, *, layers_only: bool) -> dict[str, Scheme]:
        """The scheme for every region that takes it, int8 for regions without weights."""
        plan = {n: scheme for n, row in self.offered.items() if n in self.layers and scheme in row}
        if not layers_only:
            plan |= {n: INT8 for n, row in self.offered.items() if n not in self.layers and INT8 in row}
        return plan

    def random(self, generator: np.random.Generator, names: Sequence[str], *, layers_only: bool) -> dict[str, Scheme]:
        """One of these schemes for each of a random share of the regions."""
        share, plan = generator.uniform() ** 3, {}  # delicate models bear few
        for name, row in self.offered.items():
            options = [s for s in row if s.name in names]
            if options and generator.uniform() < share and (name in self.layers or not layers_only):
                plan[name] = options[generator.integers(len(options))]
        return plan

    def ranges(self, estimator: str) -> dict[str, QuantParams]:
        """All 8-bit parameters by another estimator."""
        kept = self.bench.activations
        return {t: self.observation.estimate(t, estimator) if p.bits == 8 else p for t, p in kept.items()}

    def scaled(self, factor: float, tensors: Sequence[str]) -> dict[str, QuantParams]:
        """Ranges of some tensors too narrow (below 1) or too wide."""
        kept = self.bench.activations
        return {t: replace(p, scale=p.scale * factor) if t in tensors else p for t, p in kept.items()}

    def int8_everywhere(self) -> Workbench:
        """The bench with int8 weights and ranges as the pipeline makes them."""
        menu = self.offered.where(lambda _, s: s.is_fp32 or s.name == INT8.name)
        bench = prepare_bench(self.model, menu, self.observation, self.dialect, self.context)
        formats = weight_formats(self.model, menu)
        rounded = round_for_inputs(self.model, formats, self.data.rounding, without([]), self.context)
        bench = bench.with_weights(rounded)
        effects = effects_of_menu(self.model, menu, bench, self.observation, self.data.effects, None, self.context)
        return replace(bench, activations={**bench.activations, **effects.params})

    def versions(self, mixed: int, seed: int, folder: Path) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
        """(name, what builds the model), the pipeline's own int8 everywhere first."""
        generator, everywhere = np.random.default_rng(seed), self.uniform(INT8, layers_only=False)
        yield "int8 everywhere", lambda: self.int8_everywhere().build(everywhere)
        for scheme in (*WEIGHT_ONLY, *BOTH):
            yield f"layers {scheme.name}", partial(self.bench.build, self.uniform(scheme, layers_only=True))
        for estimator in ("minmax", "mse", "percentile"):
            yield f"everywhere {estimator}", partial(self._with(self.ranges(estimator)).build, everywhere)
        tensors = sorted(self.bench.activations)
        some = [t for t in tensors if generator.uniform() < 0.3]
        few = [tensors[i] for i in generator.permutation(len(tensors))[: max(len(tensors) // 20, 1)]]
        layers = self.uniform(INT8, layers_only=True)
        for what, chosen, plan in (("all", tensors, everywhere), ("some", some, layers), ("few", few, layers)):
            for factor in (0.5, 0.25, 4.0, 16.0):
                yield f"ranges of {what} x {factor:g}", partial(self._with(self.scaled(factor, chosen)).build, plan)
        bench = replace(self.bench, weights=saturated(self.bench.weights))
        yield "saturated pairs", partial(bench.build, layers)
        for number in range(mixed):
            layers_only, schemes = number % 4 != 3, MILD if number % 2 else HARSH
            plan = self.random(generator, schemes, layers_only=layers_only)
            if plan:
                yield f"mixed {'layers' if layers_only else 'everywhere'} {number}", partial(self.bench.build, plan)
        fitted = {n: a[:DEFAULT_SAMPLES] for n, a in self.known.items()}
        for method in ("minmax", "percentile"):
            yield f"onnxruntime static {method}", partial(self._static, fitted, folder / f"{method}.onnx", method)

    def _static(self, samples: dict[str, np.ndarray], path: Path, method: str) -> onnx.ModelProto:
        return onnx.load(static_int8(self.entry, samples, path, method))

    def _with(self, activations: Mapping[str, QuantParams]) -> Workbench:
        return replace(self.bench, activations=activations)


def labels_of(entry: Any, inputs: np.ndarray) -> np.ndarray | None:
    """Classes of the first test samples, int64 [samples, rows]; those of characters are their successors. None for
    detectors. inputs: the samples."""
    if entry.meta["metric"] == "next_token":
        return np.asarray(inputs[:, 1:], np.int64)
    if entry.meta["metric"] != "top1":
        return None
    if isinstance(entry, Digits):
        found = np.load(entry.folder / "digits_test_labels.npy")[: len(inputs)]
    else:
        found = np.array([y for _, y in itertools.islice(entry._samples("test"), len(inputs))])
    return np.asarray(found + entry.meta.get("label_offset", 0), np.int64)[:, None]


def saturated(weights: Mapping[tuple[str, str], QuantizedWeight]) -> dict[tuple[str, str], QuantizedWeight]:
    """int8 weights whose neighbouring codes never add up to more than `LARGEST_PAIR`, as if activations were 255."""
    return {key: _saturated(w) if key[1].startswith("int8_channel") else w for key, w in weights.items()}


def _saturated(weight: QuantizedWeight) -> QuantizedWeight:
    codes = weight.codes.astype(np.float64)
    pairs = codes[:, : codes.shape[1] // 2 * 2].reshape(len(codes), -1, 2)  # a view: changed in place
    pairs *= np.minimum(1.0, LARGEST_PAIR / np.maximum(np.abs(pairs.sum(axis=2, keepdims=True)), 1.0))
    codes[:, : pairs.shape[1] * 2] = pairs.reshape(len(codes), -1)
    return replace(weight, codes=np.rint(codes).astype(np.int8))
