"""Rescaling channels of the fp32 model, which changes what quantization loses and nothing else."""

from onnxmpq.rescale.apply import rescaled, restore_factors
from onnxmpq.rescale.channels import Channels, find_channels
from onnxmpq.rescale.choose import Rescaling, rescale
from onnxmpq.rescale.factors import CANDIDATES, candidate_factors, measure_extent

__all__ = [
    "CANDIDATES",
    "Channels",
    "Rescaling",
    "candidate_factors",
    "find_channels",
    "measure_extent",
    "rescale",
    "rescaled",
    "restore_factors",
]
