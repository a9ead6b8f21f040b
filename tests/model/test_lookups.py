from __future__ import annotations

from onnxmpq.model.lookups import table_rows
from tests.graphs import graph


def test_ids_are_followed_to_the_smallest_table() -> None:
    proto = graph(
        """a = Gather (big, ids)  c = Cast <to = 6> (ids)  b = Gather (small, c)
           p = Gather <axis = 1> (wide, places)  s = Add (a, b)  q = ReduceMean (p)  t = Mul (s, q)
           f = Cast <to = 1> (count)  u = Mul (t, f)""",
        "int64[N, T] ids, int64[N, T] places, int64[1] count",
        "float[N, T, 4] u",
        "float[50, 4] big, float[20, 4] small, float[3, 7] wide",
    )
    assert table_rows(proto) == {"ids": 20, "places": 7}


def test_computed_ids_and_tables_do_not_count() -> None:
    proto = graph(
        "two = Add (ids, ids)  a = Gather (table, two)  b = Gather (x, ids)  y = Add (a, b)",
        "int64[N] ids, float[N, 4] x",
        "float[N, 4] y",
        "float[9, 4] table",
    )
    assert table_rows(proto) == {}
