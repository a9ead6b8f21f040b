"""Laws of a conversion that hold for every graph: tried on random ones."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from onnxmpq.decoding import find_decoder
from onnxmpq.isolation import isolated
from onnxmpq.model import prepare
from onnxmpq.runtimes import open_session, run
from tests.outcomes import FAULTS, attempt
from tests.random_graphs import BLOCKS, OPSETS, RandomGraph, random_graph
from tests.tables import int8_pays

MARGIN_DB = 4.0
"""By which a conversion may be worse than its scales imply. On 200 graphs, three goals each, it was 3.0 dB at most."""
LEAST_DB = 8.0
"""Of a conversion whose verdict is good, whatever its scales are."""
FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # each try takes a second
    suppress_health_check=list(HealthCheck),
)
graphs = st.integers(0, 2**32 - 1).map(random.Random)
"""Not `st.randoms`, whose first graphs are all of the first block."""


def goal(name: str, made: RandomGraph, folder: Path) -> dict[str, Any]:
    """Options of `convert` by which no clock decides."""
    if name == "4 bits":  # 8 where they take fewer bytes
        return {"size": "smallest", "schemes": ["w4", "w8"]}
    table = int8_pays(made.proto, folder)
    if find_decoder(prepare(made.proto).structure) is not None:  # samples have several tokens
        document = json.loads(table.read_text(encoding="utf-8"))
        document["meta"]["shape"] = "step prefill"
        table.write_text(json.dumps(document), encoding="utf-8")
    if name == "int8":
        return {"latency": "fastest", "cost_table": table}
    return {"size": "60%", "best_effort": True, "cost_table": table}


@FEW
@pytest.mark.parametrize("name", ["int8", "4 bits", "mixed"])
@given(rng=graphs)
def test_random_graphs_are_converted_or_left_alone(name: str, rng: random.Random) -> None:
    made = random_graph(rng, blocks=4)
    with tempfile.TemporaryDirectory() as folder, isolated():
        found = attempt(made.proto, made.samples, **goal(name, made, Path(folder)))
    assert found.kind not in (*FAULTS, "refused"), (found.words, made.blocks)
    assert found.sqnr_db >= found.implied_db - MARGIN_DB, made.blocks
    assert found.sqnr_db > LEAST_DB or found.level != "good", made.blocks


@FEW
@given(rng=graphs)
def test_a_second_conversion_is_harmless(rng: random.Random) -> None:
    """What was converted can be given again: refused, left alone or converted, and not broken."""
    made = random_graph(rng, blocks=3)
    with isolated():
        first = attempt(made.proto, made.samples, size="smallest")
        if first.result is None:
            return
        again = attempt(first.result, made.samples, size="smallest")
    assert again.kind not in FAULTS, (again.words, made.blocks)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rng=graphs, opset=st.sampled_from(OPSETS))
def test_the_generator_makes_valid_graphs(rng: random.Random, opset: int) -> None:
    made = random_graph(rng, opset=opset)
    onnx.checker.check_model(made.proto, full_check=True)
    session = open_session(made.proto)
    for sample in made.samples:
        run(session, dict(sample))


def test_every_block_and_opset_is_made() -> None:
    """Of a few hundred graphs; otherwise a block is dead."""
    blocks: set[str] = set()
    for seed in range(120):
        blocks |= set(random_graph(random.Random(seed)).blocks)
    assert blocks == {block.__name__ for block in BLOCKS}
