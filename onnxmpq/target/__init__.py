"""Targets: which schemes a device offers and what they cost there. One TOML file per device (docs/targets.md)."""

from onnxmpq.target.load import available_targets, load_target
from onnxmpq.target.lookup import lookup_table
from onnxmpq.target.roofline import roofline_table
from onnxmpq.target.types import Target

__all__ = ["Target", "available_targets", "load_target", "lookup_table", "roofline_table"]
