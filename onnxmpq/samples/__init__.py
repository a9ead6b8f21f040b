"""The samples of a conversion: read, divided, and used to check that the prepared model computes what it should."""

from onnxmpq.samples.agree import agreeing
from onnxmpq.samples.data_free import misfit, recipe_by_batchnorm
from onnxmpq.samples.gather import FEWEST_DECIDING, FEWEST_FOR_EFFECTS, HELD_OUT_SHARE, Samples, gather_samples

__all__ = [
    "FEWEST_DECIDING",
    "FEWEST_FOR_EFFECTS",
    "HELD_OUT_SHARE",
    "Samples",
    "agreeing",
    "gather_samples",
    "misfit",
    "recipe_by_batchnorm",
]
