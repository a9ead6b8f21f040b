"""Calibrations as files: written by `onnxmpq calibrate`, read by `convert --ranges` (docs/calibration.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.files import Archive, as_path, write_bytes
from onnxmpq.model import Model
from onnxmpq.provenance import SchemaMismatch, require_schema
from onnxmpq.ranges.estimators import ESTIMATORS
from onnxmpq.ranges.histogram import BINS, Histogram
from onnxmpq.ranges.observe import Observation
from onnxmpq.ranges.params import QuantParams
from onnxmpq.shown import Shown

SCHEMA = "onnxmpq.calibration/2"


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Shown):
    """Histograms of a model's activations, and where they come from.

    model: name, sha256. target: whose menu said what may be quantized. samples: source, recipe, count, sha256 (of the
    values), made_up. runtime: versions and CPU.
    """

    model: Mapping[str, str]
    target: str
    samples: Mapping[str, Any]
    runtime: Mapping[str, str]
    observation: Observation

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        made_up = " (made up)" if self.samples.get("made_up") else ""
        return f"{self.model.get('name', 'model')} for {self.target}", [
            ("activations", str(len(self.observation.histograms))),
            ("samples", f"{self.samples.get('count')} of {self.samples.get('source')}{made_up}"),
        ]

    def params(self) -> dict[str, dict[str, QuantParams]]:
        """Estimator -> tensor -> the uint8 parameters it gives, headroom included."""
        found = self.observation
        return {name: {t: found.estimate(t, name) for t in found.histograms} for name in ESTIMATORS}

    def of(self, tensors: Iterable[str]) -> Observation:
        """The part of it for these tensors. Raises CalibrationError where one is not there."""
        wanted = list(tensors)
        for tensor in wanted:
            if tensor not in self.observation.histograms:
                raise CalibrationError(
                    f"the calibration made for target {self.target} has no range for tensor {tensor!r}; run "
                    "`onnxmpq calibrate` with the --target that you convert for"
                )
        found = self.observation
        return Observation({t: found.histograms[t] for t in wanted}, {t: found.shapes[t] for t in wanted})

    def require(self, model: Model, name: str) -> None:
        """Raises CalibrationError where it belongs to another model."""
        if self.model.get("sha256") != model.source_sha256:
            raise CalibrationError(
                f"the calibration was made for model {self.model.get('name')!r} (sha256 "
                f"{self.model.get('sha256', '')[:12]}...), and {name!r} is another (sha256 "
                f"{model.source_sha256[:12]}...); run `onnxmpq calibrate` on it"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; without the histograms' counts."""
        found = self.observation
        return {
            "schema": SCHEMA,
            "model": dict(self.model),
            "target": self.target,
            "samples": dict(self.samples),
            "runtime": dict(self.runtime),
            "tensors": [
                {
                    "name": t,
                    "shape": list(found.shapes[t]),
                    "low": h.low,
                    "high": h.high,
                    "headroom": found.headroom.get(t, 1.0),
                    "unbounded": h.unbounded,
                }
                for t, h in found.histograms.items()
            ],
            "estimators": {name: {t: asdict(p) for t, p in row.items()} for name, row in self.params().items()},
        }

    def write(self, path: Path) -> None:
        """Atomically. Raises OutputError."""
        rows = list(self.observation.histograms.values())
        ends = np.array([(h.limit, h.low, h.high) for h in rows], np.float64).reshape(-1, 3)
        counts = np.array([h.counts for h in rows], np.int64).reshape(-1, BINS)
        write_bytes(path, Archive({"counts": counts, "ends": ends}, self.to_dict()).to_bytes(compress=True))


def read_calibration(path: str | Path) -> Calibration:
    """A calibration from a file. Raises CalibrationError where it cannot be read or is none."""
    try:
        archive = Archive.from_bytes(as_path(path, "a file of `onnxmpq calibrate`").read_bytes())
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read ({error.strerror}); give a file written by `onnxmpq calibrate`"
        ) from None
    except UsageError:
        raise
    except Exception as error:  # whatever zipfile, zlib, json and NumPy raise on damaged files
        raise CalibrationError(
            f"{path}: not a file of `onnxmpq calibrate`, or damaged ({error}); make it again"
        ) from None
    try:
        return _calibration(archive)
    except SchemaMismatch as error:
        raise CalibrationError(f"{path}: {error}; run `onnxmpq calibrate` again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(f"{path}: not a calibration of this version ({error}); make it again") from None


def _calibration(archive: Archive) -> Calibration:
    meta, counts, ends = archive.meta, archive.arrays["counts"], archive.arrays["ends"]
    require_schema(meta.get("schema"), SCHEMA)
    names = [row["name"] for row in meta["tensors"]]
    if counts.dtype != np.int64 or counts.shape != (len(names), BINS) or ends.shape != (len(names), 3):
        raise ValueError(f"{len(names)} tensors with counts {counts.dtype} {counts.shape} and ends {ends.shape}")
    unbounded = {str(row["name"]) for row in meta["tensors"] if row.get("unbounded")}
    histograms = {}
    for name, row, (limit, low, high) in zip(names, counts, np.asarray(ends, np.float64).tolist(), strict=True):
        try:
            kept = np.asarray(row, np.int64)
            histograms[str(name)] = Histogram.of(kept, limit, low, high, unbounded=str(name) in unbounded)
        except ValueError as error:
            raise ValueError(f"tensor {name!r}: {error}") from None
    shapes = {str(row["name"]): tuple(map(int, row["shape"])) for row in meta["tensors"]}
    headroom = {str(row["name"]): float(row["headroom"]) for row in meta["tensors"]}
    if not all(1.0 <= factor < np.inf for factor in headroom.values()):
        raise ValueError(f"headroom {min(headroom.values())}, {max(headroom.values())}")
    samples = {**meta["samples"], "count": int(meta["samples"]["count"]), "source": str(meta["samples"]["source"])}
    model = {name: str(meta["model"][name]) for name in ("name", "sha256")}
    observation = Observation(histograms, shapes, headroom=headroom)
    return Calibration(model, str(meta["target"]), samples, dict(meta["runtime"]), observation)
