"""Reader of texts and token ids through a text recipe: cut, padded, with attention mask and token types.

Plain text needs the `tokenizers` package and a tokenizer file; rows of token ids (CSV, JSON lines) need neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.columns import MemoryColumn, RowColumn, assemble
from onnxmpq.feeds.files import ROW_SUFFIXES, TEXT_SUFFIXES, find_files
from onnxmpq.feeds.fit import rows_per_sample, show_shape, to_dtype
from onnxmpq.feeds.lines import Line, choose_lines
from onnxmpq.feeds.recipes import DecoderRecipe, Recipe, TextRecipe
from onnxmpq.feeds.rows import is_data, parse_line
from onnxmpq.feeds.select import whole_groups
from onnxmpq.feeds.types import Array, Feeds, InputSpec

Tokenize = Callable[[str], tuple[list[int], bool]]  # text -> its token ids, and whether it had more


def read_text(path: Path, specs: Sequence[InputSpec], recipe: TextRecipe, limit: int | None) -> Feeds:
    """Feeds from a `.txt`, `.csv` or `.jsonl` file, or a folder of them; each line that is not blank is one sample.

    JSON lines may be a list of token ids, or hold them under the name of the ids input, or hold a text as "text".
    At most `limit` samples, evenly spread. All are padded to one length: that of the model, or where it leaves the
    length open the longest sample's, at most `recipe.max_length`. By `lengths = "own"` none is padded then.
    """
    spec = _check_inputs(specs, recipe)
    files = find_files(path, (*TEXT_SUFFIXES, *ROW_SUFFIXES)) if os.path.isdir(path) else [path]
    group = rows_per_sample(spec)
    lines, places = choose_lines(files, None if limit is None else limit * group, is_data)
    kept, notes = whole_groups(len(lines), group, str(path), "lines") if lines else (0, [])
    if not kept:
        raise CalibrationError(f"{path} holds no text and no token ids; give lines of either")
    fixed = spec.shape[1]
    longest = fixed if isinstance(fixed, int) else recipe.max_length
    rows, truncated = token_rows(lines[:kept], recipe, longest, path)
    length = longest if isinstance(fixed, int) else max(len(row) for row in rows)
    if truncated:
        notes.append(f"{truncated} of {kept} samples were cut to {longest} tokens")
    through = f"{path} through recipe {recipe.name}"
    source = f"{through}, from {places.total} lines"
    if recipe.lengths == "own" and not isinstance(fixed, int) and group == 1:
        return assemble(_own_lengths(rows, specs, recipe, lines), specs, source=source, notes=notes, places=places)
    padded = sum(len(row) < length for row in rows)
    if padded:
        notes.append(f"{padded} of {kept} samples were padded to {length} tokens with id {recipe.pad_id}")
    arrays = _fill(rows, length, specs, recipe, through)
    columns = {name: MemoryColumn(through, array) for name, array in arrays.items()}
    return assemble(columns, specs, source=source, notes=notes, places=places)


def _own_lengths(
    rows: Sequence[Sequence[int]], specs: Sequence[InputSpec], recipe: TextRecipe, lines: Sequence[Line]
) -> dict[str, RowColumn]:
    """A column per input, each row as long as its sample."""

    def column(spec: InputSpec) -> RowColumn:
        def load(row: int) -> Array:
            filled: Array = _fill([rows[row]], len(rows[row]), specs, recipe, lines[row].where)[spec.name][0]
            return filled

        return RowColumn(recipe.name, len(rows), load, lambda row: lines[row].where)

    return {spec.name: column(spec) for spec in specs}


def _check_inputs(specs: Sequence[InputSpec], recipe: TextRecipe) -> InputSpec:
    """The input for token ids. CalibrationError where the model's inputs are not those of the recipe."""
    by_name = {s.name: s for s in specs}
    filled = [name for name in (recipe.ids, recipe.mask, recipe.types) if name is not None]
    if recipe.ids not in by_name or not set(by_name) <= set(filled):
        raise CalibrationError(
            f"recipe {recipe.name} fills {', '.join(filled)}, but the model's inputs are {', '.join(by_name)}; "
            "copy the recipe and name them under [inputs]"
        )
    for spec in specs:
        if len(spec.shape) != 2:
            raise CalibrationError(
                f"recipe {recipe.name} makes [samples, tokens], but input '{spec.name}' takes "
                f"{show_shape(spec.shape)}; prepare an .npz"
            )
    return by_name[recipe.ids]


