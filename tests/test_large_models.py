"""Conversions of models that are never whole in memory: the same results as of others, and external data in and out.

The limit from which on a model is treated so is lowered to 0 for graphs of a few kilobytes.
"""

from __future__ import annotations

import errno
import gc
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.errors import OutputError, PlanError
from onnxmpq.model import LARGEST_KEPT, is_reference
from onnxmpq.statistics import Moments, MomentSum
from tests.graphs import Array, graph, outputs_of, samples_for
from tests.model.test_spill import split
from tests.model.test_widen import stored_as
from tests.tables import int8_pays
from tests.weights.test_reuse import Heard

TOKENS = graph(
    "e = Gather (table, x) a = MatMul (e, w0) r = Relu (a) b = MatMul (r, w1) s = Add (b, e) y = MatMul (s, w2)",
    "int64[N, 6] x",
    "float[N, 6, 96] y",
    "float[96, 64] table, float[64, 160] w0, float[160, 64] w1, float[64, 96] w2",
)


@pytest.fixture(autouse=True)
def every_model_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return split(TOKENS, folder)


def converted(source: Path, folder: Path, **options: Any) -> onnxmpq.Result:
    """By a made-up cost table, with samples of its own."""
    folder.mkdir(exist_ok=True)
    given = {"latency": "70%", "calibration": samples_for(TOKENS, 16), "cache": False, "output": folder / "out.onnx"}
    return onnxmpq.convert(source, cost_table=int8_pays(source, folder), **{**given, **options})


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name.startswith("out.")}


def run(path: Path) -> Array:
    import onnxruntime  # noqa: PLC0415 (as a user opens it, whatever this package does)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": samples_for(TOKENS, 3, seed=5)["x"]})[0]
    return found


