"""Costs: what plans take, measured on whole models and fitted, and the rules by which formats and layouts change."""

from onnxmpq.cost.chains import Menu, groups_with_a_choice, legalize
from onnxmpq.cost.exchange import describe, elsewhere, origin, read_cost_table, read_table
from onnxmpq.cost.kinds import plans_by_kind
from onnxmpq.cost.measure import Effort, Profile, Profiler, interleaved_s
from onnxmpq.cost.mixed import MixedProfiler
from onnxmpq.cost.plan_costs import MeasuredCosts, PlanCosts, PlanProfiler, TableCosts, Timings
from onnxmpq.cost.profile import MOST_CULPRITS, Crashing, changed_regions, fit_table, plans_to_profile, profile_plans
from onnxmpq.cost.sampler import uniform_plans
from onnxmpq.cost.size import base_bytes, common_bytes, region_bytes
from onnxmpq.cost.table import Assignment, CostTable, Edge, Transition, edges_of

__all__ = [
    "MOST_CULPRITS",
    "Assignment",
    "CostTable",
    "Crashing",
    "Edge",
    "Effort",
    "MeasuredCosts",
    "Menu",
    "MixedProfiler",
    "PlanCosts",
    "PlanProfiler",
    "Profile",
    "Profiler",
    "TableCosts",
    "Timings",
    "Transition",
    "base_bytes",
    "changed_regions",
    "common_bytes",
    "describe",
    "edges_of",
    "elsewhere",
    "fit_table",
    "groups_with_a_choice",
    "interleaved_s",
    "legalize",
    "origin",
    "plans_by_kind",
    "plans_to_profile",
    "profile_plans",
    "read_cost_table",
    "read_table",
    "region_bytes",
    "uniform_plans",
]
