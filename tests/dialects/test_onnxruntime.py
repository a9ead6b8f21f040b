"""The onnxruntime dialect: valid graphs that compute what the plan says, fuse as the scheme says, and do not change
from one commit to the next (tests/golden/)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.dialects import marked
from onnxmpq.runtimes import SessionSettings, open_session
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.attribute import attribute
from onnxmpq.runtimes.onnxruntime.fusions import fusions
from onnxmpq.schemes import BLOCK_SIZES, SCHEMES, Format, Scheme, scheme_named, writes
from tests.dialects.cases import CASES, LAYERS, NETWORKS, ORT, Case, half_of_its_codes, simulate
from tests.graphs import graph, outputs_of

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Rewriting:
    """A graph, and the scheme that all its layers get."""

    case: Case
    scheme: str

    @property
    def id(self) -> str:
        return f"{self.case.id}.{self.scheme}"

    @property
    def assignment(self) -> dict[str, Scheme]:
        return self.case.everywhere(self.scheme)


def rewritings(cases: dict[str, Case]) -> list[Rewriting]:
    every = [Rewriting(c, name) for c in cases.values() for name in SCHEMES if name != "fp32"]
    return [r for r in every if any(s.name == r.scheme for s in r.assignment.values())]


LEVELS = ("", "-level0")
MADE = [f"{kind.format(b)}{level}" for b in BLOCK_SIZES for kind in ("w4b{}", "w8b{}", "w4b{}z") for level in LEVELS]
"""Schemes of blocks, most of them made from their names."""
EVERY = rewritings(CASES)
parametrized = pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)


def decibel(reference: np.ndarray, found: np.ndarray) -> float:
    noise = float(np.square(reference - found).sum())
    return 10 * np.log10(float(np.square(reference).sum()) / max(noise, 1e-30))


@parametrized
def test_valid_and_self_contained(case: Rewriting) -> None:
    proto = case.case.rewrite(case.assignment)
    onnx.checker.check_model(proto, full_check=True)
    names = [n.name for n in proto.graph.node]
    assert len(set(names)) == len(names)
    assert {n.name for n in case.case.model.proto.graph.node} <= set(names), "original node names are kept"
    before = case.case.model.proto.graph
    assert [(i.name, i.type) for i in proto.graph.input] == [(i.name, i.type) for i in before.input]
    assert [(o.name, o.type) for o in proto.graph.output] == [(o.name, o.type) for o in before.output]


@parametrized
def test_unfused_graph_computes_the_simulation(case: Rewriting) -> None:
    """A float32 sum near the border between two steps may fall to the other side, so a few elements may be one
    step away; all others agree to rounding. Recurrent kernels multiply int8 in any session, so their weights are ones
    that cannot saturate."""
    inputs = case.case.feeds.arrays
    halved = probes.saturates() and any(scheme.dynamic for scheme in case.assignment.values())
    found = outputs_of(case.case.rewrite(case.assignment, halved=halved), inputs, optimize=False)
    expected = simulate(case.case, case.assignment, inputs, halved=halved)
    exact = outputs_of(case.case.model.proto, inputs)
    for name, value in expected.items():
        assert decibel(value, found[name]) > decibel(exact[name], found[name]) + 10, "closer to fp32 than to the plan"
        if case.case.id in LAYERS:
            wrong = np.abs(value - found[name]) > 1e-5 * np.abs(value).max()
            assert wrong.mean() < 0.005
        else:
            assert decibel(value, found[name]) > 45


@pytest.mark.parametrize("width", [32, 64])
def test_a_table_has_an_even_number_of_zero_points_in_a_row(width: int) -> None:
    case = Case("table", graph("y = Gather (w, x)", "int64[N, 5] x", "float y", f"float[8, {width}] w"))
    assert bool(case.everywhere("w4b32z")) == (width == 64)
    assert case.everywhere("w4b32")


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("layer", ["matmul", "gemm", "embedding"])
def test_blocks_of_every_size_compute_the_simulation(layer: str, name: str) -> None:
    """With the kernels of the runtime at hand, on rows of the block's width."""
    scheme = scheme_named(name)
    assert scheme.weight is not None and scheme.name == name
    width = 2 * scheme.weight.block_width(0)
    body, given, weights = {
        "matmul": ("y = MatMul (x, w)", f"float[N, 3, {width}] x", f"float[{width}, 24] w"),
        "gemm": ("y = Gemm <transB = 1> (x, w, b)", f"float[N, {width}] x", f"float[24, {width}] w, float[24] b"),
        "embedding": ("y = Gather (w, x)", "int64[N, 5] x", f"float[8, {width}] w"),
    }[layer]
    case = Case(name, graph(body, given, "float y", weights))
    if layer == "embedding" and name.endswith("level0"):
        assert not case.everywhere(name), "a table has no accuracy level"
        return
    assignment, inputs = case.everywhere(name), case.feeds.arrays
    proto = case.rewrite(assignment)
    [kernel] = [n for n in proto.graph.node if n.domain == "com.microsoft"]
    assert kernel.op_type == ("GatherBlockQuantized" if layer == "embedding" else "MatMulNBits")
    found, expected = outputs_of(proto, inputs)["y"], simulate(case, assignment, inputs)["y"]
    assert decibel(expected, found) > 60


