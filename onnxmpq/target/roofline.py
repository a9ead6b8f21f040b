"""Costs of a model on a modelled target: for every region the roofline, max(arithmetic, memory traffic) + launch.

time = max(macs / rate of the compute format, bytes / bandwidth) + launch
energy = macs · joules per multiply-accumulate + bytes · (joules per byte of main memory + of on-chip memory)

bytes are the weights as stored and every input and output once, in the format the scheme reads and writes. What a
region reads with fewer bits than its producer wrote is charged at the fewer bits (requantization is part of the
producer's kernel). Regions without weights move bytes only, except for products of two activations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxmpq.cost import CostTable, Menu, Transition, edges_of
from onnxmpq.errors import TargetError
from onnxmpq.model import Layer, Model, Region, multiply_accumulates
from onnxmpq.schemes import FP32, Format, Scheme, scheme_named, writes
from onnxmpq.target.types import BITS, Kernel, Roofline, Target

Shapes = Mapping[str, Sequence[int]]

FREE_OPS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators that only rename a tensor's dimensions: no kernel runs."""

_INT8_BITS = 8
_HALF_BITS = 16


@dataclass(frozen=True)
class _Cost:
    seconds: float
    joules: float


def roofline_table(model: Model, target: Target, shapes: Shapes, menu: Menu) -> CostTable:
    """Modelled costs of every region in fp32 and in each scheme of its menu, and of changing each tensor's format.

    shapes: tensor -> its dimensions, for all float tensors; costs are those of one run at these shapes.
    Raises TargetError where the target is no roofline, a shape is missing, or a scheme has no kernel on it.
    """
    if target.roofline is None:
        raise TargetError(f"target '{target.name}' has no roofline; its costs are {target.cost}")
    machine = _Machine(target.name, target.roofline, shapes)
    fp32 = scheme_named(FP32)
    costs = {
        region.name: {
            s.name: machine.region(region, s) for s in {fp32: None, **dict.fromkeys(menu.get(region.name, ()))}
        }
        for region in model.regions
    }
    has_energy = target.has_energy
    return CostTable(
        node_s={name: {scheme: cost.seconds for scheme, cost in row.items()} for name, row in costs.items()},
        shared={tensor: machine.transition(tensor) for tensor in dict.fromkeys(e.tensor for e in edges_of(model))},
        meta={"target": target.name, "cost": target.cost},
        node_j={n: {scheme: c.joules for scheme, c in row.items()} for n, row in costs.items()} if has_energy else {},
    )


