"""A plan as predicted: by the cost table and the effects, without timing or judging the whole model."""

from __future__ import annotations

from onnxmpq.closed_loop import Loop, Outcome, closest, reach
from onnxmpq.cost import TableCosts
from onnxmpq.errors import BudgetError, NothingFasterError
from onnxmpq.shipping.guard import require_quantized
from onnxmpq.shipping.job import Job


def predicted(job: Job) -> Outcome:
    """The plan within the budgets. Quality floors are not looked at: they take a run of the model.

    Raises BudgetError, NothingFasterError or AlreadyMetError where `finish` would, if predictions were true.
    """
    costs = TableCosts(job.bench.model, job.costs.table)
    loop = Loop(job.problem, job.budgets, job.bench, costs, job.context.progress)
    try:
        outcome = reach(loop)
    except (BudgetError, NothingFasterError):
        if not job.best_effort:
            raise
        outcome = closest(loop)
    require_quantized(job, outcome)
    return outcome
