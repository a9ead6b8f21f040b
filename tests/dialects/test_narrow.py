"""Bit-widths that onnxruntime has no type for: simulated with codes that keep to them, per reader of a tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.schemes import SCHEMES, Scheme, scheme_named
from tests.dialects.cases import LAYERS, NETWORKS, ORT, Case, simulate
from tests.graphs import graph, outputs_of


@dataclass(frozen=True)
class Narrow:
    """A graph and a scheme per region; what is not named runs in int8 where it can."""

    id: str
    case: Case
    schemes: dict[str, str]

    @property
    def assignment(self) -> dict[str, Scheme]:
        plan = self.case.everywhere("int8") | {r: scheme_named(s) for r, s in self.schemes.items()}
        return {r: s for r, s in plan.items() if not s.is_fp32}


def every_layer(case: Case, scheme: str) -> dict[str, str]:
    return {r.name: scheme for r in case.model.layers if ORT.supports(r, scheme_named(scheme), 21)}


TWO_READERS = Case(
    "two readers",
    graph(
        """a = Conv <kernel_shape = [1, 1]> (x, w)
           b = Conv <kernel_shape = [1, 1]> (a, v)
           c = Conv <kernel_shape = [1, 1]> (a, u)
           y = Add (b, c)""",
        "float[N, 16, 6, 6] x",
        "float[N, 16, 6, 6] y",
        "float[16, 16, 1, 1] w, float[16, 16, 1, 1] v, float[16, 16, 1, 1] u",
    ),
)
CASES = [
    *(Narrow(f"{name} {s}", LAYERS[name], every_layer(LAYERS[name], s)) for name in LAYERS for s in ("w2a2", "w5a6")),
    Narrow("residual network", NETWORKS["residual_cnn"], {"Conv_3": "w4a4", "Conv_5": "w3a7", "Gemm_10": "w8a5"}),
    Narrow("after float", NETWORKS["residual_cnn"], {"Conv_0": "fp32", "MaxPool_2": "fp32", "Conv_3": "w4a4"}),
    Narrow("concat", NETWORKS["silu_concat"], {"Conv_0": "w4a4", "Conv_3": "w6a3"}),
    Narrow("readers of different bits", TWO_READERS, {"Conv_1": "w8a3", "Conv_2": "w8a6"}),
    Narrow("one reader of fewer bits", TWO_READERS, {"Conv_1": "w8a3"}),
    Narrow("tokens", NETWORKS["tokens"], every_layer(NETWORKS["tokens"], "w4a4")),
]
CASES = [c for c in CASES if any(s.simulated for s in c.assignment.values())]
parametrized = pytest.mark.parametrize("narrow", CASES, ids=lambda c: c.id)


@parametrized
def test_computes_the_simulation(narrow: Narrow) -> None:
    """In the default session of a CPU whose kernels saturate, with weights that cannot."""
    for optimize in (False, True):
        halved = optimize and probes.saturates()
        proto = narrow.case.rewrite(narrow.assignment, halved=halved)
        onnx.checker.check_model(proto, full_check=True)
        expected = simulate(narrow.case, narrow.assignment, narrow.case.feeds.arrays, halved=halved)
        found = outputs_of(proto, narrow.case.feeds.arrays, optimize=optimize)
        for name, value in expected.items():
            wrong = np.abs(value - found[name]) > 0.02 * np.abs(value).max()
            assert wrong.mean() < 0.02, f"{name}: {wrong.mean():.1%} of the values are more than a step off"


@parametrized
def test_codes_keep_to_their_bits(narrow: Narrow) -> None:
    """As many quantized inputs as readers ask for, each with no more codes than its bits have, most of them used."""
    proto, model = narrow.case.rewrite(narrow.assignment), narrow.case.model
    asked = {(t, s.activation_bits) for n, s in narrow.assignment.items() for t in model.region(n).inputs}
    asked = {(t, bits) for t, bits in asked if bits < 8}
    codes = {n.output[0]: n.output[0] for n in proto.graph.node if n.op_type == "QuantizeLinear" and "bit/" in n.name}
    assert len(codes) == len(asked)
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(c, onnx.TensorProto.UINT8, None) for c in codes)
    found = outputs_of(proto, narrow.case.feeds.arrays, optimize=False)
    for name in codes:
        bits = int(name.split("bit/")[0].rsplit("/", 1)[1])
        assert found[name].max() <= 2**bits - 1
        assert len(np.unique(found[name])) > 2 ** (bits - 1)


def test_schemes_that_are_simulated() -> None:
    assert not any(s.simulated for s in SCHEMES.values())
    assert [scheme_named(n).simulated for n in ("w8a8", "w4a8", "w6a8", "w5a7", "w8a7", "w2a2")] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
