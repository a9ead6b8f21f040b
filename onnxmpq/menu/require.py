"""Errors for menus that leave nothing to do."""

from __future__ import annotations

import onnx

from onnxmpq.errors import NothingToQuantizeError, UsageError
from onnxmpq.menu.types import Menu
from onnxmpq.model import OPERATORS, Model
from onnxmpq.target import Target

_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def require_candidates(model: Model, menu: Menu, excluded: bool = False) -> None:
    """Raises NothingToQuantizeError where no layer has a choice, UsageError where a region lost all that was set."""
    _require_set(menu)
    if any(len(menu[r.name]) > 1 for r in model.layers):
        return
    if excluded:
        raise NothingToQuantizeError("--exclude or --set leaves no layer to quantize; leave out fewer nodes")
    already = f"; {len(model.already_quantized)} nodes are already quantized" if model.already_quantized else ""
    known = [f"{r.name}: {menu.reasons[r.name]}" for r in model.layers if r.name in menu.reasons]
    why = known[0] if known else f"{', '.join(OPERATORS)} with a constant float32 weight, opset 13 or newer"
    halves = any(t.data_type in _HALVES for t in model.structure.graph.initializer)
    wide = "; its float16 constants could not be made float32: export the model in float32" if halves else ""
    raise NothingToQuantizeError(
        f"none of the model's {len(model.layers)} layers can be quantized ({why}){already}{wide}; "
        "use the model as it is"
    )


def _require_set(menu: Menu) -> None:
    for name in filter(menu.requires, menu):
        if all(s.is_fp32 for s in menu[name]):
            why = menu.reasons.get(name, "no kernel of it is known here")
            raise UsageError(
                f"{menu.asked.settings[name].shown}: {name} cannot have it ({why}); leave this node out, "
                "or set the operators around it too"
            )


def require_half(menu: Menu, target: Target) -> None:
    """Raises UsageError where no scheme computes in 16 bits, so that inputs and outputs cannot have them."""
    if not any(s.half for row in menu.values() for s in row):
        raise UsageError(
            f"--no-keep-io: no scheme that may be used on target {target.name} computes in 16 bits, so inputs and "
            "outputs stay float32; leave it out, or use another target or scheme"
        )
