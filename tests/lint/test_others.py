"""Graphs of other tools, and damaged ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnxmpq.lint import DIALECTS, lint
from tests.graphs import residual_cnn, samples_for, token_model
from tests.lint.cases import CASES, FEATURES, KERNEL, changed, model


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """One sample at a time, as onnxruntime's quantizer asks for them."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        arrays = samples_for(proto, 4)
        self.rows: Iterator[dict[str, np.ndarray]] = iter(
            {name: value[i : i + 1] for name, value in arrays.items()} for i in range(4)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rows, None)


def statically_quantized(folder: Path, activations: QuantType, kind: QuantFormat = QuantFormat.QDQ) -> onnx.ModelProto:
    onnx.save_model(residual_cnn(), folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "quantized.onnx",
        Feeds(residual_cnn()),
        quant_format=kind,
        activation_type=activations,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"ActivationSymmetric": activations is QuantType.QInt8},
    )
    return onnx.load(folder / "quantized.onnx")


def rules(proto: onnx.ModelProto, dialect: str, severity: str = "error") -> set[str]:
    return {f.rule for f in lint(proto, dialect) if f.severity == severity}


def test_static_quantization_of_onnxruntime(tmp_path: Path) -> None:
    """Its default for CPUs is fine there but for sums of 16 bits, and no model for TensorRT; its TensorRT settings
    still quantize biases."""
    unsigned = statically_quantized(tmp_path, QuantType.QUInt8)
    assert rules(unsigned, "onnxruntime") == set()
    assert rules(unsigned, "onnxruntime", "warning") == {"overflow"}
    assert rules(unsigned, "tensorrt") == {"symmetric", "unsigned", "float-bias"}
    signed = statically_quantized(tmp_path, QuantType.QInt8)
    assert rules(signed, "tensorrt") == {"float-bias"}
    assert rules(signed, "onnxruntime", "warning") == {"signed-activations", "overflow"}


def test_operators_that_compute_on_integers(tmp_path: Path) -> None:
    proto = statically_quantized(tmp_path, QuantType.QUInt8, QuantFormat.QOperator)
    assert rules(proto, "tensorrt") >= {"unsupported-operators"}
    assert rules(proto, "onnxruntime") == set()
    assert rules(proto, "portable") <= {"standard-operators"}


def test_exports_in_the_manner_of_nvidia() -> None:
    """float16 inside, fp8 and int4 operators of a domain of their own, scales from Constant nodes behind a Cast."""
    body = """k = Constant <value_float = 0.02> () s16 = Cast <to = 10> (k) h = Cast <to = 10> (x)
        q = trt.TRT_FP8QuantizeLinear (h, s16) d = trt.TRT_FP8DequantizeLinear (q, s16)
        wd = trt.TRT_FP8DequantizeLinear (w8, s16) m = MatMul (d, wd)
        w4d = trt.TRT_INT4DequantizeLinear <axis = 0, block_size = 64> (w4, sh) n = MatMul (m, w4d)
        y = Cast <to = 1> (n)"""
    weights = "float8e4m3fn[128, 128] w8, int4[128, 32] w4, float16[2, 32] sh, "
    assert lint(model(body, weights), "tensorrt") == []
    assert lint(changed(model(body.replace("= 0.02", "= -0.02"), weights), s=1), "tensorrt") != []
    assert rules(model(body, weights), "portable") == {"standard-operators"}


def test_bodies_are_looked_into() -> None:
    """A pair inside the branch of an If, with scales from outside."""
    body = """c = ReduceMax <keepdims = 0> (x) b = Cast <to = 9> (c)
        y = If (b) <then_branch = t () => (float[4, 128] u)
                        { p = QuantizeLinear (x, s, z8) u = DequantizeLinear (p, s, z8) },
                    else_branch = e () => (float[4, 128] v) { v = Identity (x) }>"""
    found = lint(model(body), "tensorrt")
    assert {(f.rule, f.node) for f in found} >= {("unsigned", "QuantizeLinear -> p")}
    assert "constant-scale" not in {f.rule for f in found}


def test_local_functions_are_looked_into() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
        g (float[4] x) => (float[4] y) <float s = {0.1}, uint8 z = {3}> { y = mine.rounded (x, s, z) }
        <domain: "mine", opset_import: ["" : 21]>
        rounded (a, s, z) => (b) { q = QuantizeLinear (a, s, z) b = DequantizeLinear (q, s, z) }"""
    )
    assert {"symmetric", "unsigned"} <= {f.rule for f in lint(proto, "tensorrt")}
    assert lint(proto, "portable") == []


HEALTHY = (residual_cnn(), token_model(), *(c.breaks for c in CASES), *(c.keeps for c in CASES))


@given(st.data())
def test_damage_is_found_or_passed_over_but_never_fatal(data: st.DataObject) -> None:
    """Nodes and tensors missing, inputs empty or swapped, attributes lost: findings, no exception."""
    proto = onnx.ModelProto()
    proto.CopyFrom(data.draw(st.sampled_from(HEALTHY)))
    graph = proto.graph
    for _ in range(data.draw(st.integers(1, 4))):
        node = graph.node[data.draw(st.integers(0, len(graph.node) - 1))]
        kind = data.draw(
            st.sampled_from(["input", "output", "attribute", "initializer", "cycle", "shape", "raw", "opset"])
        )
        if kind == "input" and node.input:
            node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(
                st.sampled_from(["", "x", "nothing"])
            )
        elif kind == "output" and node.output:
            del node.output[:]
        elif kind == "attribute":
            del node.attribute[:]
        elif kind == "cycle" and node.input and graph.node[-1].output:
            node.input[0] = graph.node[-1].output[0]
        elif kind == "opset":
            del proto.opset_import[:]
        elif graph.initializer:
            index = data.draw(st.integers(0, len(graph.initializer) - 1))
            tensor = graph.initializer[index]
            if kind == "initializer":
                del graph.initializer[index]
            elif kind == "shape":
                tensor.dims[:] = data.draw(st.lists(st.integers(0, 3), max_size=4))
            elif kind == "raw":
                tensor.ClearField("raw_data")
                del tensor.float_data[:], tensor.int32_data[:], tensor.int64_data[:]
    for dialect in DIALECTS:
        lint(proto, dialect)


def test_weights_that_were_not_read(tmp_path: Path) -> None:
    """A model without its external data: what the files hold is not known, and accuses nobody."""
    proto = model("e = DequantizeLinear <axis = 0> (w, sw) y = Conv (x, e)", KERNEL, FEATURES, "float[A, B, C, D] y")
    for tensor in proto.graph.initializer:
        tensor.raw_data = onnx.numpy_helper.to_array(tensor).tobytes()
        del tensor.float_data[:], tensor.int32_data[:]
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert rules(bare, "tensorrt") <= {"valid"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_at_all(dialect: str) -> None:
    assert {f.rule for f in lint(onnx.ModelProto(), dialect)} <= {"valid"}
