"""The entries of a fleet: models with their data, budgets and targets, from a TOML file or from a folder.

All of a file is checked before the first model is read. An error names the file, the entry and the field.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from onnxmpq.errors import TargetError, UsageError
from onnxmpq.files import nearest, plan_path, read_toml, shown
from onnxmpq.request import Request, options_from, options_of
from onnxmpq.target import load_target

DEFAULTS = "defaults"
_TOP = ("models", DEFAULTS)
_OWN = ("name", "model", "target")
FOR_ALL = frozenset({"output", "report", "curve", "cluster", "cluster_folder", "device", "cache", "progress", "effort"})
"""Options that entries do not have: they are about the run, or `convert_many` names the files."""
_PATHS_TOO = frozenset({"calibration", "labels"})
"""Options that hold a path or something else."""
_READ = frozenset({"calibration", "labels", "cost_table", "ranges"})
"""Options by which a file or folder is read."""
_CALLED = frozenset({"calibration", "metric"})
"""Options that may be a function of Python, `module:function`."""
_FUNCTION = re.compile(r"[\w.]+:[\w.]+")
SUFFIX = ".mpq.onnx"


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
    found = _in_folder(source, given) if source.is_dir() else _in_file(source, given)
    if not found:
        raise UsageError(f"{source}: there is no model; give a folder of .onnx files, or a fleet file with [[models]]")
    return found


def _in_folder(folder: Path, given: Mapping[str, Any]) -> list[Entry]:
    found = []
    for model in sorted(folder.glob("*.onnx")):
        if model.name.endswith(SUFFIX):
            continue
        beside = [p for p in (model.with_suffix(".npz"), model.with_suffix("")) if p.exists()]
        options = {"calibration": str(beside[0]), **given} if beside else dict(given)
        _require_valid(options, str(model))
        found += [Entry(model.stem, model, options)]
    return found


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
    found, names = list[Entry](), dict[str, int]()
    for number, row in enumerate(rows, 1):
        for entry in _of_row(file, number, row, common, given):
            if entry.name in names:
                first = names[entry.name]
                raise UsageError(
                    f"{file}: models {first} and {number} are both called '{entry.name}', and so would be their files; "
                    "give one of them another name"
                )
            names[entry.name] = number
            found.append(entry)
    return found


def _of_row(
    file: Path, number: int, row: Mapping[str, Any], common: Mapping[str, Any], given: Mapping[str, Any]
) -> list[Entry]:
    """An entry for each of its targets."""
    called = row.get("name", row.get("model"))
    where = f"{file}: model {number}" + (f" ({called})" if isinstance(called, str) else "")

    def wrong(what: str) -> NoReturn:
        raise UsageError(f"{where}: {what}")

    if not isinstance(row.get("model"), str):
        wrong(f"'model' is {shown(row['model'])}; it must be a path in quotes" if "model" in row else "has no 'model'")
    model = file.parent / row["model"]
    if not model.is_file():
        wrong(f"'model': there is no file {model}")
    name = row.get("name", model.stem)
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        wrong(f"'name' is {shown(name)}; it must be a text that a file can be called by")
    targets = row.get("target", common.get("target", "cpu"))
    several = isinstance(targets, list)
    if several and not (targets and all(isinstance(t, str) for t in targets)):
        wrong(f"'target' is {shown(targets)}; it must be a name in quotes or a list of them")
    fields = {key: value for key, value in row.items() if key not in _OWN}
    options = {**common, **_options(file, fields, f"{where}: ", ("name", "model"))}
    found = []
    for target in targets if several else [targets]:
        if not isinstance(target, str):
            wrong(f"'target' is {shown(target)}; it must be a name in quotes or a list of them")
        own = {**options, "target": _target(file, target), **given}
        _require_valid(own, where)
        found.append(Entry(f"{name}.{Path(target).stem}" if several else name, model, own))
    return found


def _options(file: Path, values: Mapping[str, Any], where: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Options of a table; paths are relative to the file."""
    for key in values:
        if key.replace("-", "_") in FOR_ALL:
            raise UsageError(f"{where}option '{key}' is about the whole fleet; give it on the command line")
    found = options_from(values, where, more)
    for name, value in found.items():
        kind = options_of(Request)[name].option.kind
        if kind == "file":
            found[name] = str(file.parent / value)
        elif name in _PATHS_TOO:
            found[name] = _beside(file, value)
        elif name == "target":
            found[name] = _target(file, value)
    return found


def _beside(file: Path, value: str) -> str:
    """A path relative to the fleet file; a function of Python, `module:function`, as it is."""
    path, colon, rest = value.partition(":")
    if (file.parent / value).exists() or not colon:
        return str(file.parent / value)
    return f"{file.parent / path}:{rest}" if (file.parent / path).exists() else value


def _target(file: Path, value: str) -> str:
    """A name of a target, or the path of its file."""
    return str(file.parent / value) if value.endswith(".toml") else value


def _require_valid(options: Mapping[str, Any], where: str) -> None:
    """Raises UsageError, also for a target that there is not, and for files to be read that are not there."""
    try:
        Request(**options)
        load_target(options.get("target", "cpu"))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    except TargetError as error:
        raise UsageError(f"{where}: 'target': {error}") from None
    for name in sorted(_READ & options.keys()):
        value = options[name]
        if isinstance(value, str) and not _is_there(value) and not is_function(name, value):
            field = next(iter(options_of(Request)[name].option.flags), name).lstrip("-")
            raise UsageError(f"{where}: '{field}': there is no file or folder {value}")


def _is_there(value: str) -> bool:
    """True as well for an array in a file that is there, `FILE:NAME`."""
    path, colon, _ = value.rpartition(":")
    return os.path.exists(value) or (bool(colon) and os.path.exists(path))


def is_function(name: str, value: Any) -> bool:
    """True for an option that is a function of Python, or names one, `module:function`."""
    named = isinstance(value, str) and bool(_FUNCTION.fullmatch(value)) and not os.path.exists(value)
    return name in _CALLED and (named or callable(value))
