"""A conversion of any graph, and what has to hold for its result whatever the graph is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

import onnxmpq
from onnxmpq.cost import Effort
from onnxmpq.errors import (
    AlreadyMetError,
    BudgetError,
    DamagedGraphError,
    NothingFasterError,
    NothingToQuantizeError,
    OnnxmpqError,
    QualityError,
)
from onnxmpq.model import serialized_bytes
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.weights import TECHNIQUES
from tests.graphs import Array
from tests.implied_noise import implied_sqnr_db

Kind = Literal["converted", "unchanged", "refused", "crash", "bad file"]
Sample = Mapping[str, Array]
UNCHANGED = (NothingToQuantizeError, NothingFasterError, AlreadyMetError, BudgetError, QualityError)
NO_LAYER_FOR_IT = "no layer of the model can have"  # a scheme that was asked for
QUICK = Effort(seconds=0.02, runs=2, rounds=2)
FAULTS: tuple[Kind, ...] = ("crash", "bad file")


@dataclass(frozen=True)
class Outcome:
    """What came of a conversion.

    words: why the graph is unchanged or refused, or what is wrong with the result. sqnr_db: of the worst output, over
    values that are finite in the original; infinite where nothing differs. implied_db: what the result's scales imply
    of it (`implied_noise.py`). level: of the verdict. float_bytes: of
    constants of rank 2 and higher, before and after. file_bytes: before and after.
    """

    kind: Kind
    words: str = ""
    result: onnx.ModelProto | None = None
    level: str = ""
    sqnr_db: float = math.inf
    implied_db: float = -math.inf
    float_bytes: tuple[int, int] = (0, 0)
    file_bytes: tuple[int, int] = (0, 0)


def attempt(proto: onnx.ModelProto, samples: Sequence[Sample], **asked: Any) -> Outcome:
    """Convert with `asked`, without the guard and without techniques that only take time, and judge the result."""
    before = float_bytes(proto), serialized_bytes(proto)
    options = {"guard": False, "effort": QUICK, "cache": False, "without": TECHNIQUES, "calibration": list(samples)}
    try:
        made = onnxmpq.convert(proto, **{**options, **asked})
    except UNCHANGED as error:
        return _unchanged(str(error), before)
    except OnnxmpqError as error:
        if NO_LAYER_FOR_IT in str(error):
            return _unchanged(NO_LAYER_FOR_IT, before)
        ours = type(error) is OnnxmpqError or isinstance(error, DamagedGraphError) or not _is_a_line(str(error))
        return Outcome("crash" if ours else "refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        return Outcome("crash", f"{type(error).__name__}: {error}")
    faults = list(faults_of(proto, made.model, samples))
    sqnr = math.nan if faults else worst_sqnr_db(proto, made.model, samples)
    implied = -math.inf if faults else implied_sqnr_db(proto, made.model, samples)
    sizes = (before[0], float_bytes(made.model)), (before[1], serialized_bytes(made.model))
    level = made.report.verdict.level
    return Outcome("bad file" if faults else "converted", "; ".join(faults), made.model, level, sqnr, implied, *sizes)


def _unchanged(words: str, before: tuple[int, int]) -> Outcome:
    sizes = (before[0],) * 2, (before[1],) * 2
    return Outcome("unchanged", words, float_bytes=sizes[0], file_bytes=sizes[1])


def _is_a_line(message: str) -> bool:
    return bool(message.strip()) and "\n" not in message and "report this" not in message


def faults_of(proto: onnx.ModelProto, result: onnx.ModelProto, samples: Sequence[Sample]) -> Iterator[str]:
    """What is wrong with a file, whatever its quality."""
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:
        yield f"onnx.checker: {_first_line(error)}"
    for what in ("input", "output"):
        before, after = _ends(proto, what), _ends(result, what)
        if before != after:
            yield f"{what}s were {before}, and are {after}"
    try:
        session = open_session(result)
        for sample in samples:
            run(session, dict(sample))
    except Exception as error:
        yield f"default session: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _ends(proto: onnx.ModelProto, what: str) -> list[tuple[str, bytes]]:
    """Names and types, shapes with them; inputs that have a value are constants for whoever runs the model."""
    constants = {t.name for t in proto.graph.initializer} if what == "input" else set[str]()
    infos = proto.graph.input if what == "input" else proto.graph.output
    return [(i.name, i.type.SerializeToString(deterministic=True)) for i in infos if i.name not in constants]


def worst_sqnr_db(proto: onnx.ModelProto, result: onnx.ModelProto, samples: Sequence[Sample]) -> float:
    """Of float outputs over all samples. Another shape, or NaN where the original has a number, counts as -inf."""
    sessions = [open_session(p, SessionSettings(optimize=False)) for p in (proto, result)]
    power: dict[str, list[float]] = {}
    for sample in samples:
        both = (run(session, dict(sample)) for session in sessions)
        for info, before, after in zip(proto.graph.output, *both, strict=True):
            if not isinstance(before, np.ndarray) or before.dtype.kind != "f":
                continue
            finite = np.isfinite(before)
            same_shape = before.shape == after.shape
            noise = float(np.square(before[finite] - after[finite], dtype=np.float64).sum()) if same_shape else math.inf
            total = power.setdefault(info.name, [0.0, 0.0])
            total[0] += float(np.square(before[finite], dtype=np.float64).sum())
            total[1] += math.inf if math.isnan(noise) else noise
    return min((_db(*total) for total in power.values()), default=math.inf)


def _db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return -math.inf if signal == 0.0 or math.isinf(noise) else 10.0 * math.log10(signal / noise)


def float_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of float constants of rank 2 and higher, in bodies and functions too."""
    graphs = [proto.graph]
    nodes = [n for f in proto.functions for n in f.node]
    total = 0
    while graphs or nodes:
        while nodes:
            for attribute in nodes.pop().attribute:
                graphs += [attribute.g] if attribute.HasField("g") else attribute.graphs
                total += _size(attribute.t) if attribute.HasField("t") else 0
        if graphs:
            found = graphs.pop()
            nodes.extend(found.node)
            total += sum(_size(t) for t in found.initializer)
    return total


_BYTES = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
}


def _size(tensor: onnx.TensorProto) -> int:
    return _BYTES.get(tensor.data_type, 0) * math.prod(tensor.dims) if len(tensor.dims) > 1 else 0
