"""Each weight format has a spelling, and no dialect offers one that it cannot spell."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from onnxmpq.dialects import DIALECTS
from onnxmpq.rounding import PerChannel, WeightFormat
from onnxmpq.schemes import SCHEMES, Format, Scheme

from .cases import LAYERS

OPSET = 21


@dataclass(frozen=True)
class Unknown(PerChannel):
    """A format that no dialect knows; what it inherits from is no reason to spell it."""


@pytest.mark.parametrize("name", [n for n, s in SCHEMES.items() if s.weight is not None])
def test_formats_of_all_schemes_are_spelled(name: str) -> None:
    regions = [r for case in LAYERS.values() for r in case.model.layers]
    assert any(d.supports(r, SCHEMES[name], OPSET) for d in DIALECTS.values() for r in regions)


@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize("weight", [PerChannel(8), Unknown(8)], ids=["known", "unknown"])
def test_a_format_without_a_spelling_is_not_offered(dialect: str, weight: WeightFormat) -> None:
    reads = Format.INT8 if dialect == "onnxruntime" else Format.SYMMETRIC_INT8
    regions = [r for case in LAYERS.values() for r in case.model.layers]
    offered = [r for r in regions if DIALECTS[dialect].supports(r, Scheme("some", "", weight, reads), OPSET)]
    assert bool(offered) == (type(weight) is PerChannel)