@dataclass(frozen=True)
class _Machine:
    """A roofline and the sizes of the tensors that it works on."""

    name: str
    roofline: Roofline
    shapes: Shapes

    def region(self, region: Region, scheme: Scheme) -> _Cost:
        """One region in one scheme: seconds and joules per sample."""
        if region.op_type in FREE_OPS and region.layer is None:
            return _Cost(0.0, 0.0)
        kernel = self.kernel(scheme)
        read_bits = self._activation_bits(kernel, scheme, scheme.reads)
        write_bits = self._activation_bits(kernel, scheme, writes(scheme, region.op_type))
        read, written = self._elements(region.inputs), self._elements(region.outputs)
        bits = float(read * read_bits + written * write_bits)
        launches = 1.0
        if region.layer is not None:
            bits += self._weight_traffic(region, region.layer, kernel, scheme) / self.roofline.batch
            launches += self._unfolds(region, region.layer, kernel)
        return self._cost(multiply_accumulates(region, self._shape), kernel, scheme, bits / 8, launches)

    def transition(self, tensor: str) -> Transition:
        """Changing a tensor's format, once for all its readers. Fused: the copy is written by the kernel before."""
        elements = self._elements((tensor,))
        wide, narrow = self.roofline.float_bits, _INT8_BITS
        separate = self.roofline.transitions == "separate"
        launches = 1.0 if separate else 0.0
        both = (wide + narrow) * elements / 8
        quantize = self._moved(both if separate else narrow * elements / 8, launches)
        dequantize = self._moved(both if separate else wide * elements / 8, launches)
        return Transition(
            quantize_s=quantize.seconds,
            dequantize_s=dequantize.seconds,
            quantize_j=quantize.joules,
            dequantize_j=dequantize.joules,
        )

    def kernel(self, scheme: Scheme) -> Kernel:
        """The target's own entry; on bit-scalable hardware a scheme runs in the bits it is quantized to."""
        if scheme.name in self.roofline.kernels:
            return self.roofline.kernels[scheme.name]
        if self.roofline.bits is not None and scheme.reads.quantized:
            return Kernel(BITS, self.roofline.bits.steps_per_s.source)
        raise TargetError(
            f"target '{self.name}' does not say how '{scheme.name}' runs; add [roofline.kernels.{scheme.name}]"
        )

    def _cost(self, macs: int, kernel: Kernel, scheme: Scheme, bytes_moved: float, launches: float) -> _Cost:
        moved = self._moved(bytes_moved, 0.0)
        compute = self._compute(macs, kernel, scheme)
        launch_s = launches * self.roofline.launch_s.value / self.roofline.batch
        return _Cost(max(compute.seconds, moved.seconds) + launch_s, compute.joules + moved.joules)

    def _moved(self, bytes_moved: float, launches: float) -> _Cost:
        energy = self.roofline.energy
        per_byte = energy.dram_j_per_byte.value + energy.on_chip_j_per_byte.value if energy else 0.0
        launch_s = launches * self.roofline.launch_s.value / self.roofline.batch
        return _Cost(bytes_moved / self.roofline.bandwidth_bytes_per_s.value + launch_s, bytes_moved * per_byte)

    def _compute(self, macs: int, kernel: Kernel, scheme: Scheme) -> _Cost:
        roofline, energy = self.roofline, self.roofline.energy
        if kernel.compute == BITS and roofline.bits is not None:
            weight_bits = kernel.weight_bits or (scheme.weight.bits if scheme.weight else scheme.activation_bits)
            steps = macs * roofline.bits.steps(weight_bits, kernel.activation_bits or scheme.activation_bits)
            per_step = energy.step_j.value if energy and energy.step_j else 0.0
            return _Cost(steps / roofline.bits.steps_per_s.value, steps * per_step)
        per_mac = energy.mac_j[kernel.compute].value if energy else 0.0
        return _Cost(macs / roofline.macs_per_s[kernel.compute].value, macs * per_mac)

    def _activation_bits(self, kernel: Kernel, scheme: Scheme, side: Format) -> int:
        if side is not Format.FLOAT:
            return kernel.activation_bits or scheme.activation_bits
        if scheme.half is not None and scheme.reads.quantized:
            return _HALF_BITS
        computes_in_float = scheme.reads is Format.FLOAT
        return (kernel.activation_bits if computes_in_float else None) or self.roofline.float_bits

    def _weight_traffic(self, region: Region, layer: Layer, kernel: Kernel, scheme: Scheme) -> float:
        """Bits moved for the weights in one pass over them; of an embedding only the rows that are looked up.

        A separate dequantization reads the stored weights and writes the unfolded ones, which the layer then reads.
        """
        stored = weight_bits(layer, kernel, scheme, self.roofline.float_bits)
        if scheme.reads.quantized and scheme.weight is not None and self._pads(region, layer):
            stored += layer.parameters * self._padding_bits(kernel.weight_bits or scheme.weight.bits)
        unfolded = 2.0 * layer.parameters * (kernel.unfolds_to or 0) * self._unfolds(region, layer, kernel)
        share = self._elements(region.outputs) / layer.parameters if region.operator.looks_up else 1.0
        return (stored + unfolded) * share

    def _unfolds(self, region: Region, layer: Layer, kernel: Kernel) -> bool:
        """True where a kernel of its own unfolds the weights."""
        if kernel.unfolds_to is None:
            return False
        rows = multiply_accumulates(region, self._shape) * self.roofline.batch // layer.parameters
        return rows > kernel.rows_inside

    def _pads(self, region: Region, layer: Layer) -> bool:
        """True for a grouped convolution that the device's compiler pads in 8 bits."""
        groups = self.roofline.narrow_groups
        if groups is None or not region.operator.convolves or layer.groups == 1:
            return False
        return layer.fan_in // math.prod(layer.weight_shape[2:]) < groups.fewest_channels

    def _padding_bits(self, stored: int) -> float:
        """Bits that a weight takes in the engine beyond those in which the model stores it."""
        groups = self.roofline.narrow_groups
        return max(groups.weight_bits.value - stored, 0.0) if groups is not None else 0.0

    def _elements(self, tensors: Sequence[str]) -> int:
        return sum(math.prod(self._shape(tensor)) for tensor in tensors)

    def _shape(self, tensor: str) -> Sequence[int]:
        if tensor not in self.shapes:
            raise TargetError(f"target '{self.name}' cannot be planned for: the shape of tensor '{tensor}' is unknown")
        return self.shapes[tensor]


def weight_bits(layer: Layer, kernel: Kernel, scheme: Scheme, float_bits: int) -> float:
    """Bits that a layer's weights take in the target's memory: codes packed to their own width, and their scales."""
    if scheme.weight is None:
        return layer.parameters * (kernel.weight_bits or float_bits)
    codes = layer.parameters * (kernel.weight_bits or scheme.weight.bits)
    return codes + sum(scheme.weight.side_bits(w.out_channels, w.fan_in) for w in layer.weights)
