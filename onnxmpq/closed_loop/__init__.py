"""Close the loop: plan, build, measure the real model, correct the cost table, plan again, until the budget holds."""

from onnxmpq.closed_loop.goals import close_the_loop, closest, measure_extremes, reach
from onnxmpq.closed_loop.loop import NOISE, Loop, on_original_kernels
from onnxmpq.closed_loop.reach import option, out_of_reach
from onnxmpq.closed_loop.sampled_refiner import SampledRefiner, make_refiner
from onnxmpq.closed_loop.suspects import FACTOR, culprits, suspects
from onnxmpq.closed_loop.types import Keeps, Outcome, Refiner, Round, Trial

__all__ = [
    "FACTOR",
    "NOISE",
    "Keeps",
    "Loop",
    "Outcome",
    "Refiner",
    "Round",
    "SampledRefiner",
    "Trial",
    "close_the_loop",
    "closest",
    "culprits",
    "make_refiner",
    "measure_extremes",
    "on_original_kernels",
    "option",
    "out_of_reach",
    "reach",
    "suspects",
]
