"""Allocate: a scheme for every region, of least harm within the budgets."""

from onnxmpq.allocate.budget import Budgets, Limit, parse_budgets
from onnxmpq.allocate.fastest import quantized_when_fastest
from onnxmpq.allocate.milp import solve
from onnxmpq.allocate.problem import Limits, Option, Problem, Solution, quantized_roots
from onnxmpq.allocate.solvers import SOLVERS

__all__ = [
    "SOLVERS",
    "Budgets",
    "Limit",
    "Limits",
    "Option",
    "Problem",
    "Solution",
    "parse_budgets",
    "quantized_roots",
    "quantized_when_fastest",
    "solve",
]
