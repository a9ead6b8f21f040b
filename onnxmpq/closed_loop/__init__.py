"""Close the loop: plan, build, measure the real model, correct the cost table, plan again, until the budget holds."""

from onnxmpq.closed_loop.goals import close_the_loop
from onnxmpq.closed_loop.types import Keeps, Outcome, Refiner, Round, Trial, Workbench

__all__ = ["Keeps", "Outcome", "Refiner", "Round", "Trial", "Workbench", "close_the_loop"]
