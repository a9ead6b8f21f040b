"""The phase of each sample of a decoder: a step of one token, or a sequence."""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnxmpq.decoding.cache import Decoder, find_decoder, grows
from onnxmpq.feeds import Feeds, InputSpec, Step, TokenRun


def stepped(feeds: Feeds, decoder: Decoder) -> Feeds:
    """The samples with their phases: `decode` where a run has one new token per sequence, else `prefill`.

    A note says that the cache is left alone.
    """
    specs = {spec.name: spec for spec in feeds.specs}
    own = [p.past for p in decoder.pairs if p.past not in decoder.crossed]
    ids, cache = specs[decoder.ids], next((name for name in own if _grows(specs[name]) is not None), None)

    def run(sample: int) -> TokenRun:
        value = feeds.value(ids.name, sample)
        new = value.shape[_place(ids, 1, value.ndim)] if value.ndim > _place(ids, 1, value.ndim) else 1
        before = 0
        if cache is not None and (axis := _grows(specs[cache])) is not None:
            held = feeds.value(cache, sample)
            before = held.shape[_place(specs[cache], axis, held.ndim)]
        return TokenRun("decode" if new == 1 else "prefill", value.size, before)

    runs = tuple(run(i) for i in range(len(feeds)))
    return replace(feeds, runs=runs, notes=(*feeds.notes, _cache_note(decoder, tuple(r.step for r in runs))))


def _grows(spec: InputSpec) -> int | None:
    try:
        return grows(spec)
    except ValueError:
        return None


def _place(spec: InputSpec, axis: int, present: int) -> int:
    """The place of an axis in a value that may lack the batch axis."""
    return axis - (present < len(spec.shape) and axis > spec.batch_axis)


def cached_outputs(proto: onnx.ModelProto, feeds: Feeds) -> frozenset[str]:
    """Outputs of a model that hold a cache and are not judged themselves, since samples show what they do to later
    logits; none of other models.

    A cache matters by nothing else, and there are two for each layer: they would outweigh the logits.
    """
    decoder = find_decoder(proto) if feeds.steps else None
    return decoder.present if decoder is not None and _judged_later(decoder, feeds.steps) else frozenset()


def _cache_note(decoder: Decoder, steps: tuple[Step, ...]) -> str:
    """The treatment of the cache, in words."""
    outputs = f"{len(decoder.pairs)} outputs" if decoder.fixed else "as many outputs"
    inputs = f"{len(decoder.pairs) + len(decoder.fixed)} inputs such as '{decoder.pairs[0].past}'"
    what = f"the key/value cache ({inputs}, and {outputs}) is left in float32"
    if _judged_later(decoder, steps):
        return f"{what}; it is judged by the logits of later tokens, not by its own values"
    return f"{what}; no sample is a sequence of several tokens, so its outputs are judged by their own values"


def _judged_later(decoder: Decoder, steps: tuple[Step, ...]) -> bool:
    """True if samples show what a change of the cache does to later tokens: those of several tokens, of which the later
    read what the earlier left."""
    return bool(decoder.others) and "prefill" in steps
