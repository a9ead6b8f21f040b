"""Allocate: a scheme for every region, of least harm within the budgets."""

from onnxmpq.allocate.budget import MEMORY, Budgets, Limit, parse_budgets, parse_memory, require_unmet
from onnxmpq.allocate.everywhere import int8_everywhere
from onnxmpq.allocate.fastest import quantized_when_fastest
from onnxmpq.allocate.level import at_unseen_level, modest_plans
from onnxmpq.allocate.pose import pose, require_plan
from onnxmpq.allocate.problem import DEFAULT, Limits, Option, Problem, Solution, Stored, quantized_roots, rounded_by
from onnxmpq.allocate.quantities import EFFECT, LATENCY, QUANTITIES, SIZE, Quantity
from onnxmpq.allocate.refine import refine
from onnxmpq.allocate.solvers import SOLVERS, require_solver, solve
from onnxmpq.allocate.superpose import Predictor

__all__ = [
    "DEFAULT",
    "EFFECT",
    "LATENCY",
    "MEMORY",
    "QUANTITIES",
    "SIZE",
    "SOLVERS",
    "Budgets",
    "Limit",
    "Limits",
    "Option",
    "Predictor",
    "Problem",
    "Quantity",
    "Solution",
    "Stored",
    "at_unseen_level",
    "int8_everywhere",
    "modest_plans",
    "parse_budgets",
    "parse_memory",
    "pose",
    "quantized_roots",
    "quantized_when_fastest",
    "refine",
    "require_plan",
    "require_solver",
    "require_unmet",
    "rounded_by",
    "solve",
]
