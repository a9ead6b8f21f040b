from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxmpq.cost.chains import Menu
from onnxmpq.cost.table import CostTable
from onnxmpq.errors import TargetError
from onnxmpq.model import Model, prepare
from onnxmpq.schemes import Scheme, scheme_named
from onnxmpq.target import Target, available_targets, load_target, roofline_table
from onnxmpq.target.types import Kernel, Roofline
from tests.graphs import graph
from tests.target.graphs import CONV_MACS, MATMUL_MACS, menu_of, sample_model, shapes_of, small_model

SMALL, SAMPLE = small_model(), sample_model()
BIT_SCALABLE = ["bismo-edge", "bismo-cloud", "bitfusion-edge", "bitfusion-cloud"]
MODELLED = [target.name for target in available_targets() if target.cost == "roofline"]
INT8, FP32 = scheme_named("int8"), scheme_named("fp32")


def table_of(model: Model, target: Target, menu: Menu | None = None) -> CostTable:
    return roofline_table(model, target, shapes_of(model), menu_of(model, target) if menu is None else menu)


def roofline(target: Target) -> Roofline:
    assert target.roofline is not None
    return target.roofline


def region_names(model: Model) -> dict[str, str]:
    return {region.op_type: region.name for region in model.regions}


def test_conv_by_hand() -> None:
    """8x16x16 floats in, 32x16x16 out, 32x8x3x3 weights, each 4 bytes; and arithmetic at the TF32 rate."""
    h100 = load_target("h100")
    machine = roofline(h100)
    floats = 8 * 256 + 32 * 256 + 32 * 72
    moved_s = floats * 4 / machine.bandwidth_bytes_per_s.value
    compute_s = CONV_MACS / machine.macs_per_s["tf32"].value
    table = table_of(SMALL, h100)
    conv = region_names(SMALL)["Conv"]
    assert table.scheme_s(conv, FP32) == pytest.approx(max(moved_s, compute_s) + machine.launch_s.value)
    energy = machine.energy
    assert energy is not None
    per_byte = energy.dram_j_per_byte.value + energy.on_chip_j_per_byte.value
    joules = CONV_MACS * energy.mac_j["tf32"].value + floats * 4 * per_byte
    assert table.scheme_j(conv, FP32) == pytest.approx(joules)


def test_int8_conv_by_hand() -> None:
    """On BISMO the arithmetic decides: 64 steps for each product of two bytes."""
    bismo = load_target("bismo-edge")
    bits = roofline(bismo).bits
    assert bits is not None
    table = table_of(SMALL, bismo)
    arithmetic_s = CONV_MACS * 64 / bits.steps_per_s.value
    expected = arithmetic_s + roofline(bismo).launch_s.value
    assert table.scheme_s(region_names(SMALL)["Conv"], INT8) == pytest.approx(expected)


def test_renaming_dimensions_is_free_and_products_of_layers_are_counted() -> None:
    names = region_names(SMALL)
    table = table_of(SMALL, load_target("edge-npu"))
    assert table.scheme_s(names["Flatten"], INT8) == 0.0
    npu = roofline(load_target("edge-npu"))
    compute_s = MATMUL_MACS / npu.macs_per_s["fp32"].value
    moved_s = (32 + 10 + 320) * 4 / npu.bandwidth_bytes_per_s.value
    assert table.scheme_s(names["MatMul"], FP32) == pytest.approx(max(compute_s, moved_s) + npu.launch_s.value)


def test_separate_dequantization_is_charged() -> None:
    l4 = load_target("l4")
    machine = roofline(l4)
    apart = Kernel("int8", "assumption: a test", unfolds_to=8)
    symmetric = scheme_named("w8a8-int8")
    unfused = replace(l4, roofline=replace(machine, kernels={**machine.kernels, symmetric.name: apart}))
    conv = region_names(SMALL)["Conv"]
    fused_s, apart_s = (table_of(SMALL, t).scheme_s(conv, symmetric) for t in (l4, unfused))
    traffic_s = 2 * 32 * 72 / machine.bandwidth_bytes_per_s.value
    assert apart_s == pytest.approx(fused_s + traffic_s + machine.launch_s.value)


