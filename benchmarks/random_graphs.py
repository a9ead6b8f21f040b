"""Random graphs, converted to int8, to 4 bits and to a mixed budget: outcomes, crashes and bad files.

    python -m benchmarks.random_graphs [--count 200] [--first 0] [--blocks 6]

The graphs are those of tests/random_graphs/, by seed; costs come from a made-up table, so that no clock decides.
Prints the table of docs/any_model.md; exit status 1 for a crash, a refusal, a bad file, a verdict "good" on less than
8 dB, or an error beyond what the scales imply (tests/implied_noise.py).
"""

from __future__ import annotations

import argparse
import collections
import math
import random
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

from onnxmpq.isolation import isolated
from tests.outcomes import Outcome, attempt
from tests.random_graphs import RandomGraph, random_graph
from tests.test_random_graphs import LEAST_DB, MARGIN_DB, goal

GOALS = ("int8", "4 bits", "mixed")
KINDS = ("converted", "unchanged", "refused", "crash", "bad file")


def convert(made: RandomGraph, name: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return attempt(made.proto, made.samples, **goal(name, made, Path(folder)))


def wrong(found: Outcome) -> bool:
    quiet = found.kind == "converted" and found.level == "good" and found.sqnr_db < LEAST_DB
    beyond = found.kind == "converted" and found.sqnr_db < found.implied_db - MARGIN_DB
    return found.kind not in ("converted", "unchanged") or quiet or beyond


def line(name: str, found: list[Outcome]) -> str:
    """A row of the table: counts by outcome, bytes of float constants that are gone, median SQNR, verdicts."""
    counts = collections.Counter(o.kind for o in found)
    made = [o for o in found if o.kind == "converted"]
    before, after = (sum(o.float_bytes[i] for o in found) for i in (0, 1))
    sqnr = statistics.median(o.sqnr_db for o in made if math.isfinite(o.sqnr_db)) if made else math.nan
    bad = sum(o.level == "bad" for o in made)
    share = 100 * (before - after) / max(before, 1)
    return f"| {name} | " + " | ".join(str(counts[k]) for k in KINDS) + f" | {share:.0f} % | {sqnr:.1f} | {bad} |"


def main() -> int:
    """Convert, say what is wrong, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="graphs")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--blocks", type=int, default=6, help="blocks of a graph")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, list[Outcome]] = {name: [] for name in GOALS}
    faults, started = 0, time.monotonic()
    with isolated():
        for seed in range(options.first, options.first + options.count):
            made = random_graph(random.Random(seed), blocks=options.blocks)
            for name, outcomes in found.items():
                outcomes.append(outcome := convert(made, name))
                if wrong(outcome):
                    faults += 1
                    quality = f"{outcome.level}, {outcome.sqnr_db:.1f} dB, implied {outcome.implied_db:.1f}"
                    print(f"seed {seed}, {name}: {outcome.kind} ({quality})", flush=True)
                    print(f"  {outcome.words[:300]}; {', '.join(made.blocks)}", flush=True)
    print("| goal | " + " | ".join(KINDS) + " | float bytes gone | median SQNR, dB | verdict bad |")
    print("|---" * (len(KINDS) + 4) + "|")
    for name, outcomes in found.items():
        print(line(name, outcomes))
    both = [
        o for outcomes in found.values() for o in outcomes if math.isfinite(o.sqnr_db) and math.isfinite(o.implied_db)
    ]
    apart = [o.sqnr_db - o.implied_db for o in both]
    print(f"SQNR less what the scales imply: {min(apart):.1f} to {max(apart):.1f} dB over {len(apart)} conversions")
    reasons = collections.Counter(
        o.words[:70] for outcomes in found.values() for o in outcomes if o.kind == "unchanged"
    )
    for words, number in reasons.most_common():
        print(f"- {number} unchanged: {words}")
    print(f"{time.monotonic() - started:.0f} s")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
