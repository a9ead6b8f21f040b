"""onnx's own backend tests, converted to the smallest size: how many were, and why the others were not.

    python -m benchmarks.backend_tests [--every 1] [--limit 40] [--log FILE]

Every case that onnx's loader builds without a download, twice: as it is, and with its float inputs after the first
one as constants, since most cases feed their weights. Cases run in a process of its own, which is started again after a
crash and after `limit` seconds with one case. Prints the table of docs/any_model.md; exit status 1 for a crash, a hang
or a bad file.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

from onnxmpq.errors import OnnxmpqError
from onnxmpq.isolation import isolated
from onnxmpq.runtimes import open_session, run
from tests.outcomes import Sample, attempt

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
DOWNLOADED = ("real",)
START_S = 120.0


@dataclass(frozen=True)
class Row:
    """name: of the case, with "/constants" where inputs became constants. kind: of `tests.outcomes.Outcome`, or "hang",
    "not run" where onnxruntime does not run the case."""

    name: str
    kind: str
    words: str = ""
    float_bytes: tuple[int, int] = (0, 0)


def cases() -> Iterator[tuple[str, onnx.ModelProto, list[Any]]]:
    """Name, model and the inputs of its first data set, of all cases that need no download."""
    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            if case.model is not None:
                yield case.name, case.model, [_array(v) for v in case.data_sets[0][0]] if case.data_sets else []
            else:
                folder = Path(case.model_dir)
                files = sorted(folder.glob("test_data_set_0/input_*.pb"), key=lambda f: int(f.stem.split("_")[1]))
                yield f"{kind}/{case.name}", onnx.load(folder / "model.onnx"), [_read(f) for f in files]


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read(file: Path) -> Any:
    return onnx.numpy_helper.to_array(onnx.load_tensor(file))


def attempts() -> Iterator[tuple[str, onnx.ModelProto, Sample]]:
    """What to convert. Inputs of a case belong to the graph's inputs in order; some are left out at the end."""
    for name, proto, values in cases():
        infos = [i for i in proto.graph.input if i.name not in {t.name for t in proto.graph.initializer}]
        sample = dict(zip([i.name for i in infos], values, strict=False))
        yield name, proto, sample
        constants = [i for i in infos[1:] if _is_float(sample.get(i.name)) and sample[i.name].ndim > 1]
        if constants:
            changed = onnx.ModelProto()
            changed.CopyFrom(proto)
            for info in constants:
                changed.graph.initializer.append(onnx.numpy_helper.from_array(sample[info.name], info.name))
                changed.graph.input.remove(info)
            names = {i.name for i in constants}
            yield f"{name}/constants", changed, {n: v for n, v in sample.items() if n not in names}


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32, np.float64)


def _row(name: str, proto: onnx.ModelProto, sample: Sample) -> Row:
    try:
        session = open_session(proto)
    except OnnxmpqError as error:
        return Row(name, "not run", str(error).split("\n")[0])
    try:
        run(session, dict(sample))
        found = attempt(proto, [sample], size="smallest")
    except Exception:  # inputs that onnxruntime cannot be fed with from Python
        found = attempt(proto, [], size="smallest", calibration=None)
    return Row(name, found.kind, " ".join(found.words.split()), found.float_bytes)


def _work(start: int, every: int, answers: Connection) -> None:
    """Send the number of each case before it is tried, and its row after."""
    warnings.simplefilter("ignore")
    with isolated():
        for number, given in enumerate(attempts()):
            if number >= start and number % every == 0:
                answers.send(number)
                answers.send((given[0], _row(*given)))
    answers.send(None)


def rows(every: int, limit_s: float) -> Iterator[Row]:
    """All rows; those of cases at which the process died or hung as well."""
    start: int | None = 0
    while start is not None:
        here, there = multiprocessing.get_context("spawn").Pipe(duplex=False)
        worker = multiprocessing.get_context("spawn").Process(target=_work, args=(start, every, there))
        worker.start()
        there.close()
        start = yield from _follow(here, limit_s)
        worker.kill()
        worker.join()


def _follow(answers: Connection, limit_s: float) -> Iterator[Row]:
    """Rows of one process; returns the case to go on with, None where all were tried."""
    number, wait_s = -1, START_S
    try:
        while answers.poll(wait_s):
            said = answers.recv()
            if said is None:
                return None
            if isinstance(said, int):
                number, wait_s = said, limit_s
            else:
                yield said[1]
    except EOFError:
        yield Row(f"case {number}", "crash", "the process died")
        return number + 1
    yield Row(f"case {number}", "hang", f"longer than {limit_s:g} s")
    return number + 1


def table(found: list[Row]) -> str:
    """Counts by outcome, for cases as they are and with constants; bytes of float constants that are gone."""
    kinds = ("converted", "unchanged", "refused", "not run", "crash", "bad file", "hang")
    lines = ["| | " + " | ".join(("cases", *kinds)) + " |", "|---" * (len(kinds) + 2) + "|"]
    for what, chosen in (
        ("as they are", [r for r in found if not r.name.endswith("/constants")]),
        ("inputs after the first as constants", [r for r in found if r.name.endswith("/constants")]),
    ):
        counts = collections.Counter(r.kind for r in chosen)
        lines.append(f"| {what} | {len(chosen)} | " + " | ".join(str(counts[k]) for k in kinds) + " |")
    before, after = (sum(r.float_bytes[i] for r in found) for i in (0, 1))
    reasons = collections.Counter((r.kind, _general(r.words)) for r in found if r.kind in ("unchanged", "refused"))
    lines += ["", f"{before - after} of {before} bytes of float constants of rank 2 and higher were quantized.", ""]
    return "\n".join(lines + [f"- {count} {kind}: {words}" for (kind, words), count in reasons.most_common(30)])


def _general(words: str) -> str:
    """A reason without the figures of one model, cut short."""
    return "".join("#" if c.isdigit() else c for c in words)[:110]


def main() -> int:
    """Run the cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="try every so manyth case")
    parser.add_argument("--limit", type=float, default=40.0, help="seconds for one case")
    parser.add_argument("--log", type=Path, help="a line for each case")
    options = parser.parse_args()
    found: list[Row] = []
    for row in rows(options.every, options.limit):
        found.append(row)
        if options.log:
            with options.log.open("a", encoding="utf-8") as log:
                log.write(f"{row.kind}\t{row.name}\t{row.float_bytes}\t{row.words}\n")
    print(table(found))
    return int(any(r.kind in ("crash", "bad file", "hang") for r in found))


if __name__ == "__main__":
    sys.exit(main())
