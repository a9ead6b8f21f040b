"""The channels of a graph that can be rescaled without changing what it computes, found by following them through it.

`exchange.py` follows them by rules of its own, for channels that can change places.

A channel that a layer produces may be divided by any s > 0 if every constant that reads it is multiplied by s, and
everything between is positively homogeneous, f(x / s) = f(x) / s (Nagel et al. 2019, arXiv 1906.04721). Operators
between are entries of the table `RULES`: each says what becomes of the channels of its inputs. What is not in
the table, and every output of the graph, fixes the channels that reach it: their factor stays 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.model import GraphIndex

Ids = NDArray[np.int64]
FREE = -1  # a channel of zeros: any factor will do


@dataclass(frozen=True, eq=False)
class Role:
    """A constant that a rescaling changes.

    ids: which factor each of its slices gets, int64, broadcasts to its shape. consumes: it reads the channels and is
    multiplied by their factors; else it makes them and is divided.
    """

    constant: str
    ids: Ids
    consumes: bool

    @property
    def axis(self) -> int:
        """The axis of the constant that counts the channels; of a Conv's weight that reads them the second."""
        return 1 if self.consumes and self.ids.ndim > 2 else int(np.argmax(self.ids.shape))


@dataclass(frozen=True, eq=False)
class Carried:
    """The channels of one tensor: `axes` of it, taken together in this order, count them. ids: int64 [channels]."""

    axes: tuple[int, ...]
    ids: Ids


@dataclass(frozen=True, eq=False)
class Channels:
    """All factors that a graph leaves free.

    count: of them. In every `ids` they are 0..count - 1, and `count` stands for a factor that is always 1.
    roles: the constants they change, in graph order. reads: head node of a layer -> channels of its input, where some
    are free. normalised: bool [count], those that a LayerNormalization makes. alike: int64 [count], the same number for
    factors that the same tensors have once each, in parts that the rules do not tell apart.
    """

    count: int
    roles: tuple[Role, ...]
    reads: Mapping[str, Carried]
    normalised: NDArray[np.bool_]
    alike: Ids

    @property
    def groups(self) -> NDArray[np.int64]:
        """int64 [count]: the same number for factors that meet in some tensor, directly or through others."""
        sets = _Sets()
        sets.add(self.count)
        for ids in (c.ids for c in self.reads.values()):
            free = np.unique(ids[ids < self.count])
            for one in free[1:]:
                sets.join(int(free[0]), int(one))
        _, numbers = np.unique([sets.root(i) for i in range(self.count)], return_inverse=True)
        return np.asarray(numbers, np.int64).reshape(-1)


def find_channels(proto: onnx.ModelProto) -> Channels:
    """The channels of a prepared graph that can be rescaled."""
    return follow_channels(proto, RULES)


def follow_channels(proto: onnx.ModelProto, rules: Mapping[str, Rule]) -> Channels:
    """The channels of a prepared graph that these rules, by operator, leave free."""
    walk = Walk(GraphIndex(proto))
    for node in walk.index.nodes:
        rule = rules.get(node.op_type, fix_inputs) if node.domain in ("", "ai.onnx") else fix_inputs
        try:
            rule(walk, node)
        except KeyError:  # a shape that nobody knows
            fix_inputs(walk, node)
    for output in walk.index.outputs:
        walk.fix(output)
    return walk.result()


class _Sets:
    """Disjoint sets of channels: those of one set share a factor."""

    def __init__(self) -> None:
        self.parents: list[int] = []

    def add(self, count: int) -> Ids:
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, channel: int) -> int:
        while self.parents[channel] != channel:
            self.parents[channel] = self.parents[self.parents[channel]]
            channel = self.parents[channel]
        return channel

    def join(self, one: int, other: int) -> None:
        self.parents[self.root(other)] = self.root(one)