@pytest.mark.parametrize("batch, apart", [(1, False), (2, True)])
def test_few_rows_are_computed_from_the_stored_weights(batch: int, apart: bool) -> None:
    """One row a sample: with two samples the unfolding is a kernel of its own."""
    target = load_target("h200-cuda").serving(batch)
    machine, scheme = roofline(target), scheme_named("w4a16")
    assert machine.kernels[scheme.name].rows_inside == 1
    kernel = replace(machine.kernels[scheme.name], unfolds_to=None, rows_inside=0)
    inside = replace(target, roofline=replace(machine, kernels={**machine.kernels, scheme.name: kernel}))
    model = prepare(graph("y = MatMul (x, w)", "float[1, 256] x", "float[1, 512] y", "float[256, 512] w"))
    [name] = [r.name for r in model.layers]
    now, least = (table_of(model, t).scheme_s(name, scheme) for t in (target, inside))
    extra_s = 2 * 256 * 512 * 2 / machine.bandwidth_bytes_per_s.value + machine.launch_s.value if apart else 0.0
    assert now == pytest.approx(least + extra_s / batch, rel=1e-9)


def test_grouped_convolutions_that_a_compiler_pads_are_charged() -> None:
    """In 8 bits alone, and not where the groups have more channels."""
    l4 = load_target("l4")
    machine = roofline(l4)
    assert machine.narrow_groups is not None
    without = replace(l4, roofline=replace(machine, narrow_groups=None))
    for channels, padded in ((1, True), (2, True), (4, False)):
        model = grouped_convolution(channels)
        [name] = [r.name for r in model.layers]
        for scheme, charged in ((scheme_named("w8a8-int8"), padded), (scheme_named("fp16"), False)):
            now, before = (table_of(model, t).scheme_s(name, scheme) for t in (l4, without))
            bits = 64 * channels * 9 * (machine.narrow_groups.weight_bits.value - 8)
            extra_s = bits / 8 / machine.bandwidth_bytes_per_s.value if charged else 0.0
            assert now == pytest.approx(before + extra_s, rel=1e-9), (channels, scheme.name)


def grouped_convolution(channels: int) -> Model:
    """64 outputs in groups of so many channels on a map of 2 x 2: all memory traffic."""
    groups = 64 // channels
    body = f"y = Conv <group = {groups}, pads = [1, 1, 1, 1]> (x, w)"
    ends = "float[1, 64, 2, 2] x", "float[1, 64, 2, 2] y"
    return prepare(graph(body, *ends, f"float[64, {channels}, 3, 3] w"))


def test_transitions_cost_traffic_and_a_launch_unless_fused() -> None:
    npu, l4 = load_target("edge-npu"), load_target("l4")
    size = 8 * 256
    separate, fused = (table_of(SMALL, target).shared["x"] for target in (npu, l4))
    machine = roofline(npu)
    assert separate.quantize_s == pytest.approx(size * 5 / machine.bandwidth_bytes_per_s.value + machine.launch_s.value)
    assert fused.quantize_s == pytest.approx(size / roofline(l4).bandwidth_bytes_per_s.value)
    assert fused.dequantize_s == pytest.approx(4 * fused.quantize_s)
    assert separate.quantize_j > 0


@pytest.mark.parametrize("name", MODELLED)
def test_prediction_is_the_sum_of_its_parts(name: str) -> None:
    target = load_target(name)
    table = table_of(SAMPLE, target)
    menu = menu_of(SAMPLE, target)
    plan = {region: schemes[-1] for region, schemes in menu.items() if len(schemes) > 1}
    nodes_s = sum(table.scheme_s(r.name, plan.get(r.name)) for r in SAMPLE.regions)
    nodes_j = sum(table.scheme_j(r.name, plan.get(r.name)) for r in SAMPLE.regions)
    transitions = [seconds for _, seconds in table.transitions_s(SAMPLE, plan)]
    assert table.predict_s(SAMPLE, plan) == pytest.approx(nodes_s + sum(transitions))
    assert table.predict_j(SAMPLE, plan) >= nodes_j > 0
    assert all(table.offers(region, scheme) for region, schemes in menu.items() for scheme in schemes)
    assert all(seconds >= 0 for row in table.node_s.values() for seconds in row.values())


