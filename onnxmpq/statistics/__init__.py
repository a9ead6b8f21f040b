"""Second moments of what layers read: E[x xᵀ] per layer, measured on samples in bounded memory."""

from onnxmpq.statistics.inputs import InputView, view_of
from onnxmpq.statistics.moments import Moments, MomentSum, measure_moments, rows_per_sample

__all__ = ["InputView", "MomentSum", "Moments", "measure_moments", "rows_per_sample", "view_of"]
