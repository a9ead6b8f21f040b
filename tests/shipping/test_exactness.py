"""The proof of exact int8 arithmetic: by the written graph alone, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from onnxmpq.deployment import DeployCpu
from onnxmpq.dialects import Rewrite
from onnxmpq.rounding.types import CodeArray
from onnxmpq.schemes import Scheme
from onnxmpq.shipping import Exactness
from tests.dialects.cases import LAYERS, NETWORKS, ORT, Case


def proof(case: Case, codes_of: dict[str, CodeArray], assignment: dict[str, Scheme], cpu: DeployCpu) -> Exactness:
    """Of a case written with these codes."""
    weights = {k: replace(w, codes=codes_of.get(k[0], w.codes)) for k, w in case.weights(assignment).items()}
    proto = ORT.rewrite(Rewrite(case.model, assignment, case.activations, weights, case.model.roots))
    return Exactness.of(proto, case.model, assignment, cpu)


def neighbours(case: Case, left: int, right: int) -> dict[str, CodeArray]:
    """Codes of the case's one layer with this pair at the front, zeros elsewhere."""
    [region] = case.model.layers
    codes = np.zeros((region.params.out_channels, region.params.fan_in), np.int8)
    codes[0, :2] = left, right
    return {region.name: codes}


@dataclass(frozen=True)
class Said:
    """What is said of a MatMul with a pair of weights in its first channel."""

    pair: tuple[int, int]
    cpu: DeployCpu
    proven: bool
    words: str


SATURATES, LOWEST = (127, 2), (-128, 0)
SAID = [
    Said((127, 1), DeployCpu.ANY, True, "exact on every supported CPU (proven: 1 layer)"),
    Said((127, 1), DeployCpu.VNNI, True, "exact on every supported CPU (proven: 1 layer)"),
    Said(
        SATURATES,
        DeployCpu.ANY,
        False,
        "NOT proven exact on every supported CPU; 1 of 1 layer can saturate on x86 CPUs without VNNI: MatMul_0",
    ),
    Said(
        SATURATES,
        DeployCpu.AVX2,
        False,
        "NOT proven exact on x86 CPUs with and without VNNI; 1 of 1 layer can saturate on x86 CPUs without VNNI: "
        "MatMul_0",
    ),
    Said(
        SATURATES,
        DeployCpu.VNNI,
        True,
        "exact on CPUs with VNNI; 1 of 1 layer can saturate on x86 CPUs without it",
    ),
    Said(
        SATURATES,
        DeployCpu.ARM64,
        True,
        "exact on 64-bit Arm CPUs; 1 of 1 layer can saturate on x86 CPUs without VNNI",
    ),
    Said(LOWEST, DeployCpu.AVX2, True, "exact on x86 CPUs with and without VNNI (proven: 1 layer)"),
    Said(
        LOWEST,
        DeployCpu.ANY,
        False,
        "NOT proven exact on every supported CPU; 1 of 1 layer can be wrong on Arm CPUs without dot products "
        "(weights of -128): MatMul_0",
    ),
]


@pytest.mark.parametrize("case", SAID, ids=lambda c: f"{c.pair} on {c.cpu}")
def test_what_is_said(case: Said) -> None:
    layer = LAYERS["matmul"]
    found = proof(layer, neighbours(layer, *case.pair), layer.everywhere("int8"), case.cpu)
    assert found.proven == case.proven
    assert found.in_words() == f"int8 arithmetic: {case.words}"


def test_many_nodes_are_counted_and_the_first_ones_named() -> None:
    case = NETWORKS["residual_cnn"]
    names = [r.name for r in case.model.layers]
    codes = {r.name: np.full((r.params.out_channels, r.params.fan_in), 127, np.int8) for r in case.model.layers}
    found = proof(case, codes, case.everywhere("int8"), DeployCpu.ANY)
    assert found.layers == len(names) == 4  # regions without weights compute in int8 too, and do not count
    assert found.saturating == tuple(names)
    assert f"4 of 4 layers can saturate on x86 CPUs without VNNI: {', '.join(names[:3])} and 1 more" in found.in_words()


def test_weights_that_are_unfolded_are_proven_too() -> None:
    case = LAYERS["matmul"]
    found = proof(case, {}, case.everywhere("w4a8"), DeployCpu.ANY)
    assert found.layers == 1 and found.saturating == ("MatMul_0",)


def test_depthwise_is_exact_with_any_weights() -> None:
    case = LAYERS["depthwise"]
    found = proof(case, neighbours(case, 127, 127), case.everywhere("int8"), DeployCpu.ANY)
    assert found.proven and found.layers == 1


@pytest.mark.parametrize("scheme", ["w8", "w4"])
def test_there_is_nothing_to_say_of_float_arithmetic(scheme: str) -> None:
    case = LAYERS["matmul"]
    found = proof(case, {}, case.everywhere(scheme), DeployCpu.ANY)
    assert found.proven and found.in_words() == ""


def test_nor_of_a_target_that_is_no_cpu() -> None:
    case = LAYERS["matmul"]
    found = proof(case, neighbours(case, 127, 127), case.everywhere("int8"), DeployCpu.NONE)
    assert found.proven and found.in_words() == ""


def test_blocked_kernels_are_not_covered() -> None:
    found = Exactness(DeployCpu.ANY, 3, (), (), weight_only=2)
    assert found.in_words().endswith("(proven: 3 layers); not covered: 2 layers in MatMulNBits at accuracy level 4")


@dataclass(frozen=True)
class Blocked:
    """A scheme of blocks, and what is said of a layer in it on every CPU."""

    scheme: str
    words: str

    @property
    def id(self) -> str:
        return self.scheme


@pytest.mark.parametrize(
    "case",
    [
        Blocked("w4b32", "int8 arithmetic: not covered: 1 layer in MatMulNBits at accuracy level 4"),
        Blocked("w4b32-level0", ""),
    ],
    ids=lambda case: case.id,
)
def test_blocked_kernels_that_round_activations_are_named(case: Blocked) -> None:
    layer = LAYERS["matmul"]
    found = proof(layer, {}, layer.everywhere(case.scheme), DeployCpu.ANY)
    assert found.proven and found.in_words() == case.words


@pytest.mark.parametrize("cpu", DeployCpu)
@pytest.mark.parametrize("here", [False, True])
def test_it_may_saturate_here_alone(cpu: DeployCpu, here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.shipping.exactness.probes.saturates", lambda: here)
    saturating = Exactness(cpu, 1, ("MatMul_0",), ())
    assert saturating.only_there == (here and cpu in (DeployCpu.VNNI, DeployCpu.ARM64))
    assert not Exactness(cpu, 1, (), ()).only_there
