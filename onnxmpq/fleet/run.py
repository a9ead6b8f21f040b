"""Converts the entries of a fleet one after the other; what an earlier run has done is kept."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxmpq.cache import content_hash
from onnxmpq.cluster import connected
from onnxmpq.cost import Effort
from onnxmpq.errors import LostError, ModelError, OnnxmpqError, OutputError
from onnxmpq.feeds import find_recipe, tokenizer_places
from onnxmpq.files import as_path, check_writable, parse_json, read_text, weights_path, write_text
from onnxmpq.fleet.entries import JSON, PAGE, Entry, entries_of, is_function
from onnxmpq.fleet.results import HEADS, Converted, Fleet, cells, rows_by_name, values
from onnxmpq.isolation import isolated
from onnxmpq.keys import programs
from onnxmpq.measuring import described, elsewhere
from onnxmpq.model import model_files
from onnxmpq.page import FleetRow, render_fleet
from onnxmpq.pipeline import convert
from onnxmpq.progress import Progress, duration
from onnxmpq.request import Request, accepts
from onnxmpq.result import Result


@accepts
@isolated()
def convert_many(
    source: str | Path,
    output: str | Path,
    *,
    cluster: Any = None,
    cluster_folder: str | Path | None = None,
    device: str | None = None,
    cache: str | Path | bool = True,
    effort: Effort | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Fleet:
    """Convert all models of a fleet file, or of a folder (docs/cluster.md), into the folder `output`.

    There, beside the models, plans and pages, `fleet.json` and `fleet.html` tell of all of them; they are written anew
    after each model. A model that a run before this one has converted there is not converted again, if its file, its
    data and its options are the same. One that cannot be converted does not stop the others: see `Fleet.failed`.

    options: of `convert`, which win over the file's. The other arguments are those of `convert`, for all models. Raises
    UsageError for a fleet file that cannot be understood, OutputError, and ClusterError where the cluster is gone.
    """
    heard, folder = progress or Progress(), as_path(output, "a folder for what is written")
    origin = as_path(source, "a fleet file, or a folder of models")
    entries = entries_of(origin, options)
    _prepare(folder)
    known = rows_by_name(_read(folder / JSON))
    common = {"cache": cache, "effort": effort, "progress": heard}
    rows: list[Converted] = []
    start = time.monotonic()
    with (
        connected(cluster, heard, folder=cluster_folder, device=device),
        heard.stage(f"converting {len(entries)} models", len(entries)) as tick,
    ):
        before = {entry.name: _reused(entry, known.get(entry.name), folder, effort) for entry in entries}
        for number, entry in enumerate(entries, 1):
            row = before[entry.name]
            if row is None:
                heard.say(f"{number} of {len(entries)}: {entry.name}")
                row = _converted(entry, folder, common)
                spent_s, fresh = time.monotonic() - start, 1 + sum(not r.reused for r in rows)
                left_s = sum(before[e.name] is None for e in entries[number:]) * spent_s / fresh
                ahead = f"; about {duration(left_s)} left" if left_s else ""
                (heard.say if row.done else heard.warn)(_said(row) + ahead)
            rows.append(row)
            tick(1)
            left = [(e.name, before[e.name]) for e in entries[number:]]
            kept = [row for _, row in left if row is not None]
            unfinished = tuple(name for name, row in left if row is None)
            _write(Fleet(str(source), (*rows, *kept), unfinished), folder)
    return Fleet(str(source), tuple(rows))


def _prepare(folder: Path) -> None:
    """Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror}); choose another folder with -o") from None
    check_writable(folder / JSON)


def _read(path: Path) -> Any:
    with suppress(OSError, ValueError):
        return parse_json(read_text(path))
    return None


def _reused(entry: Entry, known: Converted | None, folder: Path, effort: Effort | None) -> Converted | None:
    """The row of a run before this one, where it is about the same, and all its files are there."""
    if known is None or not known.done or not known.files or not known.key or known.key != _key(entry, effort):
        return None
    with suppress(OSError, ModelError):
        whole = all(os.path.isfile(folder / name) for name in known.files.values())
        if whole and _sha256(entry.files(folder)["model"]) == known.output_sha256:
            return replace(known, reused=True)
    return None


