"""Write a reproducer: one .zip with the model's structure and a report of what failed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import os
import platform
import re
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmpq.errors import OnnxmpqError
from onnxmpq.files import dump_json, write_bytes
from onnxmpq.reproducer.context import Context
from onnxmpq.reproducer.statistics import Statistics
from onnxmpq.reproducer.structure import stripped

SCHEMA = "onnxmpq.reproducer/1"
SUFFIX = ".reproducer.zip"
_PACKAGES = ("onnxmpq", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "highspy", "ml_dtypes", "protobuf")
_OUTPUT = ("-o", "--output")
_FREE_TEXT = ("--set", "--exclude", "--scheme", "--without", "--output-kind")  # options whose values are no paths
_HOMES = re.compile(r"(?:[A-Za-z]:)?[\\/](?:home|Users)[\\/][^\\/\s'\"]+[\\/]")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a file in a .zip; the time of day is nobody's business


def save(error: BaseException, context: Context) -> Path | None:
    """Write a reproducer of an error beside the output, else in the current or the temporary folder.

    Returns its path, or None if it could be written nowhere. Never raises.
    """
    try:
        model = _model_path(context.arguments)
        content = archive(error, context, model)
        stem = model.stem if model is not None else "onnxmpq"
        for folder in _folders(context.arguments, model):
            try:
                path = _free(folder, stem)
                write_bytes(path, content)
            except (OnnxmpqError, OSError):
                continue
            return path
    except Exception:  # the error that is being reported must not be hidden by another one
        return None
    return None


def archive(error: BaseException, context: Context, model: Path | None) -> bytes:
    """The .zip: report.json, and where the model can be read structure.onnx and statistics.json."""
    report = _report(error, context)
    files: dict[str, bytes] = {}
    try:
        if model is not None:
            structure, statistics = stripped(onnx.load(str(model)))
            files["structure.onnx"] = structure.SerializeToString(deterministic=True)
            rows = {place: dataclasses.asdict(s) for place, s in statistics.items()}
            files["statistics.json"] = dump_json(rows).encode()
    except Exception as second:  # the model may be what is broken, or memory what is missing
        report["structure"] = f"not included: {type(second).__name__}"
    files["report.json"] = dump_json(report).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in sorted(files.items()):
            made.writestr(zipfile.ZipInfo(name, _EARLIEST), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _report(error: BaseException, context: Context) -> dict[str, Any]:
    hide = _Hider(context.arguments)
    return {
        "schema": SCHEMA,
        "arguments": _public(context.arguments, hide),
        "error": {"type": type(error).__name__, "message": hide(str(error))},
        "traceback": [hide(line) for line in _frames(error)],
        "versions": _versions(),
        "samples": _described(context.samples or {}),
        "plan": {region: getattr(scheme, "name", str(scheme)) for region, scheme in (context.assignment or {}).items()},
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    try:
        from onnxmpq.provenance import describe_runtime  # noqa: PLC0415 (onnxruntime may be what fails)

        return found | describe_runtime()
    except Exception as error:
        return found | {"runtime": f"cannot be described: {type(error).__name__}"}


def _described(samples: Mapping[str, Any]) -> dict[str, Any]:
    """Names, types, shapes and ranges of samples."""
    found = {}
    for name, array in samples.items():
        s = Statistics.of(np.asarray(array))
        found[name] = {"dtype": s.dtype, "shape": s.shape, "low": s.low, "high": s.high, "nan": s.nan}
    return found


# ---- nothing private ------------------------------------------------------------------------------


class _Hider:
    """Takes folders out of text: those of the arguments, the current, the temporary and home."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        folders = {os.getcwd(), tempfile.gettempdir(), os.path.expanduser("~"), sys.prefix, sys.base_prefix}
        folders.add(str(Path(__file__).resolve().parents[2]))
        for argument in arguments:
            path = Path(argument.partition("=")[2] or argument)
            if len(path.parts) > 1:
                folders |= {str(path.parent), str(path.parent.absolute())}
        useful = {f.rstrip("\\/") for f in folders} - {"", ".", os.path.sep}
        self.folders = sorted(useful, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for folder in self.folders:
            text = text.replace(f"{folder}{os.path.sep}", "").replace(f"{folder}/", "")
        return _HOMES.sub("", text)


def _public(arguments: tuple[str, ...], hide: _Hider) -> list[str]:
    """Arguments with paths cut to file names."""
    found, before = [], ""
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if (option or before) not in _FREE_TEXT and _is_path(value):
            value = Path(value).name
        found.append(hide(f"{option}{equals}{value}"))
        before = argument
    return found


def _is_path(value: str) -> bool:
    path = Path(value)
    return len(path.parts) > 1 and (path.is_absolute() or os.path.exists(path) or os.path.exists(path.parent))


def _frames(error: BaseException) -> list[str]:
    """The traceback, and those of its causes, innermost first: file, line, function; code of packages only."""
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        lines.append(f"{type(current).__name__}: {current}")
        for frame in reversed(traceback.extract_tb(current.__traceback__)):
            file, known = _module(frame.filename)
            lines.append(f"  {file}:{frame.lineno} in {frame.name}" + (f": {frame.line}" if known else ""))
        current = current.__cause__ or current.__context__
    return lines


def _module(filename: str) -> tuple[str, bool]:
    """A source file relative to its package, and whether it is a package's; the user's own only by its name."""
    parts = Path(filename).parts
    if "site-packages" in parts:
        return "/".join(parts[len(parts) - parts[::-1].index("site-packages") :]), True
    own = Path(__file__).resolve().parents[1]
    if Path(filename).is_relative_to(own):
        return f"onnxmpq/{Path(filename).relative_to(own).as_posix()}", True
    return Path(filename).name, False


# ---- where ----------------------------------------------------------------------------------------


def _model_path(arguments: tuple[str, ...]) -> Path | None:
    """The first argument that is a file and no option's value, by its name a model."""
    for argument in arguments:
        if argument.endswith(".onnx") and not argument.startswith("-") and os.path.isfile(Path(argument)):
            return Path(argument)
    return None


def _folders(arguments: tuple[str, ...], model: Path | None) -> Iterator[Path]:
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if before in _OUTPUT:
            yield Path(argument).parent
        elif argument.startswith("--output="):
            yield Path(argument.partition("=")[2]).parent
    if model is not None:
        yield model.parent
    yield Path()
    yield Path(tempfile.gettempdir())


def _free(folder: Path, stem: str) -> Path:
    """A path that nothing has."""
    path, number = folder / f"{stem}{SUFFIX}", 1
    while os.path.exists(path):
        number += 1
        path = folder / f"{stem}-{number}{SUFFIX}"
    return path
