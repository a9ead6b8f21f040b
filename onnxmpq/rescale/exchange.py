"""The channels of a graph that can change places without changing what it computes.

Two channels that a layer produces may change places if all constants that make or read them follow, and everything
between computes every channel alike. They are followed as channels that can be rescaled are (`channels.py`), by rules
of their own where another law holds: any function of single values is allowed, a constant per channel is not, and what
ties channels to places (groups of a Conv, heads of attention) tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.errors import PlanError
from onnxmpq.model import Model
from onnxmpq.rescale.channels import FREE, RULES, Carried, Channels, Ids, Rule, Walk, fix_inputs, follow_channels
from onnxmpq.weights import unpack_array


def find_exchangeable(proto: onnx.ModelProto) -> Channels:
    """The channels of a prepared graph that can change places with others that are `alike`."""
    return follow_channels(proto, EXCHANGE_RULES)


def reordered(model: Model, channels: Channels, order: Ids) -> Model:
    """The model with channel `order[i]` in the place of channel i, int64 [channels.count], within those that are alike.

    Its outputs are those of `model` but for the order of sums in float32. The same bytes for the same order.
    """
    moved = np.append(order, channels.count)
    changed: dict[str, NDArray[np.generic]] = {}
    for role in channels.roles:  # a constant may have two: it reads channels and makes others
        if (moved[role.ids] == role.ids).all():
            continue
        values: NDArray[Any] = changed.get(role.constant, model.store.array(role.constant))
        places = np.apply_along_axis(_places, role.axis, role.ids, moved)
        changed[role.constant] = model.store.kept(np.take_along_axis(values, places, role.axis))
    return model.with_tensors(changed)


def restore_order(model: Model, text: str) -> Model:
    """The model in the order of a plan, packed as text; as it is where there is none. Raises PlanError."""
    if not text:
        return model
    channels = find_exchangeable(model.structure)
    order = unpack_array(text, "<i4", channels.count, "order").astype(np.int64)
    if not may_be_ordered(channels, order):
        raise PlanError("order: channels that cannot change places; convert again instead of editing")
    return reordered(model, channels, order)


def may_be_ordered(channels: Channels, order: Ids) -> bool:
    """True for an order, int64 [channels.count], of all channels in which each stays among those that are alike."""
    every = np.array_equal(np.sort(order), np.arange(channels.count))
    return every and bool((channels.alike[order] == channels.alike).all())


def _places(ids: Ids, moved: Ids) -> Ids:
    """Where the channels that come to these places were, int64 of the shape of ids [n]."""
    places, where = np.arange(len(ids)), np.zeros(len(moved), np.int64)
    where[ids] = places
    return np.where(moved[ids] == ids, places, where[moved[ids]])


# ---- rules -------------------------------------------------------------------------------------


def _each(walk: Walk, node: onnx.NodeProto, carried: Carried | None = None) -> None:
    """A function of single values, the same for all channels."""
    found = carried or walk.carried.get(node.input[0])
    if found is not None and FREE in found.ids:  # zeros may become something else
        return fix_inputs(walk, node)
    return walk.passes(node.output[0], found)


def _pairs(walk: Walk, node: onnx.NodeProto) -> None:
    """A function of two values: of computed tensors with the same channels, or of one and a constant that all share."""
    given = [t for t in node.input if t not in walk.index.constants]
    ranks = {len(walk.shape(t)) for t in (*given, *node.output)}
    carried = walk.carried.get(given[0]) if given else None
    if len(node.input) != 2 or len(ranks) > 1 or carried is None:
        return fix_inputs(walk, node)
    if len(given) == 2:
        return walk.passes(node.output[0], walk.same(carried, walk.carried.get(given[1])))
    rank, sizes = ranks.pop(), walk.constant_shape(next(t for t in node.input if t != given[0])) or ()
    if any(((1,) * rank + sizes)[axis - rank] != 1 for axis in carried.axes):
        return (RULES["Add"] if node.op_type == "Add" else fix_inputs)(walk, node)
    return _each(walk, node, carried)


def _grouped(walk: Walk, node: onnx.NodeProto) -> None:
    """A Conv: channels stay in their group; those of a depthwise Conv are the ones that it reads."""
    RULES["Conv"](walk, node)
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    made, read = walk.carried.get(node.output[0]), walk.reads.get(node.name)
    if made is None or groups == 1:
        return
    if read is not None and len(read.ids) == len(made.ids) == groups and FREE not in read.ids:
        for one, other in zip(read.ids.tolist(), made.ids.tolist(), strict=True):
            walk.sets.join(one, other)
        return
    for carried in (made, read):
        if carried is not None:
            walk.tell_apart(carried.ids, np.arange(len(carried.ids)) * groups // len(carried.ids))


def _heads(walk: Walk, node: onnx.NodeProto) -> None:
    """A product of two computed matrices, such as heads of attention: its columns may change places, heads may not."""
    RULES["MatMul"](walk, node)
    carried, last = walk.carried.get(node.output[0]), len(walk.shape(node.output[0])) - 1
    if carried is not None and node.input[1] not in walk.index.constants:
        columns = walk.shape(node.output[0])[last] if carried.axes[-1] == last else 1
        walk.tell_apart(carried.ids, np.arange(len(carried.ids)) // (columns or 1))


def _pool_values(walk: Walk, node: onnx.NodeProto) -> None:
    """Positions of the largest values count channels too."""
    (fix_inputs if len(node.output) > 1 else RULES["MaxPool"])(walk, node)


EXCHANGE_RULES: Mapping[str, Rule] = {
    **RULES,
    **dict.fromkeys(("Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Elu", "Selu"), _each),
    **dict.fromkeys(("Softplus", "Softsign", "Mish", "Abs", "Neg", "Exp", "Sqrt"), _each),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), _pairs),
    "Conv": _grouped,
    "MatMul": _heads,
    "MaxPool": _pool_values,
    "LayerNormalization": fix_inputs,
}
"""As `RULES`, by the law of this file."""
