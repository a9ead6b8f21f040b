"""Limits of quality, calibrated on labelled models (onnxmpq/quality/verdict.py, docs/quality.md).

    ONNXMPQ_ZOO=... python -m benchmarks.guard_limits measure DIR [MODEL ...] [--test 400] [--mixed 20]
    python -m benchmarks.guard_limits tables DIR [MODEL ...]

Per model some 45 quantized versions from harmless to ruined (benchmarks/damaged.py). `measure` keeps for each, in
DIR/MODEL/*.npz, statistics per sample: on the held-out samples that `convert` would have (21 of 85), and on test
samples, with the metric of fp32 and of the version on these. Versions that are there already are left out.

`tables` prints, as markdown, how verdicts and candidate limits divide the versions by what their metric lost (points of
top-1 or of mAP50): on all test samples, and on as many of them as are held out, drawn 200 times.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from benchmarks.damaged import Damage, labels_of
from onnxmpq.errors import OnnxmpqError
from onnxmpq.feeds.types import Feeds
from onnxmpq.quality import Level, MetricScores, OutputQuality, Validation, judge
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.sensitivity import guess_kind

MODELS = {
    "digits_cnn": 400,
    "resnet20_cifar10": 1500,
    "digits_transformer": 400,
    "gpt_char": 200,
    "squeezenet1.1": 400,
    "mobilenet_v1_0.25": 400,
    "vit_tiny": 200,
    "yolov8n": 32,
}
"""Test samples per model."""
DRAWS = 200
BANDS = (-math.inf, 1.0, 2.5, 5.0, 10.0, math.inf)
"""Points that a metric fell by."""
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


def by_labels(outputs: Sequence[NDArray[Any]], labels: NDArray[np.int64] | None) -> Statistics:
    """Per sample: share of rows whose class is right, and mean log-likelihood of the label in nats."""
    if labels is None:
        return {}
    single = labels.shape[1] == 1
    rows = [o.astype(np.float64).reshape(1 if single else -1, -1 if single else o.shape[-1]) for o in outputs]
    rows = [r[: labels.shape[1]] for r in rows]
    right = [(r.argmax(axis=1) == y).mean() for r, y in zip(rows, labels, strict=True)]
    likely = [log_softmax(r, axis=1)[np.arange(len(y)), y].mean() for r, y in zip(rows, labels, strict=True)]
    return {"right": np.array(right), "likelihood": np.array(likely)}


def measure(name: str, test: int, mixed: int, folder: Path) -> None:
    """Statistics of all versions of a model into its folder."""
    start, folder = time.perf_counter(), folder / name
    folder.mkdir(parents=True, exist_ok=True)
    damage = Damage(name)
    parts = {"held": damage.data.validation, "test": damage.unseen(test)}
    before = {part: outputs_of(str(damage.entry.model), feeds) for part, feeds in parts.items()}
    kind = guess_kind(damage.model.structure, damage.model.output_names[0], before["test"][0])
    labels = labels_of(damage.entry, next(iter(parts["test"].arrays.values())))
    fp32 = {f"fp32_{k}": v for k, v in by_labels(before["test"], labels).items()}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (version, build) in enumerate(damage.versions(mixed, 1, Path(scratch))):
            path = folder / f"{number:02d}.npz"
            if path.exists():
                continue
            proto = build()
            try:
                after = {part: outputs_of(proto, feeds) for part, feeds in parts.items()}
            except OnnxmpqError as error:
                print(f"{name}: {version}: {error}", flush=True)
                continue
            found = fp32 | {f"test_{k}": v for k, v in by_labels(after["test"], labels).items()}
            for part in parts:
                figures = statistics_of(kind, before[part], after[part])
                found |= {f"{part}_{k}": v for k, v in figures.items()}
            if labels is None:
                found["metric"] = np.array([score(damage.entry, o) for o in (before["test"], after["test"])])
            np.savez(path, version=version, kind=kind, **found)
            spent = time.perf_counter() - start
            print(f"{name} {version}: {outcome(found)} ({spent:.0f} s)", flush=True)


def outcome(found: Statistics) -> str:
    """The metric before and after."""
    if "metric" in found:
        return "mAP50 {:.4f} -> {:.4f}".format(*found["metric"])
    names = ("right", "likelihood")
    return ", ".join(f"{n} {found[f'fp32_{n}'].mean():.4f} -> {found[f'test_{n}'].mean():.4f}" for n in names)


def score(entry: Any, outputs: Sequence[NDArray[np.float32]]) -> float:
    """The entry's metric of outputs on its first test samples."""
    kept = itertools.cycle(outputs)
    return float(entry.score(lambda _: [next(kept)], len(outputs), 1))


