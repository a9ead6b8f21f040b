"""Quantized models across CPUs: SQNR of a default session there against the unoptimised graph (docs/overflow.md).

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.cpus [MODEL[:SAMPLES] ...] [--cpu Haswell --cpu Nehalem]
        [--other 'Cortex-A72=command that starts Python there'] [--files DIR] [--work DIR] [--out results.json]

Per model: onnxruntime's static int8 (64 calibration samples), and the files that `benchmarks.zoo_table --keep DIR` left
in DIR/MODEL. The unoptimised graph (ORT_DISABLE_ALL) is computed once, natively. --cpu: models of `qemu-x86_64 -cpu`.
--other: an interpreter of another architecture with NumPy and onnxruntime, named. SAMPLES: of the test split, which
calibration has not seen (default 60). In brackets: SQNR against fp32, computed natively. The last column is the largest
difference between the machines of a row: of many dB in the first number where the kernels are exact, too, since a few
codes that float rounding takes to their neighbours are all the error there is.
--work keeps inputs, models and outputs; outputs of the same model, samples, machine and version are computed once.
Outputs are compared only; nothing is timed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.emulation import ROOT, THIS, Machine, emulated, foreign, patiently
from benchmarks.zoo import arrays, static_int8, zoo
from onnxmpq.provenance import describe_runtime

CALIBRATION = 64
SAMPLES = 60
PATIENCE_S = 1200.0
WORKER = ROOT / "benchmarks" / "cpu_worker.py"


@dataclass(frozen=True)
class Variant:
    """A model file and the session it runs in: configuration entries; optimize False for ORT_DISABLE_ALL."""

    label: str
    model: Path
    entries: Mapping[str, str] = field(default_factory=dict)
    optimize: bool = True


@dataclass(frozen=True)
class Trial:
    """Inputs of a zoo model (in folder/inputs.npz, first axis samples), and where outputs are kept."""

    folder: Path
    samples: int

    @classmethod
    def of(cls, entry: Any, samples: int, work: Path) -> Trial:
        """The first `samples` of the test split, or all where there are fewer."""
        folder = work / entry.name
        folder.mkdir(parents=True, exist_ok=True)
        inputs = arrays(entry, "test", samples)
        np.savez(folder / "inputs.npz", **inputs)
        return cls(folder, len(next(iter(inputs.values()))))

    def outputs(self, machine: Machine, variants: Sequence[Variant], limit_s: float) -> list[Path]:
        """Outputs of all variants on a machine, as files that `read` understands.

        Raises CalledProcessError, TimeoutExpired after two tries of limit_s seconds per file.
        """
        out = self.folder / machine.name
        out.mkdir(exist_ok=True)
        jobs = [self._job(machine, v) for v in variants]
        paths = [out / f"{job['name']}.npz" for job in jobs]
        missing = sum(not path.exists() for path in paths)
        if missing:
            (out / "jobs.json").write_text(json.dumps(jobs))
            arguments = [str(p) for p in (WORKER, out / "jobs.json", self.folder / "inputs.npz", out)]
            patiently(machine, arguments, limit_s * missing)
        return paths

    def _job(self, machine: Machine, variant: Variant) -> dict[str, Any]:
        job = {"entries": dict(variant.entries), "optimize": variant.optimize, "samples": self.samples}
        made_by = json.dumps([job, machine.command, ort.__version__], sort_keys=True).encode()
        digest = hashlib.sha256(variant.model.read_bytes() + made_by).hexdigest()
        return {"name": digest[:20], "model": str(variant.model.resolve()), **job}


def read(path: Path, samples: int | None = None) -> list[np.ndarray]:
    """Outputs of a file, of the first `samples`."""
    with np.load(path) as file:
        return [file[f"output_{i}"][:samples] for i in range(len(file.files) - 1)]


def runtime_of(path: Path) -> str:
    with np.load(path) as file:
        return str(file["runtime"])


def decibels(reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """10 log10(Σ reference² / Σ error²) over all outputs; inf where they are equal."""
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in reference)
    noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(reference, other, strict=True))
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")


def kept_files(folder: Path | None, name: str) -> Iterator[Variant]:
    """Models of `benchmarks.zoo_table --keep`, by label; all *.onnx of a folder that it did not write, by name."""
    if folder is None or not (folder / name).is_dir():
        return
    record = folder / name / "done.json"
    if record.exists():
        for label, found in json.loads(record.read_text()).items():
            if "int8" not in label:  # static int8 is made here
                yield Variant(label, folder / name / found["file"])
    else:
        for path in sorted((folder / name).glob("*.onnx")):
            yield Variant(path.stem, path)


def static_file(entry: Any, folder: Path, *, reduce_range: bool = False) -> Path:
    """Static int8 in a folder of work, made where it is not there yet."""
    path = folder / f"static{'_reduced' if reduce_range else ''}.onnx"
    if not path.exists():
        static_int8(entry, arrays(entry, "calib", CALIBRATION), path, reduce_range=reduce_range)
    return path


def work_of(options: argparse.Namespace) -> Path:
    """The folder of work, absolute, since workers run elsewhere."""
    return Path(options.work or tempfile.mkdtemp()).resolve()


def machines_of(options: argparse.Namespace) -> list[Machine]:
    return [THIS, *(emulated(cpu) for cpu in options.cpu), *options.other]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of benchmarks that run models on several machines."""
    parser.add_argument("models", nargs="*", metavar="MODEL[:SAMPLES]")
    parser.add_argument("--cpu", action="append", default=[], help="of qemu-x86_64; several times for several")
    parser.add_argument("--other", action="append", default=[], type=foreign, metavar="NAME=COMMAND")
    parser.add_argument("--files", type=Path, help="DIR of benchmarks.zoo_table --keep")
    parser.add_argument("--work", type=Path, default=None, help="default: a new temporary folder")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds for one file on one machine")
    parser.add_argument("--out", type=Path)


