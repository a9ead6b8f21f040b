"""Limits of quality, calibrated on labelled models (onnxmpq/verdict.py, docs/quality.md).

    ONNXMPQ_ZOO=... python -m benchmarks.guard_limits measure DIR [MODEL ...] [--test 400] [--mixed 16]

Per model some 40 quantized versions from harmless to ruined (benchmarks/damaged.py). `measure` keeps for each, in
DIR/MODEL/*.npz, statistics per sample: on the held-out samples that `convert` would have (21 of 85), and on test
samples, with the metric of fp32 and of the version on these. Versions that are there already are left out.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from benchmarks.damaged import Damage
from onnxmpq.errors import OnnxmpqError
from onnxmpq.feeds.types import Feeds
from onnxmpq.runtime import SessionSettings, open_session, run
from onnxmpq.sensitivity.divergence import guess_kind

MODELS = {
    "digits_cnn": 400,
    "resnet20_cifar10": 1500,
    "digits_transformer": 400,
    "gpt_char": 200,
    "squeezenet1.1": 400,
    "mobilenet_v1_0.25": 400,
    "vit_tiny": 400,
    "yolov8n": 48,
}
"""Test samples per model."""
Statistics = dict[str, NDArray[np.float64]]


def outputs_of(model: Any, feeds: Feeds) -> list[NDArray[np.float32]]:
    """The first output, sample by sample."""
    session = open_session(model, SessionSettings(threads=1))
    return [np.asarray(run(session, inputs)[0], np.float32) for inputs in feeds.batches(1)]


def statistics_of(kind: str, before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]]) -> Statistics:
    """Per sample: sums of squares of reference and error; per channel [samples, C] those and the reference's sum; of
    class scores KL and top-1 agreement (means over rows)."""
    found: dict[str, list[Any]] = {"error": [], "sum": [], "square": [], "kl": [], "agreement": []}
    for one, other in zip(before, after, strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        channels = a.shape[1] if a.ndim >= 3 else 1
        wide, change = a.reshape(channels, -1), (a - b).reshape(channels, -1)
        found["error"].append(np.square(change).sum(axis=1))
        found["sum"].append(wide.sum(axis=1))
        found["square"].append(np.square(wide).sum(axis=1))
        if kind != "values":
            if kind == "probabilities":
                a, b = np.log(np.maximum(a, 1e-12)), np.log(np.maximum(b, 1e-12))
            p, q = log_softmax(a, axis=-1), log_softmax(b, axis=-1)
            found["kl"].append((np.exp(p) * (p - q)).sum(axis=-1).mean())
            found["agreement"].append((a.argmax(axis=-1) == b.argmax(axis=-1)).mean())
    kept = {name: np.array(values) for name, values in found.items() if values}
    return {**kept, "elements": np.array([before[0].size / kept["error"].shape[1]])}


def measure(name: str, test: int, mixed: int, folder: Path) -> None:
    """Statistics of all versions of a model into its folder."""
    start, folder = time.perf_counter(), folder / name
    folder.mkdir(parents=True, exist_ok=True)
    damage = Damage(name)
    parts = {"held": damage.data.validation, "test": damage.unseen(test)}
    before = {part: outputs_of(str(damage.entry.model), feeds) for part, feeds in parts.items()}
    kind = guess_kind(damage.model.proto, damage.model.output_names[0], before["test"][0])
    original = score(damage.entry, before["test"])
    with tempfile.TemporaryDirectory() as scratch:
        for number, (version, proto) in enumerate(damage.versions(mixed, 1, Path(scratch))):
            path = folder / f"{number:02d}.npz"
            if path.exists():
                continue
            try:
                after = {part: outputs_of(proto, feeds) for part, feeds in parts.items()}
            except OnnxmpqError as error:
                print(f"{name}: {version}: {error}", flush=True)
                continue
            found = {
                f"{part}_{k}": v for part in parts for k, v in statistics_of(kind, before[part], after[part]).items()
            }
            metric = np.array([original, score(damage.entry, after["test"])])
            np.savez(path, version=version, kind=kind, metric=metric, **found)
            spent = time.perf_counter() - start
            print(f"{name} {version}: {metric[0]:.4f} -> {metric[1]:.4f} ({spent:.0f} s)", flush=True)


def score(entry: Any, outputs: Sequence[NDArray[np.float32]]) -> float:
    """The entry's metric of outputs on its first test samples."""
    kept = itertools.cycle(outputs)
    return float(entry.score(lambda _: [next(kept)], len(outputs), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("measure",))
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--test", type=int)
    parser.add_argument("--mixed", type=int, default=16)
    given = parser.parse_args()
    for name in given.models:
        measure(name, given.test or MODELS[name], given.mixed, given.folder)


if __name__ == "__main__":
    main()
