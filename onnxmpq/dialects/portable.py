"""The portable dialect: explicit quantization in plain ONNX, for any runtime that executes Q/DQ as it stands.

Nothing is left out for one runtime's sake: convolutions of any rank, fp8 anywhere, int4 blocks whose last one is
shorter where the inputs are no multiple of the block (as ONNX defines DequantizeLinear).
"""

from __future__ import annotations

from onnxmpq.dialects import explicit

rewrite = explicit.rewrite
supports = explicit.spells
