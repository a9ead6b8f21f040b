"""Forecasts: laws, and that they name the stages that a conversion really has, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import onnxmpq
from onnxmpq.forecast import Work, forecast
from onnxmpq.progress import Progress, Tick
from tests.conftest import QUICK
from tests.graphs import residual_cnn, samples_for
from tests.tables import int8_pays

COUNT = st.integers(1, 200)
WORKS = st.builds(
    Work,
    st.floats(1e-5, 0.1),
    COUNT,
    COUNT,
    st.floats(0.1, 0.6),
    COUNT,
    COUNT,
    COUNT,
    st.integers(1, 8),
    st.floats(0.01, 2.0),
)


@given(WORKS, st.sampled_from(["forward_s", "samples", "passes", "layers", "formats", "tries", "timing_s"]))
def test_more_work_never_takes_less(work: Work, more: str) -> None:
    before, after = forecast(work), forecast(replace(work, threads=1, **{more: 2 * getattr(work, more)}))
    alone = forecast(replace(work, threads=1))
    assert all(seconds > 0 for seconds in before.values())
    assert all(after[stage] >= alone[stage] >= before[stage] for stage in before)


class Told(Progress):
    """Keeps what is expected, and the stages from then on."""

    def __init__(self) -> None:
        self.expected: list[str] = []
        self.ran: list[str] = []

    def expect(self, seconds: Mapping[str, float]) -> None:
        self.expected, self.ran = list(seconds), []

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        self.ran.append(what)
        yield lambda _: None


def test_the_stages_are_those_of_a_conversion(tmp_path: Path) -> None:
    model, told = residual_cnn(), Told()
    samples = samples_for(model, 44)  # enough for all steps
    table = int8_pays(model, tmp_path)
    onnxmpq.convert(
        model, latency="80%", calibration=samples, cost_table=table, effort=QUICK, cache=False, progress=told
    )
    assert list(dict.fromkeys(told.ran)) == told.expected
