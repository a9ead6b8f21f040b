"""Close the loop: plan, build, measure the real model, correct the cost table, plan again, until the budget holds."""

from onnxmpq.closed_loop.goals import close_the_loop, closest, measure_extremes, reach
from onnxmpq.closed_loop.loop import Loop, on_original_kernels
from onnxmpq.closed_loop.types import Keeps, Outcome, Refiner, Round, Trial, Workbench

__all__ = [
    "Keeps",
    "Loop",
    "Outcome",
    "Refiner",
    "Round",
    "Trial",
    "Workbench",
    "close_the_loop",
    "closest",
    "measure_extremes",
    "on_original_kernels",
    "reach",
]
