"""Rescaling is kept where it helps, and a plan that has it is applied to the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from benchmarks.shared_weights import encoder
from onnxmpq.cost.measure import Effort
from onnxmpq.files import serialize
from onnxmpq.model import prepare
from onnxmpq.rescale import find_channels, rescaled
from onnxmpq.rescale.choose import _of_equal_weights
from onnxmpq.result import Result
from tests.graphs import conv_relu, graph, outputs_of, prepared, residual_cnn, samples_for

OTHERS = ("descent", "cross", "bias-correction")
QUICK = Effort(seconds=0.02, runs=2, rounds=2)


def uneven(proto: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """A network whose channels lie on scales that are far apart."""
    model = prepare(residual_cnn() if proto is None else proto)
    channels = find_channels(model.proto)
    factors = np.exp(np.random.default_rng(4).normal(0, 2, channels.count)).astype(np.float32)
    return rescaled(model, channels, factors).proto


def convert(proto: onnx.ModelProto, *without: str, samples: int = 16) -> Result:
    chosen = (*OTHERS, *without)
    calibration = samples_for(proto, samples)
    return onnxmpq.convert(proto, size="smallest", calibration=calibration, effort=QUICK, without=chosen)


@pytest.fixture(scope="module")
def result() -> Result:
    return convert(uneven())


def test_what_helps_is_kept(result: Result) -> None:
    losses = result.plan.rescaling
    assert {"as it is", "equalised", "smoothed 0.25", "as it is, GPTQ"} < set(losses) and len(losses) == 5
    best = min(("equalised", "smoothed 0.25"), key=lambda name: losses[name])
    assert losses[best] < 0.7 * losses["as it is"]
    assert losses[f"{best}, GPTQ"] < 0.7 * losses["as it is, GPTQ"]
    assert result.plan.factors


def test_what_hardly_helps_is_not() -> None:
    even = convert(residual_cnn()).plan
    assert set(even.rescaling) == {"as it is", "equalised", "smoothed 0.25"} and even.factors == ""


def test_the_result_is_closer_to_the_original(result: Result) -> None:
    x = samples_for(uneven(), 64, seed=9)
    reference = outputs_of(uneven(), x)["y"]
    plain = convert(uneven(), "equalisation", "smoothquant")
    error, before = (np.square(outputs_of(r.model, x)["y"] - reference).mean() for r in (result, plain))
    assert error < 0.7 * before
    assert plain.plan.factors == "" and plain.plan.rescaling == {}


def normed_mlp() -> onnx.ModelProto:
    """Channels of a LayerNormalization on scales that are far apart, as SmoothQuant is for."""
    return uneven(
        graph(
            "n = LayerNormalization (x, g, o)  m = MatMul (n, w)  y = Add (m, b)",
            "float[N, 4, 128] x",
            "float[N, 4, 64] y",
            "float[128] g, float[128] o, float[128, 64] w, float[64] b",
        )
    )


@dataclass(frozen=True)
class Accelerated:
    proto: onnx.ModelProto
    scheme: str
    kept: str  # empty where a format with exponents needs no rescaling

    @property
    def id(self) -> str:
        return f"{len(self.proto.graph.node)} nodes {self.scheme}"


ACCELERATED = [
    Accelerated(uneven(), "w8a8-int8", "equalised"),
    Accelerated(uneven(), "w8a8-fp8", ""),
    Accelerated(normed_mlp(), "w8a8-int8", "smoothed 0.25"),
    Accelerated(normed_mlp(), "w4a8-fp8", "smoothed 0.25"),
    Accelerated(normed_mlp(), "w4a16", "smoothed 0.25"),
]


@pytest.mark.parametrize("case", ACCELERATED, ids=lambda case: case.id)
def test_schemes_of_accelerators_are_judged_too(case: Accelerated) -> None:
    found = onnxmpq.convert(
        case.proto,
        size="smallest",
        latency="1000%",
        target="h200",
        schemes=[case.scheme],
        calibration=samples_for(case.proto, 16),
        without=OTHERS,
    )
    losses = found.plan.rescaling
    assert set(found.plan.schemes.values()) == {case.scheme}
    assert {"as it is", "equalised", "smoothed 0.25"} <= set(losses)
    assert bool(found.plan.factors) == bool(case.kept)
    if case.kept:
        assert losses[f"{case.kept}, GPTQ"] < 0.2 * losses["as it is, GPTQ"]
        assert serialize(onnxmpq.apply(case.proto, found.plan)) == serialize(found.model)


def test_a_quick_model_does_not_overflow_float16() -> None:
    """The second layer's results are beyond float16, in which quantized layers hand them on."""
    proto = graph(
        "n = LayerNormalization (x, g, o)  m = MatMul (n, w)  r = Relu (m)  y = MatMul (r, v)",
        "float[N, 4, 128] x",
        "float[N, 4, 64] y",
        "float[128] g, float[128] o, float[128, 64] w, float[64, 64] v",
    )
    large = 1e6 * onnx.numpy_helper.to_array(proto.graph.initializer[3])
    proto.graph.initializer[3].CopyFrom(onnx.numpy_helper.from_array(large, "v"))
    found = onnxmpq.convert(
        proto,
        size="smallest",
        latency="1000%",
        target="h200",
        schemes=["w8a8-int8"],
        calibration=samples_for(proto, 16),
        without=OTHERS,
    )
    assert len(found.plan.schemes) == 1 and found.plan.rescaling
    assert np.isfinite(list(found.plan.rescaling.values())).all()


def test_applying_gives_the_same_bytes(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(result.plan.to_json())
    assert serialize(onnxmpq.apply(uneven(), path)) == serialize(result.model)


@pytest.mark.parametrize(
    ("proto", "without", "samples"),
    [(uneven(), ("smoothquant",), 16), (uneven(), ("equalisation",), 16), (conv_relu(), (), 16), (uneven(), (), 4)],
    ids=["no smoothing", "no equalisation", "nothing to rescale", "few samples"],
)
def test_only_what_there_is_is_tried(proto: onnx.ModelProto, without: tuple[str, ...], samples: int) -> None:
    tried = convert(proto, *without, samples=samples).plan.rescaling
    assert ("equalised" in tried) == (without == ("smoothquant",))
    assert ("smoothed 0.25" in tried) == (without == ("equalisation",))
    assert ("as it is" in tried) == bool(without)


@pytest.mark.parametrize("spelling", ["behind Identity", "behind Transpose", "a copy for each layer"])
def test_channels_of_equal_weights_under_several_names_stay(spelling: str) -> None:
    """Each with factors of its own would end their being in the file once. One initializer has no factors at all."""
    model = prepared(encoder(spelling, 3))
    channels = find_channels(model.structure)
    assert channels.count and _of_equal_weights(model, channels).all()
    alone = prepared(encoder(spelling, 1))
    channels = find_channels(alone.structure)
    assert channels.count and not _of_equal_weights(alone, channels).any()
