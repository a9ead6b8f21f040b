"""Second moments of what layers read: E[x xᵀ] per layer, measured on samples in bounded memory."""

from onnxmpq.statistics.moments import Moments, MomentSum, measure_moments, rows_per_sample

__all__ = ["MomentSum", "Moments", "measure_moments", "rows_per_sample"]
