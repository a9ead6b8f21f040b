"""The dialect of onnxruntime's CUDA provider: float16, and weights in blocks that MatMulNBits reads as they are stored.

Casts are placed as in explicit quantization. No activation is quantized: the provider executes a QuantizeLinear and a
DequantizeLinear, in int8 and in float8, as two kernels in front of a float product, which is slower than the product
alone (docs/gpu.md, onnxruntime's CUDA provider).
Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxmpq.dialects import blocks
from onnxmpq.dialects.explicit import ExplicitWriter, spells
from onnxmpq.dialects.types import Rewrite
from onnxmpq.model import Region
from onnxmpq.rounding import PerBlock
from onnxmpq.schemes import Scheme


def rewrite(job: Rewrite) -> onnx.ModelProto:
    """Write the plan into a copy of the model."""
    return _Writer(job).write()


def supports(region: Region, scheme: Scheme, opset: int) -> bool:
    """True where the provider has one kernel for the region in the scheme."""
    if scheme.is_fp32:
        return True
    if scheme.half != "float16" or scheme.reads.quantized or not spells(region, scheme, opset):
        return False
    return scheme.weight is None or blocks.reads_blocks(region, scheme)


class _Writer(ExplicitWriter):
    def store_weights(self, region: Region, scheme: Scheme) -> None:
        """The head node as MatMulNBits in float16, with its bias, if any."""
        assert isinstance(scheme.weight, PerBlock)
        weights = [self.job.weights[place.key, scheme.weight.name] for place in region.params.weights]
        spelling = blocks.multiplies(region, scheme, weights)
        constants = dict(spelling.constants)
        constants[blocks.SCALES] = constants[blocks.SCALES].astype(np.float16)
        self.compute_inside(region, spelling, constants)

    def casts_bias(self, node: gs.Node) -> bool:
        """False for MatMulNBits, of which onnxruntime 1.23's CPU provider reads no bias that is computed."""
        return bool(node.op != blocks.OP_TYPE)
