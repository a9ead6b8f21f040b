"""Weight formats, one class per file. A new one is a file here and a line in the tables of dialects that spell it."""

from onnxmpq.rounding.formats.block import PerBlock
from onnxmpq.rounding.formats.channel import PerChannel
from onnxmpq.rounding.formats.dual import Dual
from onnxmpq.rounding.formats.fp8 import Fp8
from onnxmpq.rounding.formats.fp8_dual import Fp8Dual

__all__ = ["Dual", "Fp8", "Fp8Dual", "PerBlock", "PerChannel"]
