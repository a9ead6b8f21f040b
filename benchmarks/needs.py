"""The estimate of memory and time beside what a conversion took: anonymous memory of all processes, and CPU seconds.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.needs [--samples 64] [MODEL ...]

MODEL: names of samples/*.onnx and of the zoo, or decoder. Each is converted with `--size 30%`, without a cache, in a
process of its own, and its memory is sampled as by benchmarks/large_models.py. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare_commits import Subject, subjects
from benchmarks.forecast import cpu_seconds
from benchmarks.large_models import MB, ROOT, Watcher
from onnxmpq.commands.inspection import shapes_of
from onnxmpq.context import Context
from onnxmpq.needs import needs
from onnxmpq.opening import Asked, open_model
from onnxmpq.progress import Silent
from onnxmpq.request import Request

SIZE = "30%"
DECODER = "decoder"  # of samples/, a folder of its own


def take(model: str, samples: str, count: int) -> dict[str, float]:
    """In a process of its own."""
    import onnxmpq  # noqa: PLC0415

    before = cpu_seconds()
    with tempfile.TemporaryDirectory() as folder, Watcher(Path(folder)) as watcher:
        onnxmpq.convert(
            model,
            calibration=samples,
            samples=count,
            size=SIZE,
            cache=False,
            output=Path(folder) / "out.onnx",
            progress=Silent(),
        )
        taken = cpu_seconds() - before
    return {"memory": watcher.together, "seconds": taken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["digits_cnn", "digits_transformer"])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(take(**json.loads(given.one))))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = subjects(Path(folder), None, given.models)
        if DECODER in given.models:
            home = ROOT / "samples" / DECODER
            found.append(Subject(DECODER, str(home / "decoder.onnx"), str(home / "calib.txt")))
        show(found, given.samples)


def show(models: Sequence[Subject], samples: int) -> None:
    """A line for each."""
    print("| model | MB expected | taken | CPU seconds expected | taken |\n|---|---|---|---|---|")
    for model in models:
        memory, seconds = expected(model.model, samples)
        asked = json.dumps({"model": model.model, "samples": model.samples, "count": samples})
        command = [sys.executable, "-m", "benchmarks.needs", "--one", asked]
        answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        found: dict[str, Any] = json.loads(answer.stdout)
        figures = memory / MB, found["memory"] / MB, seconds, found["seconds"]
        print(f"| {model.name} | {' | '.join(f'{value:.0f}' for value in figures)} |", flush=True)


def expected(path: str, samples: int) -> tuple[float, float]:
    """Bytes and CPU seconds, of the schemes that the conversion tries."""
    asked = Asked.of(path, Request(size=SIZE), Context(Silent()))
    opened = open_model(path, asked.device)
    shapes, menu = shapes_of(opened), asked.menu(opened)
    seconds = needs(opened.model, menu, shapes, samples, threads=1).seconds
    assert seconds is not None
    return needs(opened.model, menu, shapes, samples).memory_bytes, seconds


if __name__ == "__main__":
    main()
