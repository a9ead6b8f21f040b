"""Tensors that depend on random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from onnxmpq.model import prepare
from onnxmpq.model.random import random_tensors
from tests.graphs import graph


@dataclass(frozen=True)
class Case:
    """Nodes, and which of the tensors are random."""

    id: str
    body: str
    random: frozenset[str]


CASES = [
    Case("none", "a = Relu (x)  y = Neg (a)", frozenset()),
    Case("a Like", "n = RandomNormalLike (x)  b = Neg (x)  a = Add (b, n)  y = Relu (a)", frozenset("nay")),
    Case("without inputs", "n = RandomUniform <shape = [2, 4]> ()  a = Relu (x)  y = Add (a, n)", frozenset("ny")),
    Case("Dropout at rest", "a = Dropout (x, r)  y = Relu (a)", frozenset()),
    Case("Dropout in training", "a = Dropout (x, r, t)  y = Relu (a)", frozenset("ay")),
    Case(
        "inside a body",
        """b = Relu (x)
           y = If (t) <
               then_branch = u () => (float[2, 4] v) { v = RandomNormalLike (b) },
               else_branch = e () => (float[2, 4] w) { w = Neg (b) }
           >""",
        frozenset("y"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_random_tensors(case: Case) -> None:
    proto = graph(case.body, "float[2, 4] x", "float[2, 4] y", "float r = {0.5}, bool t = {1}")
    assert random_tensors(proto.graph) == case.random


def test_what_is_drawn_is_not_folded() -> None:
    body = "n = RandomUniform <shape = [2, 4]> ()  m = Add (n, w)  y = Add (x, m)"
    model = prepare(graph(body, "float[2, 4] x", "float[2, 4] y", "float[2, 4] w"))
    assert [n.op_type for n in model.structure.graph.node] == ["RandomUniform", "Add", "Add"]
