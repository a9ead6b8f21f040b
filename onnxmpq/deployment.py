"""The CPU that a converted model is deployed on, as far as it decides which int8 weights compute exactly there.

onnxruntime's kernels of uint8 activations and int8 weights saturate on x86 CPUs without VNNI (`rounding/overflow.py`).
For a deployment CPU that may be one of them, schemes that such kernels run get weights that keep them from saturating.
Sources, and what was tried on the kernels: docs/overflow.md.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

import numpy as np

from onnxmpq.errors import UsageError
from onnxmpq.files import nearest
from onnxmpq.model import Model, Region
from onnxmpq.ranges import BITS
from onnxmpq.rounding import QuantizedWeight, overflowing_channels
from onnxmpq.runtimes import kernel_columns, probes, sums_neighbours
from onnxmpq.schemes import Format, Scheme
from onnxmpq.target import Target

THIS = "this"
_X86, _ARM64 = frozenset({"x86_64", "amd64"}), frozenset({"aarch64", "arm64"})


class DeployCpu(StrEnum):
    """any: every supported CPU. avx2: x86 without VNNI. vnni: x86 with VNNI. arm64. none: the target is no CPU."""

    ANY = "any"
    AVX2 = "avx2"
    VNNI = "vnni"
    ARM64 = "arm64"
    NONE = "none"

    @property
    def may_saturate(self) -> bool:
        """True if kernels of uint8 activations and int8 weights may saturate there."""
        return self in (DeployCpu.ANY, DeployCpu.AVX2)


CHOICES = (*(cpu.value for cpu in DeployCpu if cpu is not DeployCpu.NONE), THIS)
"""Values of `--deploy-cpu`."""


def named(text: str) -> DeployCpu:
    """The CPU of that name; `this` is the machine at hand, by what its kernels do.

    Raises UsageError for a name that does not exist, and for `this` on a CPU that is neither x86-64 nor 64-bit Arm.
    """
    if text not in CHOICES:
        raise UsageError(f"--deploy-cpu {text}: no such CPU; {nearest(text, CHOICES, 'choose one of')}")
    return this_cpu() if text == THIS else DeployCpu(text)


def deploy_cpu(text: str, target: Target, provider: str | None = None) -> DeployCpu:
    """The deployment CPU that `--deploy-cpu` names for a target.

    provider: instead of the target's. `NONE` for a target whose kernels are not those that saturate. Raises UsageError
    as `named` does, and for a name other than `any` there.
    """
    found = named(text)
    if target.measured and target.runtime is not None and target.runtime.saturating_cpu(target.runs_on(provider)):
        return found
    if text != DeployCpu.ANY:
        where = provider or f"target '{target.name}'"
        raise UsageError(f"--deploy-cpu {text}: {where} is none of these CPUs; leave the option out")
    return DeployCpu.NONE


def this_cpu() -> DeployCpu:
    """The machine at hand: arm64, or by whether its kernels saturate avx2 or vnni. Raises UsageError for others."""
    machine = platform.machine().lower()
    if machine in _ARM64:
        return DeployCpu.ARM64
    if machine in _X86:
        return DeployCpu.AVX2 if probes.saturates() else DeployCpu.VNNI
    raise UsageError(f"--deploy-cpu {THIS}: no kernels of {machine or 'this CPU'} are known; use --deploy-cpu any")


def needs_exact_integers(cpu: DeployCpu) -> bool:
    """True if sessions that measure quality have to ask for exact integers (`SessionSettings.exact_integers`): weights
    may have the full range of int8, which the deployment CPU computes exactly and the machine at hand does not."""
    return not cpu.may_saturate and probes.saturates()


def foreign(cpu: DeployCpu) -> bool:
    """True if the deployment CPU is another kind than the machine at hand, whose latency is then not the one there."""
    if cpu in (DeployCpu.ANY, DeployCpu.NONE):
        return False
    try:
        return cpu is not this_cpu()
    except UsageError:  # this machine is none of them
        return True


def scheme_for(region: Region, scheme: Scheme, cpu: DeployCpu) -> Scheme:
    """The scheme with weights that the region's kernel multiplies exactly on the deployment CPU.

    Only an integer kernel that adds neighbours along K needs other weights; that of a depthwise Conv does not.
    """
    if not cpu.may_saturate or not _adds_in_16_bits(region, scheme):
        return scheme
    assert scheme.weight is not None
    return replace(scheme, weight=scheme.weight.without_saturation)


def unproven(
    model: Model,
    assignment: Mapping[str, Scheme],
    weights: Mapping[tuple[str, str], QuantizedWeight],
    cpu: DeployCpu,
) -> list[tuple[str, int, int]]:
    """Regions whose weights the deployment CPU may compute otherwise than the graph says: (region, channels, of).

    weights: as in `Workbench`, by region and name of the weight format. Activation codes may be up to 255. Empty where
    every weight obeys the bound (`rounding/overflow.py`), or where the CPU needs none.
    """
    found: list[tuple[str, int, int]] = []
    for region in model.layers if cpu.may_saturate else ():
        scheme = assignment.get(region.name)
        if scheme is None or scheme.weight is None or not _adds_in_16_bits(region, scheme):
            continue
        wrong = channels = 0
        for place in region.params.weights:
            codes = weights[place.key, scheme.weight.name].int8_codes()
            ordered = codes[:, kernel_columns(region.op_type, place)]
            wrong, channels = wrong + int(np.count_nonzero(overflowing_channels(ordered))), channels + len(codes)
        if wrong:
            found.append((region.name, wrong, channels))
    return found


def _adds_in_16_bits(region: Region, scheme: Scheme) -> bool:
    """True if some weights of the scheme's format, or of its unrestricted twin, saturate the region's x86 kernel."""
    weight, layer = scheme.weight, region.layer
    if layer is None or weight is None or not weight.may_saturate:
        return False
    if scheme.reads is not Format.INT8 and not scheme.dynamic:
        return False
    if scheme.unsigned_weights:  # kernels of uint8 weights multiply in 32 bits
        return False
    return scheme.activation_bits == BITS and sums_neighbours(region.op_type, layer.weight_shape, layer.groups)
