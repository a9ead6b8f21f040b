"""What onnxruntime's CUDA provider takes, what it computes, and how fast. Needs onnxruntime-gpu, PyTorch and ml_dtypes.

    python benchmarks/cuda_provider.py products result.json     # one product in every spelling, against float64
    python benchmarks/cuda_provider.py chains result.json       # twelve products in a row, each with weights of its own
    python benchmarks/cuda_provider.py models result.json DIR   # models that `benchmarks.cuda_models` wrote into DIR

Sessions have CUDA graphs, so that what is timed is the device's work and not the launching of kernels. In `chains` the
weights of all products together are larger than the L2 cache. Nothing of onnxmpq is imported, so that the file runs
alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
SIDE = 4096
LAYERS = 12
ROWS = (1, 8, 64, 512, 4096)
LARGEST = 4.5
"""Magnitude to which activations are quantized; they are Gaussian with variance 1."""
BATCHES = (1, 64)
CONTRIB = "com.microsoft"
FLOAT8_LARGEST, FLOAT4_LARGEST, INT8_LARGEST = 448.0, 6.0, 127.0
NO_REWRITE = {"session.disable_quant_qdq": "1"}


@dataclass
class Graph:
    """A graph under construction: nodes and initializers."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, domain=domain, **attributes))
        return name

    def constant(self, values: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def raw(self, element: int, shape: Sequence[int], values: bytes) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = helper.make_tensor(name, element, shape, values, raw=True)
        return name


@dataclass(frozen=True)
class Spelling:
    """A way to write y = x · w.

    build: adds it to a graph and returns the product's name. weight, activation: w and x in float32 as the spelling
    rounds them. element: type of x and y. entries: of the session's configuration. environment: of the process.
    """

    name: str
    build: Callable[[Graph, str, Array], str]
    weight: Callable[[Array], Array]
    activation: Callable[[Array], Array] = lambda x: x
    element: int = TensorProto.FLOAT16
    entries: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def _types() -> Any:
    return importlib.import_module("ml_dtypes")


def nibbles(codes: Array) -> bytes:
    """4-bit codes, two in a byte, the first one low."""
    flat = codes.reshape(-1).astype(np.uint8) & 15
    return bytes((flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes())


def blocks(w: Array, bits: int, block: int) -> tuple[Array, Array, Array]:
    """Codes [K, N] and float16 scales [K / block, N] of weights in blocks along K, and what they stand for."""
    k, n = w.shape
    cut = w.reshape(k // block, block, n)
    scales = (np.abs(cut).max(1) / (2 ** (bits - 1) - 1)).astype(np.float16)
    wide = scales[:, None].astype(np.float32)
    codes = np.clip(np.rint(cut / wide), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes.reshape(k, n).astype(np.int8), scales, (codes * wide).reshape(k, n)


def float8(values: Array) -> Array:
    clipped = np.clip(values, -FLOAT8_LARGEST, FLOAT8_LARGEST)
    codes: Array = clipped.astype(_types().float8_e4m3fn)
    return codes


def _per_channel(w: Array, largest: float) -> Array:
    scales: Array = (np.abs(w).max(0) / largest).astype(np.float32)
    return scales


def _activation(largest: float) -> np.float32:
    return np.float32(LARGEST / largest)


def _round_fp8(x: Array) -> Array:
    step = _activation(FLOAT8_LARGEST)
    return float8(x.astype(np.float32) / step).astype(np.float32) * step


def _round_int8(x: Array) -> Array:
    step = _activation(INT8_LARGEST)
    rounded: Array = np.clip(np.rint(x.astype(np.float32) / step), -128, 127) * step
    return rounded


def floats(element: int) -> Spelling:
    dtype = np.float32 if element == TensorProto.FLOAT else np.float16
    name = "fp32 (TF32)" if element == TensorProto.FLOAT else "fp16"

    def build(g: Graph, x: str, w: Array) -> str:
        return g.node("MatMul", [x, g.constant(w.astype(dtype))])

    return Spelling(name, build, lambda w: w.astype(dtype).astype(np.float32), element=element)


def matmul_nbits(bits: int, block: int, entries: Mapping[str, str] | None = None, name: str = "") -> Spelling:
    """The onnxruntime-cuda dialect's w4a16 and w8a16 (with blocks of 64)."""

    def build(g: Graph, x: str, w: Array) -> str:
        codes, scales, _ = blocks(w, bits, block)
        k, n = w.shape
        raised = (codes.T.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8).reshape(n, k // block, block)
        packed = raised if bits == 8 else raised[..., ::2] | raised[..., 1::2] << 4
        inputs = [x, g.constant(packed), g.constant(scales.T)]
        return g.node("MatMulNBits", inputs, CONTRIB, K=k, N=n, bits=bits, block_size=block)

    title = f"MatMulNBits, {bits} bits, blocks of {block}{name}"
    return Spelling(title, build, lambda w: blocks(w, bits, block)[2], entries=entries or {})


def dequantized_blocks(block: int) -> Spelling:
    """The tensorrt dialect's w4a16."""

    def build(g: Graph, x: str, w: Array) -> str:
        codes, scales, _ = blocks(w, 4, block)
        stored = g.raw(TensorProto.INT4, w.shape, nibbles(codes))
        unfolded = g.node("DequantizeLinear", [stored, g.constant(scales)], axis=0, block_size=block)
        return g.node("MatMul", [x, unfolded])

    return Spelling(f"int4 DequantizeLinear, blocks of {block}, MatMul", build, lambda w: blocks(w, 4, block)[2])


def _explicit(g: Graph, x: str, weight: str, step: Array, zero: str) -> str:
    """float16 -> float32 -> Q -> DQ -> product with the unfolded weight -> float16, as explicit quantization has it."""
    wide = g.node("Cast", [x], to=TensorProto.FLOAT)
    scale = g.constant(step)
    codes = g.node("QuantizeLinear", [wide, scale, zero])
    view = g.node("DequantizeLinear", [codes, scale, zero])
    return g.node("Cast", [g.node("MatMul", [view, weight])], to=TensorProto.FLOAT16)


def _fp8_weight(w: Array) -> Array:
    scales = _per_channel(w, FLOAT8_LARGEST)
    return float8(w / scales).astype(np.float32) * scales


def explicit_fp8() -> Spelling:
    """The tensorrt dialect's w8a8-fp8."""

    def build(g: Graph, x: str, w: Array) -> str:
        scales = _per_channel(w, FLOAT8_LARGEST)
        codes = g.raw(TensorProto.FLOAT8E4M3FN, w.shape, float8(w / scales).tobytes())
        weight = g.node("DequantizeLinear", [codes, g.constant(scales)], axis=1)
        zero = g.raw(TensorProto.FLOAT8E4M3FN, (), b"\0")
        return _explicit(g, x, weight, np.array(_activation(FLOAT8_LARGEST)), zero)

    return Spelling("float8 Q/DQ, MatMul", build, _fp8_weight, _round_fp8, entries=NO_REWRITE)


def explicit_int8() -> Spelling:
    """The tensorrt dialect's w8a8-int8."""

    def codes_of(w: Array) -> tuple[Array, Array]:
        scales = _per_channel(w, INT8_LARGEST)
        return np.clip(np.rint(w / scales), -127, 127).astype(np.int8), scales

    def build(g: Graph, x: str, w: Array) -> str:
        codes, scales = codes_of(w)
        zeros = g.constant(np.zeros(len(scales), np.int8))
        weight = g.node("DequantizeLinear", [g.constant(codes), g.constant(scales), zeros], axis=1)
        return _explicit(g, x, weight, np.array(_activation(INT8_LARGEST)), g.constant(np.array(0, np.int8)))

    def value(w: Array) -> Array:
        codes, scales = codes_of(w)
        return codes.astype(np.float32) * scales

    return Spelling("int8 Q/DQ, MatMul", build, value, _round_int8)


def fp8_operator(rounds: bool, deep: bool = False) -> Spelling:
    """MatMulBlockQuantizedFp8Weight with a scale per output channel, repeated for each of its blocks."""
    block = 128

    def build(g: Graph, x: str, w: Array) -> str:
        scales = _per_channel(w, FLOAT8_LARGEST)
        k, n = w.shape
        codes = g.raw(TensorProto.FLOAT8E4M3FN, (n, k), np.ascontiguousarray(float8(w / scales).T).tobytes())
        inputs = [x, codes, g.constant(np.repeat(scales[:, None], k // block, 1))]
        if rounds:
            inputs.append(g.constant(np.array(_activation(FLOAT8_LARGEST))))
        return g.node("MatMulBlockQuantizedFp8Weight", inputs, CONTRIB, block_size=block)

    name = "MatMulBlockQuantizedFp8Weight, " + ("activations in float8" if rounds else "weights alone")
    environment = {"ORT_FP8_MATMUL_DEEPGEMM": "1"} if deep else {}
    name += ", DeepGEMM" if deep else ""
    return Spelling(name, build, _fp8_weight, _round_fp8 if rounds else lambda x: x, environment=environment)


def fp4_operator() -> Spelling:
    """MatMulBlockQuantizedFp4Weight: NVFP4 weights, float8 scales for blocks of 16 and one for the tensor."""
    block = 16

    def codes_of(w: Array) -> tuple[Array, Array, np.float32, Array]:
        k, n = w.shape
        cut = w.T.reshape(n, k // block, block)
        whole = np.float32(np.abs(w).max() / (FLOAT4_LARGEST * FLOAT8_LARGEST))
        scales = float8(np.abs(cut).max(2) / FLOAT4_LARGEST / whole)
        wide = np.maximum(scales.astype(np.float32) * whole, np.finfo(np.float32).tiny)
        codes = (cut / wide[..., None]).astype(_types().float4_e2m1fn)
        return codes, scales, whole, (codes.astype(np.float32) * wide[..., None]).reshape(n, k).T

    def build(g: Graph, x: str, w: Array) -> str:
        codes, scales, whole, _ = codes_of(w)
        packed = np.frombuffer(nibbles(codes.view(np.uint8)), np.uint8).reshape(w.shape[1], w.shape[0] // 2)
        inputs = [x, g.constant(packed), g.constant(scales.view(np.uint8)), g.constant(np.array(whole))]
        return g.node("MatMulBlockQuantizedFp4Weight", inputs, CONTRIB, block_size=block)

    return Spelling("MatMulBlockQuantizedFp4Weight (NVFP4)", build, lambda w: codes_of(w)[3])


def gemm_float8(dtype: int, per_channel: bool = False) -> Spelling:
    """GemmFloat8, with a scale for the whole weight, or with a Mul behind it for scales per output channel."""

    def scales_of(w: Array) -> Array:
        channels = _per_channel(w, FLOAT8_LARGEST)
        return channels if per_channel else np.full_like(channels, channels.max())

    def build(g: Graph, x: str, w: Array) -> str:
        step, scales = _activation(FLOAT8_LARGEST), scales_of(w)
        zero = g.raw(TensorProto.FLOAT8E4M3FN, (), b"\0")
        codes = g.node("QuantizeLinear", [x, g.constant(np.array(step, np.float16)), zero])
        turned = np.ascontiguousarray(float8(w / scales).T)
        weight = g.raw(TensorProto.FLOAT8E4M3FN, turned.shape, turned.tobytes())
        inputs = [codes, weight, "", g.constant(np.array(np.float16(step), np.float32)), g.constant(scales.max())]
        made = g.node("GemmFloat8", inputs, CONTRIB, transA=0, transB=1, dtype=dtype)
        if per_channel:
            made = g.node("Mul", [made, g.constant((scales / scales.max()).astype(np.float16))])
        return made if dtype == TensorProto.FLOAT16 else g.node("Cast", [made], to=TensorProto.FLOAT16)

    def value(w: Array) -> Array:
        return float8(w / scales_of(w)).astype(np.float32) * scales_of(w)

    def rounded(x: Array) -> Array:
        step = np.float32(np.float16(_activation(FLOAT8_LARGEST)))
        return float8(x.astype(np.float32) / step).astype(np.float32) * step

    name = f"GemmFloat8 to {TensorProto.DataType.Name(dtype)}" + (", Mul" if per_channel else "")
    return Spelling(name, build, value, rounded)


TUNED = {"ep.cuda.fpa_intb_gemm": "1"}
SPELLINGS = (
    floats(TensorProto.FLOAT),
    floats(TensorProto.FLOAT16),
    matmul_nbits(4, 32),
    matmul_nbits(4, 64),
    matmul_nbits(4, 64, TUNED, ", fpA_intB"),
    matmul_nbits(4, 128, TUNED, ", fpA_intB"),
    dequantized_blocks(64),
    matmul_nbits(8, 64),
    matmul_nbits(8, 64, TUNED, ", fpA_intB"),
    fp8_operator(rounds=True),
    fp8_operator(rounds=True, deep=True),
    fp8_operator(rounds=False),
    fp4_operator(),
    explicit_fp8(),
    explicit_int8(),
    gemm_float8(TensorProto.FLOAT16),
    gemm_float8(TensorProto.FLOAT16, per_channel=True),
    gemm_float8(TensorProto.BFLOAT16),
)


def model(spelling: Spelling, weights: Sequence[Array]) -> onnx.ModelProto:
    """[M, K] -> the products with all weights, one behind the other."""
    g, tensor = Graph(), "x"
    for w in weights:
        tensor = spelling.build(g, tensor, w)
    g.nodes[-1].output[0] = "y"
    k, n = weights[0].shape[0], weights[-1].shape[1]
    made = helper.make_graph(
        g.nodes,
        "products",
        [helper.make_tensor_value_info("x", spelling.element, ["M", k])],
        [helper.make_tensor_value_info("y", spelling.element, ["M", n])],
        list(g.constants.values()),
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(made, opset_imports=imports, ir_version=10)


@dataclass
class Timed:
    """A session with CUDA graphs; `replay` runs it with inputs that lie on the device."""

    ort: Any
    proto: bytes
    entries: Mapping[str, str]

    def session(self, graphs: bool, optimized: str = "") -> Any:
        options = self.ort.SessionOptions()
        options.log_severity_level = 3
        for key, value in self.entries.items():
            options.add_session_config_entry(key, value)
        if optimized:
            options.optimized_model_filepath = optimized
        cuda = {"enable_cuda_graph": "1" if graphs else "0", "use_tf32": "1"}
        return self.ort.InferenceSession(self.proto, options, providers=[("CUDAExecutionProvider", cuda)])

    def all_on_gpu(self) -> bool:
        """True if no node is left to the CPU provider."""
        entries = {**self.entries, "session.disable_cpu_ep_fallback": "1"}
        try:
            Timed(self.ort, self.proto, entries).session(False)
        except Exception:  # of several types, by version
            return False
        return True

    def replay(self, session: Any, feeds: Mapping[str, Array], shapes: Mapping[str, Any], graph: int) -> Any:
        """A function that runs the session once without waiting for the device, and its outputs."""
        binding, value = session.io_binding(), self.ort.OrtValue
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, value.ortvalue_from_numpy(array, "cuda", 0))
        outputs = {n: value.ortvalue_from_shape_and_type(s, t, "cuda", 0) for n, (s, t) in shapes.items()}
        for name, output in outputs.items():
            binding.bind_ortvalue_output(name, output)
        run = self.ort.RunOptions()
        run.add_run_config_entry("disable_synchronize_execution_providers", "1")
        run.add_run_config_entry("gpu_graph_id", str(graph))
        return lambda: session.run_with_iobinding(binding, run), outputs


def seconds_of(run: Callable[[], object], synchronize: Callable[[], object], budget: float = 0.2) -> float:
    """Median over groups of ten runs, each group waited for."""
    for _ in range(5):
        run()
    synchronize()
    found: list[float] = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        for _ in range(10):
            run()
        synchronize()
        found.append((time.perf_counter() - start) / 10)
    return statistics.median(found)


def difference(found: Array, expected: Array) -> float:
    """Norm of the difference over that of what was expected."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(values)
    try:
        yield
    finally:
        for key in values:
            del os.environ[key]


@dataclass(frozen=True)
class Answer:
    """Of one graph. error: relative, of the outputs. operators: of the optimised graph. problem: the provider's."""

    name: str
    rows: int
    error: float | None = None
    us: float | None = None
    on_gpu: bool | None = None
    operators: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


class Provider:
    """torch: keeps its CUDA libraries loaded, and waits for the device."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.ort = importlib.import_module("onnxruntime")
        self.scratch = str(Path(tempfile.mkdtemp()) / "optimized.onnx")

    def exact(self, x: Array, w: Array) -> Array:
        device = self.torch.device("cuda")
        a, b = (self.torch.from_numpy(np.asarray(t, np.float32)).to(device).double() for t in (x, w))
        product: Array = (a @ b).cpu().numpy()
        return product

    def operators(self) -> dict[str, int]:
        return dict(Counter(n.op_type for n in onnx.load(self.scratch, load_external_data=False).graph.node))

    def products(self) -> Iterator[Answer]:
        generator = np.random.default_rng(0)
        w = generator.normal(0.0, SIDE**-0.5, (SIDE, SIDE)).astype(np.float32)
        x = generator.normal(0.0, 1.0, (64, SIDE)).astype(np.float32)
        for spelling in SPELLINGS:
            dtype = helper.tensor_dtype_to_np_dtype(spelling.element)
            given = x.astype(dtype)
            try:
                with environment(spelling.environment):
                    timed = Timed(self.ort, model(spelling, [w]).SerializeToString(), spelling.entries)
                    found = timed.session(False, self.scratch).run(None, {"x": given})[0]
                    expected = self.exact(spelling.activation(given), spelling.weight(w))
                    error, on_gpu = difference(found, expected), timed.all_on_gpu()
                yield Answer(spelling.name, len(x), error, None, on_gpu, self.operators())
            except Exception as problem:  # whatever the provider throws is the answer
                yield Answer(spelling.name, len(x), problem=" ".join(str(problem).split())[:1500])

    def chains(self) -> Iterator[Answer]:
        generator = np.random.default_rng(0)
        first = generator.normal(0.0, SIDE**-0.5, (SIDE, SIDE)).astype(np.float32)
        for spelling in SPELLINGS:
            try:
                with environment(spelling.environment):
                    yield from self._chain(spelling, first)
            except Exception as problem:
                yield Answer(spelling.name, 0, problem=" ".join(str(problem).split())[:600])

    def _chain(self, spelling: Spelling, first: Array) -> Iterator[Answer]:
        proto = model(spelling, [first])
        repeated(proto, LAYERS)
        timed = Timed(self.ort, proto.SerializeToString(), spelling.entries)
        session, dtype = timed.session(True), helper.tensor_dtype_to_np_dtype(spelling.element)
        for number, rows in enumerate(ROWS, 1):
            x = np.random.default_rng(rows).normal(0.0, 1.0, (rows, SIDE)).astype(dtype)
            run, _ = timed.replay(session, {"x": x}, {"y": ((rows, SIDE), dtype)}, number)
            yield Answer(spelling.name, rows, us=1e6 * seconds_of(run, self.torch.cuda.synchronize) / LAYERS)

    def models(self, folder: Path) -> Iterator[Answer]:
        for path in sorted(folder.glob("*.onnx")):
            stored = np.load(path.with_suffix(".npz"))
            given, wanted = ({k[len(p) :]: stored[k] for k in stored if k.startswith(p)} for p in ("in/", "out/"))
            timed = Timed(self.ort, path.read_bytes(), NO_REWRITE if "fp8" in path.stem else {})
            for batch in BATCHES:
                feeds, expected = ({k: np.repeat(v, batch, 0) for k, v in d.items()} for d in (given, wanted))
                try:
                    yield self._model(timed, path.stem, batch, feeds, expected)
                except Exception as problem:
                    yield Answer(path.stem, batch, problem=" ".join(str(problem).split())[:600])

    def _model(
        self, timed: Timed, name: str, batch: int, feeds: Mapping[str, Array], expected: Mapping[str, Array]
    ) -> Answer:
        plain = timed.session(False, self.scratch)
        found = dict(zip([o.name for o in plain.get_outputs()], plain.run(None, feeds), strict=True))
        shapes = {n: (a.shape, a.dtype.type) for n, a in found.items()}
        error = max(difference(found[n], expected[n]) for n in expected)
        run, _ = timed.replay(timed.session(True), feeds, shapes, 1)
        us = 1e6 * seconds_of(run, self.torch.cuda.synchronize)
        return Answer(name, batch, error, us, timed.all_on_gpu(), self.operators())


def repeated(proto: onnx.ModelProto, times: int) -> None:
    """The nodes of the graph so many times in a row, each with constants of its own of the same values."""
    graph = proto.graph
    nodes, constants = list(graph.node), list(graph.initializer)
    del graph.node[:]
    del graph.initializer[:]
    tensor = "x"
    for layer in range(times):
        renamed = {c.name: f"{layer}/{c.name}" for c in constants} | {"x": tensor, "": ""}
        renamed |= {o: "y" if layer == times - 1 and o == "y" else f"{layer}/{o}" for n in nodes for o in n.output}
        tensor = renamed["y"]
        for constant in constants:
            graph.initializer.add().CopyFrom(constant)
            graph.initializer[-1].name = renamed[constant.name]
        for node in nodes:
            copy = graph.node.add()
            copy.CopyFrom(node)
            copy.name = f"{layer}/{node.name}"
            for names in (copy.input, copy.output):
                names[:] = [renamed[n] for n in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("products", "chains", "models"))
    parser.add_argument("result", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    given = parser.parse_args()
    provider, found = Provider(), []
    device = provider.torch.cuda.get_device_name(0)
    print(f"{device}; onnxruntime-gpu {provider.ort.__version__}, CUDA {provider.torch.version.cuda}", flush=True)
    parts = {"products": provider.products, "chains": provider.chains}
    for answer in provider.models(given.folder) if given.part == "models" else parts[given.part]():
        found.append(asdict(answer))
        print(answer, flush=True)
        given.result.write_text(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
