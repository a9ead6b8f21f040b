"""One declaration for Python, the command line, config files and the docs; values are checked before any work."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
import typing
from pathlib import Path

import onnx
import pytest
import typer.main

import onnxmpq
from onnxmpq import pipeline
from onnxmpq.cli import app, main
from onnxmpq.errors import UsageError
from onnxmpq.request import DEFAULT_SAMPLES, GROUPS, Request, option_table, options_of, read_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
COMMAND_ONLY = {
    "destination",
    "verbose",
    "model",
    "config",
    "write_config",
    "dry_run",
    "report",
    "no_cache",
    "as_json",
    "quiet",
    "debug",
}


def test_convert_has_every_option_with_its_type_and_default() -> None:
    _, *parameters = inspect.signature(onnxmpq.convert).parameters.values()
    declared = options_of(Request)
    assert [p.name for p in parameters] == list(declared)
    for parameter in parameters:
        assert parameter.default == declared[parameter.name].default
        assert parameter.annotation == declared[parameter.name].annotation
        assert f"\n{parameter.name} : " in (onnxmpq.convert.__doc__ or "")


def test_the_command_line_has_every_option_with_its_help_and_default() -> None:
    command = typer.main.get_command(app).commands["convert"]  # type: ignore[attr-defined]
    rows = {p.name: p for p in command.params}
    declared = {name: d for name, d in options_of(Request).items() if d.flags}
    assert set(rows) == set(declared) | COMMAND_ONLY
    for name, option in declared.items():
        assert rows[name].help == option.option.help
        assert set(option.flags) <= {*rows[name].opts, *rows[name].secondary_opts}
    assert rows["samples"].default == DEFAULT_SAMPLES
    assert "--no-keep-io" in rows["keep_io"].secondary_opts
    assert not rows["best_effort"].secondary_opts


def test_every_option_is_in_a_group_and_says_what_its_value_is() -> None:
    for declared in options_of(Request).values():
        said = declared.option
        assert said.group in GROUPS
        assert (said.group == "Python only") == (said.kind == "python")
        assert bool(said.metavar) == (said.kind not in ("switch", "python"))
        assert said.metavar == said.metavar.upper()


@pytest.mark.parametrize("command", list(typer.main.get_command(app).commands))  # type: ignore[attr-defined]
def test_help_has_groups_and_no_python_types(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _help(command, monkeypatch)
    assert not re.search(r"<(str|int|float|path|list|int range)", text), text
    titles = [line.removesuffix(":") for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    wanted = [title for title in ("Arguments", *GROUPS, "Options") if title in titles]
    assert titles == wanted
    if command == "convert":
        assert titles == ["Arguments", *GROUPS[:-1], "Options"]
        assert "--latency DURATION" in text


def _help(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["onnxmpq", command, "--help"])
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main()
    return said.getvalue()


def test_the_docs_list_every_option() -> None:
    """docs/options.md; after a wanted change take the table that this prints."""
    print(option_table())
    assert option_table() in PAGE


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_docs_name_options_that_exist(page: str) -> None:
    """In the README's table of options of `convert`, and wherever a page shows a `convert` command."""
    text = (ROOT / page).read_text(encoding="utf-8")
    root = typer.main.get_command(app)
    command = root.commands["convert"]  # type: ignore[attr-defined]
    known = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}
    table = re.search(r"\| option of `convert` .*?\n\n", text, re.DOTALL)
    commands = re.findall(r"onnxmpq convert ((?:\\\n|[^\n`])*)", text)
    shown = [*commands, *([] if table is None else [row.split(" | ")[0] for row in table[0].splitlines()])]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", " ".join(shown))) <= known


class Asked(typing.NamedTuple):
    """A config file and the arguments it stands for."""

    text: str
    found: dict[str, object]


