"""The zoo of real models that benchmarks run on: found through the environment variable ONNXMPQ_ZOO."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxmpq.runtimes import SessionSettings, open_session


def zoo() -> ModuleType:
    """The zoo's own loading and scoring module."""
    folder = os.environ.get("ONNXMPQ_ZOO")
    if not folder or not (Path(folder) / "zoo.py").is_file():
        raise SystemExit("set ONNXMPQ_ZOO to the folder of the model zoo (it holds zoo.py)")
    spec = importlib.util.spec_from_file_location("model_zoo", Path(folder) / "zoo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_zoo"] = module
    spec.loader.exec_module(module)
    return module


def arrays(entry: Any, split: str, limit: int) -> dict[str, np.ndarray]:
    """Samples of a split as arrays by input name, first axis = samples."""
    collected: dict[str, list[np.ndarray]] = defaultdict(list)
    for feeds in entry.feeds(split, 1, limit):
        for name, value in feeds.items():
            collected[name].append(value)
    return {name: np.concatenate(values) for name, values in collected.items()}


def static_int8(
    entry: Any,
    samples: dict[str, np.ndarray],
    destination: Path,
    ranges: str = "minmax",
    activations: Any = None,
    *,
    reduce_range: bool = False,
) -> Path:
    """onnxruntime's static quantization with its documented settings: pre-processing, QDQ, per channel, u8/s8.

    ranges: "minmax", "percentile" or "entropy". activations: another QuantType for them.
    reduce_range: weights of 7 bits.
    """
    from onnxruntime.quantization import (  # noqa: PLC0415 (slow to import)
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(samples.values())))
            self.feeds = iter([{n: a[i : i + 1] for n, a in samples.items()} for i in range(count)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(entry.model), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            str(destination),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=activations or QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method={m.name.lower(): m for m in CalibrationMethod}[ranges],
        )
    return destination


def session(model: str | Path | onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    """A default session."""
    return open_session(model, SessionSettings(threads=threads))


def sqnr_db(reference: ort.InferenceSession, other: ort.InferenceSession, samples: dict[str, np.ndarray]) -> float:
    """10 log10(Σ reference² / Σ error²) over all outputs and samples."""
    signal = noise = 0.0
    for i in range(len(next(iter(samples.values())))):
        feeds = {n: a[i : i + 1] for n, a in samples.items()}
        for a, b in zip(reference.run(None, feeds), other.run(None, feeds), strict=True):
            signal += float(np.square(a, dtype=np.float64).sum())
            noise += float(np.square(a - b, dtype=np.float64).sum())
    return 10 * float(np.log10(signal / max(noise, 1e-300)))