def asked(models: Sequence[str]) -> Iterator[tuple[Any, int]]:
    """Zoo entries and their numbers of samples."""
    for text in models or zoo().names():
        name, _, samples = text.partition(":")
        yield zoo().load(name), int(samples or SAMPLES)


def headline(machines: Sequence[Machine]) -> str:
    """Versions and CPU of this machine, and the names of the others."""
    here = describe_runtime()
    versions = f"onnxmpq {here['onnxmpq']}, onnxruntime {here['onnxruntime']}, NumPy {here['numpy']}"
    others = f"; emulated: {', '.join(m.name for m in machines[1:])}" if machines[1:] else ""
    return f"{versions}; this machine: {here['cpu']} ({here['cpu_features']}){others}"


def rows_of(
    entry: Any, samples: int, machines: Sequence[Machine], work: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per file: dB by machine, against the unoptimised graph and against fp32."""
    trial = Trial.of(entry, samples, work)
    variants = [
        Variant("onnxruntime static int8", static_file(entry, trial.folder)),
        *kept_files(options.files, entry.name),
    ]
    written = [Variant(v.label, v.model, optimize=False) for v in variants]
    fp32, *references = trial.outputs(THIS, [Variant("fp32", entry.model), *written], options.patience)
    rows: list[dict[str, Any]] = [
        {"model": entry.name, "what": v.label, "samples": trial.samples, "db": {}, "fp32_db": {}, "runtime": {}}
        for v in variants
    ]
    for machine in machines:
        found = trial.outputs(machine, variants, options.patience)
        for row, reference, path in zip(rows, references, found, strict=True):
            row["db"][machine.name] = decibels(read(reference), read(path))
            row["fp32_db"][machine.name] = decibels(read(fp32), read(path))
            row["runtime"][machine.name] = runtime_of(path)
        print(f"{entry.name}: {machine.name}: done", file=sys.stderr, flush=True)
    return rows


def markdown(rows: Sequence[dict[str, Any]], machines: Sequence[Machine]) -> str:
    names = [m.name for m in machines]
    lines = [f"| model | | {' | '.join(names)} | apart |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        found = [_written(row["db"][name], row["fp32_db"][name]) for name in names]
        apart = _written(*(_apart(list(row[key].values())) for key in ("db", "fp32_db")))
        lines.append(f"| {row['model']} | {row['what']} | {' | '.join([*found, apart])} |")
    return "\n".join(lines)


def _apart(decibels: Sequence[float]) -> float:
    """Largest difference; 0 where all are equal, inf where only some have no error."""
    return 0.0 if min(decibels) == max(decibels) else max(decibels) - min(decibels)


def _written(against_graph: float, against_fp32: float) -> str:
    first, second = (f"{f:.1f}" if np.isfinite(f) else "∞" for f in (against_graph, against_fp32))
    return f"{first} ({second})"


Rows = list[dict[str, Any]]


def show(
    options: argparse.Namespace,
    rows_of: Callable[[Any, int, Sequence[Machine], Path, argparse.Namespace], Rows],
    markdown: Callable[[Rows, Sequence[Machine]], str],
) -> None:
    """The table of all models that were asked for, printed anew after each of them."""
    machines, work = machines_of(options), work_of(options)
    rows: Rows = []
    print(headline(machines))
    for entry, samples in asked(options.models):
        rows += rows_of(entry, samples, machines, work, options)
        print(markdown(rows, machines), flush=True)
        if options.out:
            options.out.write_text(json.dumps({"made_by": describe_runtime(), "rows": rows}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    show(parser.parse_args(), rows_of, markdown)


if __name__ == "__main__":
    main()
