"""Decoders with a cache from end to end: layers are quantized, the cache and the runtime's own operators stay."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import UsageError
from onnxmpq.menu import candidates
from onnxmpq.model import prepare
from onnxmpq.quality import Validation
from onnxmpq.request import GateOptions
from onnxmpq.result import Result
from onnxmpq.runtimes import open_session, run, specs_of
from onnxmpq.target.load import load_target
from tests import decoders
from tests.conftest import QUICK

MADE: dict[str, Callable[[], onnx.ModelProto]] = {
    "plain": decoders.plain,
    "packed in a Split": lambda: decoders.plain(packed=True),
    "RotaryEmbedding of com.microsoft": lambda: decoders.plain(rotary="com.microsoft"),
    "RotaryEmbedding of opset 23": lambda: decoders.plain(rotary=""),
    "contrib": decoders.contrib,
    "contrib with MatMulNBits": lambda: decoders.contrib(nbits=True),
}
each = pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
KEPT = ("RotaryEmbedding", "GroupQueryAttention", "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization")


def ends(proto: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(i.name, i.type.tensor_type.elem_type) for i in (*proto.graph.input, *proto.graph.output)]


@each
def test_both_phases_run_after_a_conversion(make: Callable[[], onnx.ModelProto]) -> None:
    proto = make()
    calibration = {"input_ids": decoders.token_rows(24)}
    result = onnxmpq.convert(
        proto, calibration=calibration, size="60%", samples=18, guard=False, best_effort=True, effort=QUICK, seed=1
    )
    assert ends(result.model) == ends(proto)
    before, after = (Counter(node.op_type for node in m.graph.node) for m in (proto, result.model))
    assert all(after[name] == before[name] for name in KEPT)
    assert any(row.scheme != "fp32" for row in result.plan.layers)
    judged = result.report.validation
    assert [output.name for output in judged.outputs] == ["logits"]
    assert {step.step for step in judged.steps} == {"decode", "prefill"}
    assert any("left in float32" in note for note in result.report.notes)
    held = json.loads(result.report.to_json())["conclusion"]["budget"]["steps"]
    assert all(
        step["tokens"] / (step["result_ms"] / 1e3) == pytest.approx(step["result_tokens_per_s"]) for step in held
    )
    assert continues(result.model)


@pytest.mark.parametrize(("asked", "timed"), [(None, "prefill"), ("decode", "decode")])
def test_a_plan_is_measured_again_in_its_phase_or_another(asked: str | None, timed: str, prefilling: Result) -> None:
    calibration = {"input_ids": decoders.token_rows(8)}
    applied = onnxmpq.apply_plan(
        decoders.plain(), prefilling.plan, measure=True, calibration=calibration, samples=8, step=asked, effort=QUICK
    )
    found = applied.validation
    assert found is not None and {step.step for step in found.steps} == {"decode", "prefill"}
    assert next(step.timing for step in found.steps if step.step == timed) is found.timing
    assert [note for note in applied.plan.notes if note.startswith(f"--step {timed}: latency is that of")]


@pytest.fixture(scope="module")
def prefilling() -> Result:
    calibration = {"input_ids": decoders.token_rows(24)}
    return onnxmpq.convert(
        decoders.plain(), calibration=calibration, size="60%", step="prefill", samples=18, guard=False, effort=QUICK
    )


def continues(proto: onnx.ModelProto) -> bool:
    """True if two steps, the second with the cache of the first, are what one run on both gives."""
    session, row = open_session(proto), decoders.token_rows(1, 9)
    logits, *cache = run(session, inputs(proto, row[:, :6]))
    second, *_ = run(session, inputs(proto, row[:, 6:], list(cache)))
    whole, *_ = run(session, inputs(proto, row))
    return bool(np.abs(whole[:, 6:] - second).max() < 0.05 * np.abs(whole).max()) and logits.shape[1] == 6


def inputs(proto: onnx.ModelProto, ids: np.ndarray, cache: list[np.ndarray] | None = None) -> dict[str, np.ndarray]:
    names = [f"past_key_values.{name}" for name in decoders.CACHES]
    held = cache or [np.zeros((1, decoders.PAIRS, 0, decoders.HEAD), np.float32)] * len(names)
    before = held[0].shape[2]
    found = dict(zip(names, held, strict=True))
    found |= {"input_ids": ids, "attention_mask": np.ones((1, before + ids.shape[1]), np.int64)}
    found["position_ids"] = np.arange(before, before + ids.shape[1])[None]
    return {spec.name: found[spec.name] for spec in specs_of(proto)}


def test_operators_at_the_cache_have_no_choice() -> None:
    model = prepare(decoders.plain())
    menu = candidates(model, load_target("cpu"), DIALECTS["onnxruntime"])
    joins = [r for r in model.regions if set(r.outputs) & {f"present.{name}" for name in decoders.CACHES}]
    assert len(joins) == len(decoders.CACHES)
    for region in joins:
        assert [s.name for s in menu[region.name]] == ["fp32"]
        assert "cache" in menu.reasons[region.name]
    others = [r for r in model.regions if r.op_type == "MatMul" and r.layer is not None]
    assert others and all(len(menu[r.name]) > 1 for r in others)


def test_caches_of_an_encoder_are_left_alone() -> None:
    model = prepare(decoders.plain(encoder=True))
    menu = candidates(model, load_target("cpu"), DIALECTS["onnxruntime"])
    readers = [r for r in model.regions if set(r.inputs) & set(decoders.CROSS)]
    assert readers and all([s.name for s in menu[r.name]] == ["fp32"] for r in readers)
    assert any("cache" in menu.reasons.get(r.name, "") for r in readers)


def test_a_cache_is_not_judged_where_whole_sequences_are() -> None:
    """A key projection that is broken shows in the logits of later tokens."""
    proto = decoders.plain()
    broken = onnx.ModelProto()
    broken.CopyFrom(proto)
    key = next(n.input[0] for n in proto.graph.node if n.op_type == "Reshape" and "present.0.key" in behind(proto, n))
    weight = next(n.input[1] for n in proto.graph.node if n.output[0] == key)
    tensor = next(t for t in broken.graph.initializer if t.name == weight)
    tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), weight))
    found = compared(proto, broken, {"input_ids": decoders.token_rows(8)})
    assert [output.name for output in found.outputs] == ["logits"]
    assert found.divergence > 1e-4
    same = compared(proto, proto, {"input_ids": decoders.token_rows(8)})
    assert same.divergence == 0.0


def behind(proto: onnx.ModelProto, node: onnx.NodeProto) -> set[str]:
    """Tensors two nodes further on."""
    found = set(node.output)
    for _ in range(2):
        found |= {t for n in proto.graph.node if found & set(n.input) for t in n.output}
    return found


def compared(one: onnx.ModelProto, other: onnx.ModelProto, feeds: object) -> Validation:
    found: Validation = onnxmpq.validate(one, other, feeds)
    return found


def test_words_that_are_no_phase(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--step both: must be decode or prefill"):
        onnxmpq.convert(decoders.plain(), step="both")
    with pytest.raises(UsageError, match="--step both"):
        GateOptions(step="both")


def test_inspect_says_that_it_is_a_decoder() -> None:
    notes = onnxmpq.inspect(decoders.contrib()).notes
    assert any("key/value cache of 4 inputs ('past_key_values.0.key', ...)" in note for note in notes)
