"""A result that the target's compiler has built before it is handed out (`--verify`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxmpq.compilers import COMPILERS, Compiled, compile_model, require_compiler, stored_in_words
from onnxmpq.errors import CompilerError, UsageError
from onnxmpq.feeds import Feeds, Share
from onnxmpq.schemes import Scheme
from onnxmpq.target import Target


def require_verifiable(target: Target) -> None:
    """Raises UsageError for a target that no compiler here builds for, CompilerError where it is not installed."""
    if not target.capability or target.dialect not in COMPILERS:
        raise UsageError(
            f"--verify: no compiler that runs here builds for target '{target.name}'; leave --verify out "
            "(docs/tensorrt lists the targets)"
        )
    require_compiler(target.dialect, target.capability)


def verified(proto: onnx.ModelProto, target: Target, shapes: Sequence[Share], samples: Feeds | None) -> Compiled:
    """The model as the target's compiler builds it. Raises CompilerError where it does not.

    shapes: of inputs with dynamic dimensions; those of a sample for all others, if there are samples.
    """
    found = compile_model(proto, target.capability, _with_samples(shapes, samples), target.dialect)
    if not found.built:
        first = found.errors[0]
        where = f" at node {first.node!r}" if first.node else ""
        raise CompilerError(
            f"{found.compiler} does not build the converted model for {found.capability}{where}: {first.text}; nothing "
            "was written; leave the node out with --exclude, or choose other schemes with --scheme"
        )
    return found


def verified_note(found: Compiled) -> str:
    """For the notes of a plan."""
    told = "".join(f"; warning: {m.node}: {m.text}" if m.node else f"; warning: {m.text}" for m in found.warnings)
    return (
        f"{found.compiler} builds it for {found.capability}, ahead of time and without a GPU: engine of "
        f"{found.answer.engine_bytes} bytes, {stored_in_words(found)}{told}"
    )


def unfolding_note(target: Target, assignment: Mapping[str, Scheme]) -> list[str]:
    """For the notes of a plan with weights that are charged a kernel to unfold them, where a compiler stores them
    narrow all the same."""
    kernels = target.roofline.kernels if target.roofline is not None and target.capability else {}
    names = sorted({s.name for s in assignment.values() if s.name in kernels and kernels[s.name].unfolds_to})
    return [
        f"{name}: the compiler's engine keeps these weights as narrow as the model does (docs/tensorrt); if they are "
        "unfolded in a kernel of their own is decided on the device, so the latency has one for each layer"
        for name in names
    ]


def _with_samples(shapes: Sequence[Share], samples: Feeds | None) -> Sequence[Share]:
    """Shapes for every input: as asked for, or those of the typical sample."""
    if samples is None:
        return shapes
    typical = {name: array.shape for name, array in samples.batch([samples.typical]).items()}
    return [Share(s.share, {**typical, **s.shapes}) for s in shapes or (Share(1.0, {}),)]
