"""Plans for a GPU: quality of converted models on the CPU, which emulates fp8; latencies from the target's roofline.

    ONNXMPQ_ZOO=... python -m benchmarks.gpu_plans [PART ...] [--model NAME ...] [--test 200]

PART is one of
    plan      a converted model within 20 % of the bytes and float16's predicted latency: metric, size, latency
    step      weight layers of a decoder, one token at a time: uniform schemes and the fastest mix (roofline alone)
    equal     uniform DPQ w4a8-fp8 against a mix of w4a8-fp8, w8a8-fp8 and w4a16 in no more bytes
    ablation  DPQ's parts, every MatMul at 4 bits, activations float
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import onnx

import onnxmpq
from benchmarks.zoo import arrays, zoo
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import load_feeds
from onnxmpq.menu import candidates, one_activation_format
from onnxmpq.model import Model, prepare
from onnxmpq.rounding import Fp8Dual, PerBlock, QuantizedWeight, quantize_weight
from onnxmpq.rounding.fp8 import E4M3FN_LARGEST, power_of_two_scale
from onnxmpq.rounding.types import FloatArray
from onnxmpq.runtimes import SessionSettings, input_specs, open_session, run
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import Evaluator
from onnxmpq.sensitivity.effects import make_divergence
from onnxmpq.statistics import measure_moments
from onnxmpq.target import load_target, roofline_table
from onnxmpq.threads import workers

TARGET = "h200"
BATCH = 64
SAMPLES = 48  # calibration samples
MODELS = ("gpt_char", "vit_tiny")
BLOCK = 64


class Subject:
    """A model of the zoo, and how far others are from it on test samples."""

    def __init__(self, name: str, test: int) -> None:
        self.name, self.test, self.entry = name, test, zoo().load(name)
        self.model: Model = prepare(self.entry.model)
        self.calibration = arrays(self.entry, "calib", SAMPLES)
        specs = input_specs(open_session(self.model.proto))
        self.feeds = load_feeds(self.calibration, specs, limit=SAMPLES)
        unseen = load_feeds(arrays(self.entry, "test", test), specs, limit=test)
        divergence, _ = make_divergence(self.model, self.feeds, 1, threads=workers(), kinds={})
        self.evaluator = Evaluator.of(self.model, divergence, unseen, SessionSettings(threads=workers()))

    def metric(self, proto: onnx.ModelProto) -> float:
        session = open_session(proto, SessionSettings(threads=workers()))
        return float(self.entry.score(lambda feeds: run(session, feeds), self.test, 1))

    def convert(self, schemes: Sequence[str], size: str, latency: str, *, guard: bool = True) -> onnxmpq.Result:
        return onnxmpq.convert(
            self.entry.model,
            size=size,
            latency=latency,
            target=TARGET,
            batch=BATCH,
            calibration=self.calibration,
            schemes=schemes,
            guard=guard,
        )


def uniform_s(subject: Subject, scheme: str) -> float:
    """Predicted seconds per sample with every region in the scheme that can be."""
    device = load_target(TARGET).serving(BATCH)
    menu = candidates(subject.model, device, DIALECTS[device.dialect])
    menu = one_activation_format(subject.model, menu)
    table = roofline_table(subject.model, device, float_shapes(subject.model, subject.feeds), menu)
    plan = {name: SCHEMES[scheme] for name, row in menu.items() if SCHEMES[scheme] in row}
    return table.predict_s(subject.model, plan)


def plan(subject: Subject) -> None:
    """The converted model within the budgets of the issue, on test samples."""
    half_s = uniform_s(subject, "fp16")
    result = subject.convert([], size="20%", latency=f"{half_s * 1e6:.6f}us")
    counts = Counter(r.scheme for r in result.plan.layers if r.size_bytes is not None)
    share = result.report.result_bytes / result.report.original_bytes
    prediction = result.plan.prediction
    print(
        f"| {subject.name} | {subject.metric(subject.model.proto):.4f} | {subject.metric(result.model):.4f} | "
        f"{share:.3f}x | {prediction['original_latency_ms'] * 1e3:.2f} | {half_s * 1e6:.2f} | "
        f"{prediction['latency_ms'] * 1e3:.2f} | {', '.join(f'{n} {s}' for s, n in counts.most_common())} |",
        flush=True,
    )


def step(subject: Subject) -> None:
    """Roofline of the weight layers where every tensor holds one token; attention and its cache are left out."""
    device = load_target(TARGET)
    assert device.roofline is not None
    nothing = replace(device.roofline.launch_s, value=0.0)
    silent = replace(device, roofline=replace(device.roofline, launch_s=nothing))
    menu = candidates(subject.model, device, DIALECTS[device.dialect])
    whole = float_shapes(subject.model, subject.feeds)
    shapes = {t: (*s[:-2], 1, s[-1]) if len(s) > 1 else s for t, s in whole.items()}
    tables = [roofline_table(subject.model, d, shapes, menu).node_s for d in (device, silent)]
    layers = [r.name for r in subject.model.layers if "w4a16" in tables[0][r.name]]
    for name in ("fp32", "fp16", "w8a8-fp8", "w4a8-fp8", "w4a16"):
        with_launches, without = (sum(table[layer][name] for layer in layers) * 1e6 for table in tables)
        print(f"| {subject.name} | {name} | {with_launches:.3f} | {without:.4f} |")
    fastest = (sum(min(table[layer].values()) for layer in layers) * 1e6 for table in tables)
    print("| {} | fastest mix | {:.3f} | {:.4f} |".format(subject.name, *fastest))


def equal(subject: Subject) -> None:
    """Divergence on test samples, with the same rounding and the same second rounding: uniform plans, and the mixed
    one within the bytes of DPQ. Uniform w4a16 is the smallest plan that there is."""

    def planned(schemes: Sequence[str], size: str) -> onnxmpq.Result:
        return subject.convert(schemes, size=size, latency="300%", guard=False)  # uniform plans may be bad

    made = {f"uniform {s}": planned([s], "smallest") for s in ("w4a8-fp8", "w4a16")}
    limit = f"{made['uniform w4a8-fp8'].report.result_bytes}B"
    made["mixed"] = planned(["w4a8-fp8", "w8a8-fp8", "w4a16"], limit)
    for name, result in made.items():
        counts = Counter(r.scheme for r in result.plan.layers if r.size_bytes is not None)
        layers = ", ".join(f"{n} {s}" for s, n in counts.most_common())
        loss = subject.evaluator.loss(result.model)
        print(f"| {subject.name} | {name} | {result.report.result_bytes} | {loss:.5f} | {layers} |", flush=True)


def ablation(subject: Subject) -> None:
    """Weights alone, from int4 -> fp8 without a thought to DPQ and back, a part at a time."""
    layers = {
        r.name: r for r in subject.model.layers if r.op_type in ("MatMul", "Gemm") and r.params.fan_in % BLOCK == 0
    }
    measured = measure_moments(subject.model, layers, subject.feeds, threads=workers())
    moments = {name: found.hessian for name, found in measured}
    plain, dual = PerBlock(4, BLOCK, negative_scales=False), Fp8Dual(BLOCK)

    def cast_later(w: FloatArray, method: str, hessian: Any) -> QuantizedWeight:
        found = quantize_weight(w, plain, method=method, hessian=hessian)
        return replace(found, format=dual, tensor_scale=power_of_two_scale(w))

    def wide(w: FloatArray, hessian: Any) -> QuantizedWeight:
        found = quantize_weight(w, dual, method="gptq", hessian=hessian)
        return replace(found, tensor_scale=power_of_two_scale(w, float(E4M3FN_LARGEST)))

    def in_graph_order(w: FloatArray, hessian: Any) -> QuantizedWeight:
        blocks = mock.patch(
            "onnxmpq.rounding.gptq.input_order",
            lambda diagonal, block: [
                np.arange(i, min(i + block, len(diagonal))) for i in range(0, len(diagonal), block)
            ],
        )
        with blocks:
            return quantize_weight(w, dual, method="gptq", hessian=hessian)

    steps: dict[str, Callable[[FloatArray, Any], QuantizedWeight]] = {
        "nearest int4, then cast": lambda w, h: cast_later(w, "nearest", None),
        "nearest with the cast in mind": lambda w, h: quantize_weight(w, dual),
        "GPTQ int4, then cast": lambda w, h: cast_later(w, "gptq", h),
        "DPQ: GPTQ with the cast in its error": lambda w, h: quantize_weight(w, dual, method="gptq", hessian=h),
        "DPQ in graph order": in_graph_order,
        "DPQ, scale up to 448 instead of 224": wide,
        "int4 GPTQ without any cast": lambda w, h: quantize_weight(w, plain, method="gptq", hessian=h),
    }
    for name, make in steps.items():
        proto = onnx.ModelProto()
        proto.CopyFrom(subject.model.proto)
        constants = {t.name: t for t in proto.graph.initializer}
        for layer in layers.values():
            weight = make(subject.model.weight(layer), moments[layer.name]).dequantize()
            stored = np.ascontiguousarray(layer.params.stored(weight))
            tensor = constants[layer.params.weight]
            tensor.CopyFrom(onnx.numpy_helper.from_array(stored, tensor.name))
        print(f"| {subject.name} | {name} | {subject.evaluator.loss(proto):.5f} |", flush=True)


PARTS: Mapping[str, tuple[str, Callable[[Subject], None]]] = {
    "plan": ("| model | fp32 | plan | size | fp32 us | fp16 us | plan us | layers |", plan),
    "step": ("| model | scheme | us | us without launches |", step),
    "equal": ("| model | plan | bytes | divergence | layers |", equal),
    "ablation": ("| model | step | divergence |", ablation),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--test", type=int, default=200)
    options = parser.parse_args()
    subjects = [Subject(name, options.test) for name in options.model or MODELS]
    for part in options.parts:
        header, show = PARTS[part]
        print(f"\n{header}\n|{'---|' * (header.count('|') - 1)}", flush=True)
        for subject in subjects:
            if part != "step" or subject.name == "gpt_char":
                show(subject)


if __name__ == "__main__":
    main()