def _converted(entry: Entry, folder: Path, common: Mapping[str, Any]) -> Converted:
    """Raises LostError alone: without a scheduler there is no use in going on."""
    files, start = entry.files(folder), time.monotonic()
    asked = Request(**entry.options).budgets.spelled()
    row = Converted(entry.name, _key(entry, common["effort"]), str(entry.model), entry.target, asked)
    try:
        made = convert(
            entry.model, **{**entry.options, **common}, output=str(files["model"]), report=str(files["report"])
        )
    except LostError:
        raise
    except OnnxmpqError as error:
        return replace(row, error=str(error), code=error.exit_code, seconds=time.monotonic() - start)
    except Exception as error:  # whatever it is, other models may go well
        what = " ".join(f"internal error: {type(error).__name__}: {error}; convert it alone to report this".split())
        return replace(row, error=what, code=OnnxmpqError.exit_code, seconds=time.monotonic() - start)
    made_too = {**files, "weights": weights_path(files["plan"])}
    names = {kind: path.name for kind, path in made_too.items() if os.path.isfile(path)}
    done = replace(row, files=names, output_sha256=_sha256(files["model"]), seconds=time.monotonic() - start)
    return _with_figures(done, made)


def _with_figures(row: Converted, made: Result) -> Converted:
    report, plan = made.report, made.plan
    latency = plan.measured if "latency_ms" in plan.measured else plan.prediction
    return replace(
        row,
        budgets=plan.budgets,
        met=plan.met,
        original_bytes=report.original_bytes,
        size_bytes=report.result_bytes,
        original_ms=latency.get("original_latency_ms"),
        latency_ms=latency.get("latency_ms"),
        sqnr_db=report.validation.worst_sqnr_db,
        quality=report.verdict.level,
    )


def _said(row: Converted) -> str:
    if not row.done:
        return f"{row.name} was not converted: {row.error}"
    shown = dict(zip(HEADS, cells(row), strict=True))
    latency = f", {shown['ms']} ms" if shown["ms"] else ""
    return f"{row.name}: {shown['MB']} MB{latency}, quality {row.quality}, in {duration(row.seconds)}"


def _key(entry: Entry, effort: Effort | None) -> str:
    """Hash of all that the result follows from, where time is taken too; files by name, size and time of change.

    Empty where that is not known: a function of Python may give other samples tomorrow.
    """
    try:
        options = {name: _identity(name, value) for name, value in entry.options.items()}
        files = [*model_files(entry.model), *_tokenizers(entry)]
        device = described() if elsewhere() else {}
        return content_hash("fleet", programs(), str(entry.model), _stamps(files), options, device, str(effort))
    except (TypeError, OSError, OnnxmpqError):  # an object of Python that has no content, or a file that is gone
        return ""


def _identity(name: str, value: Any) -> Any:
    """A path with its sizes and times of change, anything else as it is. Raises TypeError for functions."""
    if is_function(name, value):
        raise TypeError(f"{name} is a function")
    if not isinstance(value, str | Path):
        return value
    path = Path(value) if os.path.exists(value) else Path(str(value).rpartition(":")[0] or ".")
    if not os.path.exists(path) or path == Path():
        return str(value)
    files = sorted(p for p in path.rglob("*") if os.path.isfile(p)) if os.path.isdir(path) else [path]
    return [str(value), _stamps(files)]


def _tokenizers(entry: Entry) -> list[Path]:
    """Files that the samples may be read with, and that are there."""
    request = Request(**entry.options)
    if not isinstance(request.calibration, str | Path):
        return []
    recipe = None if request.effective_recipe is None else find_recipe(request.effective_recipe)
    places = tokenizer_places(recipe, Path(request.calibration), entry.model.absolute().parent)
    return [place for place in places if os.path.isfile(place)]


def _stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    return [(str(file), (found := file.stat()).st_size, found.st_mtime_ns) for file in files]


def _sha256(model: Path) -> str:
    """Of a model's file, with its external data behind it. Raises OSError and ModelError."""
    digest = hashlib.sha256()
    for path in model_files(model):
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


def _write(fleet: Fleet, folder: Path) -> None:
    write_text(folder / JSON, fleet.to_json())
    rows = [FleetRow(cells(r), values(r), (r.files or {}).get("report", "")) for r in fleet.rows if r.done]
    failures = [(row.name, f"{row.error} (exit code {row.code})") for row in fleet.failed]
    failures += [(name, "not reached yet") for name in fleet.unfinished]
    lead = f"{len(rows)} of {len(fleet.rows) + len(fleet.unfinished)} models converted."
    write_text(folder / PAGE, render_fleet(os.path.basename(fleet.source) or fleet.source, lead, HEADS, rows, failures))
