"""Moments against a direct sum over every output position, in plain loops."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnxmpq.execution import MemoryBudget
from onnxmpq.statistics import MomentSum, measure_moments
from tests.graphs import feeds_for, graph, outputs_of, prepared


@dataclass(frozen=True)
class Case:
    name: str
    channels: int
    outputs: int
    kernel: tuple[int, int]
    groups: int = 1
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "pads=[0,0,0,0]"
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right


CASES = (
    Case("plain", 3, 4, (3, 3)),
    Case("pointwise", 4, 4, (1, 1)),
    Case("padded_unevenly", 2, 4, (3, 2), padding="pads=[1,0,2,1]", pads=(1, 0, 2, 1)),
    Case("strided", 3, 4, (3, 3), strides=(2, 3)),
    Case("dilated", 2, 4, (2, 3), dilations=(3, 2)),
    Case("grouped", 4, 6, (3, 3), groups=2, padding="pads=[1,1,1,1]", pads=(1, 1, 1, 1)),
    Case("depthwise", 4, 4, (3, 3), groups=4, strides=(2, 2), padding="pads=[1,1,1,1]", pads=(1, 1, 1, 1)),
    Case("same_upper", 2, 4, (2, 3), padding='auto_pad="SAME_UPPER"', pads=(0, 1, 1, 1)),
    Case("same_lower", 2, 4, (2, 3), padding='auto_pad="SAME_LOWER"', pads=(1, 1, 0, 1)),
)


def conv(case: Case) -> onnx.ModelProto:
    shape = f"{case.outputs}, {case.channels // case.groups}, {case.kernel[0]}, {case.kernel[1]}"
    attributes = (
        f"kernel_shape=[{case.kernel[0]},{case.kernel[1]}], group={case.groups}, {case.padding}, "
        f"strides=[{case.strides[0]},{case.strides[1]}], dilations=[{case.dilations[0]},{case.dilations[1]}]"
    )
    return graph(
        f"y = Conv<{attributes}>(x, w)",
        f"float[N, {case.channels}, 9, 8] x",
        f"float[N, {case.outputs}, H, W] y",
        f"float[{shape}] w",
    )


def reference(case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hessian [G, K, K], mean [G, K]), one output position after another."""
    top, left, bottom, right = case.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))).astype(np.float64)
    (kh, kw), (dh, dw), (sh, sw) = case.kernel, case.dilations, case.strides
    per_group = case.channels // case.groups
    rows: list[np.ndarray] = []
    for image in padded:
        for i in range(0, image.shape[1] - (kh - 1) * dh, sh):
            for j in range(0, image.shape[2] - (kw - 1) * dw, sw):
                patch = image[:, i : i + (kh - 1) * dh + 1 : dh, j : j + (kw - 1) * dw + 1 : dw]
                rows.append(patch.reshape(case.groups, per_group * kh * kw))
    stacked = np.stack(rows)
    return np.einsum("rgi,rgj->gij", stacked, stacked) / len(rows), stacked.mean(axis=0)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_conv_moments_are_those_of_every_position(case: Case) -> None:
    proto = conv(case)
    model, feeds = prepared(proto), feeds_for(proto)
    found = dict(measure_moments(model, model.weights, feeds))
    hessian, mean = reference(case, np.asarray(feeds.arrays["x"]))
    np.testing.assert_allclose(found[model.layers[0].name].hessian, hessian, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[model.layers[0].name].mean, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_rows_times_weight_are_the_outputs(case: Case) -> None:
    proto = conv(case)
    model, feeds = prepared(proto), feeds_for(proto)
    region = model.layers[0]
    view = region.operator.input_view(model.proto.graph.node[0], region.params, region.params.weights[0])
    assert view is not None
    rows = view.rows(np.asarray(feeds.arrays["x"], np.float32), 10**6)
    weight = model.weight(region).reshape(case.groups, -1, region.params.fan_in)
    products = np.einsum("grk,gok->rgo", rows, weight).reshape(rows.shape[1], -1)
    output = outputs_of(proto, feeds.arrays)["y"]
    np.testing.assert_allclose(products, output.transpose(0, 2, 3, 1).reshape(products.shape), rtol=1e-4, atol=1e-4)


def two_products() -> onnx.ModelProto:
    return graph(
        "y = MatMul(x, v)  z = MatMul(x, w)",
        "float[N, 5, 6] x",
        "float[N, 5, 7] y, float[N, 5, 4] z",
        "float[6, 7] v, float[6, 4] w",
    )


def test_matmul_rows_are_tokens_and_readers_of_one_tensor_share_moments() -> None:
    proto = two_products()
    model, feeds = prepared(proto), feeds_for(proto)
    found = dict(measure_moments(model, model.weights, feeds))
    first, second = (found[r.name] for r in model.layers)
    rows = np.asarray(feeds.arrays["x"], np.float64).reshape(-1, 6)
    np.testing.assert_allclose(first.hessian[0], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
    assert first is second


def test_moments_do_not_depend_on_how_layers_are_chunked() -> None:
    proto = graph(
        """a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, v)
           r = Relu(a)
           y = Conv<kernel_shape=[1,1]>(r, w)""",
        "float[N, 3, 9, 9] x",
        "float[N, 4, 9, 9] y",
        "float[8, 3, 3, 3] v, float[4, 8, 1, 1] w",
    )
    model, feeds = prepared(proto), feeds_for(proto, 7)
    together, ran = dict(measure_moments(model, model.weights, feeds)), []
    apart = dict(measure_moments(model, model.weights, feeds, memory=MemoryBudget(sums=1), tick=ran.append))
    assert sum(ran) == 2 * len(feeds)
    for name, moments in apart.items():
        np.testing.assert_array_equal(moments.hessian, together[name].hessian)


def test_a_layer_has_the_same_moments_alone_as_with_others_on_any_number_of_threads() -> None:
    proto = two_products()
    model, feeds = prepared(proto), feeds_for(proto, 7)
    together = dict(measure_moments(model, model.weights, feeds))
    last = model.layers[-1]
    [(name, alone)] = measure_moments(model, [last.name], feeds, threads=3)
    assert name == last.name
    np.testing.assert_array_equal(alone.hessian, together[name].hessian)


def test_chosen_positions_are_the_same_in_both_models_and_few() -> None:
    case = CASES[0]
    model = prepared(conv(case))
    [region] = model.layers
    view = region.operator.input_view(model.proto.graph.node[0], region.params, region.params.weights[0])
    assert view is not None
    x = np.random.default_rng(0).normal(size=(1, 3, 9, 8)).astype(np.float32)
    assert view.rows(x, 10).shape == (1, 10, 27)
    total = MomentSum(view, 10, crossed=True)
    total.add(2 * x, x)
    moments = total.result()
    assert moments.cross is not None and moments.mean_fp is not None
    np.testing.assert_allclose(moments.hessian, 2 * moments.cross, rtol=1e-5)
    np.testing.assert_allclose(moments.mean, 2 * moments.mean_fp, rtol=1e-5)


def test_moments_that_were_handed_over_are_freed() -> None:
    proto = graph(
        "a = MatMul (x, v)  r = Relu (a)  y = MatMul (r, w)",
        "float[N, 6] x",
        "float[N, 4] y",
        "float[6, 5] v, float[5, 4] w",
    )
    model = prepared(proto)
    measured = measure_moments(model, model.weights, feeds_for(proto))
    first = weakref.ref(next(measured)[1])
    _name, second = next(measured)
    assert second.hessian.shape == (1, 5, 5) and first() is None


@pytest.mark.parametrize("values", [np.zeros((0, 8)), np.full((2, 8), np.inf), np.full((2, 8), 3e38)], ids=str)
def test_empty_and_infinite_inputs_have_no_part(values: np.ndarray) -> None:
    proto = graph("y = MatMul (x, w)", "float[N, 8] x", "float[N, 4] y", "float[8, 4] w")
    model = prepared(proto)
    [region] = model.layers
    view = region.operator.input_view(model.structure.graph.node[0], region.params, region.params.weights[0])
    assert view is not None
    total = MomentSum(view, 100, crossed=True)
    total.add(values, values)
    found = total.result()
    assert found.cross is not None and found.mean_fp is not None
    for part in (found.hessian, found.mean, found.cross, found.mean_fp):
        assert not part.any()


def test_products_added_in_panels_are_the_same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = graph("y = MatMul (x, w)", "float[N, 7, 20] x", "float[N, 7, 8] y", "float[20, 8] w")
    model, feeds = prepared(proto), feeds_for(proto, 6)
    ((_, whole),) = measure_moments(model, list(model.weights), feeds)
    monkeypatch.setattr("onnxmpq.statistics.moments.SUMMED_WHOLE", 10)
    monkeypatch.setattr("onnxmpq.statistics.moments.PANEL", 6)
    ((_, found),) = measure_moments(model, list(model.weights), feeds)
    np.testing.assert_allclose(found.hessian, whole.hessian, rtol=1e-5, atol=1e-6)


def test_the_last_result_is_the_result() -> None:
    proto = graph("y = MatMul (x, w)", "float[N, 7, 20] x", "float[N, 7, 8] y", "float[20, 8] w")
    model = prepared(proto)
    region, place = next(iter(model.weights.values()))
    view = region.operator.input_view(proto.graph.node[0], region.params, place)
    assert view is not None
    sums = MomentSum(view, 100)
    for values in np.random.default_rng(0).standard_normal((3, 2, 7, 20)).astype(np.float32):
        sums.add(values)
    before = sums.result()
    np.testing.assert_array_equal(sums.result(last=True).hessian, before.hessian)