class Walk:
    """One pass over a graph in its order, by the rules of the table."""

    def __init__(self, index: GraphIndex) -> None:
        self.index, self.sets = index, _Sets()
        self.carried: dict[str, Carried] = {}
        self.roles: list[Role] = []
        self.reads: dict[str, Carried] = {}
        self.fixed: set[int] = set()
        self.normalised: set[int] = set()
        self.parts: list[tuple[Ids, Ids]] = []

    # ---- what rules say ------------------------------------------------------------------------

    def make(self, tensor: str, axis: int, count: int) -> Ids:
        """New channels along one axis of a tensor."""
        ids = self.sets.add(count)
        self.carried[tensor] = Carried((axis,), ids)
        return ids

    def passes(self, tensor: str, carried: Carried | None) -> None:
        if carried is not None:
            self.carried[tensor] = carried

    def fix(self, tensor: str) -> None:
        """These channels keep their scale."""
        if tensor in self.carried:
            self.fix_ids(self.carried[tensor].ids)

    def fix_ids(self, ids: Ids) -> None:
        self.fixed.update(ids[ids != FREE].ravel().tolist())

    def tell_apart(self, ids: Ids, parts: Ids) -> None:
        """Channels in different parts, numbered in int64 of the shape of `ids`, are not alike."""
        self.parts.append((ids, parts))

    def role(self, constant: str, ids: Ids, *, consumes: bool) -> None:
        """`ids` broadcast to the constant's shape; a constant that others read too cannot change."""
        if len(self.index.readers.get(constant, [])) != 1:
            self.fix_ids(ids)
        self.roles.append(Role(constant, ids, consumes))

    def same(self, one: Carried | None, other: Carried | None) -> Carried | None:
        """Channels of two tensors that are added: they share their factors. None (and fixed) where they cannot."""
        if one is None or other is None or one.axes != other.axes or len(one.ids) != len(other.ids):
            for carried in (one, other):
                if carried is not None:
                    self.fix_ids(carried.ids)
            return None
        for a, b in zip(one.ids.tolist(), other.ids.tolist(), strict=True):
            if a != FREE and b != FREE:
                self.sets.join(a, b)
        return Carried(one.axes, np.where(one.ids == FREE, other.ids, one.ids))

    def reader(self, node: onnx.NodeProto, axis: int, count: int) -> Ids | None:
        """Channels that a layer reads along `axis` of its input; None where they have none that can change."""
        carried = self.carried.get(node.input[0])
        if carried is None or carried.axes != (axis,) or len(carried.ids) != count:
            self.fix(node.input[0])
            return None
        self.reads[node.name] = carried
        return carried.ids

    def shape(self, tensor: str) -> tuple[int | None, ...]:
        """Raises KeyError where shape inference knows none."""
        found = self.index.shape(tensor)
        if found is None:
            raise KeyError(tensor)
        return found

    def constant_shape(self, tensor: str) -> tuple[int, ...] | None:
        return tuple(self.index.constants[tensor].dims) if tensor in self.index.constants else None

    # ---- the answer ----------------------------------------------------------------------------

    def result(self) -> Channels:
        """Sets numbered in the order of their first channel: those that are made, read and not fixed."""
        roots = np.array([self.sets.root(i) for i in range(len(self.sets.parents))], np.int64)
        fixed = {int(roots[i]) for i in self.fixed}
        made, read = (self._roots_of(roots, consumes) for consumes in (False, True))
        free = [r for r in dict.fromkeys(roots.tolist()) if r in made and r in read and r not in fixed]
        number = np.full(len(roots) + 1, len(free), np.int64)  # the last entry is that of FREE
        for position, root in enumerate(free):
            number[:-1][roots == root] = position
        roles = [Role(r.constant, number[r.ids], r.consumes) for r in self.roles]
        reads = {n: Carried(c.axes, number[c.ids]) for n, c in self.reads.items()}
        normalised = {int(roots[i]) for i in self.normalised}
        return Channels(
            len(free),
            tuple(r for r in roles if (r.ids < len(free)).any()),
            {n: c for n, c in reads.items() if (c.ids < len(free)).any()},
            np.array([r in normalised for r in free], bool),
            self._alike(number, len(free)),
        )

    def _alike(self, number: Ids, count: int) -> Ids:
        """`Channels.alike`. number: int64, the factor of every channel and of FREE."""
        factors, marks, start = [], [], 0
        for ids, parts in (*((c.ids, np.zeros_like(c.ids)) for c in self.carried.values()), *self.parts):
            factors.append(number[ids])
            marks.append(parts + start)
            start += int(parts.max(initial=0)) + 1
        owner, mark = (np.concatenate(v) if v else np.empty(0, np.int64) for v in (factors, marks))
        order = np.lexsort((mark, owner))
        bounds = np.searchsorted(owner[order], np.arange(count + 1))
        numbers: dict[tuple[bytes, int], int] = {}
        found = np.empty(count, np.int64)
        for i in range(count):
            own = mark[order[bounds[i] : bounds[i + 1]]]
            key = own.tobytes(), i if (own[1:] == own[:-1]).any() else -1  # twice in a tensor: like no other
            found[i] = numbers.setdefault(key, len(numbers))
        return found

    def _roots_of(self, roots: Ids, consumes: bool) -> set[int]:
        ids = [r.ids[r.ids != FREE].ravel() for r in self.roles if r.consumes is consumes]
        return set(roots[np.concatenate(ids)].tolist()) if ids else set()


