"""The conversion that benchmarks of clusters have in common: a given cost table, and nothing that a clock decides."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import onnxmpq
from onnxmpq.files import serialize
from onnxmpq.progress import Progress


def converted(asked: argparse.Namespace, costs: Path, cluster: str | None, progress: Progress) -> str:
    """SHA-256 of the result. asked: model, calibration, recipe, samples and latency. cluster: None for none."""
    made = onnxmpq.convert(
        asked.model,
        calibration=asked.calibration,
        recipe=asked.recipe,
        samples=asked.samples,
        cost_table=costs,
        latency=asked.latency,
        guard=False,
        best_effort=True,
        cache=False,
        cluster=cluster,
        progress=progress,
    )
    return hashlib.sha256(serialize(made.model)).hexdigest()
