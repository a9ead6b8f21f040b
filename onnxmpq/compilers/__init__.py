"""Compilers that build a graph for a device which is not there: what they accept, and how many bytes they store."""

from onnxmpq.compilers.compile import COMPILERS, Compiled, compile_model, require_compiler
from onnxmpq.compilers.show import as_dict, lines, stored_in_words
from onnxmpq.compilers.stored import stored, widths
from onnxmpq.compilers.tensorrt_rtx import TESTED
from onnxmpq.compilers.types import Answer, Compiler, Kind, Message, ShapeRange, Stored

__all__ = [
    "COMPILERS",
    "TESTED",
    "Answer",
    "Compiled",
    "Compiler",
    "Kind",
    "Message",
    "ShapeRange",
    "Stored",
    "as_dict",
    "compile_model",
    "lines",
    "require_compiler",
    "stored",
    "stored_in_words",
    "widths",
]
