"""Kinds of graphs that stop other converters: each is converted, and what it computes is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxmpq
from onnxmpq.cost.measure import Effort
from onnxmpq.errors import NothingToQuantizeError
from onnxmpq.model import Step, WeightStore, steps
from onnxmpq.model.fold import Folds, Origin, fold
from onnxmpq.plan import Plan
from tests.graphs import Array, feeds_for, graph, outputs_of, samples_for
from tests.tables import int8_pays

QUICK = Effort(seconds=0.02, runs=2, rounds=2)
FAST = ["gptq", "equalisation", "smoothquant", "bias-correction"]
SAMPLES = 8


def no_change(arrays: dict[str, Array]) -> None:
    """Samples as `samples_for` makes them."""


@dataclass(frozen=True)
class Hard:
    """A graph, and what is asked of its conversion.

    change: of the samples. more: of the graph. compared: outputs whose SQNR must be 20 dB, over the values that are
    finite in the original. quantized: False where no layer can be.
    """

    id: str
    body: str
    weights: str
    inputs: str = "float[N, 6, 32] x"
    outputs: str = "float[a, b, c] y"
    opset: int = 21
    change: Callable[[dict[str, Array]], None] = no_change
    more: Callable[[onnx.ModelProto], None] = lambda proto: None
    compared: tuple[str, ...] = ("y",)
    says: Mapping[str, str] = field(default_factory=dict)

    @property
    def proto(self) -> onnx.ModelProto:
        proto = graph(self.body, self.inputs, self.outputs, self.weights, opset=self.opset)
        self.more(proto)
        return proto


def mask_rows(arrays: dict[str, Array]) -> None:
    """Half of the keys masked; in every third sample all of them."""
    mask = np.arange(6) % 2 == 0
    arrays["mask"] = np.stack([mask if i % 3 else np.zeros(6, bool) for i in range(SAMPLES)])[:, None]


def feed_infinite_masks(arrays: dict[str, Array]) -> None:
    arrays["mask"] = np.where(np.arange(6) % 2 == 0, 0, -np.inf).astype(np.float32)[None, None].repeat(SAMPLES, 0)


def infinite_bias(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name == "table":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[:, ::2] = -np.inf
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "table"))


def stale_shapes(proto: onnx.ModelProto) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [3, 99]))


def third_input_left_out(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[2] = ""


def some_without_rows(arrays: dict[str, Array]) -> None:
    arrays["x"][::3] = -np.abs(arrays["x"][::3])


ATTENTION = """q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)
    t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)"""
W = "float[32, 32] wq, float[32, 32] wk, float[32, 32] wv"
HARD = [
    Hard(
        "-inf mask, rows without a key, guarded NaN",
        f"{ATTENTION}  m = Where (mask, s, inf)  p = Softmax <axis = -1> (m)  n = IsNaN (p)  g = Where (n, zero, p)"
        "  y = MatMul (g, v)",
        f"{W}, float zero = {{0}}",
        inputs="float[N, 6, 32] x, bool[N, 1, 6] mask",
        change=mask_rows,
        more=lambda proto: proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(-np.inf, np.float32), "inf")
        ),
    ),
    Hard(
        "-inf in a mask that is fed",
        f"{ATTENTION}  m = Add (s, mask)  p = Softmax <axis = -1> (m)  y = MatMul (p, v)",
        W,
        inputs="float[N, 6, 32] x, float[N, 1, 6] mask",
        change=feed_infinite_masks,
    ),
    Hard(
        "NaN in the output where the original has it",
        "r = Log (x)  h = MatMul (x, w)  y = MatMul (h, v)",
        "float[32, 32] w, float[32, 32] v",
        outputs="float[a, b, c] y, float[d, e, f] r",
    ),
    Hard(
        "-inf in a table of biases",
        "e = Gather (table, i)  h = MatMul (x, w)  s = Add (h, e)  p = Softmax <axis = -1> (s)  y = MatMul (p, v)",
        "float[6, 32] table, float[32, 32] w, float[32, 32] v, int64[6] i = {0, 1, 2, 3, 4, 5}",
        more=infinite_bias,
    ),
    Hard(
        "samples without rows",
        """f = Reshape (x, flat)  p = ReduceMax <keepdims = 0> (f, last)  k = Greater (p, zero)
           c = Compress <axis = 0> (f, k)  h = MatMul (c, w)  r = Relu (h)  m = MatMul (r, v)
           t = ReduceSum <keepdims = 0> (m, rows)  y = Unsqueeze (t, rows)""",
        "float[32, 32] w, float[32, 32] v, int64[2] flat = {-1, 32}, int64[1] last = {1}, int64[1] rows = {0}, "
        "float zero = {0}",
        inputs="float[1, 6, 32] x",
        outputs="float[a, b] y",
        change=some_without_rows,
    ),
    Hard(
        "stale shapes",
        "h = Gemm (x, w)  r = Relu (h)  y = Gemm (r, v)",
        "float[32, 64] w, float[64, 16] v",
        inputs="float[1, 32] x",
        outputs="float[1, 16] y",
        opset=17,
        more=stale_shapes,
    ),
    Hard(
        "no names, inputs left out",
        "h = Conv <kernel_shape = [1]> (x, w, e)  c = Clip (h, , top)  y = Conv <kernel_shape = [1]> (c, v)",
        "float[8, 6, 1] w, float[8, 8, 1] v, float top = {1.5}",
        more=third_input_left_out,
    ),
    Hard(
        "branches that read one weight",
        """h = MatMul (x, w)
           o = If (flag) <
               then_branch = t () => (float[a, b, c] u) { m = MatMul (h, v) u = Relu (m) },
               else_branch = e () => (float[a, b, c] u) { m = MatMul (h, v) u = Neg (m) }
           >
           y = MatMul (o, w)""",
        "float[32, 32] w, float[32, 32] v, bool flag = {1}",
    ),
    Hard(
        "a branch chosen by an input",
        """h = MatMul (x, w)  r = ReduceSum <keepdims = 0> (h)  flag = Greater (r, zero)
           o = If (flag) <
               then_branch = t () => (float[a, b, c] u) { m = MatMul (h, v) u = Relu (m) },
               else_branch = e () => (float[a, b, c] u) { m = MatMul (h, v) u = Add (m, m) }
           >
           y = MatMul (o, w)""",
        "float[32, 32] w, float[32, 32] v, float zero = {0}",
        inputs="float[1, 6, 32] x",
    ),
    Hard(
        "a Loop that reads a weight of the graph",
        """h = MatMul (x, w)
           o = Loop (three, , h) <body = b (int64 i, bool c, float[a, b, c] s) => (bool d, float[a, b, c] r) {
               d = Identity (c)  m = MatMul (s, v)  r = Tanh (m) }>
           y = MatMul (o, w)""",
        "float[32, 32] w, float[32, 32] v, int64 three = {3}",
    ),
    Hard(
        "a Scan with a body inside its body",
        """h = MatMul (x, w)
           z, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
               body = b (float[a, c] s, float[a, c] e) => (float[a, c] t, float[a, c] u) {
                   n = Add (s, e)
                   t = If (flag) <
                       then_branch = f () => (float[a, c] p) { k = MatMul (n, v) p = Tanh (k) },
                       else_branch = g () => (float[a, c] p) { k = MatMul (n, v) p = Neg (k) }
                   >
                   u = Identity (t) }> (start, h)""",
        "float[32, 32] w, float[32, 32] v, bool flag = {1}, float[1, 32] start",
        inputs="float[1, 6, 32] x",
    ),
    Hard(
        "Upsample of opset 9",
        """c = Conv <kernel_shape = [1, 1]> (x, w)  u = Upsample <mode = "linear"> (c, s)
           y = Conv <kernel_shape = [1, 1]> (u, v)""",
        "float[8, 4, 1, 1] w, float[8, 8, 1, 1] v, float[4] s = {1, 1, 2, 2}",
        inputs="float[N, 4, 6, 6] x",
        outputs="float[a, b, c, d] y",
        opset=9,
    ),
    Hard(
        "random numbers in one of two outputs",
        "h = MatMul (x, w)  y = MatMul (h, v)  n = RandomNormalLike (y)  z = Add (y, n)",
        "float[32, 32] w, float[32, 32] v",
        outputs="float[a, b, c] y, float[d, e, f] z",
        says={"z": "output 'z' depends on random numbers"},
    ),
    Hard(
        "random numbers in all outputs",
        "h = MatMul (x, w)  n = RandomNormalLike (h)  m = Add (h, n)  y = MatMul (m, v)",
        "float[32, 32] w, float[32, 32] v",
        compared=(),
        says={"y": "output 'y' depends on random numbers"},
    ),
    Hard(
        "a number without axes beside the output",
        "h = MatMul (x, w)  y = MatMul (h, v)  z = ReduceMax <keepdims = 0> (h)  k = Greater (z, zero)",
        "float[32, 32] w, float[32, 32] v, float zero = {0}",
        outputs="float[a, b, c] y, float z, bool k",
        compared=("y", "z"),
    ),
    Hard(
        "attention as Einsum",
        """q = Einsum <equation = "abc,cde->abde"> (x, w)  k = Einsum <equation = "abc,dec->abde"> (x, v)
           s = Einsum <equation = "abde,acde->adbc"> (q, k)  p = Softmax <axis = -1> (s)
           o = Einsum <equation = "adbc,acde->abde"> (p, k)  y = Einsum <equation = "abde,dec->abc"> (o, u)""",
        "float[32, 2, 16] w, float[2, 16, 32] v, float[2, 16, 32] u",
    ),
    Hard(
        "labels alone",
        "h = MatMul (x, w)  r = Relu (h)  s = MatMul (r, v)  y = ArgMax <axis = 2, keepdims = 0> (s)",
        "float[32, 32] w, float[32, 32] v",
        outputs="int64[a, b] y",
        compared=(),
    ),
    Hard(
        "a list as long as the data says",
        "h = MatMul (x, w)  s = MatMul (h, v)  k = Greater (s, zero)  y = NonZero (k)",
        "float[32, 32] w, float[32, 32] v, float zero = {0}",
        inputs="float[1, 6, 32] x",
        outputs="int64[a, b] y",
        compared=(),
        says={"y": "output 'y' could not be compared"},
    ),
]


@pytest.mark.parametrize("case", HARD, ids=lambda case: case.id)
@pytest.mark.parametrize("goal", ["fastest", "smallest"])
def test_hard_graphs(case: Hard, goal: str, tmp_path: Path) -> None:
    proto = case.proto
    arrays = samples_for(proto, SAMPLES)
    if feeds_for(proto, 1).specs[0].shape[0] == 1:
        arrays = {n: a[:, None] for n, a in arrays.items()}
    case.change(arrays)
    asked = {"latency": "fastest"} if goal == "fastest" else {"size": "smallest"}
    result = onnxmpq.convert(
        proto,
        calibration=arrays,
        effort=QUICK,
        without=FAST,
        cost_table=int8_pays(proto, tmp_path),
        guard=False,
        **asked,
    )
    assert any(r.scheme != "fp32" for r in result.plan.layers)
    assert [o.name for o in result.model.graph.output] == [o.name for o in proto.graph.output]
    for name in case.compared:
        signal, noise = 0.0, 0.0
        for number in range(SAMPLES):
            row = slice(number, number + 1)
            given = {n: a[row] if feeds_for(proto, 1).specs[0].shape[0] != 1 else a[number] for n, a in arrays.items()}
            before, after = (outputs_of(m, given)[name] for m in (proto, result.model))
            finite = np.isfinite(before)
            signal += float(np.square(before[finite]).sum())
            noise += float(np.square(before[finite] - after[finite]).sum())
        assert 10 * np.log10(signal / max(noise, 1e-30)) > 15
    for words in case.says.values():
        assert any(words in note for note in (*result.report.notes, *result.plan.notes))


def test_a_plan_knows_which_step_was_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding that turns Relu into Neg is found out; `apply` leaves it out as well."""

    def wrong(given: WeightStore, folds: Folds) -> tuple[WeightStore, Origin]:
        made, origin = fold(given, folds)
        for node in made.structure.graph.node if folds.factors else ():
            node.op_type = "Neg" if node.op_type == "Relu" else node.op_type
        return made, origin

    body = "h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v)"
    proto = graph(body, "float[N, 32] x", "float[N, 32] y", "float[32,32] w, float[32,32] v")
    table = int8_pays(proto, tmp_path)
    monkeypatch.setattr(steps, "fold", wrong)
    result = onnxmpq.convert(proto, calibration=samples_for(proto, 8), effort=QUICK, without=FAST, cost_table=table)
    assert result.plan.steps_left_out == (Step.FOLD_FACTORS,)
    assert Plan.from_json(result.plan.to_json()) == result.plan
    assert onnxmpq.apply(proto, Plan.from_json(result.plan.to_json())) == result.model
    assert any(Step.FOLD_FACTORS in note for note in result.report.notes)


