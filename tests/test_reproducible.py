"""With costs from a table or a model, neither clocks nor cores nor cache nor hash seeds have part in the result."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Machine:
    """workers: cores that it seems to have. clock: see `tests.converted_once`."""

    workers: int
    hash_seed: int
    clock: int = 0
    cache: str = ""


def converted(machine: Machine, target: str, folder: Path) -> str:
    """Hashes of the model and of its plan."""
    asked = json.dumps({**asdict(machine), "target": target})
    done = subprocess.run(
        [sys.executable, "-m", "tests.converted_once", asked, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(machine.hash_seed), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.split("\n")[-2]


def test_the_same_bytes_with_a_cost_table_whatever_the_cache_holds(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = converted(Machine(workers=1, hash_seed=1), "cpu", tmp_path)
    cold = converted(Machine(workers=4, hash_seed=2, clock=5, cache=str(cache)), "cpu", tmp_path)
    entries = sorted(cache.rglob("*.npz"))
    assert len(entries) > 8
    for entry in random.Random(0).sample(entries, len(entries) // 2):
        entry.unlink()
    half_warm = converted(Machine(workers=3, hash_seed=3, clock=6, cache=str(cache)), "cpu", tmp_path)
    warm = converted(Machine(workers=2, hash_seed=4, cache=str(cache)), "cpu", tmp_path)
    assert [cold, half_warm, warm] == [first] * 3


@pytest.mark.parametrize("target", ["orin", "edge-npu"])
def test_the_same_bytes_for_a_modelled_target(target: str, tmp_path: Path) -> None:
    machines = Machine(workers=1, hash_seed=1), Machine(workers=4, hash_seed=2, clock=5)
    one, other = (converted(machine, target, tmp_path) for machine in machines)
    assert one == other
