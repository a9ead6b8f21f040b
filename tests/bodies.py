"""Graphs whose layers are in bodies of If, Loop and Scan, one inside another, with weights stored in every place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.model import subgraphs
from tests.graphs import Array, graph

WIDTH, ROWS, DEPTH = 16, 3, 2
PLACES = ("outer", "own", "constant", "shared")


def loop_with_lstm(width: int = 64, steps: int = 4) -> onnx.ModelProto:
    """A decoder: an LSTM and a projection, whose result is the next input."""
    state = f"float[1, 1, {width}]"
    body = f"""d = Identity (go)
        all, n, m = LSTM <hidden_size = {width}> (p, w, r, , , h, c)
        o = MatMul (n, v)  q = Add (o, p)  t = Squeeze (o, axes)"""
    return graph(
        f"""a, b, e, y = Loop (count, , x, zeros, zeros) <
                body = l (int64 i, bool go, {state} p, {state} h, {state} c) =>
                    (bool d, {state} q, {state} n, {state} m, float[{width}] t) {{ {body} }}>""",
        f"{state} x",
        f"{state} a, float[t, {width}] y",
        f"float[1, {4 * width}, {width}] w, float[1, {4 * width}, {width}] r, float[{width}, {width}] v, "
        f"{state} zeros, int64 count = {{{steps}}}, int64[2] axes = {{0, 1}}",
    )


def convolutions_by_branch(channels: int = 32, size: int = 8) -> onnx.ModelProto:
    """The mean of the input says which."""
    kind, attributes = f"float[1, {channels}, {size}, {size}]", "<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
    return graph(
        f"""t = ReduceMean <keepdims = 0> (x)  flag = Greater (t, zero)
            y = If (flag) <
                then_branch = a () => ({kind} u) {{ p = Conv {attributes} (x, w)  u = Relu (p) }},
                else_branch = b () => ({kind} v) {{ q = Conv {attributes} (x, k)  v = Tanh (q) }}>""",
        f"{kind} x",
        f"{kind} y",
        f"float[{channels}, {channels}, 3, 3] w, float[{channels}, {channels}, 3, 3] k, float zero = {{0}}",
    )


def scan_of_a_gated_cell(width: int = 64, read: int = 48, steps: int = 10) -> onnx.ModelProto:
    """The products of a GRU, one by one."""
    state, item = f"float[1, {width}]", f"float[1, {read}]"
    return graph(
        f"""z, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
                body = b ({state} h, {item} e) => ({state} n, {state} o) {{
                    f = MatMul (e, wz)  g = MatMul (h, uz)  i = Add (f, g)  gate = Sigmoid (i)
                    j = MatMul (e, wn)  k = MatMul (h, un)  l = Add (j, k)  new = Tanh (l)
                    d = Sub (h, new)  m = Mul (gate, d)  n = Add (new, m)  o = Identity (n) }}> (start, x)""",
        f"float[1, {steps}, {read}] x",
        f"{state} z, float[1, t, {width}] y",
        f"float[{read}, {width}] wz, float[{width}, {width}] uz, float[{read}, {width}] wn, "
        f"float[{width}, {width}] un, {state} start",
    )


def by_rate(width: int = 48) -> onnx.ModelProto:
    """Two models in one, as of voice activity: the sampling rate says which."""
    made = f"float[3, 1, 1, {width}]"
    return graph(
        f"""flag = Equal (rate, high)
            y = If (flag) <
                then_branch = a () => ({made} u) {{ u, h = LSTM <hidden_size = {width}> (x, w, r) }},
                else_branch = b () => ({made} v) {{ v, g = GRU <hidden_size = {width}> (x, k, q) }}>""",
        "float[3, 1, 64] x, int64 rate",
        "float[a, b, c, d] y",
        f"float[1, {4 * width}, 64] w, float[1, {4 * width}, {width}] r, float[1, {3 * width}, 64] k, "
        f"float[1, {3 * width}, {width}] q, int64 high = {{16000}}",
    )


def _info(name: str, rank: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH][2 - rank :])


def _scalar(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [])


@dataclass
class Builder:
    """shared: weight that several bodies may read. made: weights, wherever they are stored."""

    draw: st.DrawFn
    outer: list[TensorProto] = field(default_factory=list)
    shared: str = ""
    made: int = 0
    names: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    def new(self) -> str:
        return f"t{next(self.names)}"

    def tensor(self, name: str) -> TensorProto:
        self.made += 1
        values = np.random.default_rng(self.made).standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
        return numpy_helper.from_array(values.astype(np.float32), name)

    def weight(self, home: onnx.GraphProto, depth: int) -> str:
        """A weight somewhere, to be read in this body. Bodies beside each other may store one of the same name."""
        place = self.draw(st.sampled_from(PLACES))
        if place == "shared" and self.shared:
            return self.shared
        if place in ("outer", "shared"):
            self.outer.append(self.tensor(self.new()))
            self.shared = self.shared or self.outer[-1].name
            return self.outer[-1].name
        name = f"own{depth}_{len(home.initializer) + len(home.node)}"
        if place == "own":
            home.initializer.append(self.tensor(name))
        else:
            home.node.append(helper.make_node("Constant", [], [name], value=self.tensor(name)))
        return name

    def fill(self, home: onnx.GraphProto, value: str, rank: int, depth: int) -> str:
        """One to three steps from this value on; the last result."""
        for _ in range(self.draw(st.integers(1, 3))):
            kinds = ["layer", "If", "Loop", *(["Scan"] if rank == 2 else [])]
            kind = self.draw(st.sampled_from(kinds)) if 0 < depth < DEPTH else "layer"
            if kind == "layer":
                product, weight = self.new(), self.weight(home, depth)
                home.node.append(helper.make_node("MatMul", [value, weight], [product]))
                value = self.new()
                home.node.append(helper.make_node("Tanh", [product], [value]))
            else:
                value = getattr(self, kind)(home, value, rank, depth + 1)
        return value

    def If(self, home: onnx.GraphProto, value: str, rank: int, depth: int) -> str:
        made = {}
        for name in ("then_branch", "else_branch"):
            body = onnx.GraphProto(name=name)
            made[name] = body
            body.output.append(_info(self.fill(body, value, rank, depth), rank))
        home.node.append(helper.make_node("If", ["flag"], [result := self.new()], **made))
        return result

    def Loop(self, home: onnx.GraphProto, value: str, rank: int, depth: int) -> str:
        body, (number, go, state, on) = onnx.GraphProto(name="loop"), (self.new() for _ in range(4))
        body.input.extend([_scalar(number, TensorProto.INT64), _scalar(go, TensorProto.BOOL), _info(state, rank)])
        body.node.append(helper.make_node("Identity", [go], [on]))
        last = self.fill(body, state, rank, depth)
        body.output.extend([_scalar(on, TensorProto.BOOL), _info(last, rank)])
        home.node.append(helper.make_node("Loop", ["twice", "", value], [result := self.new()], body=body))
        return result

    def Scan(self, home: onnx.GraphProto, value: str, rank: int, depth: int) -> str:
        body, (state, item, total, copy) = onnx.GraphProto(name="scan"), (self.new() for _ in range(4))
        body.input.extend([_info(state, 1), _info(item, 1)])
        made = self.fill(body, item, 1, depth)
        body.node.append(helper.make_node("Add", [state, made], [total]))
        body.node.append(helper.make_node("Identity", [total], [copy]))
        body.output.extend([_info(total, 1), _info(copy, 1)])
        end, result = self.new(), self.new()
        home.node.append(helper.make_node("Scan", ["start", value], [end, result], num_scan_inputs=1, body=body))
        return result


@dataclass(frozen=True)
class Nested:
    """A graph from x [ROWS, WIDTH] and flag to y."""

    proto: onnx.ModelProto

    def inputs(self, flag: bool) -> dict[str, Array]:
        x = np.random.default_rng(5).standard_normal((ROWS, WIDTH)).astype(np.float32)
        return {"x": x, "flag": np.array(flag)}


@st.composite
def nested(draw: st.DrawFn) -> Nested:
    """If, Loop or Scan around layers, two bodies deep, and layers of the graph itself that may share their weights."""
    builder, home = Builder(draw), onnx.GraphProto(name="g")
    kind = draw(st.sampled_from(["If", "Loop", "Scan"]))
    value = getattr(builder, kind)(home, builder.fill(home, "x", 2, 0), 2, 1)
    home.node.append(helper.make_node("Relu", [builder.fill(home, value, 2, 0)], ["y"]))
    home.input.extend([_info("x", 2), _scalar("flag", TensorProto.BOOL)])
    home.output.append(_info("y", 2))
    home.initializer.extend(builder.outer)
    home.initializer.append(numpy_helper.from_array(np.array(2, np.int64), "twice"))
    home.initializer.append(numpy_helper.from_array(np.zeros(WIDTH, np.float32), "start"))
    read = {t for inner in subgraphs(home) for n in inner.node for t in n.input}
    kept = [t for t in home.initializer if t.name in read]
    del home.initializer[:]
    home.initializer.extend(kept)
    proto = helper.make_model(home, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(proto)
    return Nested(proto)
