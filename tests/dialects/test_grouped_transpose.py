"""Weights of a ConvTranspose with groups, against onnxruntime: onnx's reference is wrong for more than one group."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.model import prepare
from onnxmpq.rounding import quantize_weight
from onnxmpq.schemes import SCHEMES
from tests.graphs import feeds_for, fill, graph, outputs_of


@pytest.mark.parametrize("name, dialect", [("w8", "onnxruntime"), ("w4", "onnxruntime"), ("w8", "portable")])
def test_stored_codes_stand_for_the_weight(name: str, dialect: str) -> None:
    model = prepare(
        fill(
            graph(
                "y = ConvTranspose <group = 2, strides = [2, 2], output_padding = [1, 1]> (x, w, b)",
                "float[N, 16, 4, 4] x",
                "float[N, C, H, W] y",
                "float[16, 8, 2, 2] w, float[16] b",
            )
        )
    )
    [region], scheme = model.layers, SCHEMES[name]
    [place] = region.params.weights
    assert scheme.weight is not None and DIALECTS[dialect].supports(region, scheme, model.opset)
    rounded = quantize_weight(model.matrix(place), scheme.weight, method="nearest")
    weights = {(place.key, scheme.weight.name): rounded}
    made = DIALECTS[dialect].rewrite(Rewrite(model, {region.name: scheme}, {}, weights))
    replaced = model.with_tensors({"w": rounded.dequantize().reshape(place.shape).astype(np.float32)})
    inputs = feeds_for(model.proto, 2).batch([0])
    np.testing.assert_allclose(outputs_of(made, inputs)["y"], outputs_of(replaced.proto, inputs)["y"], atol=1e-5)
    assert not np.allclose(outputs_of(made, inputs)["y"], outputs_of(model.proto, inputs)["y"], atol=1e-6)
