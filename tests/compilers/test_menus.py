"""Menus of targets follow the compiler: what they offer a layer builds, and its weights stay narrow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from onnxmpq.compilers import compile_model
from onnxmpq.context import Context
from onnxmpq.dialects import DIALECTS
from onnxmpq.isolation import Child
from onnxmpq.menu import Menu, candidates, observed_tensors
from onnxmpq.model import Model, prepare
from onnxmpq.ranges import observe
from onnxmpq.target import available_targets
from onnxmpq.workbench import prepare_bench
from tests.graphs import feeds_for, graph

pytest.importorskip("tensorrt_rtx", reason='needs the compiler: pip install "onnxmpq[tensorrt]"')

TARGETS = [t for t in available_targets() if t.capability]
GRAPHS = {
    "products": graph(
        "m = MatMul (x, w) r = Relu (m) a = MatMul (r, v) t = Add (a, x) u = MatMul (t, t2) y = Add (u, x)",
        "float[1, 64, 64] x, float[1, 64, 64] t2",
        "float[1, 64, 64] y",
        "float[64, 128] w, float[128, 64] v",
    ),
    "convolutions": graph(
        """c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w) r = Relu (c)
           s = Add (r, x) e = Conv <kernel_shape = [1, 1]> (s, v)
           t = ConvTranspose <strides = [2, 2]> (e, q) g = GlobalAveragePool (t) f = Flatten (g)
           y = Gemm <transB = 1> (f, h)""",
        "float[1, 32, 16, 16] x",
        "float[1, 64] y",
        "float[32, 32, 3, 3] w, float[64, 32, 1, 1] v, float[64, 64, 2, 2] q, float[64, 64] h",
    ),
}


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    found = Child("TensorRT-RTX")
    yield found
    found.close()


def menu_in(model: Model, target_index: int, scheme: str) -> Menu:
    target = TARGETS[target_index]
    return candidates(model, target, DIALECTS[target.dialect], (), [scheme])


@pytest.mark.parametrize("index", range(len(TARGETS)), ids=lambda i: TARGETS[i].name)
@pytest.mark.parametrize("kind", GRAPHS)
def test_what_is_offered_builds_and_stays_narrow(kind: str, index: int, child: Child) -> None:
    target, model = TARGETS[index], prepare(GRAPHS[kind])
    whole = candidates(model, target, DIALECTS[target.dialect])
    schemes = sorted({s.name for row in whole.values() for s in row} - {"fp32"})
    assert len(schemes) >= 3
    for scheme in schemes:
        menu = menu_in(model, index, scheme)
        observation = observe(model, feeds_for(model.proto, 2), observed_tensors(model, menu))
        bench = prepare_bench(model, menu, observation, DIALECTS[target.dialect], Context())
        plan = {name: row[-1] for name, row in menu.items() if not row[-1].is_fp32}
        assert plan, scheme
        found = compile_model(bench.build(plan), target.capability, child=child)
        assert found.built, (scheme, found.errors)
        own = {k.element: round(8 * k.bytes / k.elements) for k in found.constants.kinds}
        assert not own or found.widths == own, (scheme, found.answer, found.constants)
