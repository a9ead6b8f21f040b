"""Techniques applied to weights beyond rounding to nearest; each can be switched off by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnxmpq.errors import UsageError
from onnxmpq.files import nearest

TECHNIQUES: Mapping[str, str] = {
    "equalisation": "channels scaled against each other so that the weights before and after them have equal ranges",
    "smoothquant": "channels scaled by the ranges of activations and weights",
    "channel-order": "an order of channels by which int8 weights that cannot saturate on any CPU lose less",
    "gptq": "rounding that makes up for earlier errors, from second moments of the inputs (also switches off the rest)",
    "descent": "coordinate descent on the codes, least-squares scales, exact search for depthwise kernels",
    "cross": "second rounding of the chosen plan, layer by layer, for inputs as the quantized model computes them",
    "bias-correction": "mean error of each layer's outputs moved into its bias, layer by layer",
}


@dataclass(frozen=True)
class Techniques:
    """Names of `TECHNIQUES` that are in use."""

    used: frozenset[str] = frozenset(TECHNIQUES)

    @property
    def method(self) -> str:
        """The rounding method (a name of `onnxmpq.rounding.METHODS`) they amount to."""
        if "gptq" not in self.used:
            return "nearest"
        return "best" if "descent" in self.used else "gptq"

    def __contains__(self, name: str) -> bool:
        return name in self.used


def without(names: Iterable[str]) -> Techniques:
    """All techniques but these. Raises UsageError for a name that is none."""
    off = set(names)
    for name in sorted(off - set(TECHNIQUES)):
        hint = nearest(name, TECHNIQUES, "those that can be switched off:")
        raise UsageError(f"no technique is called {name!r}; {hint}")
    if "gptq" in off:
        off |= {"descent", "cross"}
    return Techniques(frozenset(TECHNIQUES) - off)
