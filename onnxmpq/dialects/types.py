"""The input of a dialect: the model, a scheme per region, and the numbers to write down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxmpq.model import Model
from onnxmpq.ranges import QuantParams
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import Scheme


@dataclass(frozen=True)
class Rewrite:
    """Everything needed to write a mixed-precision graph.

    assignment: region name -> scheme; regions without one stay as they are.
    activations: `params_key` of a root tensor -> its parameters, for every tensor that a region reads or writes in a
        quantized format.
    weights: (key of the weight, weight format name) -> quantized weight, for every scheme used that stores one.
    roots: tensor -> the tensor whose quantization parameters it shares (`Model.roots`).
    keep_io: inputs and outputs keep their types; else those that 16-bit regions read or write are 16 bits wide.
    """

    model: Model
    assignment: Mapping[str, Scheme]
    activations: Mapping[str, QuantParams]
    weights: Mapping[tuple[str, str], QuantizedWeight]
    roots: Mapping[str, str] = field(default_factory=dict)
    keep_io: bool = True
