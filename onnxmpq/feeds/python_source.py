"""Reader of Python sources: dicts of arrays, iterables of feeds, calibration data readers, `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxmpq.errors import CalibrationError, OnnxmpqError, UsageError
from onnxmpq.feeds.columns import Elements, MemoryColumn, assemble, gather
from onnxmpq.feeds.fit import check_names, find_layout, fixed_batch, require_finite, to_dtype, without_rows
from onnxmpq.feeds.types import Array, Feeds, InputSpec, Places


def import_source(reference: str) -> object:
    """The object `module:name` (name may have dots); modules in the working directory are found too."""
    module_name, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the latter two for `..x:y` and `:y`
        raise UsageError(
            f"calibration source '{reference}' is no existing file, and as module:function it cannot be imported "
            f"({error}); check the spelling and the working directory"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    return found


def read_python(source: object, specs: Sequence[InputSpec], limit: int | None, name: str | None = None) -> Feeds:
    """Feeds from a Python object; `name` is what to call it.

    A dict of arrays is read like an `.npz`. An iterable of feeds, or a reader with `get_next()`, is read from its
    start up to `limit` samples and no further. A callable is called without arguments and returns one of these.
    """
    called = name or f"a Python {type(source).__name__}"
    if callable(source) and not isinstance(source, Mapping) and not hasattr(source, "get_next"):
        source = _guard(called, source)
    if isinstance(source, Mapping):
        columns = {key: MemoryColumn(f"{called}, array '{key}'", _as_array(v, called)) for key, v in source.items()}
        return assemble(columns, specs, source=called, limit=limit)
    return _read_stream(_steps(source, called), specs, limit, called)


def _steps(source: object, called: str) -> Iterator[object]:
    """The feeds of a reader or iterable, one after the other."""
    get_next = getattr(source, "get_next", None)
    if callable(get_next):
        rewind = getattr(source, "rewind", None)
        if callable(rewind):
            _guard(called, rewind)
        iterator: Iterator[object] = _calls(get_next)
    elif isinstance(source, Iterable) and not isinstance(source, str | bytes):
        iterator = iter(source)
    else:
        raise CalibrationError(
            f"{called} gives {type(source).__name__}, which is no calibration data; give a dict of arrays, "
            "an iterable of {input name: array}, or a reader with get_next()"
        )
    end = object()
    while (item := _guard(called, lambda: next(iterator, end))) is not end:
        yield item


def _calls(get_next: Callable[[], object]) -> Iterator[object]:
    while (item := get_next()) is not None:
        yield item


def _guard(called: str, step: Callable[[], object]) -> object:
    """The step's result; what the user's own code raises becomes a CalibrationError that says so."""
    try:
        return step()
    except OnnxmpqError:
        raise
    except Exception as error:
        raise CalibrationError(f"{called} raised {type(error).__name__}: {error}; repair the source") from error


def _read_stream(steps: Iterator[object], specs: Sequence[InputSpec], limit: int | None, called: str) -> Feeds:
    """At most the first `limit` samples of a stream of feeds; a stream cannot be spread without reading it all."""
    batch = fixed_batch(specs) or 1
    streams = [_InputStream(s, called, batch) for s in specs]
    exhausted = False
    for number, item in enumerate(steps):
        feed = _as_feed(item, specs, f"{called}, feed {number}")
        parts = [stream.split(feed[stream.spec.name], number) for stream in streams]
        _add(streams, parts, f"{called}, feed {number}")
        if limit is not None and len(streams[0].values) >= limit * batch:
            break
    else:
        exhausted = True
    if not streams[0].values:
        raise CalibrationError(f"{called} yields nothing: there are no samples (is it an iterator already used up?)")
    inputs = {stream.spec.name: stream.samples(limit) for stream in streams}
    group, left_over = inputs[specs[0].name].group, inputs[specs[0].name].left_over
    rows = inputs[specs[0].name].count * group
    notes = [f"the last {left_over} rows were dropped (the model takes {batch} at once)"] * bool(left_over)
    places = Places(np.arange(rows), rows if exhausted else None)
    return gather(inputs, specs, source=called, notes=notes, places=places)


class _InputStream:
    """One input of a stream of feeds. values: its samples so far; of a model with a fixed batch, the rows of them."""

    def __init__(self, spec: InputSpec, called: str, batch: int) -> None:
        self.spec, self.called, self.batch = spec, called, batch
        self.rows = spec if batch == 1 else replace(spec, shape=(None, *spec.shape[1:]))
        self.values: list[Array] = []
        self.notes: list[str] = []

    def split(self, array: Array, number: int) -> list[Array]:
        """Copies of a feed's samples in the input's dtype, or of its rows; a reader may use its memory again."""
        where = f"{self.called}, feed {number}, input '{self.spec.name}'"
        layout = find_layout(self.rows, array.shape, where)
        checked = require_finite(array, range(len(array)), where)
        values, note = to_dtype(checked, self.spec, where)
        if note and note not in self.notes:
            self.notes.append(note)
        samples = np.array(layout.split(values))
        if self.batch > 1 and samples.ndim == len(self.spec.shape) + 1:
            samples = samples.reshape(-1, *samples.shape[2:])  # all rows
        return [samples[i, ...] for i in range(len(samples))]

    def samples(self, limit: int | None) -> Elements:
        """All that was read, at most `limit` samples. Raises CalibrationError for too few rows, or rows of one sample
        that differ in shape."""
        where = f"{self.called}, input '{self.spec.name}'"
        if self.batch == 1:
            return Elements(self.spec, self.values[:limit], where, notes=self.notes)
        count = len(self.values) // self.batch
        if not count:
            raise CalibrationError(
                f"{where} has {len(self.values)} rows, and the model takes {self.batch} at a time: give a multiple of "
                f"{self.batch} rows"
            )
        groups = [self.values[i * self.batch : (i + 1) * self.batch] for i in range(count)][:limit]
        if any(row.shape != group[0].shape for group in groups for row in group):
            raise CalibrationError(
                f"{where}: rows have different shapes, and the model takes {self.batch} at a time; give those of one "
                "sample the same shape"
            )
        left_over = len(self.values) % self.batch if len(groups) == count else 0
        return Elements(self.spec, list(map(np.stack, groups)), where, self.batch, left_over, self.notes)


def _add(streams: Sequence[_InputStream], parts: Sequence[list[Array]], where: str) -> None:
    """Add a feed's samples to those of each input; one value stands for all of the feed."""
    count = max(map(len, parts))
    if any(len(part) not in (1, count) for part in parts):
        listed = ", ".join(f"'{s.spec.name}' {len(part)}" for s, part in zip(streams, parts, strict=True))
        raise CalibrationError(
            f"{where}: the inputs have different numbers of samples ({listed}); give every input the same number, "
            "or one value for all"
        )
    for stream, part in zip(streams, parts, strict=True):
        stream.values += part if len(part) == count else part * count


def _as_feed(item: object, specs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    """One feed as arrays with a first axis of rows; an array alone serves a model with one input."""
    if isinstance(item, np.ndarray) and len(specs) == 1:
        item = {specs[0].name: item}
    if not isinstance(item, Mapping):
        raise CalibrationError(f"{where} is a {type(item).__name__}; yield dicts {{input name: array}}")
    check_names(item, specs, where)
    feed = {}
    for spec in specs:
        array = _as_array(item[spec.name], where)
        lacks_batch = array.ndim == max(len(spec.shape) - (not without_rows(spec)), 0)
        axis = spec.batch_axis if array.ndim == len(spec.shape) - 1 else 0
        feed[spec.name] = np.expand_dims(array, axis) if lacks_batch else array
    return feed


def _as_array(value: object, where: str) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise CalibrationError(f"{where}: a value is no array of one shape ({error}); pad or crop it") from error
