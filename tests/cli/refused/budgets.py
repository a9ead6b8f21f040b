"""Budgets that cannot be met."""

from __future__ import annotations

from tests.cli.folders import Folder
from tests.cli.refused.case import Bad

REFUSED = [
    Bad("unmeetable latency", lambda f: f.convert("--latency", "1ns"), 5, "the fastest plan measures"),
    Bad("unmeetable size", lambda f: f.convert("--size", "1kB"), 5, "the smallest plan takes"),
    Bad("unmeetable pair", lambda f: f.convert("--latency", "1ns", "--size", "1kB"), 5, "cannot be met"),
    Bad(
        "unmeetable energy",
        lambda f: f.convert("--target", "edge-npu", "--energy", "1nJ"),
        5,
        "the most frugal plan takes",
    ),
    Bad("nothing is faster", Folder.slow_int8, 10, "nothing beats the original"),
]
