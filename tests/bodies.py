"""Graphs whose layers are in bodies of If, Loop and Scan, one inside another, with weights stored in every place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import Array

WIDTH, ROWS, DEPTH = 16, 3, 2
PLACES = ("outer", "own", "constant", "shared")


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

    def weight(self, graph: onnx.GraphProto, depth: int) -> str:
        """A weight somewhere, to be read in this body. Bodies beside each other may store one of the same name."""
        place = self.draw(st.sampled_from(PLACES))
        if place == "shared" and self.shared:
            return self.shared
        if place in ("outer", "shared"):
            self.outer.append(self.tensor(self.new()))
            self.shared = self.shared or self.outer[-1].name
            return self.outer[-1].name
        name = f"own{depth}_{len(graph.initializer) + len(graph.node)}"
        if place == "own":
            graph.initializer.append(self.tensor(name))
        else:
            graph.node.append(helper.make_node("Constant", [], [name], value=self.tensor(name)))
        return name

    def fill(self, graph: onnx.GraphProto, value: str, rank: int, depth: int) -> str:
        """One to three steps from this value on; the last result."""
        for _ in range(self.draw(st.integers(1, 3))):
            kinds = ["layer", "If", "Loop", *(["Scan"] if rank == 2 else [])]
            kind = self.draw(st.sampled_from(kinds)) if 0 < depth < DEPTH else "layer"
            if kind == "layer":
                product, weight = self.new(), self.weight(graph, depth)
                graph.node.append(helper.make_node("MatMul", [value, weight], [product]))
                value = self.new()
                graph.node.append(helper.make_node("Tanh", [product], [value]))
            else:
                value = getattr(self, kind)(graph, value, rank, depth + 1)
        return value

    def If(self, graph: onnx.GraphProto, value: str, rank: int, depth: int) -> str:
        made = {}
        for name in ("then_branch", "else_branch"):
            body = onnx.GraphProto(name=name)
            made[name] = body
            body.output.append(_info(self.fill(body, value, rank, depth), rank))
        graph.node.append(helper.make_node("If", ["flag"], [result := self.new()], **made))
        return result

    def Loop(self, graph: onnx.GraphProto, value: str, rank: int, depth: int) -> str:
        body, (number, go, state, on) = onnx.GraphProto(name="loop"), (self.new() for _ in range(4))
        body.input.extend([_scalar(number, TensorProto.INT64), _scalar(go, TensorProto.BOOL), _info(state, rank)])
        body.node.append(helper.make_node("Identity", [go], [on]))
        last = self.fill(body, state, rank, depth)
        body.output.extend([_scalar(on, TensorProto.BOOL), _info(last, rank)])
        graph.node.append(helper.make_node("Loop", ["twice", "", value], [result := self.new()], body=body))
        return result

    def Scan(self, graph: onnx.GraphProto, value: str, rank: int, depth: int) -> str:
        body, (state, item, total, copy) = onnx.GraphProto(name="scan"), (self.new() for _ in range(4))
        body.input.extend([_info(state, 1), _info(item, 1)])
        made = self.fill(body, item, 1, depth)
        body.node.append(helper.make_node("Add", [state, made], [total]))
        body.node.append(helper.make_node("Identity", [total], [copy]))
        body.output.extend([_info(total, 1), _info(copy, 1)])
        end, result = self.new(), self.new()
        graph.node.append(helper.make_node("Scan", ["start", value], [end, result], num_scan_inputs=1, body=body))
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
    builder, graph = Builder(draw), onnx.GraphProto(name="g")
    kind = draw(st.sampled_from(["If", "Loop", "Scan"]))
    value = getattr(builder, kind)(graph, builder.fill(graph, "x", 2, 0), 2, 1)
    graph.node.append(helper.make_node("Relu", [builder.fill(graph, value, 2, 0)], ["y"]))
    graph.input.extend([_info("x", 2), _scalar("flag", TensorProto.BOOL)])
    graph.output.append(_info("y", 2))
    graph.initializer.extend(builder.outer)
    graph.initializer.append(numpy_helper.from_array(np.array(2, np.int64), "twice"))
    graph.initializer.append(numpy_helper.from_array(np.zeros(WIDTH, np.float32), "start"))
    read = {t for inner in _subgraphs(graph) for n in inner.node for t in n.input}
    kept = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(proto)
    return Nested(proto)


def _subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _subgraphs(attribute.g)
