"""The entries of a fleet: models with their data, budgets and targets, from a TOML file or from a folder.

All of a file is checked before the first model is read. An error names the file, the entry and the field.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from onnxmpq.context import Context
from onnxmpq.errors import OnnxmpqError, UsageError
from onnxmpq.feeds import import_source
from onnxmpq.files import is_path, nearest, plan_path, read_toml, shown
from onnxmpq.opening import Asked
from onnxmpq.progress import Silent
from onnxmpq.request import Request, options_from, options_of
from onnxmpq.shipping import require_verifiable

DEFAULTS = "defaults"
_TOP = ("models", DEFAULTS)
_OWN = ("name", "model", "target")
FOR_ALL = frozenset({"output", "report", "curve", "cluster", "cluster_folder", "device", "cache", "progress", "effort"})
"""Options that entries do not have: they are about the run, or `convert_many` names the files."""
_SPELLED = FOR_ALL | {"no_cache"}
_PATHS_TOO = frozenset({"calibration", "labels"})
"""Options that hold a path or something else."""
_READ = frozenset({"calibration", "labels", "cost_table", "ranges"})
"""Options by which a file or folder is read."""
_CALLED = frozenset({"calibration", "metric"})
"""Options that may be a function of Python, `module:function`."""
_FUNCTION = re.compile(r"[\w.]+:[\w.]+")
SUFFIX = ".mpq.onnx"
JSON, PAGE = "fleet.json", "fleet.html"
LONGEST = 200
"""Bytes of a name: disks have room for 255, of which a temporary file's prefix and suffix take a part."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One conversion. name: of its files, unique. options: of `Request`, valid."""

    name: str
    model: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return str(self.options.get("target", "cpu"))

    def files(self, folder: Path) -> dict[str, Path]:
        """The files that it makes there, by kind."""
        output = folder / f"{self.name}{SUFFIX}"
        return {"model": output, "plan": plan_path(output), "report": folder / f"{self.name}.html"}


def entries_of(source: Path, overrides: Mapping[str, Any] | None = None) -> list[Entry]:
    """Entries of a fleet file, or one for each model in a folder, with the samples that lie beside it: `NAME.npz`, or a
    folder `NAME`.

    overrides: options of `Request` that win over the file's. Raises UsageError.
    """
    given = dict(overrides or {})
    for name in sorted(FOR_ALL & given.keys()):
        raise UsageError(f"{name}: is no option of single models")
    try:
        str(source).encode()
    except UnicodeEncodeError:  # of bytes that Python could not decode
        raise UsageError(f"{source}: is no text in UTF-8, which {JSON} needs; rename it") from None
    found = _in_folder(source, given) if os.path.isdir(source) else _in_file(source, given)
    if not found:
        raise UsageError(f"{source}: there is no model; give a folder of .onnx files, or a fleet file with [[models]]")
    return found


def _in_folder(folder: Path, given: Mapping[str, Any]) -> list[Entry]:
    found = []
    for model in sorted(folder.glob("*.onnx")):
        if model.name.endswith(SUFFIX) or model.name.startswith("."):  # a result, or hidden
            continue
        beside = [p for p in (model.with_suffix(".npz"), model.with_suffix("")) if os.path.exists(p)]
        options = {"calibration": str(beside[0]), **given} if beside else dict(given)
        where = str(model)
        found.append((where, Entry(_name(model.stem, where), model, _valid(model, options, where))))
    return _distinct(found)


def _in_file(file: Path, given: Mapping[str, Any]) -> list[Entry]:
    try:
        values = read_toml(file)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UsageError(f"{file}: cannot be read ({what}); give a fleet file (TOML), or a folder of models") from None
    for key in values:
        if key not in _TOP:
            raise UsageError(f"{file}: '{key}' is unknown; {nearest(key, _TOP, 'a fleet file has')}")
    defaults, rows = values.get(DEFAULTS, {}), values.get("models", [])
    if not isinstance(defaults, dict):
        raise UsageError(f"{file}: '{DEFAULTS}' is {shown(defaults)}; it must be a table of options")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{file}: 'models' is {shown(rows)}; write a table [[models]] for each model")
    for key in ("model", "name"):
        if key in defaults:
            raise UsageError(f"{file}: [{DEFAULTS}]: '{key}' is of a single model; move it to its [[models]]")
    common = _options(file, defaults, f"{file}: [{DEFAULTS}]: ")
    return _distinct([pair for number, row in enumerate(rows, 1) for pair in _of_row(file, number, row, common, given)])


def _name(given: object, where: str) -> str:
    """A name of an entry, by which files are called. Raises UsageError."""
    fits = isinstance(given, str) and given.isprintable() and Path(given).name == given and given[:1] not in ("", ".")
    if not fits or len(str(given).encode()) > LONGEST:
        what = f"a text that a file can be called by, without control characters, of {LONGEST} bytes at most"
        raise UsageError(f"{where}: 'name' is {shown(given)}; it must be {what}")
    return str(given)


