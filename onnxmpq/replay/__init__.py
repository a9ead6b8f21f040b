"""A plan file applied: the same model again, byte for byte, or an edited plan checked, predicted and measured."""

from onnxmpq.replay.replay import Applied, apply, apply_plan

__all__ = [
    "Applied",
    "apply",
    "apply_plan",
]
