"""Second moments of what layers read: E[x xᵀ] per layer, measured on samples in bounded memory."""

from onnxmpq.statistics.moments import Moments, MomentSum, measure_moments, readers, rows_per_sample
from onnxmpq.statistics.not_finite import finite, numbers
from onnxmpq.statistics.spread import spread_moments

__all__ = [
    "MomentSum",
    "Moments",
    "finite",
    "measure_moments",
    "numbers",
    "readers",
    "rows_per_sample",
    "spread_moments",
]
