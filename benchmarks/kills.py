"""SIGKILL at random moments of a conversion with a given cost table: what is left, and what the next run makes of it.

    python -m benchmarks.kills [--kills 10] [--seed 0]

Converts samples/digits_cnn.onnx on the command line, with an empty cache each time. After a kill no output or plan may
be there unless it is whole, no process may go on, and the next run with the same cache must end in the bytes of a run
that nobody disturbed. Exit code 1 if it is otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxmpq.files import plan_path
from tests.tables import int8_pays

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "samples" / "digits_cnn.onnx"
WAITS = 300  # tenths of a second, for processes whose parent was killed


@dataclass(frozen=True)
class Place:
    """A folder with the output, the cache and temporary files of one conversion. costs: the table."""

    folder: Path
    costs: Path
    more: Sequence[str] = ()

    @property
    def output(self) -> Path:
        return self.folder / "out" / "digits.mpq.onnx"

    @property
    def cached(self) -> list[Path]:
        """Entries of the cache that are whole."""
        return sorted((self.folder / "cache").rglob("*.npz"))

    def start(self) -> subprocess.Popen[str]:
        """A conversion, in a session of its own so that its processes can be told."""
        for name in ("out", "temporary"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        command = [
            "convert",
            "--verbose",
            SAMPLE,
            "-o",
            self.output,
            "--latency",
            "60%",
            "--cost-table",
            self.costs,
            "--samples",
            16,
        ]
        command += ["--cost-table", self.costs, "--calib", SAMPLE.with_name("digits_calib.npz")]
        command += ["--cache", self.folder / "cache", *self.more]
        return subprocess.Popen(
            [sys.executable, "-m", "onnxmpq", *map(str, command)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder / "temporary")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> tuple[dict[str, bytes], list[str]]:
        """Run to the end: files written, and what was said of the cache. Raises RuntimeError where it fails."""
        process = self.start()
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(said)
        return self.written(), [line.strip() for line in said.splitlines() if "from the cache" in line]

    def written(self) -> dict[str, bytes]:
        """Name -> content of the output and the plan, as far as they are there."""
        files = (self.output, plan_path(self.output))
        return {path.name: path.read_bytes() for path in files if path.exists()}

    def leftovers(self) -> list[str]:
        """Files and folders that a run which is not killed removes."""
        known = {self.output, plan_path(self.output)}
        found = [p for p in (self.folder / "out").iterdir() if p not in known]
        found += [*(self.folder / "temporary").iterdir(), *(self.folder / "cache").rglob(".writing-*")]
        return [str(p.relative_to(self.folder)) for p in found]


def kill(place: Place, ready: Callable[[], bool]) -> bool:
    """Start a conversion and kill it once `ready`; False where it ended before.

    Waits for its other processes. Raises RuntimeError where they go on.
    """
    process = place.start()
    while process.poll() is None and not ready():
        time.sleep(0.005)
    hit = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for _ in range(WAITS):
        if not survivors(process.pid):
            return hit
        time.sleep(0.1)
    raise RuntimeError(f"processes {survivors(process.pid)} outlive the conversion")


def survivors(group: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance, wrong = random.Random(asked.seed), 0
    with tempfile.TemporaryDirectory() as given:
        root = Path(given)
        costs = int8_pays(SAMPLE, root)
        started = time.monotonic()
        undisturbed = Place(root / "undisturbed", costs)
        expected, _ = undisturbed.finish()
        usual = {Path(name).name for name in undisturbed.leftovers()}  # of the runtime
        whole_s = time.monotonic() - started
        print(f"undisturbed: {whole_s:.1f} s, {', '.join(f'{n} {len(c)} bytes' for n, c in expected.items())}")
        for number in range(asked.kills):
            place, moment = Place(root / str(number), costs), chance.uniform(0, whole_s)
            end = time.monotonic() + moment
            hit = kill(place, lambda end=end: time.monotonic() >= end)  # type: ignore[misc]
            entries, left = len(place.cached), [name for name in place.leftovers() if Path(name).name not in usual]
            torn = [name for name, content in place.written().items() if content != expected[name]]
            again, reused = place.finish()
            same = again == expected
            wrong += bool(torn) or not same
            print(
                f"{number}: {'killed' if hit else 'had ended'} after {moment:.1f} s; cache entries {entries}; "
                f"half-written {torn or 'none'}; left over {left or 'nothing'}; next run "
                f"{'the same bytes' if same else 'OTHER BYTES'}, {len(reused)} kinds of values from the cache",
                flush=True,
            )
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