bit_widths = st.tuples(st.integers(2, 8), st.integers(2, 8)).filter(lambda bits: bits != (4, 8))
"""Of weights and activations; w4a8 is left out, a fixed scheme that stores block multipliers beside its codes."""


@given(st.sampled_from(BIT_SCALABLE), bit_widths, bit_widths)
def test_fewer_bits_never_cost_more(name: str, one: tuple[int, int], other: tuple[int, int]) -> None:
    more, fewer = (f"w{pick(one[0], other[0])}a{pick(one[1], other[1])}" for pick in (max, min))
    assume("w4a8" not in (more, fewer))
    schemes = [scheme_named(more), scheme_named(fewer)]
    table = table_of(SMALL, load_target(name), {region.name: schemes for region in SMALL.layers})
    for region in SMALL.layers:
        assert table.scheme_s(region.name, schemes[1]) <= table.scheme_s(region.name, schemes[0])
        assert table.scheme_j(region.name, schemes[1]) <= table.scheme_j(region.name, schemes[0])


def test_batches_share_the_weights() -> None:
    cloud = load_target("bitfusion-cloud")
    alone = replace(cloud, roofline=replace(roofline(cloud), batch=1))
    matmul = region_names(SMALL)["MatMul"]
    assert table_of(SMALL, cloud).scheme_s(matmul, INT8) < table_of(SMALL, alone).scheme_s(matmul, INT8)


def test_the_best_plan_depends_on_the_hardware() -> None:
    """HAQ's point: a plan tuned for one accelerator is no better on another than that one's own, and often worse."""
    names = ["bismo-edge", "bismo-cloud", "bitfusion-edge", "bitfusion-cloud"]
    schemes = [scheme_named(name) for name in ("int8", "w6a6", "w5a5", "w4a4", "w3a3", "w2a2")]
    menu = {region.name: schemes for region in SAMPLE.layers}
    tables = {name: table_of(SAMPLE, load_target(name), menu) for name in names}

    def objective(name: str, region: str, scheme: Scheme) -> float:
        """Latency as a part of the int8 model's, and a harm that doubles with every bit that a layer loses."""
        share = tables[name].scheme_s(region, scheme) / sum(tables[name].scheme_s(r, INT8) for r in menu)
        return share + 0.5 ** (scheme.weight.bits if scheme.weight else 0)

    def best(name: str, region: str) -> Scheme:
        return min(schemes, key=lambda scheme: objective(name, region, scheme))

    tuned = {name: {region: best(name, region) for region in menu} for name in names}
    total = {(on, of): sum(objective(on, r, s) for r, s in tuned[of].items()) for on in names for of in names}
    assert all(total[on, on] <= total[on, of] for on in names for of in names)
    assert sum(total[on, of] > 1.001 * total[on, on] for on in names for of in names) >= 2
    cost_s = {name: table.predict_s(SAMPLE, {}) for name, table in tables.items()}
    assert len(set(cost_s.values())) == len(names)


def test_errors() -> None:
    l4, cpu = load_target("l4"), load_target("cpu")
    with pytest.raises(TargetError, match="has no roofline; its costs are measured"):
        table_of(SMALL, cpu)
    with pytest.raises(TargetError, match=re.escape("how 'w5a6' runs; add [roofline.kernels.w5a6]")):
        table_of(SMALL, l4, {region_names(SMALL)["Conv"]: [scheme_named("w5a6")]})
    with pytest.raises(TargetError, match="the shape of tensor 'x' is unknown"):
        roofline_table(SMALL, l4, {}, {})
    with pytest.raises(TargetError, match="'cpu' has no energies"):
        cpu.require_energy()
    silent = replace(l4, roofline=replace(roofline(l4), energy=None))
    with pytest.raises(TargetError, match="no energies"):
        table_of(SMALL, silent).predict_j(SMALL, {})


def test_table_survives_json() -> None:
    table = table_of(SMALL, load_target("orin"))
    assert CostTable.from_json(table.to_json()) == table
