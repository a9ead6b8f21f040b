"""Tensors and weights that the schemes on a menu quantize."""

from __future__ import annotations

from onnxmpq.menu.types import Menu
from onnxmpq.model import Model
from onnxmpq.ranges import BITS
from onnxmpq.rounding import WeightFormat
from onnxmpq.schemes import ActivationType, Format


def activation_tensors(model: Model, menu: Menu) -> list[str]:
    """Root tensors that some scheme on the menu reads or writes in 8 or fewer bits, in graph order."""
    roots = model.roots
    touched: list[str] = []
    for region in model.regions:
        if any(s.reads.quantized for s in menu[region.name]):
            touched += region.inputs
        if any(s.reads is Format.INT8 for s in menu[region.name]):
            touched += region.outputs
    return list(dict.fromkeys(roots.get(t, t) for t in touched))


def half_tensors(model: Model, menu: Menu) -> list[str]:
    """Root tensors that some scheme on the menu would hold in float16."""
    roots = model.roots
    touched = [
        t
        for region in model.regions
        if any(s.half == "float16" for s in menu[region.name])
        for t in (*region.inputs, *region.outputs)
    ]
    return list(dict.fromkeys(roots.get(t, t) for t in touched))


def observed_tensors(model: Model, menu: Menu) -> list[str]:
    """Root tensors whose values decide on ranges or on float16."""
    return list(dict.fromkeys((*activation_tensors(model, menu), *half_tensors(model, menu))))


def activation_type(menu: Menu) -> ActivationType:
    """The one type of quantized activations on the menu (`one_activation_format`)."""
    found = {s.reads for row in menu.values() for s in row if s.reads.quantized}
    return next(iter(found)).element if found else "uint8"


def narrow_inputs(model: Model, menu: Menu) -> dict[tuple[str, int], str]:
    """(layer, bits) for every width below 8 in which the menu lets a layer read -> root of the tensor it reads."""
    roots = model.roots
    return {
        (region.name, s.activation_bits): roots.get(region.inputs[0], region.inputs[0])
        for region in model.layers
        for s in menu[region.name]
        if s.reads is Format.INT8 and s.activation_bits < BITS
    }


def weight_formats(model: Model, menu: Menu) -> dict[tuple[str, str], WeightFormat]:
    """(key of the weight, name of the format) -> format, for every weight format on the menu."""
    return {
        (place.key, s.weight.name): s.weight
        for region in model.layers
        for s in menu[region.name]
        if s.weight is not None
        for place in region.params.weights
    }
