"""Rescaling and ordering channels of the fp32 model, which changes what quantization loses and nothing else."""

from onnxmpq.rescale.apply import rescaled, restore_factors
from onnxmpq.rescale.channels import Channels, find_channels
from onnxmpq.rescale.choose import Rescaling, rescale
from onnxmpq.rescale.exchange import find_exchangeable, reordered, restore_order
from onnxmpq.rescale.factors import CANDIDATES, candidate_factors, measure_extent
from onnxmpq.rescale.order import best_order, in_best_order

__all__ = [
    "CANDIDATES",
    "Channels",
    "Rescaling",
    "best_order",
    "candidate_factors",
    "find_channels",
    "find_exchangeable",
    "in_best_order",
    "measure_extent",
    "reordered",
    "rescale",
    "rescaled",
    "restore_factors",
    "restore_order",
]
