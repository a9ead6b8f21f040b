"""Shapes and values of inner tensors are those of a run of one sample."""

from __future__ import annotations

import numpy as np

from onnxmpq.execution import tensor_shapes, values_once, with_outputs
from tests.graphs import feeds_for, outputs_of, prepared, residual_cnn, token_model


def test_values_are_those_of_the_unoptimised_graph() -> None:
    proto = residual_cnn()
    inputs = feeds_for(proto).batch([0])
    found = values_once(proto, inputs, ["x", "r1", "g"])
    assert list(found) == ["x", "r1", "g"]
    np.testing.assert_array_equal(found["x"], inputs["x"])
    for tensor, value in outputs_of(with_outputs(proto, ["r1", "g"]), inputs, optimize=False).items():
        np.testing.assert_allclose(found[tensor], value, atol=1e-5)


def test_nothing_is_run_for_no_tensors() -> None:
    assert values_once(residual_cnn(), {}, []) == {}


def test_several_inputs_and_dynamic_axes() -> None:
    model, feeds = prepared(token_model()), feeds_for(token_model())
    assert tensor_shapes(model, feeds, ["h", "m"]) == {"h": (1, 5, 32), "m": (1, 5, 64)}
