"""Choice between effects at the outputs and effects block by block, and the number of samples for them (`--effects`).

Decided by estimated time, which follows from the model alone: decisions do not depend on how busy the machine is.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxmpq.errors import UsageError
from onnxmpq.files import nearest
from onnxmpq.model import Model
from onnxmpq.sensitivity.block_effects import CARRY, model_blocks

EFFECT_SECONDS = 40.0  # what one-at-a-time effects may take on the reference machine, before samples are saved
FULL_SECONDS = 120.0  # what they may take on the fewest samples, before they are measured block by block
FEWEST_EFFECT_SAMPLES = 8
PASSES_PER_TRY = 0.6  # forward passes that a perturbation costs (benchmarks/effects_cost.py)
BESIDE_SUFFIX = 0.1  # of them, those that do not run the rest of the graph or of the block
FULL, BLOCK, AUTO = "full", "block", "auto"
CHOICES = (AUTO, FULL, BLOCK)


@dataclass(frozen=True)
class Extent:
    """Method and size of a measurement of effects. by_blocks: see `block_effects.py`. samples: number of them. passes:
    forward passes that a perturbation costs on each."""

    by_blocks: bool
    samples: int
    passes: float


def require_method(name: str) -> None:
    """Raises UsageError for a name that is none of `CHOICES`."""
    if name not in CHOICES:
        raise UsageError(f"--effects {name}: no such method; {nearest(name, CHOICES, 'the methods are')}")


def extent(model: Model, method: str, forward_s: float, tries: int, available: int) -> Extent:
    """For `tries` perturbations. method: one of `CHOICES`. forward_s: one run of the fp32 model, estimated. available:
    samples."""
    full = Extent(False, affordable(forward_s, tries, available), PASSES_PER_TRY)
    least_s = PASSES_PER_TRY * forward_s * tries * min(FEWEST_EFFECT_SAMPLES, available)
    if method == FULL or (method == AUTO and least_s <= FULL_SECONDS):
        return full
    blocks = len(model_blocks(model))
    if blocks == 1:
        return full
    passes = BESIDE_SUFFIX + (1.0 + CARRY) * (PASSES_PER_TRY - BESIDE_SUFFIX) / blocks
    if method == AUTO and passes >= PASSES_PER_TRY:
        return full
    return Extent(True, affordable(forward_s, tries, available, passes), passes)


def affordable(forward_s: float, tries: int, available: int, passes: float = PASSES_PER_TRY) -> int:
    """Number of samples on which `tries` perturbations take at most `EFFECT_SECONDS`: 8, 12, 16, 24, ... or all.

    forward_s: one run of the fp32 model. passes: of them for each perturbation and sample. Menus of about the same
    length (to a power of two) get the same samples, so that effects measured for one of them are found by another.
    """
    about = 2.0 ** (max(tries, 1).bit_length() - 0.5)
    most = int(EFFECT_SECONDS / (passes * forward_s * about))
    if most >= available:
        return available
    step = max(most // FEWEST_EFFECT_SAMPLES, 1).bit_length() - 1
    steps = (FEWEST_EFFECT_SAMPLES << step, FEWEST_EFFECT_SAMPLES * 3 // 2 << step)
    return min(max(s for s in steps if s <= max(most, FEWEST_EFFECT_SAMPLES)), available)
