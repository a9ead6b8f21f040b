"""Answers to probes, one after the other; as a program, in a process that a graph may crash.

Names of probes on standard input, a line of JSON each on standard output, so that what is missing tells the graph that
ended the process.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.errors import ModelError
from onnxmpq.runtimes.onnxruntime.probe_graphs import PROBES, Probe
from onnxmpq.runtimes.onnxruntime.session import SessionSettings, open_session, run

STEP = 0.02  # scale of every quantizer of a probe, and so the least difference that is one
ROUNDING = 1e-4  # of float32, in numbers of about 1
UNFOLDED = frozenset({"Cast", "Mul", "DequantizeLinear"})


@dataclass(frozen=True)
class Answer:
    """holds: whether what the probe asks is so, None where it could not be told. note: what was seen."""

    holds: bool | None
    note: str = ""


def answer(probe: Probe) -> Answer:
    """Puts one question to onnxruntime, in this process."""
    try:
        match probe.kind:
            case "loads":
                return _loads(probe)
            case "keeps":
                fused, plain = (_computed(probe, optimize) for optimize in (True, False))
                return Answer(bool(np.abs(fused - plain).max() < STEP))
            case "saturates":
                return _differs(probe)
            case "exact":
                found = _differs(probe)
                return Answer(not found.holds, found.note)
            case "agrees":
                worst = float(np.abs(_computed(probe, optimize=True)).max())
                return Answer(worst < ROUNDING, f"differs by {worst:.2g}")
            case _:
                return _becomes(probe)
    except ModelError as error:  # what does not load does not fuse
        return Answer(None if probe.kind in ("keeps", "saturates") else False, str(error))
    except Exception as error:  # a probe that cannot be put says so; the others go on
        return Answer(None, " ".join(f"{type(error).__name__}: {error}".split())[:300])


def _loads(probe: Probe) -> Answer:
    open_session(probe.graph().SerializeToString())  # bytes: as any user's session
    return Answer(True)


def _becomes(probe: Probe) -> Answer:
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(probe.graph().SerializeToString(), SessionSettings(optimized_path=str(path)))
        optimized = onnx.load(path).graph
    constants = {t.name for t in optimized.initializer}
    found = {n.op_type for n in optimized.node}
    seen = found | {f"{n.op_type}.{a.name}" for n in optimized.node for a in n.attribute if a.i}
    unfolded = {n.op_type for n in optimized.node if constants.issuperset(n.input)} & UNFOLDED
    return Answer(probe.becomes in seen and not (probe.kind == "folds" and unfolded), ", ".join(sorted(found)))


def _differs(probe: Probe) -> Answer:
    """Holds if an element is not the exact one, by more than half a step where it was quantized."""
    found = _computed(probe, optimize=True)
    step = probe.exact / 255 if "QuantizeLinear (r" in probe.body else 1.0
    wrong = np.abs(found - probe.exact) > step / 2
    seen = float(found.flat[int(np.argmax(wrong))])
    return Answer(bool(wrong.any()), f"{seen:.0f} where {probe.exact} is exact")


def _computed(probe: Probe, optimize: bool) -> NDArray[np.float64]:
    session = open_session(probe.graph().SerializeToString(), SessionSettings(optimize=optimize))
    shape = session.get_inputs()[0].shape
    if probe.kind in ("saturates", "exact"):
        values = np.full(shape, 255.0, np.float32)
    else:
        values = np.linspace(-2, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return run(session, {"x": values})[0].astype(np.float64)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this process
    for name in json.load(sys.stdin):
        print(json.dumps([name, asdict(answer(PROBES[name]))]), flush=True)


if __name__ == "__main__":
    main()
