"""Random small graphs of every kind of structure that a conversion meets, each valid and with finite outputs.

A graph grows block by block. Each node is run as soon as it is added, so its result's shape is known; a block that
the runtime refuses, or whose values leave the usual range, is taken back. All choices come from a `random.Random`.
"""

from tests.random_graphs.graphs import BLOCKS, OPSETS, RandomGraph, random_graph

__all__ = ["BLOCKS", "OPSETS", "RandomGraph", "random_graph"]
