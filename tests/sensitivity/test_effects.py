"""Effects measured on suffixes of the graph are those of running the whole changed model."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest

from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import MEMORY, MemoryBudget
from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model, Spelling, Step, prepare
from onnxmpq.ranges import QuantParams, params_for
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import Effects, Perturbations, effects_bytes, fit_frame, measure_effects
from onnxmpq.sensitivity.effects import Rounded
from onnxmpq.sensitivity.trial import Trial
from tests.graphs import feeds_for, graph, outputs_of, prepared, residual_cnn, token_model

ORT, DYNAMIC = DIALECTS["onnxruntime"], SCHEMES["int8-dynamic"]


def two_outputs() -> onnx.ModelProto:
    """The second output is reached by the second layer alone; a tensor is an output and is read further."""
    return graph(
        """a = MatMul (x, w0)
           b = Relu (a)
           y = MatMul (b, w1)
           c = Add (y, b)
           z = Tanh (c)""",
        "float[N, 12] x",
        "float[N, 12] y, float[N, 12] z, float[N, 12] b",
        "float[12, 12] w0, float[12, 12] w1",
    )


def fixed_batch() -> onnx.ModelProto:
    return graph(
        "c = Conv <kernel_shape = [3, 3]> (x, w)  y = Relu (c)",
        "float[1, 4, 6, 6] x",
        "float[1, 8, 4, 4] y",
        "float[8, 4, 3, 3] w",
    )


def shared_weight() -> onnx.ModelProto:
    return graph(
        "a = MatMul (x, w)  b = Tanh (a)  y = MatMul (b, w)", "float[N, 12] x", "float[N, 12] y", "float[12, 12] w"
    )


@dataclass(frozen=True)
class Case:
    """A graph to perturb everywhere."""

    id: str
    proto: onnx.ModelProto = field(repr=False)
    count: int = 5

    @property
    def feeds(self) -> Feeds:
        return feeds_for(self.proto, self.count)


def branches() -> onnx.ModelProto:
    """Two heads that do not reach each other; a layer's nodes stand apart in the node order."""
    return graph(
        """a = MatMul (x, w0)
           b = MatMul (a, w1)
           c = MatMul (a, w2)
           d = Relu (b)
           e = Relu (c)
           y = MatMul (d, w3)
           f = MatMul (e, w4)
           z = Add (f, a)""",
        "float[N, 12] x",
        "float[N, 12] y, float[N, 12] z",
        "float[12, 12] w0, float[12, 12] w1, float[12, 12] w2, float[12, 12] w3, float[12, 12] w4",
    )


def recurrent() -> onnx.ModelProto:
    """All results of a layer with two weights are read or handed out, the batch in the second axis of one of them."""
    return graph(
        """a = MatMul (x, w)
           t = Transpose <perm = [1, 0, 2]> (a)
           s, h, c = LSTM <hidden_size = 8, direction = "bidirectional"> (t, v, r, b)
           u = Transpose <perm = [2, 0, 1, 3]> (s)
           y = Tanh (u)
           z = MatMul (c, o)""",
        "float[N, 5, 6] x",
        "float[N, 5, 2, 8] y, float[2, N, 8] h, float[2, N, 4] z",
        "float[6, 12] w, float[2, 32, 12] v, float[2, 32, 8] r, float[2, 64] b, float[8, 4] o",
    )


def bodies() -> onnx.ModelProto:
    """Weights that branches read, one of them both; and two in a Loop, of which the graph reads one too."""
    return graph(
        """a = MatMul (x, w0)  m = ReduceMean <keepdims = 0> (a)  flag = Greater (m, least)
           b = If (flag) <
               then_branch = t () => (float[1, 4, 12] u) { c = MatMul (a, w1)  u = Tanh (c) },
               else_branch = e () => (float[1, 4, 12] v) { d = MatMul (a, w1)  v = MatMul (d, w2) }>
           y = Loop (three, , b) <body = l (int64 i, bool go, float[1, 4, 12] s) => (bool on, float[1, 4, 12] r) {
               on = Identity (go)  n = MatMul (s, w3)  o = Add (n, s)  q = MatMul (o, w0)  r = Tanh (q) }>""",
        "float[1, 4, 12] x",
        "float[1, 4, 12] y",
        "float[12, 12] w0, float[12, 12] w1, float[12, 12] w2, float[12, 12] w3, float least = {0}, int64 three = {3}",
    )


