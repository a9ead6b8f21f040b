"""Layers of uint8 activations and int8 weights, run by onnxruntime and computed by hand: exactly, and as an x86 CPU
without VNNI does, which adds neighbouring products in 16 bits.

With scales of 1 a result is an integer. A MatMul or Gemm gives it in float32. A Conv gives a uint8, so each filter is
there once per position of the window, with the bias that puts the sum at that position at 128.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from numpy.typing import NDArray

from onnxmpq.rounding.overflow import LARGEST_SUM, SMALLEST_SUM, overflowing_channels, pair_limits

Codes = NDArray[np.int64]
MIDDLE = 128
_HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
_IN = "q = QuantizeLinear (x, one, zx) d = DequantizeLinear (q, one, zx) e = DequantizeLinear (w, one, zw) "
_CALLS = {  # operator -> its nodes behind x, and whether its weight is [K, N]
    "MatMul": (_IN + "y = MatMul (d, e)", True),
    "Gemm": (_IN + "y = Gemm (d, e)", True),
    "Gemm transB": (_IN + "y = Gemm <transB = 1> (d, e)", False),
    "MatMulInteger": (
        "q = QuantizeLinear (x, one, zx) i = MatMulInteger (q, w, zx, zw) y = Cast <to = 1> (i)",
        True,
    ),
    "DynamicQuantizeMatMul": ("y = com.microsoft.DynamicQuantizeMatMul (x, w, one, zw)", True),
}


@dataclass(frozen=True)
class Setting:
    """saturating: what is expected adds neighbouring products in 16 bits. largest_code: of an activation. prepack:
    False for sessions that pack weights at every run, where one activation row has a kernel of its own."""

    saturating: bool = False
    largest_code: int = 255
    prepack: bool = True
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Results:
    """Integers: what the default session computes, and what is expected. filters: which of a group's filters made
    each element of the last axis."""

    found: Codes
    expected: Codes
    filters: Codes

    @property
    def equal(self) -> bool:
        return np.array_equal(self.found, self.expected)

    @property
    def wrong(self) -> int:
        """How many filters have a result that is not the expected one."""
        differs = (self.found != self.expected).reshape(-1, self.found.shape[-1]).any(axis=0)
        return len(np.unique(self.filters[differs]))


class Subject(Protocol):
    """A layer by its shape. groups and inputs: of its filters [G, R, K], K in the order of the kernel's packing."""

    @property
    def groups(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    def computed(self, filters: Codes, setting: Setting) -> Results:
        """Of random and adversarial activations, which take filters to their extremes."""


@dataclass(frozen=True)
class Product:
    """A matrix product with `rows` activation rows, of int8 codes where `signed`, by uint8 weights of zero point 128
    where `unsigned_weights`."""

    op: str
    rows: int
    inputs: int
    zero_point: int = 0
    signed: bool = False
    unsigned_weights: bool = False
    groups: int = 1

    def computed(self, filters: Codes, setting: Setting) -> Results:
        body, turned = _CALLS[self.op]
        weight = filters[0].T if turned else filters[0]
        text = f"{_HEAD} g (float[{self.rows}, {self.inputs}] x) => (float[{self.rows}, N] y) {{ {body} }}"
        session = _session(text, _constants(weight, self), setting.prepack)
        codes = _adversarial(filters[0], setting, np.random.default_rng(setting.seed))
        if self.op.startswith("Dynamic"):
            codes = _of_scale_1(codes, self.zero_point)
        batches = np.resize(codes, (-(-len(codes) // self.rows), self.rows, self.inputs))
        found = [session.run(None, {"x": (b - self.zero_point).astype(np.float32)})[0] for b in batches]
        expected = [sums(b[:, None], filters, self.zero_point, setting.saturating)[:, 0] for b in batches]
        return Results(np.stack(found).astype(np.int64), np.stack(expected), np.arange(filters.shape[1]))


@dataclass(frozen=True)
class Convolution:
    """A Conv with a result of uint8, or int8 where `signed`.

    channels: of a group. ragged: one filter more, so that their number is odd. depthwise: no copies of a filter, so
    that each group has one input and one output; positions are then spread over the groups.
    """

    channels: int
    window: tuple[int, ...]
    groups: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    zero_point: int = 0
    ragged: bool = False
    depthwise: bool = False
    signed: bool = False
    unsigned_weights: bool = False

    @property
    def inputs(self) -> int:
        return self.channels * int(np.prod(self.window))

    def computed(self, filters: Codes, setting: Setting) -> Results:
        return self._compared(self.images(filters, setting), filters, setting)

    def _compared(self, images: Codes, filters: Codes, setting: Setting) -> Results:
        made = sums(self.windows(images), filters, self.zero_point, setting.saturating)
        positions, groups, kinds = made.shape
        copies = np.repeat(np.arange(kinds), positions)
        at = np.tile(np.arange(positions), (groups, kinds))  # [G, copies]: where the result is in the middle
        if self.ragged:
            copies, at = np.append(copies, 0), np.append(at, at[:, :1], axis=1)
        if self.depthwise:
            copies, at = np.zeros(1, np.int64), np.arange(groups)[:, None] % positions
        bias = MIDDLE - made[at, np.arange(groups)[:, None], copies]
        expected = np.clip(made[:, :, copies] + bias, 0, 255)
        stored = filters[:, copies].reshape(groups * len(copies), *self.window, self.channels)
        found = self._run(images, np.moveaxis(stored, -1, 1), bias.ravel(), setting.prepack)
        found = found.reshape(len(images), groups, len(copies), -1).transpose(0, 3, 1, 2)
        return Results(found.reshape(expected.shape), expected, copies)

    def changed_values(self, images: Codes, filters: Codes) -> Codes:
        """How many values of each channel [G * R] the kernel makes other than the exact ones, of images."""
        found = self._compared(images, filters, Setting()).found
        positions = len(found)
        at_middle = found.reshape(positions, self.groups, -1, positions).diagonal(axis1=0, axis2=3)
        changed: Codes = np.count_nonzero(at_middle != MIDDLE, axis=-1)
        return changed.ravel()

    def _run(self, images: Codes, weight: Codes, bias: Codes, prepack: bool) -> Codes:
        rank = len(self.window)
        attributes = {
            "kernel_shape": self.window,
            "pads": [self.pad] * 2 * rank,
            "strides": [self.stride] * rank,
            "dilations": [self.dilation] * rank,
        }
        listed = ", ".join(f"{name} = {list(values)}" for name, values in attributes.items())
        shapes = [str(list(images.shape)), "[" + ", ".join("ABCDEF"[: rank + 2]) + "]"]
        text = f"""{_HEAD} g (float{shapes[0]} x) => (float{shapes[1]} y)
            {{ {_IN} h = DequantizeLinear (b, one) r = Conv <group = {self.groups}, {listed}> (d, e, h)
               t = QuantizeLinear (r, one, zy) y = DequantizeLinear (t, one, zy) }}"""
        lowest = np.int8(-MIDDLE) if self.signed else np.uint8(0)
        constants = _constants(weight, self) | {"b": bias.astype(np.int32), "zy": np.asarray(lowest)}
        session = _session(text, constants, prepack)
        result: Codes = session.run(None, {"x": (images - self.zero_point).astype(np.float32)})[0].astype(np.int64)
        return result

    def images(self, filters: Codes, setting: Setting) -> Codes:
        """Codes [N, G * channels, ...]: the first window of each image holds a row that takes filters to their
        extremes, the rest is random."""
        reach = [(k - 1) * self.dilation + 1 + self.stride for k in self.window]
        generator, top = np.random.default_rng(setting.seed), setting.largest_code
        rows = np.stack([_adversarial(f, setting, generator) for f in filters], axis=1)[: 2 + 2 * filters.shape[1]]
        images = generator.choice([0, 1, top // 2, top - 1, top], (len(rows), self.groups, *reach, self.channels))
        images[0] = top
        corner = tuple(slice(0, (k - 1) * self.dilation + 1, self.dilation) for k in self.window)
        images[(slice(None), slice(None), *corner)] = rows.reshape(len(rows), self.groups, *self.window, self.channels)
        shaped: Codes = np.moveaxis(images, -1, 2)
        return shaped.reshape(len(rows), -1, *reach)

    def windows(self, images: Codes) -> Codes:
        """[positions of all images, G, K], each window as the kernel walks it: NHWC, padded with the zero point."""
        rank = len(self.window)
        edges = [(0, 0), (0, 0)] + [(self.pad, self.pad)] * rank
        padded = np.pad(images, edges, constant_values=self.zero_point)
        size = [(k - 1) * self.dilation + 1 for k in self.window]
        axes = tuple(range(2, 2 + rank))
        every = np.lib.stride_tricks.sliding_window_view(padded, size, axis=axes)
        steps = (slice(None), slice(None)) + (slice(None, None, self.stride),) * rank
        every = every[steps + (slice(None, None, self.dilation),) * rank]
        grouped = every.reshape(len(images), self.groups, self.channels, *every.shape[2:])
        walked = np.moveaxis(grouped, (1, 2), (1 + rank, -1))  # [N, positions..., G, window..., channels]
        flat: Codes = walked.reshape(-1, self.groups, self.inputs)
        return flat


@dataclass(frozen=True)
class Attention:
    """QAttention of sequences that repeat one row. With zero weights of queries and keys all its positions weigh the
    same, so that the result is the product by the weights of values. length: a power of 2, so that it is exact."""

    length: int
    inputs: int
    zero_point: int = 0
    groups: int = 1

    def computed(self, filters: Codes, setting: Setting) -> Results:
        kinds = filters.shape[1]
        text = f"""{_HEAD} g (float[A, {self.length}, {self.inputs}] x) => (float[A, {self.length}, {kinds}] y)
            {{ q = QuantizeLinear (x, one, zx)
               y = com.microsoft.QAttention <num_heads = 1> (q, w, bias, one, one, , zx, zw) }}"""
        weight = np.concatenate([np.zeros((self.inputs, 2 * kinds), np.int64), filters[0].T], axis=1)
        bias = {"bias": np.zeros(3 * kinds, np.float32)}
        session = _session(text, _constants(weight, self) | bias, setting.prepack)
        codes = _adversarial(filters[0], setting, np.random.default_rng(setting.seed))
        given = np.repeat((codes - self.zero_point)[:, None], self.length, axis=1).astype(np.float32)
        found = session.run(None, {"x": given})[0].astype(np.int64)
        expected = sums(codes[:, None], filters, self.zero_point, setting.saturating)
        return Results(found, np.repeat(expected, self.length, axis=1), np.arange(kinds))


@dataclass(frozen=True)
class Recurrence:
    """One step of DynamicQuantizeLSTM whose cell state is one of its two products: of the input, or, `recurrent`, of
    the state before. The gate of candidates is the identity, the other gates are 1. rows: of the batch."""

    inputs: int
    rows: int
    recurrent: bool = False
    zero_point: int = 0
    groups: int = 1

    def computed(self, filters: Codes, setting: Setting) -> Results:
        hidden = self.inputs if self.recurrent else filters.shape[1]
        kinds = np.arange(hidden) % filters.shape[1]
        product = np.concatenate([np.zeros((self.inputs, 3 * hidden), np.int64), filters[0, kinds].T], axis=1)
        weights = [np.zeros((1, 4 * hidden), np.int64), product] if self.recurrent else [product, None]
        constants = self._constants(weights[0], weights[1], hidden)
        gates = 'activations = ["Affine", "Affine", "Affine"], activation_alpha = [0.0, 1.0, 1.0], '
        gates += "activation_beta = [1.0, 0.0, 0.0]"
        features = 1 if self.recurrent else self.inputs
        text = f"""{_HEAD} g (float[1, {self.rows}, {features}] x, float[1, {self.rows}, {hidden}] h)
            => (float[1, {self.rows}, {hidden}] y) {{ o, p, y = com.microsoft.DynamicQuantizeLSTM
            <hidden_size = {hidden}, {gates}> (x, w, r, , , h, , , one1, zero1, one1, zero1) }}"""
        session = _session(text, constants, setting.prepack)
        codes = _of_scale_1(_adversarial(filters[0], setting, np.random.default_rng(setting.seed)), self.zero_point)
        batches = np.resize(codes, (-(-len(codes) // self.rows), self.rows, self.inputs))
        found = []
        for batch in batches:
            given = {"x": np.zeros((1, self.rows, features)), "h": np.zeros((1, self.rows, hidden))}
            given["h" if self.recurrent else "x"] = batch[None] - self.zero_point
            found.append(session.run(None, {n: v.astype(np.float32) for n, v in given.items()})[0][0])
        expected = [sums(b[:, None], filters, self.zero_point, setting.saturating)[:, 0, kinds] for b in batches]
        return Results(np.stack(found).astype(np.int64), np.stack(expected), kinds)

    def _constants(self, of_input: Codes, of_state: Codes | None, hidden: int) -> dict[str, NDArray[np.generic]]:
        state = np.zeros((hidden, 4 * hidden)) if of_state is None else of_state
        return {
            "w": of_input[None].astype(np.int8),
            "r": state[None].astype(np.int8),
            "one1": np.ones(1, np.float32),
            "zero1": np.zeros(1, np.int8),
        }


def within(generator: np.random.Generator, shape: tuple[int, int, int], largest_code: int = 255) -> Codes:
    """Filters [G, R, K] that obey the bound, most of their pairs at its edge: of one sign, of both, alone."""
    lowest, highest = pair_limits(largest_code)
    *outer, inputs = shape
    pairs = (*outer, -(-inputs // 2))
    edge = generator.random(pairs) < 0.7
    up = np.where(edge, min(highest, 254), generator.integers(0, min(highest, 254) + 1, pairs))
    down = np.where(edge, max(lowest, -256), generator.integers(max(lowest, -256), 1, pairs))
    first_up = generator.integers(np.maximum(up - 127, 0), np.minimum(up, 127) + 1)
    first_down = generator.integers(np.maximum(down, -128), np.minimum(down + 128, 0) + 1)
    choices = [
        np.stack([first_up, up - first_up], -1),
        np.stack([first_down, down - first_down], -1),
        np.stack([generator.integers(0, 128, pairs), generator.integers(-128, 1, pairs)], -1),
        np.stack([generator.integers(-128, 1, pairs), generator.integers(0, 128, pairs)], -1),
    ]
    kind = generator.integers(0, len(choices), pairs)[..., None]
    filters: Codes = np.choose(kind, choices).reshape(*outer, -1)[..., :inputs].astype(np.int64)
    assert not overflowing_channels(filters.reshape(-1, inputs), largest_code).any()
    return filters


def least_beyond(generator: np.random.Generator, filters: Codes) -> Codes:
    """The same filters, with one pair of each beyond the bound for codes up to 255 by 1. K is at least 2."""
    lowest, highest = pair_limits()
    changed = filters.copy()
    for group, row in np.ndindex(*filters.shape[:2]):
        pair = 2 * int(generator.integers(0, filters.shape[-1] // 2))
        first = int(generator.integers(2, 128))
        positive = bool(generator.integers(0, 2))
        total = highest + 1 if positive else lowest - 1
        first = first if positive else -first
        changed[group, row, pair : pair + 2] = first, total - first
    assert overflowing_channels(changed.reshape(-1, filters.shape[-1])).all()
    return changed


def _adversarial(filters: Codes, setting: Setting, generator: np.random.Generator) -> Codes:
    """Codes [12, K]: all at the top, what makes the sums of a filter largest and smallest, random ones."""
    inputs, top = filters.shape[-1], setting.largest_code
    rows = [np.full(inputs, top), generator.integers(top - 50, top + 1, inputs)]
    for row in itertools.islice(itertools.cycle(filters), 4):
        rows += [np.where(row > 0, top, 0), np.where(row < 0, top, 0)]
    rows += [generator.integers(0, top + 1, inputs), generator.integers(0, top + 1, inputs)]
    return np.stack(rows)


def _of_scale_1(codes: Codes, zero_point: int) -> Codes:
    """Rows whose values, less the zero point, are quantized dynamically to these same codes."""
    found: Codes = codes[(codes == 255).any(axis=1) & (zero_point == 0 or (codes == 0).any(axis=1))]
    return found


def sums(windows: Codes, filters: Codes, zero_point: int, saturating: bool) -> Codes:
    """[positions, G, R] from codes [positions, G, K] and filters [G, R, K], less the share of the zero point."""
    products = windows[:, :, None] * filters[None]
    if saturating:
        even = np.pad(products, [(0, 0)] * 3 + [(0, products.shape[-1] % 2)])
        products = np.clip(even[..., ::2] + even[..., 1::2], SMALLEST_SUM, LARGEST_SUM)
    found: Codes = products.sum(axis=-1) - zero_point * filters.sum(axis=-1)
    return found


def _constants(weight: Codes, layer: Product | Convolution | Attention) -> dict[str, NDArray[np.generic]]:
    signed, unsigned_weights = (getattr(layer, name, False) for name in ("signed", "unsigned_weights"))
    zero = np.int8(layer.zero_point - MIDDLE) if signed else np.uint8(layer.zero_point)
    if unsigned_weights:
        stored, middle = (weight + MIDDLE).astype(np.uint8), np.asarray(np.uint8(MIDDLE))
    else:
        stored, middle = weight.astype(np.int8), np.asarray(np.int8(0))
    return {"w": stored, "zw": middle, "zx": np.asarray(zero), "one": np.ones((), np.float32)}


def _session(text: str, constants: dict[str, NDArray[np.generic]], prepack: bool) -> ort.InferenceSession:
    """What a user's default session is, or one that packs weights at every run."""
    proto = onnx.parser.parse_model(text)
    for name, values in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, order="C"), name))
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
