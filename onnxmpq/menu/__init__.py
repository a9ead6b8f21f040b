"""The menu: which schemes each region may have on a target, and every filter that makes it shorter."""

from onnxmpq.menu.candidates import candidates, check_requested
from onnxmpq.menu.filters import (
    BOUND_LOSS_DB,
    blocks_alone,
    bound_loss_db,
    bounded_activations,
    cautious_where_idle,
    changed_by_rounding,
    for_goal,
    needing_unsigned_weights,
    one_activation_format,
    storage_only,
    widest_weights,
    within_float16,
    without_underflow,
)
from onnxmpq.menu.patterns import matching_regions
from onnxmpq.menu.require import require_candidates, require_half
from onnxmpq.menu.tensors import (
    activation_tensors,
    activation_type,
    half_tensors,
    narrow_inputs,
    observed_tensors,
    weight_formats,
)
from onnxmpq.menu.timed import ProfiledPlan, in_table, proven, used_when_fastest, worthwhile
from onnxmpq.menu.types import Menu

__all__ = [
    "BOUND_LOSS_DB",
    "Menu",
    "ProfiledPlan",
    "activation_tensors",
    "activation_type",
    "blocks_alone",
    "bound_loss_db",
    "bounded_activations",
    "candidates",
    "cautious_where_idle",
    "changed_by_rounding",
    "check_requested",
    "for_goal",
    "half_tensors",
    "in_table",
    "matching_regions",
    "narrow_inputs",
    "needing_unsigned_weights",
    "observed_tensors",
    "one_activation_format",
    "proven",
    "require_candidates",
    "require_half",
    "storage_only",
    "used_when_fastest",
    "weight_formats",
    "widest_weights",
    "within_float16",
    "without_underflow",
    "worthwhile",
]