def test_external_data_in_and_out(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = converted(source, tmp_path / "large")
    assert any(row.scheme != "fp32" for row in result.plan.layers)
    written = onnx.load(tmp_path / "large" / "out.onnx", load_external_data=False)
    outside = [t for t in written.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {t.name for t in outside} == {t.name for t in written.graph.initializer if np.prod(t.dims) > LARGEST_KEPT}
    assert {e.value for t in outside for e in t.external_data if e.key == "location"} == {"out.onnx.data"}
    onnx.checker.check_model(tmp_path / "large" / "out.onnx")
    assert not any(map(is_reference, written.graph.initializer))
    monkeypatch.undo()
    converted(source, tmp_path / "small")
    assert sorted(files(tmp_path / "small")) == ["out.onnx", "out.plan.json"]
    expected, found = run(tmp_path / "small" / "out.onnx"), run(tmp_path / "large" / "out.onnx")
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()


def test_a_plan_is_applied_to_the_same_files(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "first")
    onnxmpq.apply(source, tmp_path / "first" / "out.plan.json", output=tmp_path / "first" / "out.again.onnx")
    found = files(tmp_path / "first")
    assert found["out.again.onnx.data"] == found["out.onnx.data"]
    model, again = (onnx.ModelProto.FromString(found[name]) for name in ("out.onnx", "out.again.onnx"))
    for tensor in (*model.graph.initializer, *again.graph.initializer):
        for entry in tensor.external_data:
            entry.value = "" if entry.key == "location" else entry.value
    assert model == again
    plan = json.loads(found["out.plan.json"])
    assert plan["output_sha256"] == json.loads(found["out.again.plan.json"])["output_sha256"]


@pytest.mark.parametrize("options", [{}, {"curve": True}], ids=["plan", "with_a_curve"])
def test_weights_rounded_for_inputs_are_in_a_file_beside_the_plan(
    options: dict[str, bool], source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "first"
    curve = {"curve": tmp_path / "curve.csv"} if options else {}
    made = converted(source, folder, **curve).plan
    before, text = files(folder), (folder / "out.plan.json").read_text()
    assert made.weights and all(p.codes.startswith("sha256:") for p in made.weights.values())
    assert len(text) < len(before["out.plan.weights"]) + 20_000
    read = onnxmpq.read_plan(folder / "out.plan.json")
    assert read == made and not read.changed
    onnxmpq.apply(source, folder / "out.plan.json", output=folder / "out.again.onnx")
    found = files(folder)
    assert found["out.again.onnx.data"] == before["out.onnx.data"]
    assert found["out.again.plan.weights"] == before["out.plan.weights"]


def test_a_model_of_16_bits_is_converted_and_keeps_the_types_of_its_ends(tmp_path: Path) -> None:
    proto = stored_as(onnx.ModelProto.FromString(TOKENS.SerializeToString()), onnx.TensorProto.FLOAT16)
    folder = tmp_path / "half"
    folder.mkdir()
    half = split(proto, folder)
    converted(half, tmp_path / "first")
    onnxmpq.apply(half, tmp_path / "first" / "out.plan.json", output=tmp_path / "first" / "out.again.onnx")
    found = files(tmp_path / "first")
    assert found["out.again.onnx.data"] == found["out.onnx.data"]
    written = onnx.ModelProto.FromString(found["out.onnx"])
    assert written.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    values = run(tmp_path / "first" / "out.onnx")
    expected = outputs_of(proto, {"x": samples_for(TOKENS, 3, seed=5)["x"]})["y"]
    assert values.dtype == np.float16
    assert np.abs(values - expected).max() < 0.2 * np.abs(expected).max()


def test_a_plan_without_its_weights_says_what_is_missing(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    converted(source, folder)
    plan, beside = folder / "out.plan.json", folder / "out.plan.weights"
    content = beside.read_bytes()
    beside.write_bytes(content[:10] + bytes([content[10] ^ 1]) + content[11:])
    with pytest.raises(PlanError, match=r"weights: .*: damaged in .*out.plan.weights"):
        onnxmpq.apply(source, plan)
    beside.write_bytes(content[:-40])
    with pytest.raises(PlanError, match="damaged in"):
        onnxmpq.apply(source, plan)
    beside.unlink()
    with pytest.raises(PlanError, match=r"out.plan.weights: cannot be read .* keep it beside the plan"):
        onnxmpq.apply(source, plan)
    with pytest.raises(PlanError, match="give the path of the plan's file"):
        onnxmpq.apply(source, json.loads(plan.read_text()))


def test_where_all_formats_take_too_long_the_plans_own_are_rounded_for_inputs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as one format fits and all that are offered do not."""
    weights = 96 * 64 + 2 * 64 * 160 + 64 * 96
    monkeypatch.setattr(
        "onnxmpq.weights.reuse.VALUE_S", {"best": (1e9, 0.0), "gptq": (3600 / weights, 0.0), "nearest": (0.0, 0.0)}
    )
    heard = Heard()
    plan = converted(source, tmp_path / "first", progress=heard).plan
    assert any(line.startswith("plans are compared with weights rounded to nearest") for line in heard.lines)
    assert any("by GPTQ alone" in line for line in heard.lines)
    assert set(plan.compensation) >= {"first", "gptq"}
    kept = plan.compensation["gptq"] < plan.compensation["first"]
    assert bool(plan.weights) == kept


@pytest.mark.parametrize("alone", [False, True], ids=["all_formats", "of_the_plan"])
def test_weights_for_which_samples_have_too_few_rows_are_rounded_to_nearest(
    alone: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here none has enough; the plan says so, and need not hold what `apply` can make again."""
    monkeypatch.setattr("onnxmpq.weights.first.MOST_CHANCE", 0.0)
    if alone:
        weights = 96 * 64 + 2 * 64 * 160 + 64 * 96
        takes = {"best": (1e9, 0.0), "gptq": (3600 / weights, 0.0), "nearest": (0.0, 0.0)}
        monkeypatch.setattr("onnxmpq.weights.reuse.VALUE_S", takes)
    heard, folder = Heard(), tmp_path / "first"
    plan = converted(source, folder, progress=heard, without=("cross", "bias-correction")).plan
    assert any("rounded to nearest: the samples have too few rows" in line for line in heard.lines)
    assert any("too few rows of inputs" in note and "--samples" in note for note in plan.notes)
    assert not plan.weights and set(plan.compensation) <= {"first"}
    onnxmpq.apply(source, folder / "out.plan.json", output=folder / "out.again.onnx")
    found = files(folder)
    assert found["out.again.onnx.data"] == found["out.onnx.data"]


def test_some_weights_may_have_too_few_rows(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 72 rows those of 160 inputs are more of a chance than those of 64."""
    shares: list[float] = []
    from_rows = MomentSum.result

    def watched(self: MomentSum, **options: bool) -> Moments:
        found = from_rows(self, **options)
        shares.append(found.chance)
        return found

    with monkeypatch.context() as watching:
        watching.setattr(MomentSum, "result", watched)
        everything = converted(source, tmp_path / "all", without=("cross", "bias-correction")).plan
    assert not any("too few rows" in note for note in everything.notes) and max(shares) < 1.0
    monkeypatch.setattr("onnxmpq.weights.first.MOST_CHANCE", max(shares))
    some = converted(source, tmp_path / "some", without=("cross", "bias-correction")).plan
    notes = [note for note in some.notes if "too few rows" in note]
    assert len(notes) == len(set(everything.weights) - set(some.weights)) == 1
    onnxmpq.apply(source, tmp_path / "some" / "out.plan.json", output=tmp_path / "some" / "out.again.onnx")
    found = files(tmp_path / "some")
    assert found["out.again.onnx.data"] == found["out.onnx.data"]


def test_what_is_written_can_be_converted_and_compared(source: Path, tmp_path: Path) -> None:
    converted(source, tmp_path / "first")
    feeds = samples_for(TOKENS, 4, seed=7)
    found = onnxmpq.validate(source, tmp_path / "first" / "out.onnx", feeds)
    assert found.outputs[0].sqnr_db > 10
    assert onnxmpq.inspect(tmp_path / "first" / "out.onnx").regions


def test_temporary_files_are_gone(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    result = converted(source, tmp_path / "first")
    assert [p.name for p in scratch.iterdir() if p.name.startswith("onnxmpq-")]  # the result refers to them
    del result
    gc.collect()
    assert not list(scratch.rglob("*.bin"))


def test_interrupted_and_resumed_the_bytes_are_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while weights are rounded, and while plans are compared."""
    converted(source, tmp_path / "undisturbed")
    expected, cache = files(tmp_path / "undisturbed"), tmp_path / "cache"
    for place in ("onnxmpq.weights.reuse.round_weights", "onnxmpq.shipping.second_rounding.compensate"):
        with monkeypatch.context() as patched:
            patched.setattr(place, _interrupt)
            with pytest.raises(KeyboardInterrupt):
                converted(source, tmp_path / "resumed", cache=cache)
        assert not files(tmp_path / "resumed")
    converted(source, tmp_path / "resumed", cache=cache)
    found = files(tmp_path / "resumed")
    assert found.keys() == expected.keys()
    for name in ("out.onnx", "out.onnx.data"):
        assert found[name] == expected[name]


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", [".onnx.data", ".onnx"])
def test_a_disk_that_fills_up_while_writing_loses_nothing(
    suffix: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = converted(source, tmp_path / "first", output=None)
    output, before = tmp_path / "first" / "out.onnx", b"an older result"
    output.write_bytes(before)
    output.with_name("out.onnx.data").write_bytes(before)
    opened = os.fdopen

    def full(handle: int, *arguments: Any, **options: Any) -> Any:
        if f".out{suffix}." in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(handle, *arguments, **options)

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OutputError, match="No space left on device"):
        onnxmpq.files.write_model(output, result.model)
    assert {p.name: p.read_bytes() for p in output.parent.glob("*out.onnx*")} == {
        "out.onnx": before,
        "out.onnx.data": before,
    }