def test_without_layers_no_data_is_read() -> None:
    proto = graph("y = StringConcat (x, x)", "string[N] x", "string[N] y", opset=20)
    with pytest.raises(NothingToQuantizeError, match="0 layers"):
        onnxmpq.convert(proto, calibration="there/is/none.npz")


def test_a_size_that_preparing_reaches(tmp_path: Path) -> None:
    """Most of the file is in a branch that is never taken; what is left may stay float32."""
    body = """h = MatMul (x, w)
        y = If (flag) <
            then_branch = t () => (float[a, b] u) { u = MatMul (h, v) },
            else_branch = e () => (float[a, b] u) { m = MatMul (h, wide) u = MatMul (m, back) }
        >"""
    weights = "float[32,32] w, float[32,32] v, float[32,512] wide, float[512,32] back, bool flag = {1}"
    proto = graph(body, "float[N, 32] x", "float[N, 32] y", weights)
    result = onnxmpq.convert(
        proto, size="40%", calibration=samples_for(proto, 8), cost_table=int8_pays(proto, tmp_path), effort=QUICK
    )
    assert not result.plan.layers or all(r.scheme == "fp32" for r in result.plan.layers)
    assert result.report.result_bytes < 0.4 * result.report.original_bytes
    assert onnxmpq.apply(proto, Plan.from_json(result.plan.to_json())) == result.model
