"""Trying models, and finding the region that makes a plan crash."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.errors import CrashError, ModelError
from onnxmpq.isolation import isolated
from onnxmpq.runtimes import SessionSettings
from onnxmpq.trials import MOST_TRIES, OWN_THREADS, both_ways, culprit, single, tried
from tests.dialects.cases import Case
from tests.graphs import conv_relu, feeds_for, graph, residual_cnn
from tests.isolation.functions import Faulty


def test_a_model_that_runs() -> None:
    tried(conv_relu(), single(feeds_for(conv_relu())), SessionSettings(), limit_s=600.0)


def test_a_model_that_fails_on_the_last_sample() -> None:
    proto = graph("y = Gather (table, i)", "int64[N, 1] i", "float[N, 1, 4] y", "float[8, 4] table")
    inputs = single(feeds_for(proto))
    tried(proto, inputs, SessionSettings())
    with pytest.raises(ModelError, match="cannot run the model"):
        tried(proto, [*inputs, {"i": inputs[0]["i"] + 100}], SessionSettings())


def test_a_model_that_crashes() -> None:
    case = Case("residual", residual_cnn())
    proto = case.rewrite(case.everywhere("int8"))
    with isolated(Faulty("Conv_5")), pytest.raises(CrashError, match="SIGSEGV while trying a model"):
        tried(proto, single(case.feeds), SessionSettings())


def test_a_default_session_is_tried_beside_the_measured_one() -> None:
    ways = both_ways(conv_relu(), SessionSettings(threads=3))
    assert [w.threads for w in ways] == [OWN_THREADS, 3]
    assert both_ways(conv_relu(), SessionSettings(threads=OWN_THREADS)) == (SessionSettings(threads=OWN_THREADS),)


@given(st.integers(1, 600), st.data())
def test_the_region_that_completes_a_crash_is_found(count: int, data: st.DataObject) -> None:
    """A crash takes some regions together; the last of them in graph order is the one."""
    regions = [f"region {n}" for n in range(count)]
    needed = data.draw(st.sets(st.sampled_from(range(count)), min_size=1, max_size=3))
    tries = 0

    def build(some: Sequence[str]) -> onnx.ModelProto:
        return onnx.ModelProto(doc_string=",".join(some))

    def run(proto: onnx.ModelProto) -> None:
        nonlocal tries
        tries += 1
        if {f"region {n}" for n in needed} <= set(proto.doc_string.split(",")):
            raise CrashError("onnxruntime crashed with SIGSEGV")
        if len(proto.doc_string) % 3 == 0:
            raise ModelError("refused, which is no crash")

    assert culprit(regions, build, run) == f"region {max(needed)}"
    assert tries <= MOST_TRIES


def test_a_search_that_would_take_too_long_is_given_up() -> None:
    regions = [str(n) for n in range(3 * 2**MOST_TRIES)]

    def run(proto: onnx.ModelProto) -> None:
        if int(proto.doc_string) > 5:
            raise CrashError("onnxruntime crashed with SIGSEGV")

    assert culprit(regions, lambda some: onnx.ModelProto(doc_string=str(len(some))), run) is None
