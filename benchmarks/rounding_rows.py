"""Rounding for few rows of inputs: error on other samples, by the number of rows for each input of a weight.

    ONNXMPQ_ZOO=... python -m benchmarks.rounding_rows [MODEL ...] [--scheme w4b32] [--layers 5]

MODEL: names of the zoo, or decoder for that of samples/. Of some linear layers, evenly spread, H is made of the first
rows that they read on calibration samples, and the weight is rounded for it, as it is and with less of what is chance
in it (onnxmpq/statistics/few_rows.py). Prints a markdown table: E‖(W - Ŵ) x‖² on test samples in units of that of
round to nearest (geometric mean over layers, for the last column the largest), and the mean share ρ.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.stats import gmean

from benchmarks.decode_step import SAMPLES
from benchmarks.stages import machine, table_of
from benchmarks.zoo import arrays, zoo
from onnxmpq.decoding import load_samples
from onnxmpq.execution import run_samples
from onnxmpq.feeds import Feeds, load_feeds
from onnxmpq.feeds.overrides import override
from onnxmpq.model import Model, prepare
from onnxmpq.rounding import WeightFormat, quantize_weight
from onnxmpq.runtimes import input_specs, open_session, specs_of
from onnxmpq.schemes import SCHEMES
from onnxmpq.statistics import numbers
from onnxmpq.statistics.few_rows import chance_share, less_chance
from onnxmpq.statistics.moments import Key, readers
from onnxmpq.threads import with_one_blas_thread

MODELS = ("gpt_char", "vit_tiny", "decoder")
ROWS_PER_INPUT = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
FEWEST_INPUTS = 64
Rows = NDArray[np.float32]
HEADER = (
    "model", "rows for each input", "layers", "GPTQ", "GPTQ, with ρ", "best", "best, with ρ", "ρ", "GPTQ, worst layer",
    "with ρ, worst layer",
)  # fmt: skip


def subject(name: str, fit: int, test: int) -> tuple[Model, Feeds, Feeds]:
    """A model, calibration samples and test samples."""
    if name == "decoder":
        path, recipe = SAMPLES / "decoder.onnx", override("decoder", {})
        texts = (("calib.txt", fit), ("test.txt", test))
        known, unseen = (
            load_samples(str(path), SAMPLES / t, specs_of(str(path)), recipe=recipe, limit=n) for t, n in texts
        )
        return prepare(onnx.load(path)), known, unseen
    entry = zoo().load(name)
    model = prepare(entry.model)
    specs = input_specs(open_session(model.proto))
    splits = (("calib", fit), ("test", test))
    known, unseen = (load_feeds(arrays(entry, split, count), specs, limit=count) for split, count in splits)
    return model, known, unseen


def rows_of(model: Model, keys: Sequence[Key], feeds: Feeds) -> dict[Key, Rows]:
    """What layers read on all samples, in their order, [rows, K]."""
    tensors, found = list(dict.fromkeys(tensor for tensor, _ in keys)), dict[Key, list[Rows]]()
    for values in run_samples(model.store, feeds, tensors, threads=1):
        seen = dict(zip(tensors, map(numbers, values), strict=True))
        for key in keys:
            found.setdefault(key, []).append(key[1].rows(seen[key[0]], seen[key[0]].size)[0])
    return {key: np.concatenate(parts) for key, parts in found.items()}


def products(rows: Rows) -> Rows:
    return np.asarray(rows.T @ rows / len(rows), np.float32)[None]


def errors(w: Rows, weight_format: WeightFormat, rows: Rows, truth: Rows) -> dict[str, float]:
    """By column of the table. w [O, K], rows [R, K], truth [1, K, K] of other samples."""
    averages = products(rows)
    share, believed = chance_share(averages[0], len(rows)), averages.copy()
    less_chance(believed, len(rows))

    def error(method: str, hessian: Rows | None) -> float:
        off = w - quantize_weight(w, weight_format, method=method, hessian=hessian).dequantize()
        return float(((off @ truth[0]) * off).sum())

    nearest = error("nearest", None)
    return {
        "GPTQ": error("gptq", averages) / nearest,
        "GPTQ, with ρ": error("gptq", believed) / nearest,
        "best": error("best", averages) / nearest,
        "best, with ρ": error("best", believed) / nearest,
        "ρ": share,
    }


def table_rows(name: str, weight_format: WeightFormat, layers: int, fit: int, test: int) -> list[list[Any]]:
    model, known, unseen = subject(name, fit, test)
    read = {key: names for key, names in readers(model).items() if key[1].groups == 1}
    linear = [key for key in read if key[1].inputs >= FEWEST_INPUTS]
    keys = [linear[i] for i in np.unique(np.linspace(0, len(linear) - 1, layers).round().astype(int))]
    given, others = rows_of(model, keys, known), rows_of(model, keys, unseen)
    found: list[list[Any]] = []
    for ratio in ROWS_PER_INPUT:
        by_layer = []
        for key in keys:
            count = round(ratio * key[1].inputs)
            if count <= len(given[key]):
                w = model.matrix(model.weights[read[key][0]][1])
                by_layer.append(errors(w, weight_format, given[key][:count], products(others[key])))
        if by_layer:
            columns = {k: [row[k] for row in by_layer] for k in by_layer[0]}
            means = [gmean(columns[k]) for k in HEADER[3:7]] + [np.mean(columns["ρ"])]
            worst = [max(columns[k]) for k in HEADER[3:5]]
            found.append([name, f"{ratio:g}", len(by_layer), *(f"{value:.2f}" for value in (*means, *worst))])
    return found


@with_one_blas_thread
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--scheme", default="w4b32", choices=[n for n, s in SCHEMES.items() if s.weight is not None])
    for option, value in (("layers", 5), ("samples", 96), ("test", 48)):
        parser.add_argument(f"--{option}", type=int, default=value)
    given = parser.parse_args()
    weight_format = SCHEMES[given.scheme].weight
    assert weight_format is not None
    print(machine())
    for name in given.models:
        rows = table_rows(name, weight_format, given.layers, given.samples, given.test)
        print(table_of(HEADER, rows), flush=True)


if __name__ == "__main__":
    main()