@parametrized
def test_default_session_fuses(case: Rewriting, tmp_path: Path) -> None:
    assignment, model = case.assignment, case.case.model
    proto = case.case.rewrite(assignment)
    optimized_path = tmp_path / "optimized.onnx"
    open_session(proto, SessionSettings(optimized_path=str(optimized_path)))
    kernels = attribute(model, onnx.load(optimized_path)).operators
    for name, scheme in assignment.items():
        region = model.region(name)
        wanted = fusions(region, scheme)
        if wanted:
            assert set(wanted) & kernels[name], f"{name}: {sorted(kernels[name])}"
        elif region.layer:
            assert not kernels[name] & {"DequantizeLinear", "Cast"}, "the weight is folded when the session is created"


@parametrized
def test_exact_integers_can_be_asked_for(case: Rewriting) -> None:
    """`session.x64quantprecision` replaces weights and zero points one by one: no two layers may share theirs."""
    proto = case.case.rewrite(case.assignment)
    open_session(proto, SessionSettings(exact_integers=True))


@parametrized
def test_default_session_keeps_the_numbers(case: Rewriting) -> None:
    """Where the CPU's int8 kernels add two products in 16 bits, with weights whose sums fit; uint8 weights need not."""
    proto = case.case.rewrite(case.assignment, halved=probes.saturates() and not SCHEMES[case.scheme].unsigned_weights)
    inputs = case.case.feeds.arrays
    fused, plain = outputs_of(proto, inputs), outputs_of(proto, inputs, optimize=False)
    for output, value in plain.items():
        assert decibel(value, fused[output]) > 35


@pytest.mark.parametrize("case", [r for r in EVERY if "int8" in r.scheme or "a8" in r.scheme], ids=lambda case: case.id)
def test_half_of_the_codes_never_saturates(case: Rewriting) -> None:
    """The weights that the test above resorts to, on every CPU."""
    stored = [half_of_its_codes(w) for w in case.case.weights(case.assignment).values()]
    assert stored
    for weight in stored:
        unfolded = weight.codes.astype(int)
        if weight.multipliers is not None:
            unfolded = unfolded * np.repeat(weight.multipliers, weight.block, axis=1)[:, : unfolded.shape[1]]
        assert 2 * 255 * np.abs(unfolded).max() <= np.iinfo(np.int16).max


def four_bit(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [t for t in proto.graph.initializer if t.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)]


