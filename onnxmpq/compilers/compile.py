"""Compiling a model for a device that need not be there, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnxmpq.compilers.naming import renamed, traced
from onnxmpq.compilers.stored import stored, widths
from onnxmpq.compilers.tensorrt_rtx import TensorRtRtx
from onnxmpq.compilers.types import Answer, Compiler, Message, Ranges, ShapeRange, Stored
from onnxmpq.errors import CompilerError, CrashError, UsageError
from onnxmpq.feeds import Share
from onnxmpq.files import nearest
from onnxmpq.isolation import Child
from onnxmpq.lint import without_functions

COMPILERS: Mapping[str, Compiler] = {"tensorrt": TensorRtRtx()}
"""By dialect."""
LIMIT_S = 1800.0  # of one build; the largest model of the zoo takes 3 s


@dataclass(frozen=True)
class Compiled:
    """A model as a compiler took it, or did not.

    compiler: name and version. capability: such as sm89. constants: of the model as given.
    """

    compiler: str
    capability: str
    answer: Answer
    constants: Stored

    @property
    def built(self) -> bool:
        return self.answer.built

    @property
    def widths(self) -> Mapping[str, int] | None:
        """Bits an element of each quantized type in the engine, as far as its bytes tell; see `stored.widths`."""
        return widths(self.constants, self.answer.weight_bytes)

    @property
    def errors(self) -> tuple[Message, ...]:
        return tuple(m for m in self.answer.messages if m.severity == "error")

    @property
    def warnings(self) -> tuple[Message, ...]:
        return tuple(m for m in self.answer.messages if m.severity == "warning")


def compile_model(
    proto: onnx.ModelProto,
    capability: str,
    shapes: Sequence[Share] = (),
    dialect: str = "tensorrt",
    child: Child | None = None,
) -> Compiled:
    """Parse and build the model with the compiler of a dialect. The model is not changed.

    capability: such as sm89 or SM120. shapes: of inputs with dynamic dimensions; of several the smallest and largest
    dimensions are the range, and the one with the largest share is the typical one. child: to compile in, where many
    models are.
    Raises UsageError: no compiler for the dialect, unknown capability, shapes missing or at odds with the inputs.
    Raises CompilerError: its package is missing or of a wrong version. A graph that is refused is no error here.
    """
    if dialect not in COMPILERS:
        have = " or ".join(f"--dialect {name}" for name in COMPILERS)
        raise UsageError(f"--compile: dialect {dialect} has no compiler that runs here; give {have}")
    compiler = COMPILERS[dialect]
    whole = without_functions(proto)
    constants, ranges = stored(whole), _ranges(whole, shapes)
    named, known = renamed(whole)
    process = child or Child(compiler.name)
    try:
        version, offered = process.call(_about, dialect, doing="telling its version")
        asked = _capability(capability, offered, compiler.name)
        answer = _answer(process, dialect, named, asked, ranges)
    except CrashError as error:
        raise CompilerError(f"{error}; try again") from error
    finally:
        if child is None:
            process.close()
    traces = tuple(dict.fromkeys(traced(m, known) for m in answer.messages))
    return Compiled(f"{compiler.name} {version}".strip(), asked, replace(answer, messages=traces), constants)


def require_compiler(dialect: str, capability: str) -> None:
    """Raises CompilerError where the dialect's compiler is not installed, UsageError where it knows no such device."""
    child = Child(COMPILERS[dialect].name)
    try:
        _, offered = child.call(_about, dialect, doing="telling its version")
        _capability(capability, offered, COMPILERS[dialect].name)
    except CrashError as error:
        raise CompilerError(f"{error}; try again") from error
    finally:
        child.close()


def _answer(process: Child, dialect: str, proto: onnx.ModelProto, capability: str, ranges: Ranges) -> Answer:
    """The compiler's answer, which is an error where the model ended its process."""
    try:
        return process.call(_build, dialect, proto, capability, ranges, doing="compiling the model", limit_s=LIMIT_S)
    except CrashError as error:
        if not error.by_model:
            raise
        return Answer((Message("error", "", str(error)),))


def _about(dialect: str) -> tuple[str, tuple[str, ...]]:
    """In the child."""
    return COMPILERS[dialect].version(), COMPILERS[dialect].capabilities()


def _build(dialect: str, proto: onnx.ModelProto, capability: str, ranges: Ranges) -> Answer:
    """In the child."""
    return COMPILERS[dialect].build(proto, capability, ranges)


def _capability(asked: str, known: Sequence[str], compiler: str) -> str:
    """The compiler's name for it. Raises UsageError."""
    plain = asked.lower()
    if plain not in known:
        raise UsageError(f"{compiler} compiles for no {asked!r}; {nearest(plain, known, 'it knows')}")
    return plain


def _ranges(proto: onnx.ModelProto, shapes: Sequence[Share]) -> dict[str, ShapeRange]:
    """Of the inputs with dynamic dimensions. Raises UsageError."""
    constants = {t.name for t in proto.graph.initializer}
    inputs = {i.name: i.type.tensor_type.shape.dim for i in proto.graph.input if i.name not in constants}
    for name in {name for share in shapes for name in share.shapes} - set(inputs):
        raise UsageError(f"--shape {name}: the model has no such input; its inputs are {', '.join(inputs)}")
    found: dict[str, ShapeRange] = {}
    for name, dims in inputs.items():
        fixed = [d.dim_value if d.HasField("dim_value") else None for d in dims]
        given = [(s.share, tuple(s.shapes[name])) for s in shapes if name in s.shapes]
        if None not in fixed and not given:
            continue
        if not given:
            spelled = ", ".join(str(d.dim_value or d.dim_param or "?") for d in dims)
            example = "x".join(str(d or 1) for d in fixed)
            raise UsageError(f"input {name!r} has dynamic shape [{spelled}]; add --shape {name}={example}, or several")
        for _, shape in given:
            if len(shape) != len(fixed) or any(f not in (None, n) for f, n in zip(fixed, shape, strict=True)):
                raise UsageError(f"--shape {name}={'x'.join(map(str, shape))}: the input is {_spelled(fixed)}")
        if None in fixed:
            sizes = list(zip(*(shape for _, shape in given), strict=True))
            typical = max(given)[1]
            found[name] = ShapeRange(tuple(map(min, sizes)), typical, tuple(map(max, sizes)))
    return found


def _spelled(fixed: Sequence[int | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in fixed) or "a scalar"
