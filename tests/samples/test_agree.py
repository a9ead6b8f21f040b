"""The prepared model computes what its source does; the step that is to blame where it does not is left out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmpq.errors import ModelError
from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Step, WeightStore, prepare
from onnxmpq.model import steps as steps_module
from onnxmpq.model.fold import Folds, fold
from onnxmpq.model.opset import converted
from onnxmpq.samples import agreeing
from onnxmpq.samples.agree import deviation
from tests.graphs import feeds_for, graph, outputs_of, steps_to_take

GUILTY = [
    Step.RAISE_TO_CHANNELS,
    Step.RAISE_TO_INT4,
    Step.FOLD_CONSTANTS,
    Step.SKIP_IDENTITIES,
    Step.FOLD_FACTORS,
]


def spoil(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Turn every Relu into a Neg."""
    for node in proto.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Neg"
    return proto


def break_steps(monkeypatch: pytest.MonkeyPatch, guilty: Collection[Step]) -> None:
    def wrong_fold(store: WeightStore, folds: Folds) -> Any:
        taken = {
            Step.FOLD_CONSTANTS: folds.constants,
            Step.SKIP_IDENTITIES: folds.identities,
            Step.FOLD_FACTORS: folds.factors,
        }
        made, origin = fold(store, folds)
        if any(taken.get(s, False) for s in guilty):
            spoil(made.structure)
        return made, origin

    def wrong_opset(proto: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
        step = Step.RAISE_TO_INT4 if wanted == 21 else Step.RAISE_TO_CHANNELS
        return spoil(converted(proto, wanted)) if step in guilty else converted(proto, wanted)

    monkeypatch.setattr(steps_module, "fold", wrong_fold)
    monkeypatch.setattr(steps_module, "converted", wrong_opset)


@pytest.mark.parametrize("guilty", [*([s] for s in GUILTY[1:]), GUILTY[:2], [GUILTY[1], GUILTY[4]], GUILTY], ids=str)
def test_the_steps_that_change_an_output_are_left_out(guilty: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    proto = steps_to_take()
    feeds = feeds_for(proto)
    break_steps(monkeypatch, guilty)
    model = agreeing(proto, prepare(proto), feeds)
    assert set(model.left_out) == set(guilty)
    assert all(any(step in note for note in model.notes) for step in guilty)
    inputs = feeds.batch([1])
    np.testing.assert_allclose(outputs_of(model.proto, inputs)["y"], outputs_of(proto, inputs)["y"], atol=1e-5)


def test_a_model_that_agrees_is_handed_back_as_it_is(tmp_path: Path) -> None:
    proto = steps_to_take()
    onnx.save(proto, tmp_path / "model.onnx")
    model = prepare(proto)
    assert agreeing(tmp_path / "model.onnx", model, feeds_for(proto)) is model


def test_an_opset_that_was_asked_for_is_no_step_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = steps_to_take()
    break_steps(monkeypatch, [Step.RAISE_TO_INT4])
    with pytest.raises(ModelError, match="at opset 21; leave the opset out"):
        agreeing(proto, prepare(proto, 21), feeds_for(proto), 21)


def test_a_source_that_does_not_run_is_refused_in_the_words_of_the_runtime() -> None:
    proto = graph("y = Reshape (x, s)", "float[N, 4] x", "float[N, 3] y", "int64[2] s = {5, 3}")
    with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
        agreeing(proto, prepare(proto), feeds_for(graph("y = Relu (x)", "float[N, 4] x", "float[N, 4] y")))


def test_random_outputs_are_not_compared_and_it_is_said() -> None:
    proto = graph(
        "n = RandomNormalLike (x)  y = Add (x, n)  z = MatMul (x, w)",
        "float[N, 4] x",
        "float[N, 4] y, float[N, 4] z",
        "float[4, 4] w",
    )
    found = agreeing(proto, prepare(proto), feeds_for(proto))
    assert not found.left_out
    assert [n for n in found.notes if "'y' depends on random numbers" in n and "'z'" not in n]


def test_an_output_that_rounding_decides_is_no_reason_to_leave_a_step_out() -> None:
    """1e6 times the difference of two ways to sum: every change of the last bits is an error of more than 0.1 %."""
    body = "a = Conv <kernel_shape = [1, 1]> (x, w)  b = Mul (a, m)  c = Sub (b, x2)  d = Mul (c, big)  y = Sin (d)"
    proto = graph(
        body, "float[N, 8, 4, 4] x, float[N, 2, 4, 4] x2", "float[N, 2, 4, 4] y",
        "float[2, 8, 1, 1] w, float[1, 2, 1, 1] m, float big = {10000000.0}",
    )  # fmt: skip
    assert not agreeing(proto, prepare(proto), feeds_for(proto)).left_out


def ties() -> onnx.ModelProto:
    """Two channels with the same exact values, of which BatchNormalization computes one with other last bits, so that
    rounding decides which is the larger; inputs are integers, whose last bits cannot be moved."""
    proto = graph(
        """f = Cast <to = 1> (x)  c = Conv <kernel_shape = [1, 1]> (f, w)  n = BatchNormalization (c, s, o, m, v)
           y = ArgMax <axis = 1> (n)""",
        "int64[N, 8, 6, 6] x",
        "int64[N, a, b, c] y",
        "float[2, 8, 1, 1] w, float[2] s, float[2] o, float[2] m, float[2] v",
    )
    row = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    values = {
        "w": np.stack([row, row * np.float32(3)])[:, :, None, None],
        "s": np.array([1, 1 / 3], np.float32),
        **dict.fromkeys(("o", "m"), np.zeros(2, np.float32)),
        "v": np.ones(2, np.float32),
    }
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    return proto


def test_labels_of_equal_scores_are_no_reason_to_leave_a_step_out() -> None:
    proto = ties()
    feeds = feeds_for(proto)
    model = prepare(proto)
    inputs = feeds.batch([0])
    one, two = (outputs_of(p, inputs)["y"] for p in (proto, model.proto))
    assert (one != two).any(), "rounding decides"
    assert not agreeing(proto, model, feeds).left_out


def test_scores_behind_labels_tell_which_step_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = ties()
    proto.graph.node[-1].input[0] = "r"
    proto.graph.node.insert(3, onnx.helper.make_node("Relu", ["n"], ["r"]))
    break_steps(monkeypatch, [Step.FOLD_FACTORS])
    assert agreeing(proto, prepare(proto), feeds_for(proto)).left_out == (Step.FOLD_FACTORS,)


def test_no_finite_value_at_all_is_an_error_and_some_are_not() -> None:
    proto = graph("a = Relu (x)  y = Log (a)", "float[N, 2] x", "float[N, 2] y")
    feeds = feeds_for(proto, 2)

    def filled(*rows: list[float]) -> Feeds:
        feeds.arrays["x"][:] = rows
        return feeds

    assert agreeing(proto, prepare(proto), filled([1, 0], [0, 1])).notes == ()
    with pytest.raises(ModelError, match=r"output 'y' for calibration sample 0: infinity first .* \(Log\)"):
        agreeing(proto, prepare(proto), filled([0, 0], [1, 1]))


F = np.float32
NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Pair:
    """Two values of an output, and their deviation."""

    id: str
    before: Any
    after: Any
    deviation: float


def row(*values: float) -> np.ndarray:
    return np.array(values, F)


PAIRS = [
    Pair("equal", row(1, 2), row(1, 2), 0.0),
    Pair("relative to the largest", row(1, 4), row(3, 4), 0.5),
    Pair("NaN in both", row(NAN, 4), row(NAN, 4), 0.0),
    Pair("NaN only before", row(NAN, 4), row(1, 4), 0.0),
    Pair("NaN only after", row(1, 4), row(NAN, 4), INF),
    Pair("infinite in both", row(-INF, 4), row(-INF, 2), 0.5),
    Pair("empty", row(), row(), 0.0),
    Pair("another shape", row(1), row(1, 1), INF),
    Pair("another type", row(1), np.array([1]), INF),
    Pair("integers", np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.25),
    Pair("strings", np.array(["a", "b"], object), np.array(["a", "c"], object), 0.5),
    Pair("sequences", [row(1), row(2)], [row(1), row(1)], 0.5),
    Pair("sequences of other lengths", [row(1)], [], INF),
    Pair("absent", None, None, 0.0),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.id)
def test_deviation(pair: Pair) -> None:
    assert deviation(pair.before, pair.after) == pair.deviation
