"""A target: the device a model is converted for, the schemes that it runs, and the source of its costs.

A target is one TOML file (docs/targets.md). Every figure of a modelled target carries its source: the URL it was
read from, or the assumption it stands on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from onnxmpq.errors import TargetError, UsageError
from onnxmpq.model import Model, Step
from onnxmpq.runtimes import Rules, Runtime, plain_rules

CostSource = Literal["measured", "roofline", "lookup"]
BitLaw = Literal["bricks", "serial"]
Transitions = Literal["fused", "separate"]
Menus = dict[str, tuple[str, ...]]

BITS = "bits"
"""Compute format of bit-scalable hardware: its rate and energy follow from the operands' bit-widths."""


@dataclass(frozen=True)
class Figure:
    """A number of a target file, in the unit its field names, and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Kernel:
    """Execution of one scheme on a modelled target.

    compute: a row of `Roofline.macs_per_s`, or `BITS`.
    weight_bits, activation_bits: of the operands as the hardware sees them; None = as the scheme says.
    unfolds_to: bits per weight that a separate dequantization writes before the kernel reads them; None where the
        kernel reads the stored weights itself.
    rows_inside: of activations, up to which another kernel reads the stored weights itself all the same.
    """

    compute: str
    source: str
    weight_bits: int | None = None
    activation_bits: int | None = None
    unfolds_to: int | None = None
    rows_inside: int = 0


@dataclass(frozen=True)
class BitScaling:
    """Arithmetic whose cost depends on the operands' bits w (weights) and a (activations).

    law "bricks": ⌈w/2⌉·⌈a/2⌉ two-bit multipliers are fused for one product (BitFusion, arXiv 1712.01507).
    law "serial": one bit of either operand at a time, w·a steps (BISMO, arXiv 1806.08862).
    widths: operand widths the hardware has, ascending; others run in the next larger one.
    steps_per_s: bricks or single-bit steps per second of the whole array.
    """

    law: BitLaw
    widths: tuple[int, ...]
    steps_per_s: Figure

    def steps(self, weight_bits: int, activation_bits: int) -> int:
        """Bricks or single-bit steps of one multiply-accumulate."""
        w, a = self._width(weight_bits), self._width(activation_bits)
        return w * a if self.law == "serial" else -(-w // 2) * -(-a // 2)

    def _width(self, bits: int) -> int:
        return next((width for width in self.widths if width >= bits), self.widths[-1])


@dataclass(frozen=True)
class Energy:
    """Joules. Every byte moved passes main memory and on-chip memory once.

    mac_j: per multiply-accumulate, by compute format. step_j: per brick or single-bit step (`BitScaling`).
    """

    dram_j_per_byte: Figure
    on_chip_j_per_byte: Figure
    mac_j: dict[str, Figure]
    step_j: Figure | None


@dataclass(frozen=True)
class NarrowGroups:
    """Convolutions of few channels a group, which a compiler pads in 8 bits.

    fewest_channels: a group, which are not padded. weight_bits: in the engine, of each weight of smaller groups.
    """

    fewest_channels: int
    weight_bits: Figure


@dataclass(frozen=True)
class Roofline:
    """Peak rates of a modelled target.

    macs_per_s: multiply-accumulates per second by compute format. launch_s: fixed seconds per kernel.
    float_bits: of an activation or weight left in float (32, or 16 on targets that compute in half precision).
    transitions: "fused" where (de)quantization is the last step of the kernel before, else a kernel of its own.
    batch: samples that share one pass over the weights; all costs are those of one sample.
    kernels: scheme name -> how it runs.
    narrow_groups: what grouped convolutions take in 8 bits; None where they take no more than others.
    """

    bandwidth_bytes_per_s: Figure
    launch_s: Figure
    float_bits: int
    transitions: Transitions
    batch: int
    macs_per_s: dict[str, Figure]
    bits: BitScaling | None
    kernels: dict[str, Kernel]
    energy: Energy | None
    narrow_groups: NarrowGroups | None = None


@dataclass(frozen=True)
class Lookup:
    """A published table, layer x weight bits x activation bits.

    latency, energy: `.npy` or `.csv` files; seconds_per_unit, joules_per_unit: what one unit of their entries is.
    first_bits: bit-width of index 0 on both bit axes of an `.npy` (HAQ: 1).
    float_bits: the entry, same bits for both operands, that stands for layers left in float (HAQ: 8).
    """

    latency: Path
    seconds_per_unit: float
    energy: Path | None
    joules_per_unit: float
    first_bits: int
    float_bits: int


@dataclass(frozen=True)
class Target:
    """A device, the schemes it offers and its costs.

    menu: operator -> names of the schemes for layers (constant weights), before any proof that they fuse.
    activation_menu: operator -> the same for regions without weights.
    runtime: that models run on and are measured on; None where the target exists only as a model.
    provider: of the runtime, if it has several; None for its default.
    merging: where it is said that the target merges layers that read one tensor and have the same scheme; empty where
        it does not.
    capability: by which the dialect's compiler knows the device, such as sm89; "" where it does not compile for it.
    """

    name: str
    description: str
    sources: tuple[str, ...]
    dialect: str
    runtime: Runtime | None
    provider: str | None
    cost: CostSource
    menu: Menus
    activation_menu: Menus
    roofline: Roofline | None = None
    lookup: Lookup | None = None
    merging: str = ""
    capability: str = ""

    @property
    def merges_layers(self) -> bool:
        """See `Runtime.merges_layers`; as its file says for a modelled target."""
        return self.runtime.merges_layers if self.measured and self.runtime is not None else bool(self.merging)

    @property
    def measured(self) -> bool:
        """True where plans are timed on the runtime, on this machine."""
        return self.cost == "measured"

    @property
    def unfolds_weights(self) -> bool:
        """See `Runtime.unfolds_weights`; False for a modelled target, whose file says so by scheme."""
        return self.measured and self.runtime is not None and self.runtime.unfolds_weights

    def rules(self, model: Model, ranks: Mapping[str, int]) -> Rules:
        """The runtime's rules for a model; plain ones for a modelled target. ranks: tensor -> number of dimensions."""
        if self.measured and self.runtime is not None:
            return self.runtime.rules(model, ranks)
        return plain_rules(model)

    def takes(self, step: Step, provider: str | None = None) -> bool:
        """See `Runtime.takes`, of a target that is measured on the runtime that its dialect is for. provider: None for
        the target's own."""
        if not self.measured or self.runtime is None or self.dialect != self.runtime.name:
            return False
        return self.runtime.takes(step, provider or self.provider)

    @property
    def has_energy(self) -> bool:
        """True where a budget in joules can be planned for."""
        if self.roofline is not None:
            return self.roofline.energy is not None
        return self.lookup is not None and self.lookup.energy is not None

    def serving(self, batch: int) -> Target:
        """The target computing so many samples at a time. Raises UsageError where its costs are not modelled so."""
        if self.roofline is None:
            raise UsageError(f"a batch size is for targets with a roofline; costs of {self.name} are {self.cost}")
        if batch < 1:
            raise UsageError(f"a batch has at least one sample, not {batch}")
        return replace(self, roofline=replace(self.roofline, batch=batch))

    def require_energy(self) -> None:
        """Raises TargetError where the target has no energies."""
        if not self.has_energy:
            raise TargetError(
                f"target '{self.name}' has no energies, so an energy budget cannot be planned for it; use a modelled "
                "target, or one whose file has [energy]"
            )

    def runs_on(self, asked: str | None) -> str | None:
        """The execution provider to measure on; None for a modelled target. Raises UsageError where one is asked for
        that would not be used."""
        if self.measured:
            return asked or self.provider
        if asked is not None:
            raise UsageError(f"--provider {asked}: the costs of target '{self.name}' are modelled, nothing runs there")
        return None
