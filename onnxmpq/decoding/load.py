"""Samples of any model: those of a decoder with a cache are made by running it, others are read as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmpq.decoding.cache import Decoder, find_decoder
from onnxmpq.decoding.make import decoder_feeds, filled_by
from onnxmpq.decoding.stepped import stepped
from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import (
    DecoderRecipe,
    Feeds,
    InputSpec,
    Recipe,
    Tokens,
    find_recipe,
    load_feeds,
    read_tokens,
    with_batch_axes,
)
from onnxmpq.model import read_structure, table_rows

RECIPE = "decoder"
"""Recipe of a decoder that is given no other, for a source without its cache."""
MADE_UP = 128  # tokens of a made-up sequence, as of other models' dynamic axes
DEFAULT_COUNT = 32
DEFAULT_ROWS = 32


def structure_of(model: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    """A model's graph without the values of large constants, where it is a path; else the model."""
    return model if isinstance(model, onnx.ModelProto) else read_structure(Path(model))


def load_samples(
    model: Any,
    source: object,
    specs: tuple[InputSpec, ...],
    *,
    structure: onnx.ModelProto | None = None,
    recipe: str | Recipe | None = None,
    limit: int | None = None,
    seed: int = 0,
    bounds: Mapping[str, int] | None = None,
) -> Feeds:
    """Samples as `load_feeds` reads them; those of a decoder with a cache have their phases.

    A decoder whose source is text or token ids, or which has no source, gets both phases: whole sequences, and steps
    with the cache that the model makes. model: path or proto, which is run for that. structure: its graph, where it is
    at hand. Raises CalibrationError, UsageError, and ModelError or CrashError where the model does not run.
    """
    graph = structure_of(model) if structure is None else structure
    decoder = find_decoder(graph)
    if decoder is None:
        return load_feeds(source, specs, recipe=recipe, limit=limit, seed=seed, bounds=bounds)
    found = None if recipe is None else find_recipe(recipe)
    if found is None and not _holds_cache(source, decoder):
        found = find_recipe(RECIPE)
    if found is None:
        return stepped(load_feeds(source, specs, limit=limit), decoder)
    if not isinstance(found, DecoderRecipe):
        raise CalibrationError(
            f"recipe {found.name} does not fill the cache of this decoder ({decoder.pairs[0].past}, ...); give "
            f"--recipe {RECIPE}, or an .npz with all inputs"
        )
    laid = with_batch_axes(specs)
    decoder, recipe = _named(decoder, found, laid), found
    filled_by(decoder, recipe, laid)
    rows = table_rows(graph).get(decoder.ids)
    tokens = _tokens(model, source, decoder, laid, recipe, limit, rows, seed)
    _require_known(tokens, decoder, recipe, rows)
    return stepped(decoder_feeds(model, decoder, laid, recipe, tokens), decoder)


def _named(decoder: Decoder, recipe: DecoderRecipe, specs: tuple[InputSpec, ...]) -> Decoder:
    """The decoder with the inputs that the recipe names."""
    names = [spec.name for spec in specs]
    for name in (recipe.ids, recipe.mask, recipe.positions, *dict(recipe.values)):
        if name is not None and name not in names:
            raise CalibrationError(
                f"recipe {recipe.name}: the model has no input '{name}'; its inputs are {', '.join(names)}"
            )
    positions = decoder.positions if recipe.positions is None else (recipe.positions,)
    return replace(decoder, ids=recipe.ids or decoder.ids, mask=recipe.mask or decoder.mask, positions=positions)


def _tokens(
    model: Any,
    source: object,
    decoder: Decoder,
    specs: tuple[InputSpec, ...],
    recipe: DecoderRecipe,
    limit: int | None,
    rows: int | None,
    seed: int,
) -> Tokens:
    by_name = {spec.name: spec for spec in specs}
    ids, mask = by_name[decoder.ids], None if decoder.mask is None else by_name[decoder.mask]
    if source is None:
        return _made_up(recipe, rows or DEFAULT_ROWS, DEFAULT_COUNT if limit is None else limit, seed)
    beside = Path(model).absolute().parent if isinstance(model, str | Path) else None
    if isinstance(source, Mapping):
        return read_tokens(source, ids, mask, recipe, limit, beside)
    if not isinstance(source, str | PathLike) or not os.path.exists(Path(source)):
        if isinstance(source, str | PathLike) and ":" not in str(source):
            raise CalibrationError(f"calibration data {source} does not exist; check the path")
        raise CalibrationError(
            f"recipe {recipe.name} reads text and token ids from files; give a path, or from Python all inputs of the "
            "model, without recipe"
        )
    return read_tokens(Path(source), ids, mask, recipe, limit, beside)


def _made_up(recipe: DecoderRecipe, rows: int, count: int, seed: int) -> Tokens:
    generator = np.random.default_rng(seed)
    length = min(recipe.max_length, MADE_UP)
    ids = tuple(generator.integers(0, rows, length) for _ in range(count))
    note = f"token ids are uniform integers from 0 to {rows - 1}, {length} in a sequence"
    return Tokens(ids, f"made up ({count} samples, seed {seed})", (note,), synthetic=True)


def _require_known(tokens: Tokens, decoder: Decoder, recipe: DecoderRecipe, rows: int | None) -> None:
    """Ids must be in the model's table before it runs on them. Raises CalibrationError."""
    limits = [(n, what) for n, what in ((rows, "the model's table"), (recipe.vocabulary, f"recipe {recipe.name}")) if n]
    if not limits:
        return
    most, what = min(limits)
    for number, row in enumerate(tokens.rows):
        wrong = row[(row < 0) | (row >= most)]
        if wrong.size:
            where = number if tokens.places is None else tokens.places.rows[number]
            raise CalibrationError(
                f"{tokens.source}, sample {where}: token id {wrong[0]} of input '{decoder.ids}' is outside 0 to "
                f"{most - 1}, the ids of {what}; give the tokenizer that belongs to the model"
            )


def _holds_cache(source: object, decoder: Decoder) -> bool:
    """True for a source with values for the cache, and for one of Python's that only reading tells."""
    if source is None:
        return False
    if isinstance(source, str | PathLike):
        path = Path(source)
        return os.path.exists(path) and any(_starts(name, decoder) for name in _names(path))
    if isinstance(source, Mapping):
        return any(_starts(str(name), decoder) for name in source)
    return True


def _starts(name: str, decoder: Decoder) -> bool:
    """True if an array or file is called as a cache input, or that with a number behind it."""
    return any(name.startswith(pair.past) for pair in decoder.pairs)


def _names(path: Path) -> Iterator[str]:
    """Arrays and files of a source, or the text of its first line: enough to see names of inputs."""
    if os.path.isdir(path):
        yield from (file.name for file in path.iterdir())
    elif path.suffix.lower() == ".npz":
        try:
            with np.load(path) as arrays:
                yield from arrays.files
        except Exception:  # damaged; the reader says so
            return
    elif path.suffix.lower() == ".jsonl":
        try:
            with path.open(encoding="utf-8-sig") as file:
                yield from file.readline().replace('"', "\n").splitlines()
        except (OSError, UnicodeDecodeError):
            return
