"""Failures: JSON on stdout where it was asked for, one line on stderr, the exit code of the family."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from onnxmpq.errors import BudgetError, CheckError, OutputError, UsageError
from onnxmpq.screen import answer, ended

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def fails(error: BaseException) -> Callable[[], NoReturn]:
    def command() -> NoReturn:
        raise error

    return command


def code_of(command: Callable[[], object], *arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        ended(command, arguments, json="--json" in arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


class OfClick(Exception):
    """As click's and typer's own exceptions are."""

    exit_code = 2

    def format_message(self) -> str:
        return str(self)


@pytest.mark.parametrize(
    ("error", "code", "kind", "message"),
    [
        (BudgetError("latency 1 ms cannot be met"), 5, "BudgetError", "latency 1 ms cannot be met"),
        (UsageError("--size '3': no unit"), 2, "UsageError", "--size '3': no unit"),
        (OfClick("Missing argument 'MODEL'."), 2, "UsageError", "missing argument 'MODEL'"),
        (MemoryError(), 1, "MemoryError", "there is not enough memory; give fewer samples"),
        (
            OSError(errno.ENOSPC, "No space left", "/t/x"),
            OutputError.exit_code,
            "OutputError",
            "/t/x: cannot be written",
        ),
        (ValueError("a\ndefect"), 1, "InternalError", "ValueError: a defect"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_a_document(
    error: BaseException,
    code: int,
    kind: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where a reproducer of the defect goes
    assert code_of(fails(error), "convert", "--json") == code
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["schema"].startswith("onnxmpq.error/")
    assert (document["error"]["code"], document["error"]["kind"]) == (code, kind)
    assert document["error"]["message"].startswith(message)
    [line] = told.err.splitlines()
    assert message in line
    assert code_of(fails(error), "convert") == code
    assert capsys.readouterr().out == "", "only where it was asked for"


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


@pytest.mark.parametrize(
    ("command", "code", "kind", "said"),
    [
        (lambda: 130, 130, "Interrupted", "interrupted"),
        (fails(KeyboardInterrupt()), 130, "Interrupted", "interrupted"),
        pytest.param(terminated, 143, "Terminated", "terminated", marks=POSIX),
    ],
    ids=["of typer", "elsewhere", "sigterm"],
)
def test_an_interrupt_is_a_document(
    command: Callable[[], object], code: int, kind: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert code_of(command, "convert", "--json") == code
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["kind"] == kind
    assert told.err == f"onnxmpq: {said}; no file is left half-written\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_command_that_has_answered_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """Its error is a field of it."""
    error = CheckError("2 errors")
    assert code_of(lambda: answer({"schema": "s", "findings": [1, 2]}, error), "check", "--json") == 12
    document = json.loads(capsys.readouterr().out)
    assert document["findings"] == [1, 2]
    assert document["error"] == {"code": 12, "kind": "CheckError", "message": "2 errors"}


def test_a_full_disk_below_another_error_is_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("something else") from error

    assert code_of(command) == OutputError.exit_code
    assert "set TMPDIR" in capsys.readouterr().err


def test_help_that_was_not_asked_for_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(fails(OfClick("Usage: onnxmpq\n\nCommands:\n  convert"))) == 2
    assert capsys.readouterr().err.startswith("Usage: onnxmpq\n")


def test_success_ends_nothing() -> None:
    ended(lambda: None, ["inspect"], json=False)
