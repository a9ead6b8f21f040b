"""Of the program as a whole: help, options that all commands have, lists, completion, imports, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

import onnxmpq
from onnxmpq.__main__ import main as entry
from onnxmpq.cli import app
from onnxmpq.feeds import available_recipes, find_recipe
from onnxmpq.feeds.recipes import read_recipe
from tests.cli.folders import Folder, Run
from tests.conftest import SAMPLES

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_help_is_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns: no sentence of the list of commands is cut off, and arguments are called by their names."""
    monkeypatch.setenv("COLUMNS", "80")
    listed = run("--help").out
    assert all(name in listed for name in COMMANDS) and "..." not in listed.partition("Commands:")[2]
    for name in COMMANDS:
        usage = run(name, "--help").out.splitlines()[0]
        assert "{" not in usage and "[[" not in usage


def test_version(run: Run) -> None:
    found = run("--version")
    assert (found.code, found.out.strip()) == (0, onnxmpq.__version__)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name: str) -> None:
    flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
    assert flags >= {"--json", "--quiet", "-q", "--verbose", "-v", "--debug"}


@pytest.mark.parametrize(("command", "row"), [("targets", "cpu"), ("recipes", "imagenet")])
def test_lists(command: str, row: str, run: Run) -> None:
    assert row in run(command).out
    assert row in {entry["name"] for entry in json.loads(run(command, "--json").out)}


@pytest.mark.parametrize("name", [recipe.name for recipe in available_recipes()])
def test_a_recipe_shows_its_fields(name: str, tmp_path: Path, run: Run) -> None:
    """As a file that is the same recipe."""
    shown = run("recipes", name)
    assert shown.code == 0
    (tmp_path / "copy.toml").write_text(shown.out)
    assert read_recipe(tmp_path / "copy.toml", name) == find_recipe(name)
    assert json.loads(run("recipes", name, "--json").out)["kind"] == tomllib.loads(shown.out)["kind"]


def test_completion_knows_commands_and_options() -> None:
    """As bash asks for it."""
    program = "import sys; sys.argv[0] = 'onnxmpq'; from onnxmpq.__main__ import main; main()"

    def completed(words: str, place: int) -> list[str]:
        asked = {"_ONNXMPQ_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("onnxmpq conv", 1) == ["convert", "convert-many"]
    assert completed("onnxmpq validate --min-", 2) == ["--min-sqnr", "--min-agreement"]


def test_nothing_heavy_is_imported_before_the_command_line() -> None:
    code = "import sys, onnxmpq.__main__; print(sorted({'onnx', 'numpy', 'highspy', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_ctrl_c_during_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupting:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "onnxmpq.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "onnxmpq.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        entry()
    assert end.value.code == 130
    assert capsys.readouterr().err == "onnxmpq: interrupted; nothing was written\n"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["ctrl-c", "sigterm"],
)
def test_a_program_that_is_ended_leaves_nothing(tmp_path: Path, sent: signal.Signals, code: int, said: str) -> None:
    (tmp_path / "temporary").mkdir()
    folder = Folder(tmp_path)
    before = folder.content()
    sample, calib = SAMPLES / "digits_transformer.onnx", SAMPLES / "digits_calib.npz"
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxmpq", "convert", sample, "--calib", calib, "-o", folder / "out.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        # a test run in the background of a shell inherits an ignored SIGINT; a user's terminal does not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "no budget given" in first
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    lines = err.splitlines()
    assert lines[-1].startswith(f"onnxmpq: {said}") and "Traceback" not in err
    assert out == ""
    assert folder.content() == before
