"""Without data and recipe, BatchNorm says what the model's pictures look like."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.context import Context
from onnxmpq.feeds import load_feeds
from onnxmpq.model import Model
from onnxmpq.progress import Progress
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.samples import gather_samples, misfit, recipe_by_batchnorm
from tests.conftest import SAMPLES
from tests.graphs import graph, prepared, residual_cnn, token_model

BODY = """c = Conv <kernel_shape = [1, 1]> (x, w)
          b = BatchNormalization (c, gamma, beta, mean, variance)
          y = Relu (b)"""


def with_batchnorm(mean: float, deviation: float) -> Model:
    """A 1x1 identity convolution whose BatchNorm saw inputs of this mean and deviation, and passes them on."""
    weights = ", ".join(f"float[3] {name}" for name in ("gamma", "beta", "mean", "variance"))
    proto = graph(BODY, "float[N, 3, 16, 16] x", "float[N, 3, 16, 16] y", f"float[3, 3, 1, 1] w, {weights}")
    values = {
        "w": np.eye(3).reshape(3, 3, 1, 1),
        "gamma": np.full(3, deviation),
        "beta": np.full(3, mean),
        "mean": np.full(3, mean),
        "variance": np.full(3, deviation**2),
    }
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    return prepared(proto)


def test_statistics_survive_folding() -> None:
    model = with_batchnorm(0.5, 0.25)
    assert "BatchNormalization" not in {n.op_type for n in model.proto.graph.node}
    statistics = model.batchnorm["b"]
    assert statistics.mean.tolist() == [0.5] * 3 and statistics.deviation.tolist() == [0.25] * 3


@pytest.mark.parametrize(
    ("mean", "deviation", "fitting"),
    [(0.0, 1.1, ("imagenet", "cifar10")), (0.45, 0.25, ("yolo",)), (-0.1, 0.5, ("imagenet-tf", "vit"))],
    ids=str,
)
def test_the_recipe_of_the_right_range_is_found(mean: float, deviation: float, fitting: tuple[str, ...]) -> None:
    model = with_batchnorm(mean, deviation)
    found = recipe_by_batchnorm(model, input_specs(open_session(model.proto)), 0, 2)
    assert found is not None and found[0] in fitting
    assert found[1].startswith(f"recipe {found[0]} fits the model's 1 BatchNorms best (in nats: {found[0]} ")


def test_misfit_is_the_divergence_of_normal_distributions() -> None:
    model = with_batchnorm(1.0, 2.0)
    specs = input_specs(open_session(model.proto))
    values = np.random.default_rng(0).normal(1.5, 1.0, (64, 3, 16, 16)).astype(np.float32)
    expected = np.log(2.0) + (1.0 + 0.25) / 8 - 0.5
    assert misfit(model, load_feeds({"x": values}, specs), 2) == pytest.approx(expected, rel=0.02)


class Told(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


def test_samples_are_made_by_it_and_the_user_is_told() -> None:
    told = Told()
    model = prepared(onnx.load(SAMPLES / "digits_cnn.onnx"))
    samples = gather_samples(model, None, None, 12, Context(told))
    assert told.said[-1].startswith("recipe digits fits the model's 7 BatchNorms best")
    assert samples.calibration.notes[-1] == told.said[-1]  # and so is in the report
    values = samples.calibration.arrays["image"]
    assert values.min() >= 0 and values.max() <= 1
    assert samples.calibration.synthetic


@pytest.mark.parametrize("make", [residual_cnn, token_model])
def test_models_without_it(make: object) -> None:
    model = prepared(make())  # type: ignore[operator]
    assert recipe_by_batchnorm(model, input_specs(open_session(model.proto)), 0, 2) is None


def test_ids_are_made_up_within_their_table() -> None:
    ids = gather_samples(prepared(token_model()), None, None, 12, Context(Told())).calibration.arrays["tokens"]
    assert ids.min() >= 0 and ids.max() < 8
