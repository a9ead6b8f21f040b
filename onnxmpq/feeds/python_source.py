"""Reader of Python sources: dicts of arrays, iterables of feeds, calibration data readers, `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxmpq.errors import CalibrationError, OnnxmpqError, UsageError
from onnxmpq.feeds.fit import MemoryColumn, assemble, check_names, find_layout, show_shape, without_rows
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
    except (ImportError, AttributeError) as error:
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
    parts: dict[str, list[Array]] = {s.name: [] for s in specs}
    count, exhausted = 0, False
    for number, item in enumerate(steps):
        feed = _as_feed(item, specs, f"{called}, feed {number}")
        for spec in specs:
            kept = parts[spec.name]
            if kept and kept[0].shape[1:] != feed[spec.name].shape[1:]:
                raise CalibrationError(
                    f"{called}, feed {number}: input '{spec.name}' has shape {show_shape(feed[spec.name].shape)}, "
                    f"in feed 0 it was {show_shape(kept[0].shape)}; pad or crop all samples to one shape"
                )
            kept.append(feed[spec.name])
        first = specs[0]
        count += find_layout(first, feed[first.name].shape, f"{called}, feed {number}").samples
        if limit is not None and count >= limit:
            break
    else:
        exhausted = True
    if not count:
        raise CalibrationError(f"{called} yields nothing: there are no samples (is it an iterator already used up?)")
    columns = {}
    for spec in specs:
        where, array = f"{called}, input '{spec.name}'", np.concatenate(parts[spec.name])
        rows = None if limit is None else limit * find_layout(spec, array.shape, where).rows
        columns[spec.name] = MemoryColumn(where, array[:rows])
    length = columns[specs[0].name].shape[0]
    places = Places(np.arange(length), length if exhausted else None)
    return assemble(columns, specs, source=called, places=places)


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
        feed[spec.name] = array[None] if lacks_batch else array
        find_layout(spec, feed[spec.name].shape, f"{where}, input '{spec.name}'")
    return feed


def _as_array(value: object, where: str) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise CalibrationError(f"{where}: a value is no array of one shape ({error}); pad or crop it") from error
