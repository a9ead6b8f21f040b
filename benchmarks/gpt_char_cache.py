"""The zoo's gpt_char with a cache, from its weights: `python -m benchmarks.gpt_char_cache FILE.onnx`.

Every window is a whole sequence in the zoo's graph. Here tokens may follow others: positions are looked up, keys and
values come behind those of a cache, and the causal mask is cut to what is there. Checked against the zoo's graph.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.zoo import arrays, zoo
from onnxmpq.runtimes import open_session, run

LONGEST, HEADS, HEAD = 128, 4, 32
POSITIONS, MASK = "/Slice_output_0", "/Slice_2_output_0"  # tables of the zoo's graph: [128, 128] each


def with_cache(original: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs `input_ids`, `position_ids`, `past_key_values.N.key` and `.value`; outputs `logits` and `present.N.*`."""
    graph, nodes = original.graph, list(_mask())
    reshaped = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.dims[:1] in ([3], [4])}
    keys = values = 0
    for node in graph.node:
        node.input[:] = ["input_ids" if name == "tokens" else name for name in node.input]
        if node.op_type == "Add" and POSITIONS in node.input:
            nodes.append(helper.make_node("Gather", [POSITIONS, "position_ids"], ["positions"]))
            node.input[:] = ["positions" if name == POSITIONS else name for name in node.input]
        node.input[:] = ["mask" if name == MASK else name for name in node.input]
        last = node.output[0]
        if node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 2, 3, 1]:
            nodes.append(helper.make_node("Transpose", list(node.input), [f"{last}_new"], perm=[0, 2, 1, 3]))
            nodes.append(_joined(f"{keys}.key", f"{last}_new"))
            nodes.append(helper.make_node("Transpose", [f"present.{keys}.key"], [last], perm=[0, 1, 3, 2]))
            keys += 1
        elif node.op_type == "Transpose" and last.endswith("Transpose_1_output_0"):
            node.output[0] = f"{last}_new"
            nodes += [node, _joined(f"{values}.value", f"{last}_new")]
            nodes.append(helper.make_node("Identity", [f"present.{values}.value"], [last]))
            values += 1
        else:
            nodes.append(node)
    shapes = {
        n: np.array([0, *(-1 if s == LONGEST else s for s in v[1:2]), *v[2:]])
        for n, v in reshaped.items()
        if v[0] == -1
    }
    constants = [numpy_helper.from_array(shapes[t.name], t.name) if t.name in shapes else t for t in graph.initializer]
    constants += [numpy_helper.from_array(np.array(value), name) for name, value in _NUMBERS.items()]
    made = helper.make_graph(nodes, "gpt_char", *_ends(keys), constants)
    model = helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model, full_check=True)
    return model


_NUMBERS = {"n0": [0], "n1": [1], "n2": [2], "axis1": [1]}


def _mask() -> list[onnx.NodeProto]:
    """Rows of the causal mask for the new positions, columns for all tokens: [batch, 1, new, past + new]."""
    return [
        helper.make_node("Shape", ["past_key_values.0.key"], ["past_shape"]),
        helper.make_node("Gather", ["past_shape", "n2"], ["past"]),
        helper.make_node("Shape", ["input_ids"], ["ids_shape"]),
        helper.make_node("Gather", ["ids_shape", "n1"], ["new"]),
        helper.make_node("Add", ["past", "new"], ["total"]),
        helper.make_node("Gather", [MASK, "position_ids"], ["rows"]),
        helper.make_node("Slice", ["rows", "n0", "total", "n2"], ["cut"]),
        helper.make_node("Unsqueeze", ["cut", "axis1"], ["mask"]),
    ]


def _joined(name: str, new: str) -> onnx.NodeProto:
    return helper.make_node("Concat", [f"past_key_values.{name}", new], [f"present.{name}"], axis=2)


def _ends(layers: int) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    names = [f"{layer}.{key}" for layer in range(layers) for key in ("key", "value")]

    def cache(name: str, length: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", HEADS, length, HEAD])

    step = ["batch_size", "sequence_length"]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, step) for n in ("input_ids", "position_ids")]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*step, 65])
    return (
        [*inputs, *(cache(f"past_key_values.{n}", "past_sequence_length") for n in names)],
        [logits, *(cache(f"present.{n}", "total_sequence_length") for n in names)],
    )


def check(made: onnx.ModelProto, original: onnx.ModelProto, ids: np.ndarray) -> float:
    """Largest difference of logits on whole windows, where the second half follows the cache of the first."""
    [reference] = run(open_session(original), {"tokens": ids})
    session, half = open_session(made), LONGEST // 2
    names = [i.name for i in made.graph.input][2:]
    cache = [np.zeros((len(ids), HEADS, 0, HEAD), np.float32)] * len(names)
    found = []
    for start in (0, half):
        places = np.broadcast_to(np.arange(start, start + half), (len(ids), half))
        feeds = {"input_ids": ids[:, start : start + half], "position_ids": np.ascontiguousarray(places)}
        logits, *cache = run(session, {**feeds, **dict(zip(names, cache, strict=True))})
        found.append(logits)
    return float(np.abs(np.concatenate(found, axis=1) - reference).max())


def main(destination: Path) -> None:
    entry = zoo().load("gpt_char")
    original = onnx.load(entry.model)
    made = with_cache(onnx.load(entry.model))
    worst = check(made, original, arrays(entry, "test", 4)["tokens"])
    if worst > 1e-3:
        raise SystemExit(f"logits differ by {worst:.3g}")
    onnx.save(made, destination)
    print(f"wrote {destination}; logits differ by {worst:.2g} from the zoo's")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
