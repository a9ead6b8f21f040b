"""The CPU that a converted model is deployed on, as far as it decides which int8 weights compute exactly there.

onnxruntime's kernels of uint8 activations and int8 weights saturate on x86 CPUs without VNNI (`rounding/overflow.py`).
For a deployment CPU that may be one of them, schemes that such kernels run get weights that keep them from saturating.
Sources, and what was tried on the kernels: docs/overflow.md.
"""

from __future__ import annotations

import difflib
import platform
from dataclasses import replace
from enum import StrEnum

from onnxmpq.errors import UsageError
from onnxmpq.model import Region
from onnxmpq.model.kernel_order import sums_neighbours
from onnxmpq.runtime import CPU
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.schemes import Format, Scheme
from onnxmpq.target.types import Target

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
        """Whether kernels of uint8 activations and int8 weights may saturate there."""
        return self in (DeployCpu.ANY, DeployCpu.AVX2)


CHOICES = (*(cpu.value for cpu in DeployCpu if cpu is not DeployCpu.NONE), THIS)
"""What `--deploy-cpu` takes."""


def deploy_cpu(text: str, target: Target, provider: str | None = None) -> DeployCpu:
    """The deployment CPU that `--deploy-cpu` names; `this` is the machine at hand, by what its kernels do.

    provider: onnxruntime execution provider instead of the target's. `NONE` for a target that is not the CPU provider.
    Raises UsageError for a name that does not exist, for one other than `any` where the target is not the CPU
    provider, and for `this` on a CPU that is neither x86-64 nor 64-bit Arm.
    """
    if text not in CHOICES:
        near = difflib.get_close_matches(text.lower(), CHOICES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"--deploy-cpu {text}: no such CPU; {hint}choose one of {', '.join(CHOICES)}")
    if target.runs_on(provider) != CPU:
        if text == DeployCpu.ANY:
            return DeployCpu.NONE
        where = provider or f"target '{target.name}'"
        raise UsageError(f"--deploy-cpu {text}: {where} does not run on onnxruntime's {CPU}; leave the option out")
    return this_cpu() if text == THIS else DeployCpu(text)


def this_cpu() -> DeployCpu:
    """The machine at hand: arm64, or by whether its kernels saturate avx2 or vnni. Raises UsageError for others."""
    machine = platform.machine().lower()
    if machine in _ARM64:
        return DeployCpu.ARM64
    if machine in _X86:
        return DeployCpu.AVX2 if probes.saturates() else DeployCpu.VNNI
    raise UsageError(f"--deploy-cpu {THIS}: no kernels of {machine or 'this CPU'} are known; use --deploy-cpu any")


def scheme_for(region: Region, scheme: Scheme, cpu: DeployCpu) -> Scheme:
    """The scheme with weights that the region's kernel multiplies exactly on the deployment CPU.

    Another weight format is needed only where an integer kernel that adds neighbours along K reads the weights; that of
    a depthwise Conv does not.
    """
    weight, layer = scheme.weight, region.layer
    if not cpu.may_saturate or layer is None or weight is None or scheme.reads is not Format.INT8:
        return scheme
    if not weight.may_saturate or not sums_neighbours(region.op_type, layer.weight_shape, layer.groups):
        return scheme
    return replace(scheme, weight=weight.without_saturation)
