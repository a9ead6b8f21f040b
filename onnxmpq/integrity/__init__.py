"""Integrity: whether a written graph is whole. What a runtime makes of it is checked in `lint`."""

from onnxmpq.integrity.structure import CHECKS, require_whole, structure_faults
from onnxmpq.integrity.types import Fault

__all__ = ["CHECKS", "Fault", "require_whole", "structure_faults"]
