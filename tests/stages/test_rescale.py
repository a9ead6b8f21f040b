"""Rescaling is kept where it helps, and a plan that has it is applied to the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.cost.measure import Effort
from onnxmpq.model import prepare
from onnxmpq.output import serialize
from onnxmpq.pipeline import Result
from onnxmpq.rescale import find_channels, rescaled
from tests.graphs import conv_relu, outputs_of, residual_cnn, samples_for

OTHERS = ("descent", "cross", "bias-correction")
QUICK = Effort(seconds=0.02, runs=2, rounds=2)


def uneven() -> onnx.ModelProto:
    """A network whose channels lie on scales that are far apart."""
    model = prepare(residual_cnn())
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
