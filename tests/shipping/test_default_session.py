"""Regions in which the default session computes something else than the graph are found, with the reason."""

from __future__ import annotations

import math

import onnx
import pytest

from onnxmpq.feeds.types import Feeds
from onnxmpq.quality import OutputQuality, Validation
from onnxmpq.runtimes import SessionSettings
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.shipping.default_session import FUSED, SAMPLES, SATURATES, SUM, disagreement
from onnxmpq.workbench import Workbench
from tests.dialects.cases import NETWORKS, ORT

CASE = NETWORKS["residual_cnn"]
PLAN = CASE.everywhere("int8")
BENCH = Workbench(CASE.model, ORT, CASE.activations, CASE.weights(PLAN))


def runtime_with(monkeypatch: pytest.MonkeyPatch, *, wrong: dict[str, float], saturates: bool) -> list[int]:
    """An onnxruntime that makes so much noise (relative power) where a weight with this name is quantized. Returns a
    list that gets an entry per comparison."""
    asked: list[int] = []

    def sqnr_db(model: onnx.ModelProto, feeds: Feeds, settings: SessionSettings) -> float:
        asked.append(len(feeds))
        stored = {t.name for t in model.graph.initializer}
        noise = 1e-5 + sum(power for weight, power in wrong.items() if f"{weight}/codes" in stored)
        return -10.0 * math.log10(noise)

    monkeypatch.setattr("onnxmpq.shipping.default_session.fusion_sqnr_db", sqnr_db)
    monkeypatch.setattr(probes, "saturates", lambda: saturates)
    return asked


def quality(unfused_db: float = 40.0) -> Validation:
    """Of a model whose unoptimised graph has this SQNR to fp32."""
    output = OutputQuality("y", "values", unfused_db, 1.0, 0.0, sqnr_unfused_db=unfused_db)
    return Validation((output,), 8, held_out=True)


def test_rounding_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = runtime_with(monkeypatch, wrong={"w1": 9e-4}, saturates=True)
    found = disagreement(BENCH, PLAN, CASE.feeds, SessionSettings(), quality())
    assert found is not None and found.rounding and not found.regions
    assert found.sqnr_db > 30.0 and "dB from the graph as written" in found.in_words()
    assert asked == [min(len(CASE.feeds), SAMPLES)]


@pytest.mark.parametrize(("noise", "seen"), [(3e-3, False), (5e-2, True)])
def test_a_model_far_from_fp32_rounds_more(noise: float, seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an SQNR of 12 dB, 25 dB between the sessions is rounding, and 13 dB is not."""
    runtime_with(monkeypatch, wrong={"w1": noise}, saturates=True)
    found = disagreement(BENCH, PLAN, CASE.feeds, SessionSettings(), quality(12.0))
    assert found is not None and found.rounding != seen


@pytest.mark.parametrize("saturates", [True, False])
def test_the_region_and_the_reason(saturates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_with(monkeypatch, wrong={"w1": 1e-2}, saturates=saturates)
    found = disagreement(BENCH, PLAN, CASE.feeds, SessionSettings(), quality())
    assert found is not None
    assert found.reasons == {"Conv_3": SATURATES if saturates else FUSED}
    assert found.regions["Conv_3"] == pytest.approx(20.0, abs=0.1)
    assert found.in_words().startswith("the default session differs from the unoptimised graph by more than rounding")
    assert "Conv_3 (20.0 dB alone: " in found.in_words()


def test_a_session_with_exact_integers_does_not_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_with(monkeypatch, wrong={"w1": 1e-2}, saturates=True)
    found = disagreement(BENCH, PLAN, CASE.feeds, SessionSettings(exact_integers=True), quality())
    assert found is not None and found.reasons == {"Conv_3": FUSED}


def test_many_small_ones_are_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_with(monkeypatch, wrong={f"w{n}": 3e-4 for n in range(4)}, saturates=False)
    monkeypatch.setattr("onnxmpq.shipping.default_session.SHARE", 0.5)
    found = disagreement(BENCH, PLAN, CASE.feeds, SessionSettings(), quality())
    assert found is not None and not found.regions and SUM in found.in_words()


def test_the_runtime_at_hand_computes_what_the_graph_says_of_small_weights() -> None:
    """Codes halved twice saturate nowhere, so that only rounding is left, on whatever CPU."""
    weights = CASE.weights(PLAN, halved=True)
    bench = Workbench(CASE.model, ORT, CASE.activations, weights)
    found = disagreement(bench, PLAN, CASE.feeds, SessionSettings(), quality())
    assert found is not None and found.rounding