GOOD = [
    Asked('latency = "5ms"\nsize = "25%"', {"latency": "5ms", "size": "25%"}),
    Asked('calib = "a.npz"\nsamples = 3', {"calibration": "a.npz", "samples": 3}),
    Asked("min-sqnr = 30\nmax_divergence = 0.01", {"min_sqnr": "30", "max_divergence": "0.01"}),
    Asked('schemes = ["w4", "int8"]\nwithout = "gptq"', {"schemes": ("w4", "int8"), "without": ("gptq",)}),
    Asked("keep_io = false\ncache = false", {"keep_io": False, "cache": False}),
    Asked('cache = "values"', {"cache": "values"}),
    Asked('[outputs]\n"a=b" = "logits"', {"outputs": {"a=b": "logits"}}),
    Asked('output-kind = ["y=values"]', {"outputs": {"y": "values"}}),
    Asked('[set]\nSoftmax = "fp32"\n"h*" = ["int8", "w8"]', {"set": {"Softmax": ("fp32",), "h*": ("int8", "w8")}}),
    Asked("mean = [0.5, 1]\nscale = 0.5", {"mean": "0.5,1", "scale": "0.5"}),
    Asked("[recipe_fields]\nsize = [8, 9]\npad = 0", {"recipe_fields": {"size": [8, 9], "pad": 0}}),
    Asked("[shape]\nx = [1, 3]", {"shape": {"x": "1x3"}}),
    Asked('shape = ["x=1x3@0.7,2x3@0.3"]', {"shape": {"x": "1x3@0.7,2x3@0.3"}}),
    Asked('set = ["a=b=int8|w8"]', {"set": {"a=b": ("int8", "w8")}}),
]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.text.replace("\n", "; "))
def test_config(case: Asked, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(case.text)
    assert read_config(tmp_path / "c.toml") == case.found
    Request(**{"calibration": "samples.npz"} | read_config(tmp_path / "c.toml"))


BAD = [
    ('latancy = "5ms"', "option 'latancy' is unknown; did you mean latency"),
    ("progress = 1", "option 'progress' is unknown"),
    ("samples = 2.5", "option 'samples' is 2.5; it must be a whole number"),
    ("samples = true", "it must be a whole number"),
    ('guard = "no"', "it must be true or false"),
    ("output = 1", "it must be a path in quotes"),
    ("exclude = [1]", "a text in quotes or a list of them"),
    ('scheme = "w4"\nschemes = "w8"', "given twice"),
    ('outputs = {y = "class"}', "write NAME=KIND"),
    ('[set]\nConv = "int9"', "'Conv': no scheme is called 'int9'"),
    ("set = {Conv = 8}", "it must be a table of PATTERN = SCHEME"),
    ('set = ["Conv"]', "write PATTERN=SCHEME"),
    ('set = ["Conv=w8", "Conv=w4"]', "pattern 'Conv' is given twice"),
    ("mean = [true]", "it must be a number, a list of numbers or a text in quotes"),
    ("recipe_fields = 3", "it must be a table of FIELD = VALUE"),
    ("[shape]\nx = [1, 0]", "write NAME=SIZES"),
    ("latency = ", "cannot be read"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text.replace("\n", "; ") for text, _ in BAD])
def test_bad_config(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        read_config(tmp_path / "c.toml")
    assert str(tmp_path / "c.toml") in str(caught.value)


@pytest.mark.parametrize("name", ["latency", "size", "memory"])
def test_a_budget_without_a_unit_names_the_file_and_the_option(name: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"{name} = 70\n")
    said = rf"--config .*c.toml: option '{name}' is 70, a number without a unit; write it in quotes with one"
    with pytest.raises(UsageError, match=said):
        read_config(tmp_path / "c.toml")


def test_no_config_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


WRONG: list[dict[str, typing.Any]] = [
    {"samples": 0},
    {"threads": -1},
    {"seed": -1},
    {"estimator": "max"},
    {"effects": "blocks"},
    {"without": ["magic"]},
    {"latency": "5"},
    {"outputs": {"y": "class"}},
    {"set": {"Conv": "int9"}},
    {"set": {"Conv": ()}},
    {"min_agreement": "101%"},
    {"max_drop": "1%"},
    {"latency": "fastest", "size": "smallest"},
]


@pytest.mark.parametrize("given", WRONG, ids=str)
def test_values_are_checked_without_a_model(given: dict[str, typing.Any]) -> None:
    with pytest.raises(UsageError):
        onnxmpq.convert(onnx.ModelProto(), **given)


CONFIG = 'samples = 3\nsize = "25%"\nguard = false\nexclude = ["a"]\ncache = false\nseed = 5\n'


def test_the_command_line_wins_over_the_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, typing.Any] = {}

    def noted(model: Path, **options: typing.Any) -> None:
        found.update(options, model=model)
        raise UsageError("seen")

    monkeypatch.setattr(pipeline, "convert", noted)
    (tmp_path / "c.toml").write_text(
        'samples = 3\nsize = "25%"\nguard = false\nexclude = ["a"]\ncache = false\nseed = 5'
    )
    said = ["--size", "30%", "--guard", "--exclude", "b", "--exclude", "c", "--seed", "0", "--output-kind", "y=values"]
    command = ["onnxmpq", "convert", "m.onnx", "--config", str(tmp_path / "c.toml"), *said]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    given = {name: found[name] for name in ("samples", "size", "guard", "cache", "seed", "outputs")}
    assert given == {
        "samples": 3,
        "size": "30%",
        "guard": True,
        "cache": False,
        "seed": 0,
        "outputs": {"y": "values"},
    }
    assert list(found["exclude"]) == ["b", "c"]
    assert found["output"] == Path("m.mpq.onnx")
    assert set(found) == {*given, "exclude", "output", "model", "progress"}  # defaults are the request's
