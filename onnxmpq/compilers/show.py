"""Answers of a compiler, as lines and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from onnxmpq.compilers.compile import Compiled


def as_dict(compiled: Compiled) -> dict[str, Any]:
    answer, constants = compiled.answer, compiled.constants
    found = compiled.widths
    return {
        "compiler": compiled.compiler,
        "capability": compiled.capability,
        "built": compiled.built,
        "messages": [asdict(m) for m in answer.messages],
        "engine_bytes": answer.engine_bytes,
        "weight_bytes": answer.weight_bytes,
        "model_weight_bytes": constants.bytes,
        "weights": [
            asdict(k) | {"stored_bits": None if found is None else found[k.element]}
            for k in constants.kinds
            if k.elements
        ],
    }


def lines(compiled: Compiled) -> list[str]:
    """A line for the whole, and one per message."""
    answer = compiled.answer
    if answer.engine_bytes is None:
        head = f"{compiled.compiler} does not build it for {compiled.capability}"
    else:
        head = f"{compiled.compiler} builds it for {compiled.capability}: engine of {answer.engine_bytes} bytes"
        head += f"; {stored_in_words(compiled)}"
    return [head, *(f"{m.severity}: {f'{m.node}: ' if m.node else ''}{m.text}" for m in answer.messages)]


def stored_in_words(compiled: Compiled) -> str:
    """Bytes of an engine's constants, and the quantized types that are wider in it than in the model."""
    constants, weight_bytes, found = compiled.constants, compiled.answer.weight_bytes, compiled.widths
    if weight_bytes is None:
        return "the compiler does not say how many of them are weights"
    total = f"{weight_bytes} of them constants ({constants.bytes} in the model)"
    if not constants.kinds:
        return f"{total}, no quantized weights"
    if found is None:
        return f"{total}, which no one width of its quantized weights explains (docs/tensorrt tells what is padded)"
    own = {k.element: 8 * k.bytes / k.elements for k in constants.kinds if k.elements}
    kept = [name for name in found if found[name] <= own[name]]
    wide = [f"{name} at {found[name]} bits" for name in found if found[name] > own[name]]
    said = [f"{' and '.join(kept)} weights stay narrow"] if kept else []
    said += [f"stored wider: {', '.join(wide)}"] if wide else []
    return f"{total}: {'; '.join(said)}"
