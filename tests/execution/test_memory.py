"""Chunks hold every item once, in order, and stay within each limit unless one item alone is beyond it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.execution import cut_to_fit

SIZES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30)


@given(SIZES, st.integers(1, 120), st.integers(1, 120))
def test_chunks_are_the_longest_within_the_limits(sizes: list[tuple[int, int]], first: int, second: int) -> None:
    def held(chunk: list[int]) -> tuple[int, int]:
        return sum(sizes[i][0] for i in chunk), sum(sizes[i][1] for i in chunk)

    def fits(chunk: list[int]) -> bool:
        one, other = held(chunk)
        return one <= first and other <= second

    chunks = list(cut_to_fit(range(len(sizes)), lambda i: sizes[i], (first, second)))
    assert [i for chunk in chunks for i in chunk] == list(range(len(sizes)))
    for chunk in chunks:
        assert len(chunk) == 1 or fits(chunk)
    for chunk, following in itertools.pairwise(chunks):
        assert not fits([*chunk, following[0]])
