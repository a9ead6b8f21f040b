"""A result that the target's compiler refuses is never handed out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

import onnxmpq
from onnxmpq.compilers import COMPILERS, Answer, Message
from onnxmpq.cost.measure import Effort
from onnxmpq.errors import CompilerError, UsageError
from onnxmpq.feeds import Share, shares_of
from onnxmpq.isolation import launch
from onnxmpq.progress import Progress
from onnxmpq.schemes import scheme_named
from onnxmpq.shipping.compiled import unfolding_note, verified
from onnxmpq.target import load_target
from tests.graphs import feeds_for, graph, samples_for

TOKENS = graph(
    "m = MatMul (x, w) r = Relu (m) y = MatMul (r, v)",
    "float[N, 4, 64] x",
    "float[N, 4, 64] y",
    "float[64, 128] w, float[128, 64] v",
)


class Fake:
    """A compiler in this process: takes every graph, or names its first node."""

    name = "Fake"

    def __init__(self, takes: bool) -> None:
        self.takes, self.asked = takes, list[object]()

    def version(self) -> str:
        return "1.0"

    def capabilities(self) -> tuple[str, ...]:
        return ("sm89",)

    def build(self, proto: onnx.ModelProto, capability: str, ranges: object) -> Answer:
        self.asked.append(ranges)
        if self.takes:
            return Answer((Message("warning", "", "a remark"),), 5000, 2000)
        return Answer((Message("error", proto.graph.node[0].name, "it will not do"),))


def converted(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, target: str = "l4") -> onnxmpq.Result:
    monkeypatch.setitem(COMPILERS, "tensorrt", fake)
    monkeypatch.setattr(launch, "can_start", lambda: False)
    return onnxmpq.convert(
        TOKENS,
        size="50%",
        target=target,
        batch=64,
        schemes=["bf16" if target == "gaudi2" else "fp16", "w8a8-fp8"],
        calibration=samples_for(TOKENS, 16),
        output=tmp_path / "m.onnx",
        effort=Effort(seconds=0.02, runs=2, rounds=2),
        verify=True,
    )


def test_what_is_refused_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CompilerError, match=r"Fake 1\.0 does not build the converted model for sm89 at node .* will not do"
    ):
        converted(tmp_path, Fake(False), monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_what_is_taken_is_written_and_the_notes_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(True)
    result = converted(tmp_path, fake, monkeypatch)
    assert (tmp_path / "m.onnx").exists()
    [note] = [n for n in result.plan.notes if n.startswith("Fake 1.0")]
    assert "engine of 5000 bytes" in note and note.endswith("warning: a remark")
    [ranges] = fake.asked
    assert isinstance(ranges, dict)
    assert ranges["x"].typical == (1, 4, 64), "the typical sample where --shape says nothing"


def test_targets_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for target in ("h100", "gaudi2"):
        with pytest.raises(UsageError, match=f"--verify: no compiler that runs here builds for target '{target}'"):
            converted(tmp_path, Fake(True), monkeypatch, target)


def test_shapes_that_were_asked_for_come_before_those_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(True)
    monkeypatch.setitem(COMPILERS, "tensorrt", fake)
    monkeypatch.setattr(launch, "can_start", lambda: False)
    shares: tuple[Share, ...] = shares_of({"x": "1x4x64,8x4x64"})
    verified(TOKENS, load_target("l4"), shares, feeds_for(TOKENS, 2))
    [ranges] = fake.asked
    assert isinstance(ranges, dict)
    assert (ranges["x"].least, ranges["x"].most) == ((1, 4, 64), (8, 4, 64))


def test_unfolding_is_noted_where_a_compiler_keeps_weights_narrow() -> None:
    dual = {"a": scheme_named("w4a8-fp8"), "b": scheme_named("w4a16")}
    [note] = unfolding_note(load_target("l4"), dual)
    assert note.startswith("w4a8-fp8: the compiler's engine keeps these weights as narrow")
    assert unfolding_note(load_target("l4"), {"b": dual["b"]}) == []
    assert unfolding_note(load_target("h100"), dual) == []


def test_an_applied_plan_is_built_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, again = converted(tmp_path, Fake(True), monkeypatch).plan, tmp_path / "again.onnx"
    refusing = Fake(False)
    monkeypatch.setitem(COMPILERS, "tensorrt", refusing)
    with pytest.raises(CompilerError, match="does not build the converted model for sm89"):
        onnxmpq.apply(TOKENS, plan, output=again, verify=True, shape={"x": "2x4x64"})
    assert not again.exists()
    [ranges] = refusing.asked
    assert isinstance(ranges, dict) and ranges["x"].typical == (2, 4, 64)
    monkeypatch.setitem(COMPILERS, "tensorrt", Fake(True))
    heard: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda _, line: heard.append(line))
    onnxmpq.apply(TOKENS, plan, output=again, verify=True, calibration=samples_for(TOKENS, 2), progress=Progress())
    assert again.read_bytes() == (tmp_path / "m.onnx").read_bytes()
    assert [line for line in heard if "engine of 5000 bytes" in line]


def test_a_plan_for_another_kind_of_target_is_not_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = converted(tmp_path, Fake(True), monkeypatch).plan
    with pytest.raises(UsageError, match="no compiler that runs here builds for target 'h100'"):
        onnxmpq.apply(TOKENS, replace(plan, target="h100"), verify=True)
