"""Deployment CPUs: what `--deploy-cpu` takes, and which weights it asks for."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

import numpy as np
import pytest

from onnxmpq.deployment import (
    DeployCpu,
    deploy_cpu,
    foreign,
    named,
    needs_exact_integers,
    scheme_for,
    this_cpu,
    unproven,
)
from onnxmpq.errors import UsageError
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.schemes import scheme_named
from onnxmpq.target.load import load_target
from tests.dialects.cases import LAYERS

SATURATING = (DeployCpu.ANY, DeployCpu.AVX2)
FULL_RANGE = (DeployCpu.VNNI, DeployCpu.ARM64, DeployCpu.NONE)


@dataclass(frozen=True)
class Machine:
    """machine: as `platform.machine` says. saturates: what the probe finds there."""

    machine: str
    saturates: bool
    is_: DeployCpu


MACHINES = [
    Machine("x86_64", True, DeployCpu.AVX2),
    Machine("x86_64", False, DeployCpu.VNNI),
    Machine("AMD64", True, DeployCpu.AVX2),
    Machine("aarch64", False, DeployCpu.ARM64),
    Machine("arm64", False, DeployCpu.ARM64),
]


def pretend(monkeypatch: pytest.MonkeyPatch, machine: str, saturates: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(probes, "saturates", lambda: saturates)


@pytest.mark.parametrize("case", MACHINES, ids=lambda c: f"{c.machine} {c.saturates}")
def test_this_is_what_the_kernels_do(case: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, case.machine, case.saturates)
    assert this_cpu() is named("this") is deploy_cpu("this", load_target("cpu")) is case.is_
    assert not foreign(case.is_) and not needs_exact_integers(case.is_)


def test_this_on_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "riscv64", False)
    with pytest.raises(UsageError, match="no kernels of riscv64 are known; use --deploy-cpu any"):
        named("this")
    assert foreign(DeployCpu.VNNI) and not foreign(DeployCpu.ANY)


@pytest.mark.parametrize("saturates", [True, False])
def test_another_cpu_than_this(saturates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full range of int8 is computed otherwise only where this machine saturates."""
    pretend(monkeypatch, "x86_64", saturates)
    assert {cpu for cpu in DeployCpu if needs_exact_integers(cpu)} == (set(FULL_RANGE) if saturates else set())
    here = DeployCpu.AVX2 if saturates else DeployCpu.VNNI
    assert {cpu for cpu in DeployCpu if foreign(cpu)} == {DeployCpu.AVX2, DeployCpu.VNNI, DeployCpu.ARM64} - {here}


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match=r"no such CPU; did you mean avx2"):
        named("avx512")
    with pytest.raises(UsageError, match="--deploy-cpu zx81: no such CPU; choose one of any"):
        named("zx81")
    with pytest.raises(UsageError, match="choose one of"):
        named("none")


@pytest.mark.parametrize("target", ["edge-npu", "h100", "bitfusion-edge"])
def test_targets_that_are_no_cpu(target: str) -> None:
    device = load_target(target)
    assert deploy_cpu("any", device) is DeployCpu.NONE
    with pytest.raises(UsageError, match=f"target '{target}' is none of these CPUs"):
        deploy_cpu("vnni", device)


def test_another_provider_than_the_targets() -> None:
    device = load_target("cpu")
    assert deploy_cpu("avx2", device, "CPUExecutionProvider") is DeployCpu.AVX2
    assert deploy_cpu("any", device, "CUDAExecutionProvider") is DeployCpu.NONE
    with pytest.raises(UsageError, match="CUDAExecutionProvider is none of these CPUs"):
        deploy_cpu("avx2", device, "CUDAExecutionProvider")


@pytest.mark.parametrize("scheme", ["int8", "w4a8", "w5a8", "w6a8"])
@pytest.mark.parametrize("layer", ["conv", "pointwise", "matmul", "gemm"])
def test_kernels_that_add_neighbours_get_other_weights(layer: str, scheme: str) -> None:
    [region] = LAYERS[layer].model.layers
    before = scheme_named(scheme)
    assert before.weight is not None
    for cpu in SATURATING:
        found = scheme_for(region, before, cpu)
        assert found.weight is not None and found.weight.saturation_free
        assert found.weight.name == f"{before.weight.name}_saturation_free"
        assert replace(found, weight=before.weight) == before
        assert scheme_for(region, found, cpu) == found
    for cpu in FULL_RANGE:
        assert scheme_for(region, before, cpu) is before


@dataclass(frozen=True)
class Unchanged:
    """A layer whose kernel computes this scheme exactly, or not in integers at all."""

    layer: str
    scheme: str


@pytest.mark.parametrize(
    "case",
    [
        Unchanged("depthwise", "int8"),
        Unchanged("conv", "w8"),
        Unchanged("matmul", "w4"),
        Unchanged("matmul", "w8b128"),
        Unchanged("matmul", "w8a8-int8"),
        Unchanged("conv", "fp32"),
        Unchanged("conv", "w7a8"),
        Unchanged("conv", "w8a7"),
    ],
    ids=lambda c: f"{c.scheme} of {c.layer}",
)
def test_other_kernels_keep_theirs(case: Unchanged) -> None:
    [region] = LAYERS[case.layer].model.layers
    scheme = scheme_named(case.scheme)
    assert all(scheme_for(region, scheme, cpu) is scheme for cpu in DeployCpu)


def test_weights_beyond_the_bound_are_counted_in_the_kernels_order() -> None:
    """Two input channels of a 3x3 window are neighbours; two positions of one channel are not."""
    case = LAYERS["conv"]
    [region] = case.model.layers
    assignment = {region.name: scheme_named("int8")}
    [(key, weight)] = case.weights(assignment).items()
    codes = np.zeros_like(weight.codes)  # [16, 3 channels · 9 positions], channels first
    codes[0, [0, 1]] = 127  # one channel, two positions: 3 apart in the kernel
    codes[1, [0, 9]] = 127  # one position, channels 0 and 1: side by side
    codes[2, [9, 18]] = 127  # channels 1 and 2: in two pairs
    found = {key: replace(weight, codes=codes)}
    assert [unproven(case.model, assignment, found, cpu) for cpu in SATURATING] == [[(region.name, 1, 16)]] * 2
    assert not any(unproven(case.model, assignment, found, cpu) for cpu in FULL_RANGE)