# ---- rules -------------------------------------------------------------------------------------


def fix_inputs(walk: Walk, node: onnx.NodeProto) -> None:
    """Operators that are no function of scaled channels."""
    for tensor in (*node.input, *walk.index.activations(node)):
        walk.fix(tensor)


def _keep(walk: Walk, node: onnx.NodeProto) -> None:
    """Positively homogeneous, channel by channel: the first input's channels go on."""
    for tensor in node.output[1:]:
        if tensor:  # indices of a MaxPool stay as they are
            walk.passes(tensor, None)
    walk.passes(node.output[0], walk.carried.get(node.input[0]))


def _pool(walk: Walk, node: onnx.NodeProto) -> None:
    """The same for pooling over the axes from the third on: channels there would be mixed."""
    carried = walk.carried.get(node.input[0])
    if carried is not None and max(carried.axes) > 1:
        return fix_inputs(walk, node)
    return _keep(walk, node)


def _convolution(walk: Walk, node: onnx.NodeProto) -> None:
    shape = walk.constant_shape(node.input[1])
    bias = node.input[2] if len(node.input) > 2 else ""
    if shape is None or (bias and walk.constant_shape(bias) != (shape[0],)):
        return fix_inputs(walk, node)
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    ones = (1,) * (len(shape) - 2)
    read = walk.reader(node, 1, groups * shape[1])
    if read is not None:
        by_row = np.repeat(read.reshape(groups, shape[1]), shape[0] // groups if groups > 1 else 1, axis=0)
        walk.role(node.input[1], by_row.reshape(-1, shape[1], *ones), consumes=True)
    made = walk.make(node.output[0], 1, shape[0])
    walk.role(node.input[1], made.reshape(shape[0], 1, *ones), consumes=False)
    if bias:
        walk.role(bias, made, consumes=False)
    return None


def _gemm(walk: Walk, node: onnx.NodeProto) -> None:
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    shape = walk.constant_shape(node.input[1])
    bias = node.input[2] if len(node.input) > 2 else ""
    straight = bool(given.get("transB", 0))
    bias_shape = walk.constant_shape(bias) if bias else None
    plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
    if shape is None or not plain or (bias and (bias_shape is None or bias_shape[-1:] != (shape[1 - straight],))):
        return fix_inputs(walk, node)
    made = _dense(walk, node, shape, straight, 1)
    if bias and bias_shape is not None:
        walk.role(bias, made.reshape((1,) * (len(bias_shape) - 1) + (-1,)), consumes=False)
    return None


def _matmul(walk: Walk, node: onnx.NodeProto) -> None:
    """A layer, or a product of two computed matrices: the columns of the right one go on."""
    shape = walk.constant_shape(node.input[1])
    if shape is not None and len(shape) == 2:
        _dense(walk, node, shape, False, len(walk.shape(node.output[0])) - 1)
        return
    right = walk.carried.get(node.input[1])
    rank = len(walk.shape(node.input[1]))
    if right is None or rank - 2 in right.axes or rank != len(walk.shape(node.output[0])):
        fix_inputs(walk, node)
        return
    walk.fix(node.input[0])
    walk.passes(node.output[0], right)


def _dense(walk: Walk, node: onnx.NodeProto, shape: Sequence[int], straight: bool, axis: int) -> Ids:
    """A weight [out, in] where straight, else [in, out]; the new channels."""
    fan_in, out = (shape[1], shape[0]) if straight else (shape[0], shape[1])
    read = walk.reader(node, len(walk.shape(node.input[0])) - 1, fan_in)
    if read is not None:
        walk.role(node.input[1], read[None, :] if straight else read[:, None], consumes=True)
    made = walk.make(node.output[0], axis, out)
    walk.role(node.input[1], made[:, None] if straight else made[None, :], consumes=False)
    return made


def _normalization(walk: Walk, node: onnx.NodeProto) -> None:
    """LayerNormalization over the last axis: its own scale and bias make new channels."""
    fix_inputs(walk, node)
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    rank = len(walk.shape(node.output[0]))
    shapes = [walk.constant_shape(t) for t in node.input[1:]]
    if axis not in (-1, rank - 1) or shapes[0] is None or len(shapes[0]) != 1 or any(s != shapes[0] for s in shapes):
        return
    made = walk.make(node.output[0], rank - 1, shapes[0][0])
    walk.normalised.update(made.tolist())
    for constant in node.input[1:]:
        walk.role(constant, made, consumes=False)


def _add(walk: Walk, node: onnx.NodeProto) -> None:
    """Two computed tensors share factors; a constant vector along the channels moves with them."""
    if all(walk.constant_shape(t) is None for t in node.input):
        if walk.shape(node.input[0]) != walk.shape(node.input[1]):
            return fix_inputs(walk, node)
        return walk.passes(node.output[0], walk.same(*(walk.carried.get(t) for t in node.input)))
    given, constant = sorted(node.input, key=lambda t: t in walk.index.constants)
    carried, shape = walk.carried.get(given), walk.constant_shape(constant)
    if carried is None or shape is None or len(carried.axes) != 1 or FREE in carried.ids:
        return walk.fix(given)
    rank, places = len(walk.shape(node.output[0])), len(carried.ids)
    axis = carried.axes[0] - (rank - len(shape))  # the channels' axis in the constant
    if axis < 0 or shape[axis] != places or prod(shape) != places or len(walk.shape(given)) != rank:
        return walk.fix(given)
    walk.role(constant, carried.ids.reshape(shape), consumes=False)
    return walk.passes(node.output[0], carried)


def _multiply(walk: Walk, node: onnx.NodeProto) -> None:
    """A constant factor, in whatever shape, commutes with the channels' factors."""
    constants = [t for t in node.input if t in walk.index.constants]
    given = [t for t in node.input if t not in walk.index.constants]
    divides_by_it = node.op_type == "Div" and constants == [node.input[0]]
    if len(given) != 1 or divides_by_it or len(walk.shape(given[0])) != len(walk.shape(node.output[0])):
        return fix_inputs(walk, node)
    carried = walk.carried.get(given[0])
    if carried is not None and any(walk.shape(node.output[0])[a] != walk.shape(given[0])[a] for a in carried.axes):
        return walk.fix(given[0])
    return walk.passes(node.output[0], carried)


def _concat(walk: Walk, node: onnx.NodeProto) -> None:
    parts = [walk.carried.get(t) for t in node.input]
    axis = next(a.i for a in node.attribute if a.name == "axis") % len(walk.shape(node.output[0]))
    known = [p for p in parts if p is not None]
    if len(known) < len(parts) or any(p.axes != (axis,) for p in known):
        return fix_inputs(walk, node)
    return walk.passes(node.output[0], Carried((axis,), np.concatenate([p.ids for p in known])))


def _split(walk: Walk, node: onnx.NodeProto) -> None:
    carried, rank = walk.carried.get(node.input[0]), len(walk.shape(node.input[0]))
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % rank
    if carried is None or (axis in carried.axes and len(carried.axes) > 1):
        return fix_inputs(walk, node)
    if axis not in carried.axes:
        for tensor in node.output:
            walk.passes(tensor, carried)
        return None
    widths = [walk.shape(t)[axis] or 0 for t in node.output]
    if sum(widths) != len(carried.ids):
        return fix_inputs(walk, node)
    for tensor, ids in zip(node.output, np.split(carried.ids, np.cumsum(widths)[:-1]), strict=True):
        walk.passes(tensor, Carried(carried.axes, ids))
    return None


def _slice(walk: Walk, node: onnx.NodeProto) -> None:
    """Along other axes than the channels'."""
    carried = walk.carried.get(node.input[0])
    axes = walk.index.constants.get(node.input[3]) if len(node.input) > 3 else None
    if carried is None or axes is None:
        return fix_inputs(walk, node)
    rank = len(walk.shape(node.input[0]))
    if any(int(a) % rank in carried.axes for a in onnx.numpy_helper.to_array(axes)):
        return fix_inputs(walk, node)
    return walk.passes(node.output[0], carried)


def _pad(walk: Walk, node: onnx.NodeProto) -> None:
    """With zeros: channels of zeros take any factor."""
    carried = walk.carried.get(node.input[0])
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
    value = node.input[2] if len(node.input) > 2 else ""
    pads = walk.index.constants.get(node.input[1])
    zeros = mode == b"constant" and (not value or walk.index.scalar(value) == 0.0)
    if (
        carried is None
        or pads is None
        or not zeros
        or len(carried.axes) != 1
        or (len(node.input) > 3 and node.input[3])
    ):
        return fix_inputs(walk, node)
    widths = onnx.numpy_helper.to_array(pads).reshape(2, -1)[:, carried.axes[0]]
    if (widths < 0).any():
        return fix_inputs(walk, node)
    return walk.passes(node.output[0], Carried(carried.axes, np.pad(carried.ids, tuple(widths), constant_values=FREE)))


def _transpose(walk: Walk, node: onnx.NodeProto) -> None:
    carried, rank = walk.carried.get(node.input[0]), len(walk.shape(node.input[0]))
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(rank))[::-1])
    if carried is not None:
        walk.passes(node.output[0], Carried(tuple(order.index(a) for a in carried.axes), carried.ids))


