"""Methods of a conversion that a user can switch: effects block by block, and layers that share a scheme."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import onnxmpq
from onnxmpq.request import Request
from onnxmpq.target import load_target
from tests.conftest import QUICK
from tests.graphs import graph, samples_for
from tests.sensitivity.test_blocks import chain
from tests.tables import int8_pays

CHAIN = chain(3)
ATTENTION = graph(
    "q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)  t = Transpose <perm = [0, 2, 1]> (k) "
    "s = MatMul (q, t)  p = Softmax (s)  a = MatMul (p, v)  y = MatMul (a, wo)",
    "float[N, 6, 64] x", "float[N, 6, 64] y", "float[64, 64] wq, float[64, 64] wk, float[64, 64] wv, float[64, 64] wo",
)  # fmt: skip


def converted(proto: onnx.ModelProto, folder: Path, **options: str) -> onnxmpq.Result:
    table = int8_pays(proto, folder)
    return onnxmpq.convert(
        proto, calibration=samples_for(proto, 16), cost_table=table, cache=False, guard=False, effort=QUICK, **options
    )


def test_effects_by_blocks_make_a_plan_that_says_so(tmp_path: Path) -> None:
    block = converted(CHAIN, tmp_path, latency="70%", effects="block")
    full = converted(CHAIN, tmp_path, latency="70%")
    (note,) = [n for n in block.plan.notes if "gain" in n]
    assert "4 blocks" in note and "--effects full" in note
    assert block.plan.options["effects"] == "block"
    assert not any("gain" in n for n in full.plan.notes)
    assert block.plan.prediction["effect"] == pytest.approx(full.plan.prediction["effect"], rel=2.0)


@pytest.mark.parametrize("size", ["40%", "60%"])
def test_layers_of_an_attention_share_a_scheme_where_it_is_asked_for(size: str, tmp_path: Path) -> None:
    plan = converted(ATTENTION, tmp_path, size=size, couple="on").plan
    names = {row.node: row.scheme for row in plan.layers}
    (note,) = [n for n in plan.notes if "--couple" in n]
    group = note.removeprefix("one scheme for ").removesuffix(" (--couple)").split(" + ")
    assert len(group) == 3 and len({names[node] for node in group}) == 1
    apart = converted(ATTENTION, tmp_path, size=size).plan
    assert not any("--couple" in n for n in apart.notes), "onnxruntime merges nothing"


def test_targets_say_whether_they_merge_layers() -> None:
    assert not load_target("cpu").merges_layers and not load_target("edge-npu").merges_layers
    assert load_target("l4").merges_layers
    assert Request().couple == "auto"
    with pytest.raises(onnxmpq.errors.UsageError, match="--couple of"):
        Request(couple="of")
