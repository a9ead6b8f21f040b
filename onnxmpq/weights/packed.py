"""Rounded weights as text for plan files: the codes as bytes, compressed, in base64, exact to the last bit."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onnxmpq.errors import PlanError
from onnxmpq.model import LayerWeight, Model, Region, Spill
from onnxmpq.rounding import MultiplierArray, QuantizedWeight, WeightFormat, quantize_weight
from onnxmpq.weights.aside import content_of_aside, put_aside, taken_aside
from onnxmpq.weights.bound import pair_bound
from onnxmpq.weights.simulate import correctable, with_biases


@dataclass(frozen=True)
class PackedWeight:
    """One rounded weight [O, K]. format: its name; block: inputs per step; tensor_scale: of formats that have one.

    codes (int8 [O, K]), scales (little-endian float32), multipliers (uint8, empty where the format has none).
    """

    format: str
    block: int
    codes: str
    scales: str
    multipliers: str = ""
    tensor_scale: float = 1.0


def pack(weight: QuantizedWeight, spill: Spill | None = None) -> PackedWeight:
    """spill: of a model that is never whole in memory, whose arrays are files (`onnxmpq.weights.aside`)."""

    def packed(values: NDArray[np.generic]) -> str:
        return pack_array(values) if spill is None else put_aside(values, spill)

    return PackedWeight(
        weight.format.name,
        weight.block,
        packed(weight.codes.astype(np.int8)),
        packed(weight.scales.astype("<f4")),
        "" if weight.multipliers is None else packed(weight.multipliers.astype(np.uint8)),
        float(weight.tensor_scale),
    )


def unpack(packed: PackedWeight, weight_format: WeightFormat, shape: tuple[int, int], where: str) -> QuantizedWeight:
    """Inverse of `pack` for a layer whose weight is [O, K] = `shape`. Raises PlanError naming `where`."""
    rows, inputs = shape
    blocks = -(-inputs // packed.block) if packed.block > 0 else 0
    codes = unpack_array(packed.codes, np.int8, rows * inputs, f"{where}.codes").astype(np.int8).reshape(shape)
    steps = weight_format.scale_shape(rows, blocks)
    scales = unpack_array(packed.scales, "<f4", math.prod(steps), f"{where}.scales").astype(np.float32).reshape(steps)
    multipliers: MultiplierArray | None = None
    if weight_format.has_multipliers:
        flat = unpack_array(packed.multipliers, np.uint8, rows * blocks, f"{where}.multipliers")
        multipliers = flat.astype(np.uint8).reshape(rows, blocks)
    try:
        weight = QuantizedWeight(weight_format, codes, scales, multipliers, packed.block, packed.tensor_scale)
        weight_format.check_values(weight)
    except ValueError as error:
        raise PlanError(f"{where}.{error}; convert again") from None
    return weight


def pack_array(values: NDArray[np.generic]) -> str:
    """Bytes of the array in C order, compressed, as base64 text."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode("ascii")


def unpack_array(text: str, dtype: DTypeLike, count: int, where: str) -> NDArray[np.generic]:
    """Inverse of `pack_array`, flat. Raises PlanError where the text is damaged or has another number of values."""
    size = count * np.dtype(dtype).itemsize
    if content_of_aside(text):
        return _array(taken_aside(text, size, where), dtype, count, where)
    try:
        engine = zlib.decompressobj()
        data = engine.decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, ValueError, zlib.error, TypeError) as error:
        raise PlanError(f"{where}: damaged ({error}); convert again") from None
    return _array(data, dtype, count, where)


def _array(data: bytes, dtype: DTypeLike, count: int, where: str) -> NDArray[np.generic]:
    """Raises PlanError for another number of values."""
    if len(data) != count * np.dtype(dtype).itemsize:
        raise PlanError(f"{where}: not the {count} values that this layer has; convert again")
    return np.frombuffer(data, dtype=dtype)


def restore_weight(
    model: Model,
    region: Region,
    place: LayerWeight,
    weight_format: WeightFormat,
    stored: Mapping[str, PackedWeight],
    method: str,
) -> QuantizedWeight:
    """One of a layer's weights from a plan: as stored, or rounded by the named method where the plan has none in this
    format.

    Raises PlanError.
    """
    packed = stored.get(place.key)
    if packed is None or packed.format != weight_format.name:
        try:
            bound = pair_bound(region, place, weight_format)
            made = quantize_weight(model.matrix(place), weight_format, method=method, bound=bound)
            return made.kept_by(model.store.kept)
        except ValueError as error:
            raise PlanError(f"rounding: {error}; convert again instead of editing") from None
    shape = (place.out_channels, place.fan_in)
    weight = unpack(packed, weight_format, shape, f"weights: {place.key}")
    bound = pair_bound(region, place, weight_format)
    if bound is not None and not bound.obeyed(weight.int8_codes()).all():
        raise PlanError(f"weights: {place.key}.codes: pairs that saturate in x86 kernels; convert again")
    return weight.kept_by(model.store.kept)


def restore_biases(model: Model, stored: Mapping[str, str]) -> Model:
    """The model with the biases of a plan, float32 [O] packed by region. Raises PlanError."""
    regions = {r.name: r for r in model.layers}
    allowed = set(correctable(model, [name for name in stored if name in regions]))
    biases: dict[str, NDArray[np.generic]] = {}
    for name, text in stored.items():
        if name not in allowed:
            raise PlanError(f"biases: node {name!r} has no bias of its own; convert again instead of editing")
        biases[name] = unpack_array(text, "<f4", regions[name].params.out_channels, f"biases: {name}")
    return with_biases(model, biases)