CASES = [
    Case("residual network", residual_cnn()),
    Case("tokens, several inputs and outputs", token_model()),
    Case("several outputs", two_outputs()),
    Case("fixed batch of one", fixed_batch()),
    Case("one sample", residual_cnn(), 1),
    Case("shared weight", shared_weight()),
    Case("two branches", branches()),
    Case("layer of two weights and three outputs", recurrent()),
    Case("weights of bodies", bodies()),
]


def perturbations(model: Model, feeds: Feeds) -> Perturbations:
    formats = [s.weight for s in (SCHEMES["int8"], SCHEMES["w4a8"]) if s.weight]
    weights = {
        (r.name, f.name): tuple(quantize_weight(model.matrix(place), f) for place in r.params.weights)
        for r in model.layers
        for f in formats
    }
    roots = model.roots
    tensors = dict.fromkeys(t for r in model.regions for t in (*r.inputs, *r.outputs) if t not in roots)
    inputs = {(r.name, 4): params_for(-1.0, 1.5, 4) for r in model.layers if r.inputs}
    kernels = {
        (r.name, DYNAMIC.name): ORT.spelled(
            r, DYNAMIC, [quantize_weight(model.matrix(w), DYNAMIC.weight) for w in places]
        )
        for r in model.layers
        if (places := r.params.weights) and DYNAMIC.weight is not None and ORT.supports(r, DYNAMIC, model.opset)
    }
    return Perturbations(weights, {t: [params_for(-1.5, 2.0)] for t in tensors}, inputs, kernels)


def with_kernel(model: Model, region_name: str, spelling: Spelling) -> onnx.ModelProto:
    """The model with another operator for the head of a region."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.opset_import.add(domain=spelling.domain, version=1)
    node = next(n for n in proto.graph.node if n.name == region_name)
    node.op_type, node.domain = spelling.op_type, spelling.domain
    for slot in range(max(spelling.constants) + 1):
        if slot == len(node.input):
            node.input.append("")
        if slot in spelling.constants:
            node.input[slot] = f"{region_name}/slot{slot}"
            tensor = onnx.numpy_helper.from_array(spelling.constants[slot], node.input[slot])
            proto.graph.initializer.append(tensor)
    return proto


def with_weight(model: Model, region_name: str, weights: Sequence[Rounded]) -> onnx.ModelProto:
    """The model with the weights of one region replaced, for this region only."""
    region = model.region(region_name)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    node = next(n for n in proto.graph.node if n.name == region.nodes[0])
    for place, weight in zip(region.params.weights, weights, strict=True):
        stored, name = np.ascontiguousarray(place.stored(weight.dequantize())), f"{region_name}/replaced{place.slot}"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(stored, name))
        node.input[place.slot] = name
    return proto


def with_rounded(model: Model, tensor: str, params: QuantParams) -> onnx.ModelProto:
    """The model with a Q/DQ pair behind one tensor, for all who read it and for the output it may be."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    scale, zero = np.float32(params.scale), np.uint8(params.zero_point)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(scale), "step"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(zero), "zero"))
    made = any(tensor in n.output for n in proto.graph.node)
    raw, rounded = (f"{tensor}/raw", tensor) if made else (tensor, f"{tensor}/rounded")
    position = 0
    for index, node in enumerate(proto.graph.node):
        for slot, name in enumerate(node.output):
            if name == tensor:
                node.output[slot], position = raw, index + 1
        for slot, name in enumerate(node.input):
            if name == tensor:
                node.input[slot] = rounded
    nodes = list(proto.graph.node)
    pair = [
        onnx.helper.make_node("QuantizeLinear", [raw, "step", "zero"], ["codes"]),
        onnx.helper.make_node("DequantizeLinear", ["codes", "step", "zero"], [rounded]),
    ]
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes[:position], *pair, *nodes[position:]])
    return proto


