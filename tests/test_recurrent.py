"""LSTM, GRU and RNN end to end: stored in few bits, computed in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxmpq
from onnxmpq.dialects import DIALECTS
from onnxmpq.files import serialize
from onnxmpq.lint import lint
from onnxmpq.menu import candidates
from onnxmpq.model import prepare
from onnxmpq.schemes import SCHEMES
from onnxmpq.target import load_target
from tests.conftest import QUICK
from tests.graphs import Array, graph, outputs_of
from tests.tables import int8_pays

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STORED = ("w8", "w6", "w5", "w4")
DYNAMIC = "int8-dynamic"
SAMPLES = 24


@dataclass(frozen=True)
class Network:
    """A recurrent layer and a product behind it.

    states: the first states are inputs of the model. lengths: sequences end early. read: which of the layer's results
    are outputs, "y" (all steps) and "h" (the last).
    """

    op: str
    direction: str = "forward"
    inputs: int = 40
    hidden: int = 64
    batch: int = 1
    states: bool = False
    lengths: bool = False
    read: str = "yh"

    STEPS = 6

    @property
    def directions(self) -> int:
        return 1 + (self.direction == "bidirectional")

    @property
    def state_names(self) -> list[str]:
        return [["h0", "c0"], ["h0"]][self.op != "LSTM"] if self.states else []

    @property
    def proto(self) -> onnx.ModelProto:
        d, h, n = self.directions, self.hidden, self.batch
        rows = GATES[self.op] * h
        given = {"x": f"float[{self.STEPS}, {n}, {self.inputs}]"}
        given |= {"lens": f"int32[{n}]"} if self.lengths else {}
        given |= dict.fromkeys(self.state_names, f"float[{d}, {n}, {h}]")
        slots = ["x", "w", "r", "b", "lens" if self.lengths else '""', *self.state_names]
        made = {"y": f"float[{self.STEPS}, {d}, {n}, {h}] y", "h": f"float[{d}, {n}, 16] z"}
        body = f'y, h = {self.op} <hidden_size = {h}, direction = "{self.direction}"> ({", ".join(slots)})'
        weights = f"float[{d}, {rows}, {self.inputs}] w, float[{d}, {rows}, {h}] r, float[{d}, {2 * rows}] b"
        if "h" in self.read:
            body, weights = f"{body}  z = MatMul (h, v)", f"{weights}, float[{h}, 16] v"
        outputs = ", ".join(made[name] for name in self.read)
        proto = graph(body, ", ".join(f"{type_} {name}" for name, type_ in given.items()), outputs, weights)
        for tensor in proto.graph.initializer:
            if tensor.name in "wr":  # of the spread that products keep
                values = onnx.numpy_helper.to_array(tensor) * np.float32(np.sqrt(rows))
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return proto

    def samples(self) -> dict[str, Array]:
        """A feed per sample."""
        generator, d, n = np.random.default_rng(1), self.directions, self.batch
        found: dict[str, Array] = {"x": generator.standard_normal((SAMPLES, self.STEPS, n, self.inputs))}
        if self.lengths:
            found["lens"] = generator.integers(1, self.STEPS + 1, (SAMPLES, n)).astype(np.int32)
        found |= {name: generator.uniform(-0.5, 0.5, (SAMPLES, d, n, self.hidden)) for name in self.state_names}
        return {name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in found.items()}


networks = st.builds(
    Network,
    st.sampled_from(sorted(GATES)),
    st.sampled_from(["forward", "reverse", "bidirectional"]),
    st.integers(16, 48),
    st.integers(24, 48).map(lambda n: 2 * n),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["y", "h", "yh"]),
)


def converted(network: Network, folder: Path, **options: object) -> onnxmpq.Result:
    """By a table in which int8 kernels that quantize what they read take half of the time of others."""
    proto = network.proto
    table = int8_pays(proto, folder, kernel=DYNAMIC)
    chosen = {"size": "smallest", "cost_table": table, "effort": QUICK, "guard": False, **options}
    return onnxmpq.convert(proto, calibration=network.samples(), **chosen)  # type: ignore[arg-type]


def decibels(network: Network, result: onnx.ModelProto) -> float:
    """SQNR of the worst output over all samples."""
    rows = network.samples()
    worst = np.inf
    for name in [o.name for o in network.proto.graph.output]:
        signal = noise = 0.0
        for number in range(SAMPLES):
            feed = {n: v[number] for n, v in rows.items()}
            exact, found = (outputs_of(p, feed)[name].astype(np.float64) for p in (network.proto, result))
            signal, noise = signal + np.square(exact).sum(), noise + np.square(exact - found).sum()
        worst = min(worst, 10 * np.log10(signal / max(noise, 1e-30)))
    return float(worst)


def ends(proto: onnx.ModelProto) -> list[tuple[str, onnx.TypeProto]]:
    return [(v.name, v.type) for v in (*proto.graph.input, *proto.graph.output)]


@settings(max_examples=8, deadline=None)
@given(networks)
def test_the_smallest_file_is_small_and_close(network: Network) -> None:
    with TemporaryDirectory() as folder:
        result = converted(network, Path(folder))
    onnx.checker.check_model(result.model, full_check=True)
    assert len(serialize(result.model)) <= 0.45 * len(serialize(network.proto))
    assert ends(result.model) == ends(network.proto)
    assert decibels(network, result.model) > 12


@pytest.mark.parametrize("scheme", STORED)
@pytest.mark.parametrize("op", sorted(GATES))
def test_each_width_is_as_close_as_its_bits(op: str, scheme: str, tmp_path: Path) -> None:
    network = Network(op, "bidirectional", states=True, lengths=True, batch=2)
    result = converted(network, tmp_path, schemes=[scheme], output=tmp_path / "out.onnx")
    assert [(r.op_type, r.scheme) for r in result.plan.layers] == [(op, scheme), ("MatMul", scheme)]
    weight = SCHEMES[scheme].weight
    assert weight is not None and decibels(network, result.model) > 6 * weight.bits - 11
    assert serialize(onnxmpq.apply(network.proto, tmp_path / "out.plan.json")) == serialize(result.model)


def test_the_weight_of_the_input_is_rounded_for_it(tmp_path: Path) -> None:
    """By second moments of x; states are inside the kernel, and their weight is rounded to nearest."""
    network = Network("GRU", read="y")
    both = [converted(network, tmp_path, schemes=["w4"], without=names) for names in ((), ("gptq",))]
    rounded, nearest = ({t.name: t.raw_data for t in r.model.graph.initializer} for r in both)
    changed = {name for name, data in rounded.items() if data != nearest[name]}
    assert "w0/codes" in changed and not any(name.startswith("w1/") for name in changed)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_the_fastest_lstm_computes_in_int8(direction: str, tmp_path: Path) -> None:
    network = Network("LSTM", direction, states=True, lengths=True, batch=2)
    fastest = {"size": None, "latency": "fastest", "output": tmp_path / "out.onnx"}
    result = converted(network, tmp_path, **fastest)
    assert [r.scheme for r in result.plan.layers if r.op_type == "LSTM"] == [DYNAMIC]
    assert "DynamicQuantizeLSTM" in [n.op_type for n in result.model.graph.node]
    assert ends(result.model) == ends(network.proto)
    assert decibels(network, result.model) > 25
    assert serialize(onnxmpq.apply(network.proto, tmp_path / "out.plan.json")) == serialize(result.model)
    assert not [f for f in lint(result.model, "onnxruntime") if f.rule == "overflow"], "exact on every CPU by default"


def menu_of(proto: onnx.ModelProto) -> list[str]:
    model = prepare(proto)
    menu = candidates(model, load_target("cpu"), DIALECTS["onnxruntime"])
    return [s.name for s in menu[next(r.name for r in model.layers if r.op_type in GATES)]]


def test_int8_kernels_are_offered_to_lstm_where_speed_counts(tmp_path: Path) -> None:
    assert {op: DYNAMIC in menu_of(Network(op).proto) for op in GATES} == {"LSTM": True, "GRU": False, "RNN": False}
    result = converted(Network("LSTM"), tmp_path, size="40%")
    assert DYNAMIC not in [r.scheme for r in result.plan.layers], "for size alone weights are stored, and unfolded"


def test_an_lstm_with_one_constant_weight_stores_that() -> None:
    proto = graph(
        "y = LSTM <hidden_size = 64> (x, w, r)",
        "float[T, N, 64] x, float[1, 256, 64] r",
        "float[T, 1, N, 64] y",
        "float[1, 256, 64] w",
    )
    assert menu_of(proto) == ["fp32", *STORED]