def _distinct(found: Sequence[tuple[str, Entry]]) -> list[Entry]:
    """The entries, each with where it is from. Raises UsageError where files of two would be one, or would be one on
    the many disks to which capitals are small letters."""
    firsts = {Path(PAGE).stem: ("the page of all", PAGE)}
    for where, entry in found:
        key = entry.name.casefold()
        if key in firsts:
            first, name = firsts[key]
            raise UsageError(
                f"{where}: 'name' is '{entry.name}', and so would be its files; {first} is called '{name}'; choose "
                "another name"
            )
        firsts[key] = (where, entry.name)
    return [entry for _, entry in found]


def _of_row(
    file: Path, number: int, row: Mapping[str, Any], common: Mapping[str, Any], given: Mapping[str, Any]
) -> list[tuple[str, Entry]]:
    """An entry for each of its targets, with where it is from."""
    called = row.get("name", row.get("model"))
    where = f"{file}: model {number}" + (f" ({called})" if isinstance(called, str) else "")

    def wrong(what: str) -> NoReturn:
        raise UsageError(f"{where}: {what}")

    path = row.get("model")
    if not isinstance(path, str) or not is_path(path):
        wrong(f"'model' is {shown(path)}; it must be a path in quotes" if "model" in row else "has no 'model'")
    model = file.parent / path
    if not os.path.isfile(model):
        wrong(f"'model': there is no file {model}")
    name = _name(row.get("name", model.stem), where)
    targets = row.get("target", common.get("target", "cpu"))
    several = isinstance(targets, list)
    if several and not (targets and all(isinstance(t, str) for t in targets)):
        wrong(f"'target' is {shown(targets)}; it must be a name in quotes or a list of them")
    fields = {key: value for key, value in row.items() if key not in _OWN}
    options = {**common, **_options(file, fields, f"{where}: ", ("name", "model"))}
    found, stems = [], dict[str, str]()
    for target in targets if several else [targets]:
        if not isinstance(target, str):
            wrong(f"'target' is {shown(target)}; it must be a name in quotes or a list of them")
        stem = Path(target).stem
        if stem.casefold() in stems:
            first = stems[stem.casefold()]
            wrong(f"'target' has '{first}' and '{target}', whose files would have the same names; leave one out")
        stems[stem.casefold()] = target
        own = _valid(model, {**options, "target": _target(file, target), **given}, where)
        found.append((where, Entry(_name(f"{name}.{stem}" if several else name, where), model, own)))
    return found


def _options(file: Path, values: Mapping[str, Any], where: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Options of a table; paths are relative to the file."""
    for key in values:
        if key.replace("-", "_") in _SPELLED:
            raise UsageError(f"{where}option '{key}' is about the whole fleet; give it to `convert-many` itself")
    found = options_from(values, where, more, FOR_ALL)
    for name, value in found.items():
        kind = options_of(Request)[name].option.kind
        if kind == "file":
            found[name] = str(file.parent / value)
        elif name in _PATHS_TOO:
            found[name] = _beside(file, value)
        elif name in ("target", "recipe"):
            found[name] = _target(file, value)
    return found


def _beside(file: Path, value: str) -> str:
    """A path relative to the fleet file; a function of Python, `module:function`, as it is."""
    path, colon, rest = value.partition(":")
    if os.path.exists(file.parent / value) or not colon:
        return str(file.parent / value)
    return f"{file.parent / path}:{rest}" if os.path.exists(file.parent / path) else value


def _target(file: Path, value: str) -> str:
    """A name of a target or recipe, or the path of its file."""
    return str(file.parent / value) if value.endswith(".toml") else value


def _valid(model: Path, options: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The options themselves. Raises UsageError for whatever `convert` refuses before it reads the model, and for files
    to be read that are not there."""
    try:
        request = Request(**options)
        asked = Asked.of(model, request, Context(Silent()))
        if request.verify:
            require_verifiable(asked.device)
        if isinstance(request.calibration, str) and is_function("calibration", request.calibration):
            import_source(request.calibration)
    except OnnxmpqError as error:
        raise UsageError(f"{where}: {error}") from None
    for name in sorted(_READ & options.keys()):
        value = options[name]
        if isinstance(value, str) and not _is_there(value) and not is_function(name, value):
            field = next(iter(options_of(Request)[name].option.flags), name).lstrip("-")
            raise UsageError(f"{where}: '{field}': there is no file or folder {value}")
    return options


def _is_there(value: str) -> bool:
    """True as well for an array in a file that is there, `FILE:NAME`."""
    path, colon, _ = value.rpartition(":")
    return os.path.exists(value) or (bool(colon) and os.path.exists(path))


def is_function(name: str, value: Any) -> bool:
    """True for an option that is a function of Python, or names one, `module:function`."""
    named = isinstance(value, str) and bool(_FUNCTION.fullmatch(value)) and not os.path.exists(value)
    return name in _CALLED and (named or callable(value))
