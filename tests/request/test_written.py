"""Config files of the command line: every option may stand there, flags win, and what is in effect can be written."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from onnxmpq import pipeline
from onnxmpq.cli import main
from onnxmpq.errors import UsageError
from onnxmpq.request import read_config
from onnxmpq.request.options import Kind
from onnxmpq.request.written import toml

SAID = {
    "latency": "5ms",
    "set": {"a=b": ("int8", "w8"), 'say "Conv"': ("fp32",)},
    "exclude": ["/x\\d/", "tab\tand \u00fc"],
    "outputs": {"y": "values"},
    "samples": 3,
    "keep_io": False,
    "guard": True,
    "cost_table": Path("t.json"),
    "min_sqnr": "30dB",
    "cache": False,
    "mean": "0.5,0.25",
    "recipe_fields": {"size": [8, 9], "resize": "exact"},
    "shape": {"x": "1x3@0.5,2x3@0.5"},
}
FLAGS = (
    *("--latency", "5ms", "--set", "a=b=int8|w8", "--set", 'say "Conv"=fp32', "--exclude", "/x\\d/"),
    *("--exclude", "tab\tand \u00fc", "--output-kind", "y=values", "--samples", "3", "--no-keep-io", "--guard"),
    *("--cost-table", "t.json", "--min-sqnr", "30dB", "--no-cache"),
    *("--mean", "0.5,0.25", "--recipe-field", "size=[8, 9]", "--recipe-field", "resize=exact"),
    *("--shape", "x=1x3@0.5,2x3@0.5"),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `convert`, up to the call from Python; what that is asked."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def noted(model: Path, **options: Any) -> None:
            found.update(options)
            raise UsageError("seen")

        monkeypatch.setattr(pipeline, "convert", noted)
        monkeypatch.setattr(sys, "argv", ["onnxmpq", "convert", "m.onnx", *arguments])
        with pytest.raises(SystemExit):
            main()
        found.pop("progress", None)
        found.pop("output", None)
        return found

    return command


def test_what_is_written_asks_for_the_same(asked: Any, tmp_path: Path) -> None:
    first = asked(*FLAGS, "--write-config", "w.toml")
    assert {name: tuple(v) if name == "exclude" else v for name, v in first.items()} == {
        name: tuple(v) if name == "exclude" else v for name, v in SAID.items()
    }
    second = asked("--config", "w.toml")
    assert {**second, "exclude": list(second["exclude"])} == {**first, "exclude": list(first["exclude"])}
    text = (tmp_path / "w.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)) == set(SAID)
    assert '# target = "cpu"' in text and "# ---- Budgets" in text


def test_comments_are_options_that_can_be_read(asked: Any, tmp_path: Path) -> None:
    """Each alone, and all at once: who takes a # away has a file that is TOML, with options of the right types."""
    asked(*FLAGS, "--write-config", "w.toml")
    text = (tmp_path / "w.toml").read_text(encoding="utf-8")
    own: dict[str, Kind] = {name: "switch" for name in ("json", "quiet", "verbose")}
    lines = [line.removeprefix("# ") for line in text.splitlines() if re.match(r"# \w+ = ", line)]
    assert len(lines) >= 25
    for line in lines:
        (tmp_path / "one.toml").write_text(line + "\n", encoding="utf-8")
        assert set(read_config(tmp_path / "one.toml", own)) == set(tomllib.loads(line))
    (tmp_path / "all.toml").write_text("\n".join([text, *lines]), encoding="utf-8")
    assert set(read_config(tmp_path / "all.toml", own)) == {*SAID, *(line.split(" ")[0] for line in lines)}


@pytest.mark.parametrize("path", ["c\u2028d.json", 'a"b.json', "tab\tx.json", "\U0001f600.json"])
def test_any_text_can_be_written(path: str, asked: Any) -> None:
    first = asked("--cost-table", path, "--exclude", path, "--write-config", "w.toml")
    second = asked("--config", "w.toml")
    assert str(second["cost_table"]) == str(first["cost_table"]) and list(second["exclude"]) == list(first["exclude"])


def test_a_file_holds_what_only_the_command_line_has(asked: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "c.toml").write_text("quiet = true\nverbose = true\n")
    assert asked("--config", "c.toml") == {}
    assert "seen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("json = true", ()),
        ("json = true", ("--threads", "many")),
        ("json = true", ("--no-such-option",)),
        ("json = true\nno_such_option = 1", ()),
        ("json = true\nsize = [1]", ()),
        ("quiet = true", ("--json",)),
    ],
)
@pytest.mark.parametrize("spelled", [("--config", "c.toml"), ("--config=c.toml",)], ids=["apart", "in one"])
def test_a_file_that_asks_for_json_gets_errors_as_json(
    text: str, flags: tuple[str, ...], spelled: tuple[str, ...], asked: Any, tmp_path: Path, capsys: Any
) -> None:
    """Whatever fails: the option's value, the command line itself, or the file."""
    (tmp_path / "c.toml").write_text(text + "\n")
    asked(*spelled, *flags)
    told = capsys.readouterr()
    error = json.loads(told.out)["error"]
    assert error["kind"] == "UsageError" and error["message"] in told.err


def test_no_json_without_asking(asked: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "c.toml").write_text("json = false\n")
    asked("--config", "c.toml", "--no-such-option")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quiet = 1", "option 'quiet' is 1; it must be true or false"),
        ("reprot = 'a'", "did you mean report"),
        ("model = 'a'", "option 'model' is unknown"),
        ("dry_run = true", "option 'dry_run' is unknown"),
    ],
)
def test_bad_values_of_those(text: str, message: str, asked: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "c.toml").write_text(text)
    asked("--config", "c.toml")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "flags", "cache"),
    [
        ("cache = false", (), False),
        ("cache = false", ("--cache", "c"), Path("c")),
        ('cache = "c"', ("--no-cache",), False),
        ('cache = "c"', (), Path("c")),
        ("cache = true", (), None),
    ],
)
def test_flags_win_about_the_cache(
    text: str, flags: tuple[str, ...], cache: object, asked: Any, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(text)
    assert asked("--config", "c.toml", *flags).get("cache") == cache


def test_values_of_toml() -> None:
    for value in (True, 3, 2.5, 'a"b\\c\n\x7f\u00fc', ["a", 1], {"a b": "c"}):
        assert tomllib.loads(f"x = {toml(value)}")["x"] == value
    with pytest.raises(TypeError):
        toml(None)
    with pytest.raises(UsageError, match="no text in UTF-8"):
        toml(Path("name \udcff"))
