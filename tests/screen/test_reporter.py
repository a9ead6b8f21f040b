"""Log lines and bars, on consoles that write to memory and with a clock that stands still."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onnxmpq.progress import LOGGER, Progress, duration
from onnxmpq.screen import reporter
from onnxmpq.screen.reporter import Bars

LONG = "a remark of more than eighty characters, " * 4


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Handlers and level of the logger are as they were."""
    handlers, level = list(LOGGER.handlers), LOGGER.level
    yield
    LOGGER.handlers[:] = handlers
    LOGGER.setLevel(level)


def work(progress: Progress) -> None:
    with progress.stage("counting", 2) as tick:
        progress.say(LONG)
        progress.detail("terms are ignored")
        tick(2)
    progress.warn("look out")


def lines(capsys: pytest.CaptureFixture[str], **options: bool) -> list[str]:
    work(reporter(**options))
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_a_stage_has_two_lines_and_none_is_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    first, remark, last, warning = lines(capsys)
    assert first == "start: counting (2 steps)"
    assert remark == LONG
    assert re.fullmatch(r"done: counting in \d+\.\d s", last)
    assert warning == "warning: look out"


def test_verbose_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert "terms are ignored" in lines(capsys, verbose=True)
    assert lines(capsys, quiet=True) == ["warning: look out"]


def test_a_stage_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), reporter().stage("counting", 0):
        raise ValueError
    assert "stopped: counting after" in capsys.readouterr().err


def test_each_command_has_one_handler(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        found = lines(capsys)
    assert found.count("warning: look out") == 1


def test_the_library_has_no_handlers_and_logs_all_it_says(caplog: pytest.LogCaptureFixture) -> None:
    LOGGER.handlers.clear()
    with caplog.at_level(logging.DEBUG, "onnxmpq"):
        work(Progress())
    assert not LOGGER.handlers
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "INFO", "DEBUG", "INFO", "WARNING"]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def screen(width: int) -> tuple[Bars, Clock, Console, io.StringIO]:
    held, clock = io.StringIO(), Clock()
    console = Console(file=held, width=width, force_terminal=True, color_system="standard")
    return Bars(console, clock), clock, console, held


def shown(bars: Bars, console: Console) -> list[str]:
    """The bars as they are drawn now."""
    assert bars._table is not None
    other = Console(file=io.StringIO(), width=console.width)  # the console itself draws the bars a second time
    with other.capture() as captured:
        other.print(bars._table.get_renderable())
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_says_what_how_far_and_how_long(width: int) -> None:
    bars, clock, console, _ = screen(width)
    with bars.stage("measuring kernels and transitions", 8) as tick:
        clock.now = 5.0
        tick(2)
        [bar] = shown(bars, console)
    assert bar.startswith("measuring kernels and transitions") and "25%" in bar
    assert bar.rstrip().endswith("5 s, 15 s left")
    assert len(bar) <= width


def test_a_stage_without_steps_follows_its_estimate_and_the_run_its_own() -> None:
    bars, clock, console, _ = screen(80)
    bars.expect({"solving": 10.0, "validating": 600.0})
    with bars.stage("solving", 0):
        clock.now = 4.0
        bar, run = shown(bars, console)
        assert "40%" in bar and "6 s left" in bar
        assert run.strip() == "whole run: about 10 min left"
        clock.now = 100.0
        assert "97%" in shown(bars, console)[0]
    with bars.stage("validating", 0):  # ten times as long as estimated, so this is expected to be as well
        assert shown(bars, console)[1].strip() == "whole run: about 1 h 40 min left"


def test_bars_are_gone_when_the_last_stage_ends() -> None:
    bars, _, console, held = screen(80)
    with bars.stage("outer", 0), bars.stage("inner", 3):
        assert len(shown(bars, console)) == 2
    assert bars._table is None
    assert "\x1b[2K" in held.getvalue(), "their lines are cleared"


def test_the_first_steps_do_not_outweigh_the_estimate() -> None:
    bars, clock, console, _ = screen(80)
    bars.expect({"counting": 50.0})
    with bars.stage("counting", 100) as tick:
        clock.now = 10.0
        tick(1)
        assert "40 s left" in shown(bars, console)[0]
        clock.now = 20.0
        tick(9)
        assert "3 min left" in shown(bars, console)[0]


@given(st.floats(0.0, 1e6))
def test_a_duration_is_near_and_short(seconds: float) -> None:
    text = duration(seconds)
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    words = text.split()
    told = sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(told - seconds) <= max(0.5 * units[words[-1]], 2.5)
    assert len(words) <= 4 and told >= 1
