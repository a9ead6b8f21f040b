"""Each weight format has a spelling, and no dialect offers one that it cannot spell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from onnxmpq.dialects import DIALECTS
from onnxmpq.rounding import PerBlock, PerChannel, WeightFormat
from onnxmpq.schemes import SCHEMES, Format, Scheme

from .cases import LAYERS

OPSET = 21


@dataclass(frozen=True)
class Unknown(PerChannel):
    """A format that no dialect knows; what it inherits from is no reason to spell it."""


@dataclass(frozen=True)
class UnknownBlock(PerBlock):
    """The same for blocks."""


BLOCK = {"block": 32, "scale_type": "float16"}
KNOWN: dict[str, tuple[WeightFormat, WeightFormat, dict[str, Any]]] = {
    "onnxruntime": (PerChannel(8), Unknown(8), {"reads": Format.INT8}),
    "onnxruntime-cuda": (PerBlock(4, **BLOCK), UnknownBlock(4, **BLOCK), {"half": "float16"}),
    "tensorrt": (PerChannel(8), Unknown(8), {"reads": Format.SYMMETRIC_INT8}),
    "portable": (PerChannel(8), Unknown(8), {"reads": Format.SYMMETRIC_INT8}),
}
"""Dialect -> a format that it spells, one that it does not, and what else a scheme of either needs."""


@pytest.mark.parametrize("name", [n for n, s in SCHEMES.items() if s.weight is not None])
def test_formats_of_all_schemes_are_spelled(name: str) -> None:
    regions = [r for case in LAYERS.values() for r in case.model.layers]
    assert any(d.supports(r, SCHEMES[name], OPSET) for d in DIALECTS.values() for r in regions)


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_a_format_without_a_spelling_is_not_offered(dialect: str) -> None:
    spelled, unknown, others = KNOWN[dialect]
    regions = [r for case in LAYERS.values() for r in case.model.layers]

    def offered(weight: WeightFormat) -> bool:
        return any(DIALECTS[dialect].supports(r, Scheme("some", "", weight, **others), OPSET) for r in regions)

    assert offered(spelled) and not offered(unknown)
