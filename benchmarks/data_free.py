"""No calibration data: int8 models calibrated on made-up inputs against the same ones calibrated on real samples.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.data_free [MODEL ...] [--samples 64] [--test 400]

Everything in int8 that fuses, ranges chosen as in a conversion, weights rounded by GPTQ and corrected with the same
inputs. "recipe" is the model's recipe (its pixel range) without pictures; "nothing" assumes normalised pixels.
Divergence from fp32 and top-1 on test samples. Prints a markdown table.
"""

from __future__ import annotations

import argparse

import onnx

from benchmarks.int8 import INT8, Subject
from onnxmpq.feeds import Feeds, load_feeds
from onnxmpq.ranges import CHOICES
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.samples import Samples
from onnxmpq.sensitivity import Evaluator
from onnxmpq.sensitivity.effects import make_divergence
from onnxmpq.weights import compensate, round_weights, with_biases, without

RECIPES = {
    "resnet20_cifar10": "imagenet",  # trained with ImageNet's mean and std
    "squeezenet1.1": "imagenet",
    "mobilenet_v1_0.25": "imagenet-tf",
}


def simple(subject: Subject, feeds: Feeds) -> onnx.ModelProto:
    """Ranges from these samples, weights to nearest."""
    params, _ = subject.ranges(subject.observe(feeds), feeds, ["mse"])
    return subject.build(params)


def full(subject: Subject, feeds: Feeds) -> onnx.ModelProto:
    """All that a conversion does with its samples."""
    params, _ = subject.ranges(subject.observe(feeds), feeds, CHOICES["auto"])
    data, model = Samples(feeds, feeds, False), subject.model
    assert INT8.weight is not None
    formats = dict.fromkeys(subject.weights, INT8.weight)
    rounded = {name: w for (name, _), w in round_weights(model, formats, data.rounding, without([]), threads=2).items()}
    divergence, _ = make_divergence(model, data.deciding, 1, threads=2, kinds={})
    evaluator = Evaluator.of(model, divergence, data.deciding, SessionSettings(threads=2))
    found = compensate(
        model,
        rounded,
        lambda m, weights: subject.build(params, m, weights),
        data.rounding,
        evaluator.loss,
        without([]),
        threads=2,
    )
    return subject.build(params, with_biases(model, found.biases), found.weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=tuple(RECIPES))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--test", type=int, default=400)
    options = parser.parse_args()
    print("| model | inputs | ranges only: divergence | top-1 | all: divergence | top-1 |\n|---|---|---|---|---|---|")
    for name in options.models:
        subject = Subject(name, options.test, layers_only=False)
        reference = open_session(subject.model.proto, SessionSettings(threads=2))
        metric = subject.entry.score(lambda f, s=reference: run(s, f), options.test, 1)
        print(f"| {name} | fp32 | 0 | {metric:.4f} | 0 | {metric:.4f} |", flush=True)
        inputs = {
            "real samples": subject.feeds("calib", options.samples),
            "recipe": load_feeds(None, subject.specs, recipe=RECIPES[name], limit=options.samples),
            "nothing": load_feeds(None, subject.specs, limit=options.samples),
        }
        for label, feeds in inputs.items():
            cells = []
            for build in (simple, full):
                proto = build(subject, feeds)
                cells.append(f"{subject.evaluator.loss(proto):.5f} | {subject.metric(proto):.4f}")
            print(f"| {name} | {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
