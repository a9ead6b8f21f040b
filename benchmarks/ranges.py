"""Which activation ranges: divergence of int8 models from fp32 on test samples, by estimator, and the time it takes.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.ranges [MODEL ...] [--samples 64] [--test 200]

Layers in int8 (weights rounded to nearest), all else in float32. One row per estimator for all tensors, then per
set of estimators of which each tensor takes the one of least effect on the outputs. Prints a markdown table.
"""

from __future__ import annotations

import argparse

from benchmarks.int8 import Subject

DEFAULT_MODELS = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25", "gpt_char", "vit_tiny", "yolov8n")
SETS = (
    ("minmax",),
    ("percentile",),
    ("mse",),
    ("entropy",),
    ("mse", "minmax"),
    ("mse", "percentile"),
    ("mse", "minmax", "percentile"),
    ("mse", "minmax", "percentile", "entropy"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=DEFAULT_MODELS)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--test", type=int, default=200)
    options = parser.parse_args()
    print("| model | ranges | divergence | metric | seconds |\n|---|---|---|---|---|", flush=True)
    for name in options.models:
        subject = Subject(name, options.test, layers_only=True)
        feeds = subject.feeds("calib", options.samples)
        observation = subject.observe(feeds)
        for names in SETS:
            params, seconds = subject.ranges(observation, feeds, names)
            proto = subject.build(params)
            loss, metric = subject.evaluator.loss(proto), subject.metric(proto)
            print(f"| {name} | {', '.join(names)} | {loss:.5f} | {metric:.4f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