@dataclass(frozen=True, eq=False)
class Version:
    """One version: its statistics, and how far its metric fell, in points (of 100)."""

    name: str
    kind: str
    held_out: int
    test: int
    found: Statistics

    @classmethod
    def read(cls, path: Path) -> Version:
        found = dict(np.load(path))
        name, kind = str(found.pop("version")), str(found.pop("kind"))
        return cls(name, kind, len(found["held_error"]), len(found["test_error"]), found)

    @cached_property
    def fall(self) -> float:
        """Of top-1 accuracy (of the next character's for gpt_char), or of mAP50."""
        before, after = self.found.get("metric", (self.found.get("fp32_right"), self.found.get("test_right")))
        return float(100.0 * (np.mean(before) - np.mean(after)))

    @cached_property
    def noise(self) -> float:
        """Standard error of the fall, in points; 0 where the metric is no mean over samples."""
        if "metric" in self.found:
            return 0.0
        change = self.found["fp32_right"] - self.found["test_right"]
        return float(100.0 * change.std() / len(change) ** 0.5)

    def quality(self, chosen: NDArray[np.intp] | slice = slice(None)) -> Validation:
        """What `compare` would say on some of the samples."""
        kept = {k: self.found[f"test_{k}"][chosen] for k in ("error", "sum", "square")}
        count = len(kept["error"]) * float(self.found["test_elements"][0])
        variance = kept["square"].sum(axis=0) / count - np.square(kept["sum"].sum(axis=0) / count)
        relative = kept["error"].sum(axis=0) / count / np.maximum(variance, variance.max() * 1e-12 + 1e-300)
        sqnr = 10 * np.log10(kept["square"].sum() / max(float(kept["error"].sum()), 1e-300))
        scores = [float(self.found[f"test_{k}"][chosen].mean()) for k in ("kl", "agreement") if self.kind != "values"]
        output = OutputQuality("output", self.kind, float(sqnr), 1.0, float(relative.mean()), *scores)
        return Validation((output,), len(kept["error"]), True, metric=self._top1(chosen))

    def _top1(self, chosen: NDArray[np.intp] | slice) -> MetricScores | None:
        if "fp32_right" not in self.found:
            return None
        before, after = (float(self.found[f"{which}_right"][chosen].mean()) for which in ("fp32", "test"))
        return MetricScores("top-1", before, after)

    @cached_property
    def everything(self) -> Validation:
        """On all test samples."""
        return self.quality()

    @cached_property
    def draws(self) -> list[Validation]:
        """On as many test samples as are held out, the same ones for all versions of a model."""
        generator = np.random.default_rng(self.test)
        return [self.quality(generator.permutation(self.test)[: self.held_out]) for _ in range(DRAWS)]


def read_versions(folder: Path, names: Sequence[str]) -> dict[str, list[Version]]:
    """Versions by model, without those that are the same as another one."""
    found = {}
    for name in names:
        unique: dict[bytes, Version] = {}
        for path in sorted((folder / name).glob("*.npz")):
            version = Version.read(path)
            unique.setdefault(version.found["test_error"].tobytes(), version)
        found[name] = list(unique.values())
    return {name: versions for name, versions in found.items() if versions}


def in_bands(versions: Sequence[Version]) -> list[list[Version]]:
    """Versions by how far their metric fell, see `BANDS`."""
    return [[v for v in versions if low < v.fall <= high] for low, high in itertools.pairwise(BANDS)]


def share(band: Sequence[Version], rule: Callable[[Validation], bool], *, few: bool) -> str:
    """How often a rule holds in a band, on few samples or on all: "93 %"."""
    if not band:
        return ""
    held = [np.mean([rule(q) for q in v.draws]) if few else float(rule(v.everything)) for v in band]
    return f"{np.mean(held):.0%}".replace("%", " %")


def without_labels(quality: Validation) -> Level:
    return judge(replace(quality, metric=None)).level


def with_labels(quality: Validation) -> Level:
    return judge(quality).level


def verdict_rows(name: str, versions: Sequence[Version]) -> list[str]:
    """How often verdicts are noticeable or worse / bad, by band."""
    bands, rows = in_bands(versions), []
    for what, level, few in (
        ("all", without_labels, False),
        ("held out", without_labels, True),
        ("held out, labelled", with_labels, True),
    ):
        if level is with_labels and all(v.everything.metric is None for v in versions):
            continue
        cells = []
        for band in bands:
            worse, bad = (
                share(band, lambda q, f=level: f(q) != "good", few=few),
                share(band, lambda q, f=level: f(q) == "bad", few=few),
            )
            cells.append(f"{worse} / {bad}" if band else "")
        rows.append(f"| {name} | {what} | {' | '.join(cells)} |")
    return rows


