"""What the type of quantized activations costs on the CPU: uint8, int8, 16 bits, and float8 in one layer.

    python -m benchmarks.activation_types [model ...]

onnxruntime's static quantization of the zoo's models, int8 weights per channel, timed interleaved with float32; ratios
are medians. docs/check.md has the table of one run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto
from onnxruntime.quantization import QuantType

from benchmarks.stages import machine
from benchmarks.zoo import arrays, static_int8, zoo
from onnxmpq.cost.measure import Effort, interleaved_s
from onnxmpq.runtimes import Call, SessionSettings, open_session

TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8, "uint16": QuantType.QUInt16}
MODELS = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25", "vit_tiny")
EFFORT = Effort(seconds=2.0)


def ratio(original: str | onnx.ModelProto, other: str | onnx.ModelProto, feeds: dict[str, np.ndarray]) -> float:
    """Latency of the second model over the first; fp8 needs its pairs left unfused to load at all."""
    kept = SessionSettings(keep_qdq=isinstance(other, onnx.ModelProto))
    sessions = open_session(original), open_session(other, kept)
    before, after = interleaved_s([Call.of(s, feeds) for s in sessions], EFFORT)
    return float(np.median(after / before))


def float8_layer(rows: int, inner: int, outer: int, quantized: bool) -> onnx.ModelProto:
    """A MatMul with activations behind a float8 pair and a float8 weight, or in float32."""
    pairs = """q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
               e = DequantizeLinear (w, s, z) y = MatMul (d, e)"""
    body = pairs if quantized else "y = MatMul (x, w)"
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]> g (float[{rows}, {inner}] x) => (float[{rows}, {outer}] y)
        <float s = {{0.02}}, float8e4m3fn z> {{ {body} }}"""
    )
    del proto.graph.value_info[:]
    proto.graph.initializer.append(onnx.helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0]))
    weight = np.random.default_rng(0).standard_normal(inner * outer)
    kind = TensorProto.FLOAT8E4M3FN if quantized else TensorProto.FLOAT
    proto.graph.initializer.append(onnx.helper.make_tensor("w", kind, [inner, outer], weight.tolist()))
    return proto


def main() -> None:
    print(f"{machine()}; latency over float32's, 1 thread")
    print("| model | " + " | ".join(TYPES) + " |\n" + "|---" * (len(TYPES) + 1) + "|")
    module = zoo()
    for name in sys.argv[1:] or MODELS:
        entry, row = module.load(name), []
        samples = arrays(entry, "calib", 8)
        first = {n: a[:1] for n, a in samples.items()}
        for kind in TYPES.values():
            with tempfile.TemporaryDirectory() as folder:
                path = static_int8(entry, samples, Path(folder) / "quantized.onnx", activations=kind)
                row.append(ratio(str(entry.model), str(path), first))
        print(f"| {name} | " + " | ".join(f"{r:.2f}x" for r in row) + " |", flush=True)
    for rows in (1, 128):
        x = np.random.default_rng(1).standard_normal((rows, 768)).astype(np.float32)
        slow = ratio(float8_layer(rows, 768, 3072, False), float8_layer(rows, 768, 3072, True), {"x": x})
        print(f"MatMul [{rows}, 768] x [768, 3072] with float8 pairs: {slow:.1f}x")


if __name__ == "__main__":
    main()