def with_narrow_input(model: Model, region_name: str, params: QuantParams) -> onnx.ModelProto:
    """The model with Clip, Q and DQ in front of one layer, which others that read the same tensor do not see."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    position, node = next((i, n) for i, n in enumerate(proto.graph.node) if n.name == region_name)
    constants = {"low": params.low, "high": params.high, "step": params.scale}
    for name, value in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(params.zero_point, np.uint8), "zero"))
    nodes = [
        onnx.helper.make_node("Clip", [node.input[0], "low", "high"], ["clipped"]),
        onnx.helper.make_node("QuantizeLinear", ["clipped", "step", "zero"], ["codes"]),
        onnx.helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["narrow"]),
    ]
    node.input[0] = "narrow"
    for offset, extra in enumerate(nodes):
        proto.graph.node.insert(position + offset, extra)
    return proto


def codes(effects: Effects, proto: onnx.ModelProto, feeds: Feeds) -> np.ndarray:
    """The coded outputs of a model on every sample, run one at a time without the runtime's optimisations."""
    rows = [outputs_of(proto, feeds.batch([i]), optimize=False) for i in range(len(feeds))]
    return np.concatenate([effects.divergence.encode(list(row.values()), 1) for row in rows])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_effects_are_those_of_a_full_run(case: Case) -> None:
    model, feeds = prepared(case.proto), case.feeds
    tries = perturbations(model, feeds)
    ticks: list[int] = []
    effects = measure_effects(model, feeds, tries, tick=ticks.append)
    assert effects.weights.keys() == tries.weights.keys()
    assert effects.activations.keys() == tries.activations.keys()
    assert sum(ticks) == tries.count
    reference = codes(effects, model.proto, feeds)
    np.testing.assert_allclose(effects.reference, reference, atol=1e-4)
    for key, change in effects.weights.items():
        expected = codes(effects, with_weight(model, key[0], tries.weights[key]), feeds) - reference
        np.testing.assert_allclose(change, expected, atol=2e-4, err_msg=str(key))
    assert effects.inputs.keys() == tries.inputs.keys() and tries.inputs
    for reader, change in effects.inputs.items():
        expected = codes(effects, with_narrow_input(model, reader[0], tries.inputs[reader]), feeds) - reference
        assert np.isclose(change, expected, atol=2e-4).mean() > 0.97, reader
        assert np.abs(change - expected).max() < 0.2, reader
    assert effects.kernels.keys() == tries.kernels.keys()
    for kernel, change in effects.kernels.items():
        expected = codes(effects, with_kernel(model, kernel[0], tries.kernels[kernel]), feeds) - reference
        np.testing.assert_allclose(change, expected, atol=2e-4, err_msg=str(kernel))
        assert effects.own(kernel[0], DYNAMIC) == [change]
    for tensor, change in effects.activations.items():
        params = effects.params[tensor]
        expected = codes(effects, with_rounded(model, tensor, params), feeds) - reference
        close = np.isclose(change, expected, atol=2e-4)
        assert close.mean() > 0.97, tensor  # a value on the border between two steps may fall to either side
        assert np.abs(change - expected).max() < 0.2, tensor


def test_batches_change_nothing() -> None:
    proto = residual_cnn()
    model, feeds = prepared(proto), feeds_for(proto, 7)
    tries = perturbations(model, feeds)
    one, many = (measure_effects(model, feeds, tries, batch=size) for size in (1, 4))
    for key in tries.weights:
        np.testing.assert_allclose(one.weights[key], many.weights[key], atol=1e-4)


