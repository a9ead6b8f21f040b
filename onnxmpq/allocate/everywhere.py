"""The plan that other tools make: int8 wherever it is offered."""

from __future__ import annotations

from onnxmpq.cost import legalize
from onnxmpq.menu import Menu
from onnxmpq.model import Model
from onnxmpq.rounding import PerChannel
from onnxmpq.runtimes import Rules
from onnxmpq.schemes import Format, Scheme


def int8_everywhere(model: Model, menu: Menu, rules: Rules) -> dict[str, Scheme]:
    """The plan of int8 in every region that offers it; nothing where no layer does, as where the user set others for
    all of them. Of several int8 kernels, the first on a region's menu."""
    wanted = {r: s for r, row in menu.items() for s in row[::-1] if _is_static_int8(s)}
    if not any(layer.name in wanted for layer in model.layers):
        return {}
    return legalize(model, rules, wanted, menu)


def _is_static_int8(scheme: Scheme) -> bool:
    """8 bits for activations, and per channel for weights."""
    weight = scheme.weight
    eight_bit = weight is None or (isinstance(weight, PerChannel) and weight.bits == 8)
    return scheme.reads is Format.INT8 and eight_bit and not scheme.simulated
