"""Reader of token ids through a decoder recipe: from text, rows, or arrays; the rest of a decoder's inputs follows from
them, and from the model (`onnxmpq.decoding`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.files import ROW_SUFFIXES, TEXT_SUFFIXES, find_files
from onnxmpq.feeds.lines import choose_lines
from onnxmpq.feeds.npy_folder import read_npy_folder
from onnxmpq.feeds.npz import npz_columns, open_npy, read_npy, read_npz
from onnxmpq.feeds.python_source import read_python
from onnxmpq.feeds.recipes import DecoderRecipe
from onnxmpq.feeds.rows import is_data
from onnxmpq.feeds.select import spread
from onnxmpq.feeds.text import load_tokenizer, token_rows
from onnxmpq.feeds.types import Feeds, InputSpec, Places

FEWEST = 2  # tokens of a sample: one before a step, and one for it
_MEASURED = 4096  # characters that tell how many make a token
_MARGIN = 1.4  # pieces of text are longer than a sample by this factor, as the share of characters differs


@dataclass(frozen=True, eq=False)
class Tokens:
    """Sequences of token ids, int64 [tokens] each, at least `FEWEST` long. source, notes, places: as in `Feeds`."""

    rows: tuple[NDArray[np.int64], ...]
    source: str
    notes: tuple[str, ...] = ()
    places: Places | None = None
    synthetic: bool = False


def read_tokens(
    source: Path | Mapping[str, object],
    ids: InputSpec,
    mask: InputSpec | None,
    recipe: DecoderRecipe,
    limit: int | None,
    beside: Path | None = None,
) -> Tokens:
    """At most `limit` sequences of at most `recipe.max_length` tokens, spread evenly over the source.

    source: a `.txt`, `.jsonl`, `.csv`, `.npz` or `.npy` file, a folder of such, or arrays by input name. Text in a
    `.txt` is one long text, cut into pieces; a line of rows, and a row of arrays, is a sequence; an array of one axis
    is cut into pieces. mask: tokens of an array that it has 0 for are left out. beside: the model's folder, where a
    tokenizer may lie. Raises CalibrationError.
    """
    recipe = replace(recipe, ids=ids.name)
    if isinstance(source, Mapping):
        return _of_feeds(read_python(source, _two_axes(source, ids, mask), limit), ids, mask, recipe)
    folder = os.path.isdir(source)
    texts, rows = (
        find_files(source, kind) if folder else [source] * (source.suffix.lower() in kind)
        for kind in (TEXT_SUFFIXES, ROW_SUFFIXES)
    )
    if texts:
        return _of_text(source, texts, recipe, limit, beside)
    if rows:
        return _of_rows(source, rows, recipe, limit, beside)
    if folder:
        return _of_feeds(read_npy_folder(source, _two_axes({ids.name: None}, ids, None), limit), ids, None, recipe)
    if source.suffix.lower() == ".npz":
        columns = npz_columns(source)
        if columns.keys() == {ids.name} and len(columns[ids.name].shape) == 1:
            column = columns[ids.name]
            return _of_stream(np.asarray(column.read(range(column.shape[0]))), str(source), ids, recipe, limit)
        return _of_feeds(read_npz(source, _two_axes(columns, ids, mask), limit), ids, mask, recipe)
    if source.suffix.lower() == ".npy":
        array = open_npy(source)
        if array.ndim == 1:
            return _of_stream(np.asarray(array), str(source), ids, recipe, limit)
        return _of_feeds(read_npy(source, _two_axes({}, ids, None), limit), ids, None, recipe)
    raise CalibrationError(f"{source} holds neither text nor token ids; give .txt, .jsonl, .csv, .npz or .npy")


def _two_axes(given: Mapping[str, object], ids: InputSpec, mask: InputSpec | None) -> list[InputSpec]:
    """Inputs of [samples, tokens]: the ids, and the mask where it is given beside them."""
    chosen = [ids, *([mask] if mask is not None and mask.name in given else [])]
    return [InputSpec(spec.name, spec.dtype, (None, None)) for spec in chosen]


def _of_feeds(feeds: Feeds, ids: InputSpec, mask: InputSpec | None, recipe: DecoderRecipe) -> Tokens:
    """Rows of arrays, without what the mask has 0 for."""
    masked = mask is not None and any(spec.name == mask.name for spec in feeds.specs)
    rows = []
    for sample in range(len(feeds)):
        row = np.asarray(feeds.value(ids.name, sample), np.int64).reshape(-1)
        if masked and mask is not None:
            row = row[np.asarray(feeds.value(mask.name, sample)).reshape(-1) != 0]
        if len(row) < FEWEST:
            raise CalibrationError(
                f"{feeds.source}, sample {feeds.label(sample)} has {len(row)} token(s); a decoder needs {FEWEST}"
            )
        rows.append(row)
    return _cut(rows, recipe, feeds.source, feeds.notes, feeds.places)


def _cut(
    rows: Sequence[NDArray[np.int64]], recipe: DecoderRecipe, source: str, notes: Sequence[str], places: Places | None
) -> Tokens:
    longer = sum(len(row) > recipe.max_length for row in rows)
    more = [f"{longer} of {len(rows)} samples were cut to {recipe.max_length} tokens"] * bool(longer)
    return Tokens(tuple(row[: recipe.max_length] for row in rows), source, (*notes, *more), places)


def _of_stream(
    stream: NDArray[np.generic], where: str, ids: InputSpec, recipe: DecoderRecipe, limit: int | None
) -> Tokens:
    """Pieces of one long row of ids."""
    if stream.dtype.kind not in "iu":
        raise CalibrationError(f"{where}: input '{ids.name}' holds {stream.dtype} values; give whole numbers")
    length = min(recipe.max_length, len(stream))
    if length < FEWEST:
        raise CalibrationError(f"{where} has {len(stream)} token(s); a decoder needs {FEWEST} or more")
    total = len(stream) // length
    chosen = spread(total, limit)
    rows = tuple(stream[i * length : (i + 1) * length].astype(np.int64) for i in chosen)
    return Tokens(rows, f"{where}, from {len(stream)} tokens", (), Places(np.asarray(chosen, np.int64), total))


def _of_rows(
    path: Path, files: Sequence[Path], recipe: DecoderRecipe, limit: int | None, beside: Path | None
) -> Tokens:
    lines, places = choose_lines(files, limit, is_data)
    if not lines:
        raise CalibrationError(f"{path} holds no text and no token ids; give lines of either")
    rows, cut = token_rows(lines, recipe, recipe.max_length, path, beside)
    short = next((line for line, row in zip(lines, rows, strict=True) if len(row) < FEWEST), None)
    if short is not None:
        raise CalibrationError(f"{short.where} has one token; a decoder needs {FEWEST} or more; remove it")
    notes = [f"{cut} of {len(rows)} samples were cut to {recipe.max_length} tokens"] * bool(cut)
    source = f"{path} through recipe {recipe.name}, from {places.total} lines"
    return Tokens(tuple(np.asarray(row, np.int64) for row in rows), source, tuple(notes), places)


def _of_text(
    path: Path, files: Sequence[Path], recipe: DecoderRecipe, limit: int | None, beside: Path | None
) -> Tokens:
    """Pieces of running text that begin with a line."""
    tokenize = load_tokenizer(recipe, path, None, beside)
    texts = [_read(file) for file in files]
    start = "\n".join(texts)[:_MEASURED]
    share = len(start) / max(len(tokenize(start)[0]), 1)  # characters of a token
    size = max(round(recipe.max_length * share * _MARGIN), 1)
    pieces = [piece for text in texts for piece in _pieces(text, size)]
    chosen = spread(len(pieces), limit)
    rows = [np.asarray(tokenize(pieces[i])[0][: recipe.max_length], np.int64) for i in chosen]
    kept = [place for place, row in enumerate(rows) if len(row) >= FEWEST]
    if not kept:
        raise CalibrationError(f"{path} holds no text of {FEWEST} tokens or more; give a longer one")
    source = f"{path} through recipe {recipe.name}, from {len(pieces)} pieces of text"
    places = Places(np.asarray([chosen[i] for i in kept], np.int64), len(pieces))
    return Tokens(tuple(rows[i] for i in kept), source, (), places)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{file} cannot be read as UTF-8 text ({error}); save it as UTF-8") from error


def _pieces(text: str, size: int) -> list[str]:
    """Neighbouring lines put together until they have `size` characters; a shorter rest only where it is all."""
    found, piece, length = list[str](), list[str](), 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        length += len(line)
        if length >= size:
            found.append("".join(piece))
            piece, length = [], 0
    return found or [text]