def limit_rows(versions: Sequence[Version]) -> list[str]:
    """Candidate limits of one figure."""
    rules: list[tuple[str, Callable[[Validation], bool]]] = []
    if versions[0].kind != "values":
        for limit in (0.02, 0.03, 0.04, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3):
            rules.append((f"KL > {limit:g}", lambda q, k=limit: q.divergence > k))
        for limit in (0.95, 0.9, 0.85, 0.8, 0.7):
            rules.append((f"agreement < {limit * 100:g} %", lambda q, k=limit: (q.agreement or 0.0) < k))
    for limit in (0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3):
        rules.append((f"relative error > {limit:g}", lambda q, k=limit: q.outputs[0].relative_mse > k))
    for limit in (30, 25, 20, 15, 10):
        rules.append((f"SQNR < {limit} dB", lambda q, k=limit: q.worst_sqnr_db < k))
    rows = []
    for name, rule in rules:
        cells = [f"{share(b, rule, few=False)} / {share(b, rule, few=True)}" if b else "" for b in in_bands(versions)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


FIGURES: dict[str, Callable[[Validation], float]] = {
    "KL": lambda q: q.divergence,
    "rows that change class": lambda q: 1.0 - (q.agreement or 0.0),
    "relative error": lambda q: q.outputs[0].relative_mse,
    "error over power": lambda q: 10 ** (-q.worst_sqnr_db / 10),
}


def figure_row(name: str, versions: Sequence[Version]) -> str:
    """Each figure where five points are lost, by a line through the logarithms of versions that lost 1.5 to 20, and its
    relative standard error on as many samples as are held out, median over those that lost 1 to 10."""
    fitted, few = [v for v in versions if 1.5 < v.fall < 20], [v for v in versions if 1 < v.fall <= 10]
    cells = []
    for what, figure in FIGURES.items():
        if versions[0].kind == "values" and what in ("KL", "rows that change class"):
            cells.append("")
            continue
        slope, offset = np.polyfit(np.log([v.fall for v in fitted]), np.log([figure(v.everything) for v in fitted]), 1)
        drawn = [np.array([figure(q) for q in v.draws]) for v in few]
        doubt = np.median([d.std() / d.mean() for d in drawn])
        cells.append(f"{np.exp(offset + slope * np.log(5)):.2g} ± {doubt:.0%}".replace("%", " %"))
    return f"| {name} | {len(fitted)} | {' | '.join(cells)} |"


def int8_row(name: str, versions: Sequence[Version]) -> str:
    """Divergence in multiples of int8 everywhere's, where the metric has fallen clearly and where it has not."""
    int8 = next(v for v in versions if v.name == "int8 everywhere")
    base = int8.everything.divergence
    harmless = [v.everything.divergence / base for v in versions if v.fall <= 1 and v is not int8]
    fallen = [v.everything.divergence / base for v in versions if v.fall > 1 + 2 * v.noise and v is not int8]
    most, least = (f"{f(r):.3g}" if r else "" for f, r in ((max, harmless), (min, fallen)))
    return f"| {name} | {base:.3g} | {int8.fall:.2f} ± {int8.noise:.2f} | {most} | {least} |"


def tables(folder: Path, names: Sequence[str]) -> None:
    found = read_versions(folder, names)
    bands = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(BANDS)]
    bands[0], bands[-1] = f"at most {BANDS[1]:g}", f"over {BANDS[-2]:g}"
    rule = "|---" * (len(bands) + 2) + "|"
    print(f"| model | samples | {' | '.join(bands)} |\n{rule}")
    for name, versions in found.items():
        held, test = versions[0].held_out, versions[0].test
        print(f"| {name}, {held} held out, {test} | versions | {' | '.join(str(len(b)) for b in in_bands(versions))} |")
        print("\n".join(verdict_rows(name, versions)))
    pooled = [v for versions in found.values() for v in versions]
    print(f"| **all models** | versions | {' | '.join(str(len(b)) for b in in_bands(pooled))} |")
    print("\n".join(verdict_rows("**all models**", pooled)))
    for part in ([v for v in pooled if v.kind != "values"], [v for v in pooled if v.kind == "values"]):
        if part:
            print(f"\n| limit | {' | '.join(bands)} |\n{rule[4:]}")
            print("\n".join(limit_rows(part)))
    print(f"\n| model | versions | {' | '.join(FIGURES)} |\n{'|---' * (len(FIGURES) + 2)}|")
    for name, versions in found.items():
        print(figure_row(name, versions))
    print(
        "\n| model | divergence of int8 everywhere | its fall | most, harmless | least, fallen |\n|---|---|---|---|---|"
    )
    for name, versions in found.items():
        print(int8_row(name, versions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("measure", "tables"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--test", type=int)
    parser.add_argument("--mixed", type=int, default=20)
    given = parser.parse_args()
    if given.task == "tables":
        tables(given.folder, given.models)
        return
    for name in given.models:
        measure(name, given.test or MODELS[name], given.mixed, given.folder)


if __name__ == "__main__":
    main()
