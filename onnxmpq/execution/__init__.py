"""Running a float graph, or parts of it, over samples in bounded memory.

The only room that makes inner tensors visible, cuts graphs into parts, walks through them and iterates over samples;
ranges, statistics, rescaling, effects and weights use it. What is done with the values is not known here: this room
imports the model, samples and the runtime, nothing else.
"""

from onnxmpq.execution.expose import float_shapes, tensor_shapes, values_once, whole, with_outputs
from onnxmpq.execution.forward import ForwardPass
from onnxmpq.execution.memory import MEMORY, MemoryBudget, cut_to_fit
from onnxmpq.execution.parts import NOTHING, Cutter, OpenPart, Part
from onnxmpq.execution.samples import at_a_time, in_order, run_samples, runs_of

__all__ = [
    "MEMORY",
    "NOTHING",
    "Cutter",
    "ForwardPass",
    "MemoryBudget",
    "OpenPart",
    "Part",
    "at_a_time",
    "cut_to_fit",
    "float_shapes",
    "in_order",
    "run_samples",
    "runs_of",
    "tensor_shapes",
    "values_once",
    "whole",
    "with_outputs",
]
