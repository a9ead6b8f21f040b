"""Samples of a decoder, made of token ids: whole sequences, and steps with the cache that the model itself makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.decoding.cache import Decoder, grows
from onnxmpq.errors import CalibrationError, CrashError
from onnxmpq.feeds import Array, DecoderRecipe, Feeds, InputSpec, Tokens
from onnxmpq.isolation import call
from onnxmpq.runtimes import SessionSettings, absolute, open_session, run

PARTS = 4
"""Steps have caches of one to all of so many parts of their sequence, in turn."""
_SHOWN = 4  # inputs that an error names
_BRANCH = "use_cache_branch"  # of decoders that hold both phases in an If, as optimum merged them


@dataclass(frozen=True)
class _Sample:
    """past: tokens in the cache before the run. ids: int64, tokens of the run."""

    before: NDArray[np.int64]
    ids: NDArray[np.int64]


def filled_by(decoder: Decoder, recipe: DecoderRecipe, specs: Sequence[InputSpec]) -> None:
    """Check that every input follows from token ids. Raises CalibrationError naming those that do not."""
    crossed = [spec for spec in specs if spec.name in decoder.crossed and spec.name not in dict(recipe.values)]
    if crossed:
        raise CalibrationError(
            f"recipe {recipe.name} cannot fill {_listed(crossed)}: caches of an encoder's output, which do not follow "
            "from token ids; give an .npz with all inputs, recorded where the encoder and this decoder run"
        )
    known = {decoder.ids, decoder.mask, *decoder.positions, _BRANCH, *decoder.past, *dict(recipe.values)}
    strange = [spec for spec in specs if spec.name not in known]
    strange += [spec for spec in specs if spec.name in decoder.past and not _explained(spec)]
    mask = next((spec for spec in specs if spec.name == decoder.mask), None)
    strange += [mask] if mask is not None and isinstance(mask.shape[1], int) else []
    if strange:
        raise CalibrationError(
            f"recipe {recipe.name} cannot fill {_listed(strange)}: it knows token ids, mask, positions and a cache "
            "that grows along one axis; give an .npz with all inputs, or a number for an input under [values]"
        )


def _listed(specs: Sequence[InputSpec]) -> str:
    """Names and shapes of the first inputs."""
    more = f" and {len(specs) - _SHOWN} more" if len(specs) > _SHOWN else ""
    return ", ".join(f"'{spec.name}' {_axes(spec)}" for spec in specs[:_SHOWN]) + more


def _axes(spec: InputSpec) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in spec.shape) + "]"


def _explained(spec: InputSpec) -> bool:
    """True if the cache's shape before the first token is known."""
    try:
        grows(spec)
    except ValueError:
        return False
    return True


def decoder_feeds(
    model: Any, decoder: Decoder, specs: tuple[InputSpec, ...], recipe: DecoderRecipe, tokens: Tokens
) -> Feeds:
    """One sample of each sequence: all of it with an empty cache, or one run of the tokens behind a part of it.

    The phases alternate as the Thue-Morse sequence does, so that every second, third or fourth sample, which may be
    held back, has both. A model that takes a fixed number of tokens a run has steps alone. model: path or proto.
    Raises CalibrationError for sequences that are too short, ModelError where the model does not run.
    """
    ids = next(spec for spec in specs if spec.name == decoder.ids)
    fixed = ids.shape[1] if isinstance(ids.shape[1], int) else None
    samples = _planned(tokens, fixed, recipe)
    try:
        made = call(_run, absolute(model), decoder, recipe, specs, samples, fixed, doing="making the cache of samples")
    except CrashError as error:
        raise CrashError(
            f"{error}; report the model to onnxruntime's project", by_model=error.by_model, hung=error.hung
        ) from None
    ragged = {spec.name: tuple(_without_batch(row[spec.name], spec) for row in made) for spec in specs}
    lengths = [len(s.before) for s in samples if len(s.before)]
    phases = (
        f"{len(samples) - len(lengths)} sequences of up to {max(len(s.before) + len(s.ids) for s in samples)} tokens"
    )
    steps = f"{len(lengths)} steps behind {min(lengths)} to {max(lengths)} tokens" if lengths else "no steps"
    note = f"decoder: {phases} (prefill), {steps} (decode), whose cache the model made"
    return Feeds({}, specs, tokens.source, tokens.synthetic, (*tokens.notes, note), places=tokens.places, ragged=ragged)