@pytest.mark.parametrize(
    "case", [r for r in EVERY if r.case.id in LAYERS and r.scheme.startswith("w4")], ids=lambda case: case.id
)
def test_int4_is_stored_packed(case: Rewriting) -> None:
    proto = case.case.rewrite(case.assignment)
    [region] = case.case.model.layers
    if scheme_named(case.scheme).accuracy_level is not None:  # two codes in each uint8
        [codes] = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.UINT8]
        assert int(np.prod(codes.dims)) == region.params.parameters // 2
    else:
        tensors = four_bit(proto)
        assert tensors
        for tensor in tensors:
            assert len(tensor.raw_data) == -(-int(np.prod(tensor.dims)) // 2)
        assert sum(int(np.prod(t.dims)) for t in tensors) >= region.params.parameters
    remaining = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert all(int(np.prod(t.dims)) < region.params.parameters for t in remaining), "the float32 weight is gone"


@pytest.mark.parametrize("bits", [5, 6])
def test_low_bits_fill_their_bytes(bits: int) -> None:
    case = LAYERS["pointwise"]
    proto = case.rewrite(case.everywhere(f"w{bits}"))
    [region] = case.model.layers
    codes = [t for t in proto.graph.initializer if t.name.endswith(("/codes", "/low"))]
    assert sum(len(t.raw_data) for t in codes) == region.params.parameters * bits // 8


def test_low_bits_that_would_not_fill_their_bytes_are_not_offered() -> None:
    case = Case("odd", graph("y = MatMul (x, w)", "float[N, 16] x", "float[N, 3] y", "float[16, 3] w"))
    [region] = case.model.layers
    assert [s for s in ("w4", "w5", "w6") if ORT.supports(region, SCHEMES[s], 21)] == ["w4"]


def describe(proto: onnx.ModelProto) -> str:
    """One line per node and initializer, stable over versions of onnx, unlike its own printers. Shared scales are
    numbered in order of use: their last digits, which are in their names, differ between machines."""

    def attribute_text(a: onnx.AttributeProto) -> str:
        return f"{a.name}={onnx.helper.get_attribute_value(a)}"

    def kind(element: int) -> str:
        return onnx.TensorProto.DataType.Name(element).lower()

    lines, marks = [f"opset {proto.opset_import[0].version}, ir {proto.ir_version}"], marked(proto)
    for node in proto.graph.node:
        attributes = ", ".join(sorted(map(attribute_text, node.attribute)))
        computed = f"{', '.join(node.output)} = {node.op_type}({', '.join(node.input)}) {attributes}"
        lines.append(f"{computed}  # {node.name} {marks.get(node.name, '')}")
    tensors = [f"{t.name}: {kind(t.data_type)}{list(t.dims)}" for t in proto.graph.initializer]
    numbers: dict[str, int] = {}
    renamed = [
        re.sub(r"mpq/float32/[-+.\de]+", lambda m: f"mpq/float32/#{numbers.setdefault(m[0], len(numbers))}", line)
        for line in (*lines, *tensors)
    ]
    head, tail = renamed[: len(lines)], sorted(renamed[len(lines) :])
    return "\n".join(line.rstrip() for line in (*head, *tail)) + "\n"


@parametrized
def test_golden_graph(case: Rewriting, request: pytest.FixtureRequest) -> None:
    """What the rewriter writes for a fixed graph. After a wanted change: pytest --update-golden, and read the diff."""
    proto = case.case.rewrite(case.assignment)
    text = describe(proto)
    path = GOLDEN / f"{case.id}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_tensors_that_only_a_concat_reads_have_its_scale() -> None:
    """Else the kernel looks every byte up in a table; and only then: other readers want the finer scale."""
    case = CASES["silu_concat"]
    proto = case.rewrite(case.everywhere("int8"))
    scales = {n.output[0]: n.input[1] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    concat = next(n for n in proto.graph.node if n.op_type == "Concat")
    readers = {t: sum(t in n.input for n in case.model.proto.graph.node) for t in scales}
    result = scales[next(o for o in scales if o == case.model.region(concat.name).outputs[0])]
    alone = [t for t in concat.input if readers.get(t) == 1]
    assert alone
    assert all(scales[t] == result for t in alone)


def test_golden_folder_has_no_strays() -> None:
    assert {p.stem for p in GOLDEN.glob("*.txt")} == {r.id for r in EVERY}


@pytest.mark.parametrize(("network", "scheme"), [("residual_cnn", "w4a8"), ("tokens", "w4b32")])
def test_rewriting_leaves_the_model_alone_and_is_deterministic(network: str, scheme: str) -> None:
    """Nor does it import the domain of a kernel for graphs that are written afterwards."""
    case = NETWORKS[network]
    before = case.model.proto.SerializeToString(deterministic=True)
    one, two = (case.rewrite(case.everywhere(scheme)).SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
    assert case.model.proto.SerializeToString(deterministic=True) == before


def test_nothing_chosen_is_the_prepared_model() -> None:
    case = NETWORKS["tokens"]
    assert describe(case.rewrite({})) == describe(case.model.proto)


@pytest.mark.parametrize("scheme", ["w8", "w4", "int8", "w4a8", "w4b32"])
def test_names_of_the_model_never_clash_with_new_ones(scheme: str) -> None:
    """The model already uses every name that the rewriter would choose."""
    proto = graph(
        """fc = MatMul (x, w)
           n1 = Add (fc, t0)  n2 = Add (n1, t1)  n3 = Add (n2, t2)  n4 = Add (n3, t3)  n5 = Add (n4, t4)
           n6 = Add (n5, t5)  n7 = Add (n6, t6)  n8 = Add (n7, t7)  n9 = Add (n8, t8)
           y = Relu (n9)""",
        "float[N, 64] x",
        "float[N, 8] y",
        "float[64, 8] w, " + ", ".join(f"float[1, 8] t{i}" for i in range(9)),
    )
    proto.graph.node[0].name = "fc"
    taken = [*(f"w0/{n}" for n in ("w", "codes", "scale", "shape", "shaped", "multipliers", "unfolded")), "x/q", "x/dq"]
    renamed = {f"t{i}": name for i, name in enumerate(taken)}
    for node in proto.graph.node:
        for slot, tensor in enumerate(node.input):
            node.input[slot] = renamed.get(tensor, tensor)
    for tensor in proto.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    case = Case("clash", proto)
    assignment = {"fc": SCHEMES[scheme]}
    rewritten = case.rewrite(assignment)
    onnx.checker.check_model(rewritten, full_check=True)
    found = outputs_of(rewritten, case.feeds.arrays, optimize=False)["y"]
    np.testing.assert_allclose(found, simulate(case, assignment, case.feeds.arrays)["y"], rtol=1e-3, atol=1e-3)


def test_old_opsets_offer_int4_only_in_kernels_that_take_bytes() -> None:
    case = LAYERS["matmul"]
    [region] = case.model.layers
    offered = {n for n, s in SCHEMES.items() if ORT.supports(region, s, 17)}
    assert offered == {"fp32", "w8", "int8", "u8u8", "w4b32", "w4b32-level0", "w4b128", "w8b128"}
    assert {n for n, s in SCHEMES.items() if ORT.supports(region, s, 12)} == {"fp32"}


def test_blocks_must_divide_the_rows() -> None:
    [region] = CASES["matmul"].model.layers
    [weight] = region.params.weights
    odd = replace(region, layer=replace(region.params, weights=(replace(weight, shape=(100, weight.shape[1])),)))
    assert not ORT.supports(odd, SCHEMES["w4b32"], 21)
    assert ORT.supports(odd, SCHEMES["w4"], 21)


def test_quantized_outputs_of_the_graph_keep_their_names() -> None:
    """An int8 convolution that makes an output: the output's name is the dequantized value."""
    case = LAYERS["conv"]
    assignment = case.everywhere("int8")
    [region] = case.model.layers
    assert writes(assignment[region.name], region.op_type) is Format.INT8
    proto = case.rewrite(assignment)
    maker = next(n for n in proto.graph.node if "y" in n.output)
    assert maker.op_type == "DequantizeLinear"