@pytest.mark.parametrize("proto", [residual_cnn(), token_model(), branches()], ids=["cnn", "tokens", "branches"])
@pytest.mark.parametrize("kept_bytes", [0, 2**28], ids=["nothing kept", "all kept"])
def test_groups_change_nothing(proto: onnx.ModelProto, kept_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = prepared(proto), feeds_for(proto, 5)
    tries = perturbations(model, feeds)
    whole = measure_effects(model, feeds, tries)
    for group in (1, 2, 3):
        monkeypatch.setattr("onnxmpq.sensitivity.measure.GROUP", group)
        ticks: list[int] = []
        found = measure_effects(model, feeds, tries, memory=MemoryBudget(kept=kept_bytes), tick=ticks.append)
        assert sum(ticks) == tries.count
        for key, change in whole.weights.items():
            np.testing.assert_allclose(found.weights[key], change, atol=1e-4)
        for reader, change in whole.inputs.items():
            assert np.isclose(found.inputs[reader], change, atol=2e-4).mean() > 0.97
        for tensor, change in whole.activations.items():
            assert np.isclose(found.activations[tensor], change, atol=2e-4).mean() > 0.97


def test_sessions_of_a_group_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.sensitivity.measure.GROUP", 2)
    model, feeds = prepared(residual_cnn()), feeds_for(residual_cnn(), 2)
    alive: list[int] = []

    def keep(_part: Effects) -> None:
        alive.append(sum(isinstance(thing, Trial) for thing in gc.get_objects()))

    measure_effects(model, feeds, perturbations(model, feeds), keep=keep)
    assert len(alive) > 1 and not any(alive)


def test_codes_take_the_memory_that_is_expected_of_them() -> None:
    proto = two_outputs()
    model, feeds = prepared(proto), feeds_for(proto, 5)
    formats = [s.weight for s in (SCHEMES["int8"], SCHEMES["w4"]) if s.weight]
    weights = {(r.name, f.name): (quantize_weight(model.weight(r), f),) for r in model.layers for f in formats}
    tries = Perturbations(weights, {"b": [params_for(-1.0, 1.0), params_for(-2.0, 2.0)]})
    effects = measure_effects(model, feeds, tries, frame=fit_frame(model, feeds, tries.count, threads=1, kinds={}))
    taken = sum(code.nbytes for code in (effects.reference, *effects.by_try.values()))
    assert taken == effects_bytes(5, len(effects.by_try), [12, 12, 12])
    assert effects_bytes(50, 100, [10**6]) < 2 * MEMORY.effects  # sketched


def test_the_better_of_two_ranges_is_kept() -> None:
    proto = residual_cnn()
    model, feeds = prepared(proto), feeds_for(proto)
    bad, good = params_for(-100.0, 100.0), params_for(0.0, 3.0)
    effects = measure_effects(model, feeds, Perturbations({}, {"a": [bad, good]}))
    assert effects.params["a"] == good
    alone = measure_effects(model, feeds, Perturbations({}, {"a": [good]}))
    assert effects.of_activation("a") == pytest.approx(alone.of_activation("a"), rel=1e-3)


def test_effects_add_up_in_a_linear_model() -> None:
    """In parallel branches of a linear model the change of two weights is the sum of the single changes."""
    proto = graph(
        "a = MatMul (x, w0)  b = MatMul (x, w1)  y = Add (a, b)",
        "float[N, 16] x",
        "float[N, 6] y",
        "float[16, 6] w0, float[16, 6] w1",
    )
    model, feeds = prepared(proto), feeds_for(proto, 6)
    tries = perturbations(model, feeds)
    effects = measure_effects(model, feeds, Perturbations(tries.weights, {}))
    one, two = (key for key in tries.weights if key[1].startswith("int4"))
    both = with_weight(prepared(with_weight(model, one[0], tries.weights[one])), two[0], tries.weights[two])
    expected = codes(effects, both, feeds) - effects.reference
    np.testing.assert_allclose(effects.weights[one] + effects.weights[two], expected, atol=1e-4)


def test_an_exact_weight_has_no_effect() -> None:
    """Weights that lie on the grid."""
    proto = graph("y = MatMul (x, w)", "float[N, 8] x", "float[N, 4] y", "float[8, 4] w")
    values = np.tile(np.array([-127, 64, 127, 1], np.float32), (8, 1)) / 127
    values[0] = 1.0
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    model, feeds = prepared(proto), feeds_for(proto)
    effects = measure_effects(model, feeds, Perturbations(perturbations(model, feeds).weights, {}))
    key = next(k for k in effects.weights if k[1] == "int8_channel")
    assert effects.of_weight(key) < 1e-10


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_effect_is_the_same_number_whatever_is_tried_beside_it(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.sensitivity.measure.GROUP", 3)
    model, feeds = prepared(case.proto), case.feeds
    tries = perturbations(model, feeds)
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={})
    whole = measure_effects(model, feeds, tries, frame=frame)
    weight, tensor, reader = list(tries.weights)[-1], list(tries.activations)[-1], list(tries.inputs)[-1]
    few = Perturbations(
        {weight: tries.weights[weight]}, {tensor: tries.activations[tensor]}, {reader: tries.inputs[reader]}
    )
    found = measure_effects(model, feeds, few, frame=frame, threads=3)
    np.testing.assert_array_equal(found.weights[weight], whole.weights[weight])
    np.testing.assert_array_equal(found.activations[tensor], whole.activations[tensor])
    np.testing.assert_array_equal(found.inputs[reader], whole.inputs[reader])


def test_ranges_drop_out_at_the_same_samples_on_any_number_of_threads() -> None:
    model, feeds = prepared(residual_cnn()), feeds_for(residual_cnn(), 24)
    rows = [params_for(-100.0, 100.0), params_for(0.0, 3.0), params_for(0.0, 2.0), params_for(0.0, 1.0)]
    one, many = (measure_effects(model, feeds, Perturbations({}, {"a": rows}), batch=2, threads=n) for n in (1, 5))
    assert one.params == many.params
    np.testing.assert_array_equal(one.activations["a"], many.activations["a"])


def test_weights_that_no_sample_reaches_are_told_from_those_that_do_little() -> None:
    """Behind a branch that is never taken, all formats leave the outputs as they are, but for last bits."""
    proto = graph(
        """flag = Equal (rate, high)
           y = If (flag) <
               then_branch = t () => (float[N, 4] u) { a = MatMul (x, w1)  u = Mul (a, small) },
               else_branch = e () => (float[N, 4] v) { v = MatMul (x, w2) }>""",
        "float[N, 12] x, int64[1] rate",
        "float[N, 4] y",
        "float[12, 4] w1, float[12, 4] w2, int64[1] high = {7}, float small = {0.001}",
    )
    model = prepare(proto)
    x = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    for rate, idle in ((7, "MatMul_4/weight"), (8, "MatMul_2/weight")):
        feeds = Feeds({"x": x, "rate": np.full((5, 1), rate)}, input_specs(open_session(proto)), "rates")
        tries = Perturbations(perturbations(model, feeds).weights, {})
        assert measure_effects(model, feeds, tries).idle == {idle}


def test_a_layer_whose_result_nobody_reads_has_no_effect() -> None:
    """Where folding is left out, nodes stay that no output needs, alone in their part of the graph or beside others."""
    proto = graph(
        "y = MatMul (x, w)  d = MatMul (x, v)  i = ArgMax <axis = 1> (d)",
        "float[N, 4] x",
        "float[N, 3] y",
        "float[4, 3] w, float[4, 5] v",
    )
    model = prepare(proto, left_out=list(Step))
    feeds = feeds_for(proto)
    layers = model.layers
    assert len(layers) == 2
    weights = {(r.name, "w4"): [quantize_weight(model.weight(r), SCHEMES["w4"].weight)] for r in layers}
    tries = Perturbations(weights, {"d": [params_for(-1.0, 1.0)]})
    found = measure_effects(model, feeds, tries, frame=fit_frame(model, feeds, tries.count, threads=1, kinds={}))
    changed = {key: bool(change.any()) for key, change in found.weights.items()}
    assert list(changed.values()) == [True, False]
    assert not found.activations["d"].any()
