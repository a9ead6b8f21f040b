"""Layer operators as rows: all that the package knows about an operator with constant weights, one object for each."""

from collections.abc import Mapping

from onnxmpq.model.operators.body_weight import BodyWeight
from onnxmpq.model.operators.convolution import Convolution, TransposedConvolution
from onnxmpq.model.operators.input_view import InputView
from onnxmpq.model.operators.lookup import Lookup
from onnxmpq.model.operators.product import Gemm, MatMul
from onnxmpq.model.operators.recurrent import Recurrent
from onnxmpq.model.operators.types import LayerOperator

__all__ = ["BODY_WEIGHT", "HEADS", "OPERATORS", "InputView", "LayerOperator"]

OPERATORS: Mapping[str, LayerOperator] = {
    "Conv": Convolution(),
    "ConvTranspose": TransposedConvolution(),
    "MatMul": MatMul(),
    "Gemm": Gemm(),
    "Gather": Lookup(),
    "LSTM": Recurrent(),
    "GRU": Recurrent(),
    "RNN": Recurrent(),
}
"""Layer operators by name. Operators that are not here have no weights for the package."""

BODY_WEIGHT = BodyWeight(OPERATORS)
HEADS: Mapping[str, LayerOperator] = {**OPERATORS, "Identity": BODY_WEIGHT}
"""Operators of nodes that may be the head of a layer region: those, and what hands a weight to a body."""
