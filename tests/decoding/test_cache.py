"""The cache is found by names, and where they say nothing by the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxmpq.decoding import CachePair, find_decoder
from onnxmpq.decoding.cache import grows
from onnxmpq.feeds import InputSpec
from tests import decoders
from tests.graphs import graph

NAMES = [
    pytest.param("past_key_values.", "present.", id="optimum"),
    pytest.param("past_key_values.", "present_key_values.", id="torch"),
    pytest.param("past_", "present_", id="onnxruntime"),
]


@pytest.mark.parametrize(("past", "present"), NAMES)
def test_pairs_by_name(past: str, present: str) -> None:
    found = find_decoder(decoders.plain(past, present))
    assert found is not None
    assert found.pairs == tuple(CachePair(past + name, present + name) for name in decoders.CACHES)
    assert (found.ids, found.mask, found.positions) == ("input_ids", "attention_mask", ("position_ids",))
    assert found.others == ("logits",)


@pytest.mark.parametrize("made", [decoders.plain, decoders.contrib], ids=["plain", "contrib"])
def test_pairs_by_graph_where_names_say_nothing(made: object) -> None:
    proto = made("in_", "out_") if made is decoders.plain else renamed(decoders.contrib())
    found = find_decoder(proto)
    assert found is not None
    assert found.past == {f"in_{name}": f"out_{name}" for name in decoders.CACHES}


def renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs that hold the cache, called in_ and out_."""

    def name(old: str) -> str:
        return old.replace("past_key_values.", "in_").replace("present.", "out_")

    for info in (*proto.graph.input, *proto.graph.output):
        info.name = name(info.name)
    for node in proto.graph.node:
        node.input[:] = map(name, node.input)
        node.output[:] = map(name, node.output)
    return proto


def test_a_cache_that_is_written_in_place_is_found_by_graph() -> None:
    proto = graph(
        "x = Gather(table, ids)  made = ScatterND(store, at, x)  y = MatMul(made, w)",
        "int64[1,2] ids, int64[1,2,1] at, float[8,4] store",
        "float[8,3] y, float[8,4] made",
        "float[9,4] table, float[4,3] w",
    )
    found = find_decoder(proto)
    assert found is not None and found.past == {"store": "made"}


def test_states_of_recurrent_layers_and_classifiers_are_no_decoders() -> None:
    recurrent = graph(
        "y = Add(x, state)  next = Tanh(y)", "float[1,4] x, float[1,4] state", "float[1,4] y, float[1,4] next"
    )
    classifier = graph("y = Gather(table, ids)", "int64[N,3] ids", "float[N,3,4] y", "float[9,4] table")
    assert find_decoder(recurrent) is None
    assert find_decoder(classifier) is None


def test_other_ids_are_told_from_masks_positions_and_types() -> None:
    proto = decoders.plain()
    for info in proto.graph.input:
        if info.name == "input_ids":
            info.name = "tokens"
    for node in proto.graph.node:
        node.input[:] = ["tokens" if name == "input_ids" else name for name in node.input]
    extra = helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["batch_size", 1])
    proto.graph.input.append(extra)
    found = find_decoder(proto)
    assert found is not None and found.ids == "tokens"


def test_the_axis_of_tokens() -> None:
    def axis(*shape: int | str | None) -> int | None:
        return grows(InputSpec("past", np.dtype(np.float32), shape))

    assert axis("batch_size", 2, "past_sequence_length", 16) == 2
    assert axis("batch_size", 2, 16, "past_sequence_length") == 3
    assert axis("batch_size", 2, 7, 16) is None, "a state of one size"
    assert axis("batch_size", "heads", "past", 16) == 2
    with pytest.raises(ValueError, match="past"):
        axis("batch_size", "a", "b", 16)