def _reshape(walk: Walk, node: onnx.NodeProto) -> None:
    """Position of the channels, as long as they stay together: as one axis, or several side by side."""
    carried = walk.carried.get(node.input[0])
    if carried is None:
        return None
    before, after = walk.shape(node.input[0]), walk.shape(node.output[0])
    side_by_side = tuple(range(carried.axes[0], carried.axes[0] + len(carried.axes)))
    behind = before[side_by_side[-1] + 1 :]
    if carried.axes != side_by_side or None in behind:
        return fix_inputs(walk, node)
    axes = _axes_holding(after, len(carried.ids), prod(d or 0 for d in behind))
    if axes is None:
        return fix_inputs(walk, node)
    return walk.passes(node.output[0], Carried(axes, carried.ids))


def _axes_holding(shape: Sequence[int | None], count: int, behind: int) -> tuple[int, ...] | None:
    """Neighbouring axes that hold `count` elements together, with `behind` elements after them."""
    stop = len(shape)
    while behind > 1 and stop:
        size = shape[stop - 1]
        if not size or behind % size:
            return None
        behind, stop = behind // size, stop - 1
    start, left = stop, count
    while left > 1 and start:
        size = shape[start - 1]
        if not size or left % size:
            return None
        left, start = left // size, start - 1
    return tuple(range(start, stop)) if behind == left == 1 and start < stop else None


Rule = Callable[[Walk, onnx.NodeProto], None]
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "Identity"), _keep),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "LayerNormalization": _normalization,
    "Add": _add,
    "Mul": _multiply,
    "Div": _multiply,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
}
