"""Models of old opsets compute the same at the new one, operators that were replaced or changed since included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnxmpq.model import prepare
from onnxmpq.model.opset import PER_CHANNEL_OPSET, TARGET_OPSET, converted
from tests.graphs import graph, outputs_of

Array = np.ndarray


@dataclass(frozen=True)
class Old:
    """A graph of one operator in an old opset. x: the input's shape."""

    id: str
    opset: int
    body: str
    x: tuple[int, ...] = (1, 2, 3, 5)
    more: str = ""

    @property
    def proto(self) -> onnx.ModelProto:
        axes = ", ".join("abcdef"[: len(self.x)])
        initial = f"float{list(self.x)} x"
        return graph(self.body, initial, f"float[{axes}] y", self.more, opset=self.opset)

    @property
    def inputs(self) -> dict[str, Array]:
        return {"x": np.random.default_rng(0).standard_normal(self.x).astype(np.float32)}


SCALES = "float[4] s = {1, 1, 1.7, 2.4}"
SMALL = "float[4] s = {1, 1, 0.6, 0.5}"
CASES = [
    Old("Upsample 7 nearest", 7, 'y = Upsample <mode = "nearest", scales = [1.0, 1.0, 3.0, 2.5]> (x)'),
    Old("Upsample 7 linear", 7, 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]> (x)'),
    Old("Upsample 9 nearest", 9, 'y = Upsample <mode = "nearest"> (x, s)', more=SCALES),
    Old("Upsample 9 linear", 9, 'y = Upsample <mode = "linear"> (x, s)', more=SCALES),
    Old("Resize 10 grows", 10, 'y = Resize <mode = "nearest"> (x, s)', more=SCALES),
    Old("Resize 10 shrinks", 10, 'y = Resize <mode = "nearest"> (x, s)', (1, 2, 6, 9), more=SMALL),
    Old("Resize 10 linear", 10, 'y = Resize <mode = "linear"> (x, s)', more=SCALES),
    Old("Hardmax 11", 11, "y = Hardmax (x)", (2, 4, 3)),
    Old("Hardmax 11, first axis", 11, "y = Hardmax <axis = 0> (x)", (2, 4, 3)),
    Old("Softmax 11, an axis in between", 11, "y = Softmax <axis = 1> (x)", (2, 4, 3)),
    Old("LogSoftmax 9", 9, "y = LogSoftmax (x)", (2, 4, 3)),
    Old(
        "Softmax 11 that a body reads",
        11,
        """s = Softmax <axis = 1> (x)
           y = If (f) <then_branch = t () => (float[a, b, c] u) { u = Neg (s) },
               else_branch = e () => (float[a, b, c] u) { u = Add (s, s) }>""",
        (2, 4, 3),
        "bool f = {1}",
    ),
    Old(
        "GroupNormalization 18",
        18,
        "y = GroupNormalization <num_groups = 2> (x, s, b)",
        (2, 6, 3, 2),
        "float[2] s = {1, 2}, float[2] b = {3, -1}",
    ),
    Old("Pad 2", 7, 'y = Pad <mode = "reflect", pads = [0, 0, 1, 1, 0, 0, 1, 0]> (x)'),
    Old("Slice 1", 7, "y = Slice <axes = [2, 3], starts = [1, 0], ends = [3, -1]> (x)"),
    Old("Clip 6", 7, "y = Clip <max = 0.5> (x)"),
    Old("ReduceMean 1", 7, "y = ReduceMean <axes = [2, 3]> (x)"),
    Old("Split and Concat", 9, "a, b = Split <axis = 3, split = [2, 3]> (x)  y = Concat <axis = 3> (b, a)"),
    Old(
        "GridSample 16",
        16,
        'y = GridSample <mode = "bilinear"> (x, g)',
        more="float[1,1,2,2] g = {0.1, 0.2, -0.5, 0.9}",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_same_at_the_new_opset(case: Old) -> None:
    before = outputs_of(case.proto, case.inputs)["y"]
    for wanted in (PER_CHANNEL_OPSET, TARGET_OPSET):
        if wanted > case.opset:
            made = converted(case.proto, wanted)
            np.testing.assert_allclose(outputs_of(made, case.inputs)["y"], before, atol=1e-5)
    assert prepare(case.proto).opset == TARGET_OPSET


def test_an_operator_without_a_successor_keeps_the_model_where_it_is() -> None:
    proto = graph(
        """s, y = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] c) => (float[2] d, float[2] e) {
            d = Add (a, c)  e = Identity (d) }> ("", i, x)""",
        "float[1, 2] i, float[1, 3, 2] x",
        "float[1, 2] s, float[1, 3, 2] y",
        opset=8,
    )
    model = prepare(proto)
    assert model.opset == 8
    assert any("kept at opset 8, without int8 and int4 (Scan of opset 8" in note for note in model.notes)


def test_large_constants_come_through() -> None:
    proto = graph("y = MatMul (x, w)", "float[N, 80] x", "float[N, 70] y", "float[80, 70] w", opset=9)
    proto.ir_version = 3
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [80, 70]))
    made = converted(proto, TARGET_OPSET)
    x = np.ones((1, 80), np.float32)
    np.testing.assert_array_equal(outputs_of(made, {"x": x})["y"], outputs_of(proto, {"x": x})["y"])
