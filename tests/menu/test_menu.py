"""What is offered where, before and after the runtime has proved it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnxmpq.cost.measure import Profile
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import TargetError, UsageError
from onnxmpq.menu import (
    Menu,
    blocks_alone,
    bounded_activations,
    candidates,
    cautious_where_idle,
    changed_by_rounding,
    matching_regions,
    needing_unsigned_weights,
    proven,
    worthwhile,
)
from onnxmpq.model import Model, RegionKind, prepare
from onnxmpq.ranges import Histogram
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.runtimes import REFERENCE, KernelTimes, probes
from onnxmpq.runtimes.onnxruntime.probe_graphs import DYNAMIC_LSTM
from onnxmpq.schemes import FP32, INT8_WEIGHTS, SCHEMES, scheme_named
from onnxmpq.target.load import load_target
from onnxmpq.weights import pair_bound
from tests.graphs import graph, prepared, residual_cnn, token_model

CPU, ORT = load_target("cpu"), DIALECTS["onnxruntime"]


def menu_of(model: Model, exclude: tuple[str, ...] = ()) -> tuple[dict[str, set[str]], Mapping[str, str]]:
    menu = candidates(model, CPU, ORT, exclude)
    assert all(row[0].is_fp32 for row in menu.values())
    return {name: {s.name for s in row} for name, row in menu.items()}, menu.reasons


def test_each_operator_gets_its_schemes() -> None:
    menu, _ = menu_of(prepared(residual_cnn()))
    assert menu["Conv_0"] == {"fp32", "w8", "w6", "w5", "w4", "int8", "u8u8", "w6a8", "w5a8", "w4a8"}
    assert menu["Add_6"] == menu["MaxPool_2"] == {"fp32", "int8"}
    menu, _ = menu_of(prepared(token_model()))
    assert menu["Gather_0"] == {"fp32", "w8", "w6", "w5", "w4", "w4b32"}
    assert {"w4b32", "w4b32-level0", "int8", "w4a8"} <= menu["MatMul_2"]
    assert menu["Div_4"] == {"fp32"}


def test_every_offer_can_be_written() -> None:
    for proto in (residual_cnn(), token_model()):
        model = prepared(proto)
        menu = candidates(model, CPU, ORT)
        for name, row in menu.items():
            assert all(ORT.supports(model.region(name), s, model.opset) for s in row)


def test_reasons_name_what_cannot_be_done() -> None:
    proto = graph(
        "c = Conv <kernel_shape = [3, 3], group = 2> (x, w)  y = Relu (c)",
        "float[N, 4, 8, 8] x",
        "float[N, 4, 6, 6] y",
        "float[4, 2, 3, 3] w",
    )
    _, reasons = menu_of(prepared(proto), ("Conv_0",))
    assert reasons == {"Conv_0": "excluded by the user"}


@pytest.mark.parametrize(
    ("pattern", "regions"),
    [("Conv_0", {"Conv_0"}), ("Conv_[35]", {"Conv_3", "Conv_5"}), ("/^Relu_4$/", {"Conv_3"}), ("*_9", {"Flatten_9"})],
)
def test_patterns(pattern: str, regions: set[str]) -> None:
    """By name, glob or /regex/; a fused node stands for its region."""
    assert matching_regions(prepared(residual_cnn()), [pattern]) == regions


def test_a_pattern_without_a_match() -> None:
    with pytest.raises(UsageError, match="--exclude 'conv_0' matches no node"):
        matching_regions(prepared(residual_cnn()), ["Conv_0", "conv_0"])


def profile(assignment: dict[str, str], operators: dict[str, set[str]]) -> Profile:
    chosen = {r: SCHEMES[s] for r, s in assignment.items()}
    return Profile(chosen, KernelTimes(operators={r: frozenset(o) for r, o in operators.items()}), 1.0)


def test_what_never_fused_is_taken_off_the_menu() -> None:
    model = prepared(residual_cnn())
    menu = candidates(model, CPU, ORT)
    profiles = [
        profile(
            {"Conv_0": "int8", "Conv_3": "int8"}, {"Conv_0": {"QLinearConv"}, "Conv_3": {"Conv", "DequantizeLinear"}}
        ),
        profile({"Conv_0": "w4a8"}, {"Conv_0": {"Conv"}}),
    ]
    kept = proven(model, menu, profiles, REFERENCE)
    names = {r: {s.name for s in row} for r, row in kept.items()}
    assert names["Conv_0"] == {"fp32", "w8", "w6", "w5", "w4", "int8", "w6a8", "w5a8", "w4a8"}
    assert names["Conv_3"] == {"fp32", "w8", "w6", "w5", "w4"}
    assert names["Add_6"] == {"fp32"}
    assert kept.reasons["Add_6"] == "onnxruntime does not fuse int8 here"


def test_weight_only_kernels_must_be_faster_than_float() -> None:
    model = prepared(token_model())
    menu = candidates(model, CPU, ORT)
    costs = {"MatMul_2": {"fp32": 1.0, "w4b32": 0.5, "w8b128": 2.0}, "MatMul_9": {"fp32": 1.0, "w4b32": 1.5}}
    kept = {r: {s.name for s in row} for r, row in worthwhile(menu, costs).items()}
    assert "w4b32" in kept["MatMul_2"] and "w4b32" not in kept["MatMul_9"]
    assert {"w4", "w8"} <= kept["MatMul_9"]


def test_slower_kernels_stay_where_nothing_else_stores_narrow_weights() -> None:
    menu = candidates(prepared(token_model()), load_target("h200-cuda"), DIALECTS["onnxruntime-cuda"])
    layer = next(n for n, row in menu.items() if "w4a16" in {s.name for s in row})
    costs = {layer: {"fp32": 1.0, "fp16": 1.5, "w4a16": 2.0, "w8a16": 2.0}}
    assert {s.name for s in worthwhile(menu, costs)[layer]} == {"fp32", "w4a16", "w8a16"}


def test_activations_are_rounded_in_a_kernel_only_where_that_is_faster() -> None:
    menu = candidates(prepared(token_model()), CPU, ORT)
    costs = {
        "MatMul_2": {"fp32": 1.0, "w4b32": 0.5, "w4b32-level0": 0.5},
        "MatMul_9": {"fp32": 1.0, "w4b32": 0.4, "w4b32-level0": 0.5},
    }
    kept = {r: {s.name for s in row} for r, row in worthwhile(menu, costs).items()}
    assert "w4b32" not in kept["MatMul_2"] and "w4b32-level0" in kept["MatMul_2"]
    assert {"w4b32", "w4b32-level0"} <= kept["MatMul_9"]


def test_kernels_that_are_slower_than_float_stay_where_nothing_else_stores_as_little() -> None:
    menu = candidates(prepared(token_model()), CPU, ORT, requested=["w8b16", "w4b32", "w8"])
    costs = {"MatMul_9": {"fp32": 1.0, "w4b32": 1.5, "w8b16": 1.5}}
    assert {s.name for s in worthwhile(menu, costs)["MatMul_9"]} == {"fp32", "w8", "w4b32"}


def test_tables_that_stay_narrow_in_memory_need_not_be_faster() -> None:
    menu, costs = candidates(prepared(token_model()), CPU, ORT), {"Gather_0": {"fp32": 1.0, "w4b32": 2.0}}
    names = [{s.name for s in worthwhile(menu, costs, kept)["Gather_0"]} for kept in ((), ("Gather_0",))]
    assert "w4b32" not in names[0] and "w4b32" in names[1]


def test_other_blocks_are_offered_where_they_are_asked_for() -> None:
    model = prepared(token_model())
    everywhere = {s.name for row in candidates(model, CPU, ORT).values() for s in row}
    assert "w4b16" not in everywhere
    asked = candidates(model, CPU, ORT, requested=["w4b16", "w8b16-level0"])
    assert {s.name for s in asked["MatMul_2"]} == {"fp32", "w4b16", "w8b16-level0"}
    assert {s.name for s in asked["Gather_0"]} == {"fp32", "w4b16"}
    set_there = candidates(model, CPU, ORT, patterns={"MatMul_2": ["w4b16"]})
    assert {s.name for s in set_there["MatMul_2"]} == {"fp32", "w4b16"}
    assert "w4b16" not in {s.name for s in set_there["MatMul_9"]}
    with pytest.raises(TargetError, match="no layer of the model can have 'w8b128-level0'"):
        candidates(model, CPU, ORT, requested=["w8b128-level0"])


def test_large_models_have_blocks_alone_where_those_have_no_more_and_no_fewer_bits() -> None:
    model = prepared(
        graph(
            "t = MatMul (x, w)\n            u = MatMul (t, v)\n            y = Conv (z, k)",
            "float[N, 256] x, float[N, 8, 9, 9] z",
            "float[N, 64] u, float[N, 8, 7, 7] y",
            "float[256, 64] w, float[64, 64] v, float[8, 8, 3, 3] k",
        )
    )
    rows = blocks_alone(candidates(model, CPU, ORT, patterns={"MatMul_0": ["w6", "w4b32"]}))
    assert {s.name for s in rows["MatMul_0"]} == {"fp32", "w6", "w4b32"}, "the user set it"
    rows = blocks_alone(candidates(model, CPU, ORT))
    kept = {r.name: [s.name for s in rows[r.name] if s.weight and s.kernel == FP32] for r in model.layers}
    assert kept == {"MatMul_0": [], "MatMul_1": ["w8", "w6", "w5"], "Conv_2": ["w8", "w6", "w5", "w4"]}
    assert {"w4b32", "w8b128", "int8"} <= {s.name for s in rows["MatMul_0"]}


@dataclass(frozen=True)
class Rows:
    """blocks: schemes in blocks that a MatMul with rows of so many inputs has by default."""

    inputs: int
    blocks: str


ROWS = (
    Rows(256, "w4b32 w4b128 w8b128 w4b32-level0"),
    Rows(192, "w4b32 w4b64 w8b64 w4b32-level0"),
    Rows(160, "w4b32 w8b32 w4b32-level0"),
    Rows(64, "w4b32 w4b32-level0"),
    Rows(144, ""),
)


@pytest.mark.parametrize("case", ROWS, ids=lambda c: str(c.inputs))
def test_blocks_fit_the_rows_of_each_layer(case: Rows) -> None:
    menu = candidates(prepared(product(case.inputs)), CPU, ORT)
    [row] = (row for name, row in menu.items() if "MatMul" in name)
    assert {s.name for s in row if s.accuracy_level is not None} == set(case.blocks.split())


def test_a_size_of_blocks_that_is_asked_for_is_that_size() -> None:
    model = prepared(product(192))
    [row] = (row for name, row in candidates(model, CPU, ORT, requested=["w8b64"]).items() if "MatMul" in name)
    assert [s.name for s in row] == ["fp32", "w8b64"]
    with pytest.raises(TargetError, match="no layer of the model can have 'w8b128'"):
        candidates(model, CPU, ORT, requested=["w8b128"])


def product(inputs: int) -> onnx.ModelProto:
    """One MatMul with rows of so many inputs."""
    return graph("y = MatMul (x, w)", f"float[N, {inputs}] x", "float[N, 16] y", f"float[{inputs}, 16] w")


def test_names_of_schemes() -> None:
    assert scheme_named("int8") is SCHEMES["int8"]
    made = scheme_named("w5a6")
    assert made.weight is not None and (made.weight.bits, made.activation_bits) == (5, 6)
    with pytest.raises(UsageError, match="did you mean w4a8"):
        scheme_named("w4a88")
    for name in ("w4b16", "w8b256-level0", "w4b64-level0", "w4b32z", "w4b128z-level0"):
        assert scheme_named(name).name == name and scheme_named(name).variant_of in SCHEMES
    for name in ("w1a8", "w9a8", "w4a1", "", "int9", "w4b48", "w5b32", "w8b32z", "w4b32-level2"):
        with pytest.raises(UsageError):
            scheme_named(name)


def test_modelled_targets_offer_bits_that_only_they_have() -> None:
    """Also for kernels of few inputs, whose scales only weigh in a file."""
    proto = graph(
        "y = Conv <kernel_shape = [3, 3], group = 16> (x, w)",
        "float[N, 16, 6, 6] x",
        "float[N, 16, 4, 4] y",
        "float[16, 1, 3, 3] w",
    )
    model = prepared(proto)
    offered = {t: {s.name for s in candidates(model, load_target(t), ORT)["Conv_0"]} for t in ("cpu", "bismo-edge")}
    assert {"w2a2", "w4a6", "w7a7", "w4a8"} <= offered["bismo-edge"]
    assert offered["cpu"] == {"fp32", "w8", "int8", "u8u8"}


def test_target_menus_name_schemes_that_exist() -> None:
    for menu in (CPU.menu, CPU.activation_menu):
        assert {s for row in menu.values() for s in row} <= SCHEMES.keys()


def test_only_float_regions_have_no_reason() -> None:
    model = prepared(token_model())
    menu, reasons = menu_of(model)
    for region in model.regions:
        if len(menu[region.name]) == 1 and region.name not in reasons:
            assert region.kind is RegionKind.FLOAT


# ---- uint8 weights ------------------------------------------------------------------------------

U8 = "u8u8"
BOUNDED = INT8_WEIGHTS.without_saturation


def conv_with(weight: np.ndarray, group: int = 1) -> tuple[Model, Menu, dict[tuple[str, str], QuantizedWeight]]:
    """A Conv of this weight [O, C, kh, kw] by itself, with its menu and its rounded weight."""
    out, channels, *window = weight.shape
    proto = graph(
        f"y = Conv <kernel_shape = {window}, group = {group}> (x, w)",
        f"float[N, {channels * group}, 8, 8] x",
        "float[N, A, B, C] y",
        f"float[{out}, {channels}, {window[0]}, {window[1]}] w",
    )
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
    model = prepared(proto)
    [region] = model.layers
    menu = candidates(model, CPU, ORT)
    formats = {s.weight.name: s.weight for s in menu[region.name] if s.weight in (INT8_WEIGHTS, BOUNDED)}
    w = model.weight(region)
    return (
        model,
        menu,
        {
            (region.name, name): quantize_weight(w, f, bound=pair_bound(region, region.params.weights[0], f))
            for name, f in formats.items()
        },
    )


def offered(weight: np.ndarray, group: int = 1, bounded: bool = True, requested: tuple[str, ...] = ()) -> bool:
    model, menu, weights = conv_with(weight, group)
    [region] = model.layers
    kept = needing_unsigned_weights(model, menu, weights, bounded=bounded, requested=requested)
    assert [s for s in menu[region.name] if s.name != U8] == [s for s in kept[region.name] if s.name != U8]
    return U8 in {s.name for s in kept[region.name]}


def pairs(of: str, channels: int = 2) -> np.ndarray:
    """[4, channels, 3, 3]; in NHWC the channels alternate. equal: neighbours that saturate. turned: of opposite signs.
    With several channels, small: neighbours in NCHW saturate, those in NHWC do not."""
    size = np.random.default_rng(0).uniform(0.9, 1.0, (4, channels, 3, 3))
    factor = {"equal": 1.0, "turned": (-1.0) ** np.arange(channels), "small": np.arange(channels) % 2 * 0.97 + 0.001}
    return size * np.reshape(factor[of], (-1, 1, 1))


def test_uint8_weights_where_int8_loses_by_the_bound() -> None:
    assert offered(pairs("equal"))
    assert not offered(pairs("turned")), "no pair saturates"


def test_pairs_are_those_of_the_kernel() -> None:
    """Neighbours of the stored weight have one sign and are large; the kernel pairs them with small ones."""
    assert not offered(pairs("small"))
    assert offered(pairs("small").reshape(4, 18, 1, 1)), "as a 1x1 window its neighbours are those stored"


def test_no_uint8_weights_where_int8_is_exact() -> None:
    assert not offered(pairs("equal"), bounded=False)
    assert not offered(pairs("equal", 1), group=4), "depthwise"


@pytest.mark.parametrize("bounded", [True, False])
def test_uint8_weights_that_are_asked_for_stay(bounded: bool) -> None:
    assert offered(pairs("turned"), bounded=bounded, requested=(U8,))
    assert offered(pairs("equal", 1), group=4, bounded=bounded, requested=("int8", U8))


def test_weights_that_only_the_full_range_holds() -> None:
    """Codes themselves: no error at full range. And zeros, which lose nothing."""
    codes = np.full((4, 2, 3, 3), 127.0)
    codes[:, :, 1, 1] = 126.0
    assert offered(codes)
    assert not offered(np.zeros((4, 2, 3, 3)))


def test_regions_without_weights_keep_their_menu() -> None:
    model = prepared(residual_cnn())
    menu = candidates(model, CPU, ORT)
    weights = {(r.name, INT8_WEIGHTS.name): quantize_weight(model.weight(r), INT8_WEIGHTS) for r in model.layers}
    kept = needing_unsigned_weights(model, menu, weights, bounded=False)
    assert kept.keys() == menu.keys()
    assert all(kept[n] == tuple(s for s in row if s.name != U8) for n, row in menu.items())


def layers_beside_a_mask() -> onnx.ModelProto:
    return graph(
        "h = MatMul (x, w)  m = Log (h)  y = MatMul (m, v)",
        "float[N, 8] x",
        "float[N, 32] y",
        "float[8, 32] w, float[32, 32] v",
    )


def test_tensors_that_hold_infinity_are_not_quantized() -> None:
    model = prepared(layers_beside_a_mask())
    menu, before = candidates(model, CPU, ORT), np.array([[-np.inf, 0.0]], np.float32)
    histograms = {t: Histogram() for t in ("x", "h", "m", "y")}
    histograms["m"].add(before)
    found = bounded_activations(model, menu, histograms)
    first, second = (r.name for r in model.layers)
    assert found[first] == menu[first]
    assert {s.reads.quantized for s in menu[second]} == {False, True}
    assert found[second] == tuple(s for s in menu[second] if not s.reads.quantized)
    int8 = menu.where(lambda _, s: s.is_fp32 or s.reads.quantized)
    assert "'m' holds NaN or infinity" in bounded_activations(model, int8, histograms).reasons[second]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_layers_whose_weights_hold_infinity_stay_float(value: float) -> None:
    proto = layers_beside_a_mask()
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[1]).copy()
    weight[3, 4] = value
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(weight, "v"))
    model = prepare(proto)
    menu = candidates(model, CPU, ORT)
    first, second = (r.name for r in model.layers)
    assert len(menu[first]) > 1 and [s.is_fp32 for s in menu[second]] == [True]
    assert menu.reasons[second] == "its constant 'v' holds NaN or infinity"


def test_weights_without_a_known_effect_keep_8_bits() -> None:
    """Other regions keep all, and so do weights that few bits hold exactly; what was asked for by name stays."""
    model = prepared(
        graph(
            "a = MatMul (x, w)  b = MatMul (a, v)  y = MatMul (b, u)",
            "float[N, 32] x",
            "float[N, 32] y",
            "float[32, 32] w, float[32, 32] v, float[32, 32] u",
        )
    )
    model = model.with_tensors({"u": np.eye(32, dtype=np.float32)})
    every = candidates(model, CPU, ORT)
    weights = {
        (r.name, s.weight.name): quantize_weight(model.weight(r), s.weight)
        for r in model.layers
        for s in every[r.name]
        if s.weight is not None
    }

    unknown = changed_by_rounding(model, weights, {"MatMul_1", "MatMul_2"})
    assert unknown == {"MatMul_1"}

    def offered(requested: tuple[str, ...] = ()) -> list[set[str]]:
        found = cautious_where_idle(every, unknown, requested)
        return [{s.name for s in found[r.name]} for r in model.layers]

    first, idle, exact = offered()
    assert (first, exact) == tuple({s.name for s in every[n]} for n in ("MatMul_0", "MatMul_2"))
    assert idle == {s.name for s in every["MatMul_1"] if s.weight is None or s.weight.bits == 8}
    assert offered(("w5",))[1] == idle | {"w5"}


@pytest.mark.parametrize("wrong", [False, True])
def test_a_kernel_that_a_probe_finds_wrong_is_not_offered(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this CPU's kernel computes."""
    monkeypatch.setattr(probes, "holds", lambda name: not (wrong and name == DYNAMIC_LSTM[-1]))
    model = prepared(
        graph(
            "y, h, c = LSTM <hidden_size = 16> (x, w, r)",
            "float[N, 1, 24] x",
            "float[N, 1, 1, 16] y",
            "float[1, 64, 24] w, float[1, 64, 16] r",
        )
    )
    [region] = model.layers
    offered, _ = menu_of(model)
    assert ("int8-dynamic" in offered[region.name], "w8" in offered[region.name]) == (not wrong, True)
    alone = candidates(model, CPU, ORT, requested=["int8-dynamic"])
    reason = "the kernel of int8-dynamic is wrong on this CPU (`onnxmpq doctor`)"
    assert alone.reasons.get(region.name) == (reason if wrong else None)