def token_rows(
    lines: Sequence[Line], recipe: TextRecipe | DecoderRecipe, longest: int, path: Path, beside: Path | None = None
) -> tuple[list[list[int]], int]:
    """Token ids of each line, at most `longest` of them, and how many lines were cut. beside: as for `load_tokenizer`.

    Raises CalibrationError.
    """
    tokenize: Tokenize | None = None
    rows = []
    cut = 0
    for line in lines:
        found = line.text if line.path.suffix.lower() == ".txt" else _ids_or_text(parse_line(line), line, recipe)
        if isinstance(found, str):
            tokenize = tokenize or load_tokenizer(recipe, path, longest, beside)
            ids, has_more = tokenize(found)
        else:
            ids, has_more = found[:longest], len(found) > longest
        _check_ids(ids, line, recipe)
        rows.append(ids)
        cut += has_more
    return rows, cut


def _ids_or_text(item: object, line: Line, recipe: TextRecipe | DecoderRecipe) -> list[int] | str:
    if isinstance(item, dict):
        item = item.get(recipe.ids, item.get("text"))
    if isinstance(item, str):
        return item
    if isinstance(item, list) and item and all(isinstance(token, int) for token in item):
        return item
    raise CalibrationError(
        f'{line.where} holds no token ids; write whole numbers, or {{"{recipe.ids}": [...]}} or {{"text": "..."}}'
    )


def _check_ids(ids: Sequence[int], line: Line, recipe: TextRecipe | DecoderRecipe) -> None:
    if not ids:
        raise CalibrationError(f"{line.where} has no tokens; remove it")
    highest = np.iinfo(np.int64).max if recipe.vocabulary is None else recipe.vocabulary - 1
    wrong = next((token for token in ids if not 0 <= token <= highest), None)
    if wrong is not None:
        raise CalibrationError(
            f"{line.where}: token id {wrong} is outside 0 to {highest} (recipe {recipe.name}); correct it"
        )


def load_tokenizer(
    recipe: TextRecipe | DecoderRecipe, path: Path, longest: int | None, beside: Path | None = None
) -> Tokenize:
    """A function from text to at most `longest` token ids (None for all), by the recipe's tokenizer, or the one beside
    the text, or the one in the folder `beside`. Raises CalibrationError."""
    try:
        import tokenizers  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise CalibrationError(
            "reading text needs the package tokenizers: pip install 'onnxmpq[text]'; "
            "or give token ids as .jsonl, .csv or .npz"
        ) from error
    file = _find_tokenizer(recipe, path, beside)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare Exception
        raise CalibrationError(f"{file} cannot be read as a tokenizer ({error}); save it with tokenizers") from error
    tokenizer.no_padding()
    if longest is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(longest)

    def tokenize(text: str) -> tuple[list[int], bool]:
        encoding = tokenizer.encode(text)
        return list(encoding.ids), bool(encoding.overflowing)

    return tokenize


def tokenizer_places(recipe: Recipe | None, path: Path, beside: Path | None) -> list[Path]:
    """Where the tokenizer of a text may lie: the first file that is there is it. beside: as for `load_tokenizer`."""
    if isinstance(recipe, TextRecipe | DecoderRecipe) and recipe.tokenizer:
        return [recipe.tokenizer]
    folder = path if os.path.isdir(path) else path.parent
    candidates = [folder / "tokenizer.json", path.with_suffix(".json")]
    if beside is not None and beside.resolve() != folder.resolve():
        candidates.append(beside / "tokenizer.json")
    return candidates


def _find_tokenizer(recipe: TextRecipe | DecoderRecipe, path: Path, beside: Path | None) -> Path:
    candidates = tokenizer_places(recipe, path, beside)
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    listed = " or ".join(str(candidate) for candidate in candidates)
    raise CalibrationError(
        f"{path}: there is no tokenizer at {listed}; put it there, or name it: --recipe-field tokenizer=FILE"
    )


def _fill(
    rows: Sequence[Sequence[int]], length: int, specs: Sequence[InputSpec], recipe: TextRecipe, where: str
) -> dict[str, Array]:
    """Input name -> array [rows, length] of the input's dtype."""
    ids = np.full((len(rows), length), recipe.pad_id, np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    values = {recipe.ids: ids, recipe.mask: mask, recipe.types: np.zeros_like(ids)}
    return {
        s.name: to_dtype(ids, s, where)[0] if s.name == recipe.ids else values[s.name].astype(s.dtype) for s in specs
    }
