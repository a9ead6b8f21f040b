"""Preparing, step by step. Each step keeps what the graph computes, and can be left out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum

import onnx
import onnx.inliner

from onnxmpq.errors import ModelError, UsageError
from onnxmpq.model.descriptions import keep_descriptions
from onnxmpq.model.fold import Folds, Origin, fold
from onnxmpq.model.functions import with_defaults
from onnxmpq.model.fuse import ATTENTION_OPSET, attentions, fuse
from onnxmpq.model.hoist import hoist
from onnxmpq.model.load import Loaded, first_line
from onnxmpq.model.opset import PER_CHANNEL_OPSET, TARGET_OPSET, converted, opset_of
from onnxmpq.model.rotary import fuse_rotary
from onnxmpq.model.store import WeightStore
from onnxmpq.model.tidy import tidy, with_constants_alone
from onnxmpq.model.unpack import blocked_nodes, rounds_activations, unpacked
from onnxmpq.model.widen import HALVES, other_floats, widened


class Step(StrEnum):
    """Steps in the order in which they are taken, in words for notes."""

    INLINE = "inlining local functions"
    WIDEN = "computing in float32 instead of float16, bfloat16 or double"
    UNPACK_BLOCKS = "unfolding MatMulNBits and GatherBlockQuantized to float32"
    RAISE_TO_CHANNELS = f"raising the opset to {PER_CHANNEL_OPSET}"
    RAISE_TO_INT4 = f"raising the opset to {TARGET_OPSET}"
    FOLD_CONSTANTS = "folding constants"
    SKIP_IDENTITIES = "removing Identity and Dropout nodes"
    FOLD_FACTORS = "folding BatchNormalization, Mul and Add into convolutions"
    SIMPLIFY_GEMMS = "moving alpha, beta and transA out of Gemm"
    SIMPLIFY_EINSUMS = "writing Einsum with a constant as MatMul"
    HOIST_WEIGHTS = "taking weights out of the bodies of If, Loop and Scan"
    FUSE_ATTENTION = "writing attention with a cache as one operator"
    FUSE_GROUPS = "the same with fewer heads of keys and values than of queries"
    FUSE_ROTARY = "writing its rotary positions as one operator"


_FOLDING = (
    *(Step.FOLD_CONSTANTS, Step.SKIP_IDENTITIES, Step.FOLD_FACTORS),
    *(Step.SIMPLIFY_GEMMS, Step.SIMPLIFY_EINSUMS),
)
"""In the order of the fields of `Folds`."""
OPTIONAL = (Step.FUSE_ATTENTION, Step.FUSE_GROUPS, Step.FUSE_ROTARY)
"""Steps that are taken only where they are asked for: not every runtime computes what they write."""


def none_of_them(step: Step) -> bool:
    """No optional step is taken."""
    return False


@dataclass(frozen=True)
class Draft:
    """A graph on its way. origin: node -> the nodes of the original that it stands for. notes: what was done.
    from_halves: what was computed in 16 bits, or from activations rounded to 8, is computed in float32. writable: False
    where no dialect can change it. added: optional steps that were taken."""

    store: WeightStore
    origin: Origin
    notes: tuple[str, ...] = ()
    from_halves: bool = False
    writable: bool = True
    added: tuple[Step, ...] = ()

    @property
    def proto(self) -> onnx.ModelProto:
        """The structure."""
        return self.store.structure

    def with_proto(self, made: onnx.ModelProto) -> Draft:
        """The draft with a graph that was made from its structure."""
        return replace(self, store=self.store.follow(made))

    def noted(self, note: str) -> Draft:
        return replace(self, notes=(*self.notes, note))


def take_steps(
    loaded: Loaded, opset: int | None, left_out: Collection[Step], added: Callable[[Step], bool] = none_of_them
) -> tuple[Draft, Draft]:
    """All steps but those left out: the graph before anything was folded, and after. added: tells which of the optional
    steps are taken; asked only where there is something to do.

    A step that cannot be taken is left out too, with a note. Raises UsageError and ModelError for an `opset` that the
    model cannot have.
    """

    def taken(step: Step) -> bool:
        return step not in left_out and added(step)

    draft = Draft(loaded.store, {})
    if (alone := with_constants_alone(draft.proto)) is not draft.proto:
        draft = draft.with_proto(alone)
    if Step.INLINE not in left_out and draft.proto.functions:
        draft = _try(draft, Step.INLINE, _inline)
    if Step.WIDEN not in left_out:
        draft = _try(draft, Step.WIDEN, _widen)
    if Step.UNPACK_BLOCKS not in left_out and blocked_nodes(draft.proto):
        draft = _try(draft, Step.UNPACK_BLOCKS, _unpack)
    draft = _raise_opset(draft, left_out) if opset is None else _convert_opset(draft, opset)
    if draft.store is not loaded.store:
        tidy(draft.proto.graph)
        keep_descriptions(loaded.store.structure, draft.proto)
    folded = _fold(draft, left_out)
    if folded.store is draft.store:
        folded = replace(folded, writable=_writable(draft))
    if Step.HOIST_WEIGHTS not in left_out and folded.writable:
        folded = _try(folded, Step.HOIST_WEIGHTS, _hoist)
    if Step.FUSE_ATTENTION not in left_out and folded.writable:
        highest = ATTENTION_OPSET if opset is None else opset
        folded = _try(folded, Step.FUSE_ATTENTION, lambda draft: _fuse_attention(draft, highest, taken))
    return draft, folded


def _try(draft: Draft, step: Step, take: Callable[[Draft], Draft]) -> Draft:
    try:
        return take(draft)
    except Exception as error:  # onnx's tools raise bare RuntimeError, ValueError and types of their own
        return draft.noted(f"left out: {step} ({first_line(error)})")


def _inline(draft: Draft) -> Draft:
    proto = with_defaults(draft.proto)
    inlined = onnx.inliner.inline_local_functions(proto)
    if inlined.functions:  # written for another opset
        inlined = onnx.inliner.inline_local_functions(proto, convert_version=True)
    return draft.with_proto(inlined).noted("local functions were inlined")


def _widen(draft: Draft) -> Draft:
    types = other_floats(draft.proto)
    if not types:
        return draft
    names = " and ".join(sorted(onnx.TensorProto.DataType.Name(t).lower() for t in types))
    wide = replace(draft.with_proto(widened(draft.proto, types)), from_halves=bool(types & HALVES))
    return wide.noted(f"{names} became float32, but for inputs and outputs")


def _unpack(draft: Draft) -> Draft:
    before, rounds = len(blocked_nodes(draft.proto)), rounds_activations(draft.proto)
    plain = draft.with_proto(unpacked(draft.store))
    after = len(blocked_nodes(plain.proto))
    stay = f"; {after} stay, since their weights are computed or reordered" if after else ""
    noted = plain.noted(f"weights in blocks became float32, to be planned anew: {before - after}{stay}")
    return replace(noted, from_halves=noted.from_halves or rounds)


def _hoist(draft: Draft) -> Draft:
    proto, readers = hoist(draft.proto)
    if not readers:
        return draft
    hoisted = replace(draft.with_proto(proto), origin={**draft.origin, **readers})
    return hoisted.noted(f"weights of layers inside If, Loop and Scan, each with a scheme of its own: {len(readers)}")


def _fuse_attention(draft: Draft, highest: int, taken: Callable[[Step], bool]) -> Draft:
    """highest: opset that the graph may be raised to."""
    version = opset_of(draft.proto)
    if max(version, highest) < ATTENTION_OPSET or not attentions(draft.proto) or not taken(Step.FUSE_ATTENTION):
        return draft
    grouped = taken(Step.FUSE_GROUPS)
    raised = draft if version >= ATTENTION_OPSET else draft.with_proto(converted(draft.proto, ATTENTION_OPSET))
    found = [a for a in attentions(raised.proto) if grouped or not a.grouped]
    if not found:
        return draft
    steps = [Step.FUSE_ATTENTION, *([Step.FUSE_GROUPS] if any(a.grouped for a in found) else [])]
    notes = [f"attention with a cache written as one operator of opset {ATTENTION_OPSET}: {len(found)}"]
    if taken(Step.FUSE_ROTARY):
        proto, made_for = fuse_rotary(raised.proto)
        if made_for:
            raised = _merged(raised, proto, made_for)
            found = [a for a in attentions(proto) if grouped or not a.grouped]
            steps.append(Step.FUSE_ROTARY)
            turned = sum(n.op_type == "RotaryEmbedding" for n in proto.graph.node)
            notes.append(f"rotary positions written as one operator of opset {ATTENTION_OPSET}: {turned}")
    fused = replace(_merged(raised, *fuse(raised.proto, found)), added=tuple(steps))
    return replace(fused, notes=(*fused.notes, *notes))


def _merged(draft: Draft, proto: onnx.ModelProto, made_for: Origin) -> Draft:
    """The draft with a graph some of whose nodes stand for several of its own."""
    left = {n.name for n in proto.graph.node}
    origin = {name: names for name, names in draft.origin.items() if name in left}
    for name, parts in made_for.items():
        origin[name] = tuple(dict.fromkeys(o for part in parts for o in draft.origin.get(part, (part,))))
    return replace(draft.with_proto(proto), origin=origin)


def _raise_opset(draft: Draft, left_out: Collection[Step]) -> Draft:
    """The model at TARGET_OPSET, or where that cannot be at PER_CHANNEL_OPSET, or as it is."""
    version, why = opset_of(draft.proto), ""
    for step, wanted in ((Step.RAISE_TO_INT4, TARGET_OPSET), (Step.RAISE_TO_CHANNELS, PER_CHANNEL_OPSET)):
        if version == 0 or version >= wanted or step in left_out or draft.proto.functions:
            continue
        try:
            raised = draft.with_proto(converted(draft.proto, wanted))
        except Exception as error:  # as above
            why = why or f" ({first_line(error)})"
            continue
        return raised.noted(f"opset raised from {version} to {wanted}{why}")
    if 0 < version < TARGET_OPSET:
        lost = "without int4" if version >= PER_CHANNEL_OPSET else "without int8 and int4"
        return draft.noted(f"kept at opset {version}, {lost}{why}")
    return draft


def require_opset(wanted: int) -> None:
    """Raises UsageError for one that holds no quantized models, or that nobody knows."""
    newest = onnx.defs.onnx_opset_version()
    if not PER_CHANNEL_OPSET <= wanted <= newest:
        raise UsageError(f"opset {wanted} is not in {PER_CHANNEL_OPSET}..{newest}, which can hold quantized models")


def _convert_opset(draft: Draft, wanted: int) -> Draft:
    """The model at exactly this opset. Raises UsageError or ModelError."""
    version = opset_of(draft.proto)
    require_opset(wanted)
    if version == wanted:
        return draft
    try:
        made = converted(draft.proto, wanted)
    except Exception as error:  # as above
        raise ModelError(
            f"the model cannot be converted from opset {version} to {wanted} ({first_line(error)}); "
            "leave the opset out, or export the model again"
        ) from None
    return draft.with_proto(made).noted(f"opset converted from {version} to {wanted}")


def _fold(draft: Draft, left_out: Collection[Step]) -> Draft:
    """Folded as far as the graph allows; a part that fails is left out alone."""
    wanted = [s for s in _FOLDING if s not in left_out]
    unfolded = replace(draft, origin={n.name: (n.name,) for n in draft.proto.graph.node})
    if not wanted:
        return unfolded
    failed: Exception | None = None
    for given_up in (None, *wanted):
        kept = [s for s in wanted if s is not given_up]
        folds = Folds(*(s in kept for s in _FOLDING))
        try:
            store, origin = fold(draft.store, folds)
        except Exception as error:  # onnx-graphsurgeon knows few kinds of graphs, and raises anything
            failed = failed or error
            continue
        folded = replace(draft, store=store, origin=origin)
        return folded if failed is None else folded.noted(f"left out: {given_up} ({first_line(failed)})")
    assert failed is not None
    return unfolded.noted(f"left out: {', '.join(wanted)} ({first_line(failed)})")


def _writable(draft: Draft) -> bool:
    """True unless onnx-graphsurgeon, by which dialects write, does not know some type of value in the graph."""
    try:
        fold(draft.store, Folds(*(False for _ in _FOLDING)))
    except Exception:  # as above
        return False
    return True
