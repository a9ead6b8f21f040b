"""Sessions are created as their settings ask."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxmpq.errors import ModelError
from onnxmpq.execution import with_outputs
from onnxmpq.model import Spill
from onnxmpq.runtimes import SessionSettings, input_specs, open_session, run, runs_unfused
from tests.graphs import feeds_for, graph, residual_cnn


def test_a_lean_session_keeps_no_memory_and_computes_the_same() -> None:
    proto = residual_cnn()
    usual, lean = open_session(proto), open_session(proto, SessionSettings(lean=True))
    options = lean.get_session_options()
    assert usual.get_session_options().enable_cpu_mem_arena
    assert not options.enable_cpu_mem_arena and not options.enable_mem_pattern
    inputs = feeds_for(proto, 2).batch([0])
    for one, other in zip(run(usual, inputs), run(lean, inputs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_output_that_is_an_input_outlives_what_was_fed() -> None:
    proto = with_outputs(graph("y = Relu (x)", "float[N, 4096] x", "float[N, 4096] y"), ["x", "y"])
    session = open_session(proto)
    kept = [run(session, {"x": np.full((1, 4096), float(n), np.float32)})[0] for n in range(20)]
    assert [float(values.min()) for values in kept] == [float(values.max()) for values in kept] == list(range(20))


@pytest.mark.parametrize("written", ["MatMulNBits", "DequantizeLinear"])
def test_weights_in_blocks_that_stay_in_files_are_multiplied_by_the_same_kernel(written: str) -> None:
    """Without prepacking the kernel multiplies floats, whatever its accuracy level is."""
    generator = np.random.default_rng(0)
    scales = np.full((256, 8), 0.01, np.float32)
    constants = {"c": generator.integers(0, 256, (256, 8, 16), np.uint8), "s": scales}
    body = "y = com.microsoft.MatMulNBits <K = 256, N = 256, bits = 4, block_size = 32, accuracy_level = 4> (x, c, s)"
    if written == "DequantizeLinear":
        constants = {"c": generator.integers(-8, 8, (256, 256)).astype(onnx.helper.tensor_dtype_to_np_dtype(22))}
        constants["s"] = np.ascontiguousarray(scales.T)
        body = "w = DequantizeLinear <axis = 0, block_size = 32> (c, s) y = MatMul (x, w)"
    text = f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[N, 256] x) => (float[N, 256] y) {{ {body} }}"""
    proto, spill = onnx.parser.parse_model(text), Spill()
    proto.graph.initializer.extend(spill.put(onnx.numpy_helper.from_array(v, n)) for n, v in constants.items())
    inputs = {"x": generator.standard_normal((3, 256)).astype(np.float32)}
    [usual], [mapped] = (run(open_session(proto, SessionSettings(mapped=m)), inputs) for m in (False, True))
    np.testing.assert_array_equal(mapped, usual)


@pytest.mark.parametrize("name", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])
def test_integer_inputs_have_their_types(name: str) -> None:
    proto = graph("y = Identity (x)", f"{name}[N, 3] x", f"{name}[N, 3] y")
    assert [spec.dtype for spec in input_specs(open_session(proto))] == [np.dtype(name)]


def test_strings_beside_what_numpy_lacks() -> None:
    """Such an output is asked for as an OrtValue, and then onnxruntime takes no strings from Python."""
    proto = graph("y = Cast <to = 16> (x)  t = Identity (s)", "float[2] x, string[2] s", "bfloat16[2] y, string[2] t")
    with pytest.raises(ModelError, match="cannot be fed with this input from Python"):
        run(open_session(proto), {"x": np.zeros(2, np.float32), "s": np.array(["a", "b"], object)})


def wild_int8(layers: int) -> onnx.ModelProto:
    """MatMuls of uint8 by int8 weights far beyond 16-bit sums."""
    steps = [
        f"""q{n} = QuantizeLinear (h{n}, s, zu) d{n} = DequantizeLinear (q{n}, s, zu)
            e{n} = DequantizeLinear <axis = 1> (w{n}, sw, zi{n}) m{n} = MatMul (d{n}, e{n}) h{n + 1} = Relu (m{n})"""
        for n in range(layers)
    ]
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[N, 32] h0) => (float[N, 32] h{layers})
        <float s = {{0.01}}, uint8 zu = {{100}}> {{ {" ".join(steps)} }}"""
    proto = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    weights = {f"w{n}": generator.integers(-127, 128, (32, 32), np.int8) for n in range(layers)}
    constants = {
        **weights,
        "sw": np.full(32, 1e-3, np.float32),
        **{f"zi{n}": np.zeros(32, np.int8) for n in range(layers)},
    }
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())
    return proto


def test_exact_integers_on_any_cpu() -> None:
    proto = wild_int8(3)
    before = proto.SerializeToString()
    inputs = {"h0": np.random.default_rng(1).standard_normal((8, 32)).astype(np.float32)}
    exact = run(open_session(proto, SessionSettings(exact_integers=True)), inputs)[0]
    plain = run(open_session(proto, SessionSettings(optimize=False)), inputs)[0]
    assert proto.SerializeToString() == before
    noise = np.square(exact - plain).sum() / np.square(plain).sum()
    assert noise < 1e-4  # some sums round to the other side; saturation makes 0.1


def test_weights_in_blocks_with_float16_scales_are_multiplied_as_the_graph_says() -> None:
    """Fused, the CPU provider rounds the activations to int8; here they are whole numbers up to 300."""
    body = """w = DequantizeLinear <axis = 0, block_size = 64> (c, s) h = Cast <to = 10> (x)
        m = MatMul (h, w) y = Cast <to = 1> (m)"""
    proto = graph(body, "float[2, 128] x", "float[2, 16] y", "float[2, 16] s")
    scales = np.full((2, 16), 0.25, np.float16)
    codes = np.random.default_rng(0).integers(-7, 8, (128, 16)).astype(np.int8)
    del proto.graph.initializer[:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(scales, "s"))
    packed = [int(c) for c in codes.ravel()]
    proto.graph.initializer.append(onnx.helper.make_tensor("c", onnx.TensorProto.INT4, codes.shape, packed))
    x = np.random.default_rng(1).integers(-300, 301, (2, 128)).astype(np.float32)
    expected = x @ (codes * np.float32(0.25))
    for given in (proto, proto.SerializeToString()):
        assert runs_unfused(given)
    [found] = run(open_session(proto), {"x": x})
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())
    assert not runs_unfused(residual_cnn())