def _planned(tokens: Tokens, fixed: int | None, recipe: DecoderRecipe) -> list[_Sample]:
    """fixed: tokens that the model takes a run, where it does not leave that open."""
    found, steps = [], 0
    for number, row in enumerate(tokens.rows):
        length = fixed or 1
        if fixed is None and number.bit_count() % 2 == 0:
            found.append(_Sample(row[:0], row))
            continue
        part = steps % PARTS + 1
        before = max((len(row) - length) * part // PARTS, 1) // length * length
        steps += 1
        if before < 1 or before + length > len(row):
            raise CalibrationError(
                f"{tokens.source}: sample {number} has {len(row)} tokens, but the model takes {length} a run and needs "
                "as many before; give longer ones"
            )
        found.append(_Sample(row[:before], row[before : before + length]))
    return found


def _without_batch(value: Array, spec: InputSpec) -> Array:
    """A sample's value, which is alone in its batch, without that axis where the model leaves it open."""
    if not value.ndim or (isinstance(spec.shape[spec.batch_axis], int) and value.shape[spec.batch_axis] != 1):
        return value
    return value if value.shape[spec.batch_axis] != 1 else np.take(value, 0, axis=spec.batch_axis)


# ---- in the child ------------------------------------------------------------------------------


def _run(
    model: onnx.ModelProto | str,
    decoder: Decoder,
    recipe: DecoderRecipe,
    specs: Sequence[InputSpec],
    samples: Sequence[_Sample],
    fixed: int | None,
) -> list[dict[str, Array]]:
    """Inputs of each sample's run."""
    session = open_session(model, SessionSettings(mapped=True))
    names, outputs = list(decoder.past), list(decoder.past.values())
    found = []
    for sample in samples:
        cache = {spec.name: empty_cache(spec) for spec in specs if spec.name in decoder.past}
        done, size = 0, fixed or len(sample.before)
        while done < len(sample.before):
            inputs = step_inputs(decoder, recipe, specs, sample.before[done : done + size], done, cache)
            cache = dict(zip(names, run(session, inputs, outputs), strict=True))
            done += size
        found.append(step_inputs(decoder, recipe, specs, sample.ids, done, cache))
    return found


def empty_cache(spec: InputSpec) -> Array:
    """A cache before the first token: no entries along the axis that grows, and zeros in a state of one size."""
    axis = grows(spec)
    sizes = [0 if a == axis else size if isinstance(size, int) else 1 for a, size in enumerate(spec.shape)]
    return np.zeros(sizes, spec.dtype)


def step_inputs(
    decoder: Decoder,
    recipe: DecoderRecipe,
    specs: Sequence[InputSpec],
    ids: NDArray[np.int64],
    before: int,
    cache: Mapping[str, Array],
) -> dict[str, Array]:
    """Inputs of a run on these tokens, behind `before` others that the cache is of; a batch of one."""
    values, found = dict(recipe.values), dict[str, Array]()
    for spec in specs:
        if spec.name in cache:
            found[spec.name] = cache[spec.name]
        elif spec.name == decoder.ids:
            found[spec.name] = ids[None].astype(spec.dtype)
        elif spec.name == decoder.mask:
            found[spec.name] = np.ones((1, before + len(ids)), spec.dtype)
        elif spec.name in decoder.positions:
            places = np.arange(before, before + len(ids)).astype(spec.dtype)
            found[spec.name] = places if len(spec.shape) == 1 else places[None]
        else:
            number = values.get(spec.name, float(before > 0))
            found[spec.name] = np.full([s if isinstance(s, int) else 1 for s in spec.shape], number).astype(spec.dtype)
    return found
