"""The weights that ship: rounded for the layer's inputs, then once more in sequence for the plan that was chosen."""

from onnxmpq.weights.aside import content_of_aside, found_beside, written_beside
from onnxmpq.weights.bound import pair_bound
from onnxmpq.weights.first import WeightKey, round_weights
from onnxmpq.weights.packed import PackedWeight, pack, pack_array, restore_biases, restore_weight, unpack, unpack_array
from onnxmpq.weights.reuse import (
    LONGEST_S,
    compensated,
    few_rows_words,
    fits_in_sequence,
    in_sequence,
    plan_within_time,
    quick_enough,
    round_for_inputs,
    rounded,
    within_time,
)
from onnxmpq.weights.sequence import Compensated, compensate
from onnxmpq.weights.simulate import correctable, with_biases
from onnxmpq.weights.techniques import TECHNIQUES, Techniques, without

__all__ = [
    "LONGEST_S",
    "TECHNIQUES",
    "Compensated",
    "PackedWeight",
    "Techniques",
    "WeightKey",
    "compensate",
    "compensated",
    "content_of_aside",
    "correctable",
    "few_rows_words",
    "fits_in_sequence",
    "found_beside",
    "in_sequence",
    "pack",
    "pack_array",
    "pair_bound",
    "plan_within_time",
    "quick_enough",
    "restore_biases",
    "restore_weight",
    "round_for_inputs",
    "round_weights",
    "rounded",
    "unpack",
    "unpack_array",
    "with_biases",
    "within_time",
    "without",
    "written_beside",
]
