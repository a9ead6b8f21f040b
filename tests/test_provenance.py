"""What sets two machines apart, in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.provenance import VERSIONS, another_cpu, describe_runtime, other_features, other_versions

FEATURES = st.lists(st.sampled_from(["x86_64", "avx2", "fma", "avx512_vnni", "amx_int8"]), unique=True, min_size=1)


def test_this_machine_is_not_apart_from_itself() -> None:
    here = describe_runtime()
    assert set(VERSIONS) <= here.keys()
    assert not other_versions(here, here) and not other_features(here, here) and not another_cpu(here, here)


@given(FEATURES, FEATURES)
def test_features_are_apart_exactly_where_they_differ(theirs: list[str], ours: list[str]) -> None:
    words = other_features({"cpu_features": " ".join(theirs)}, {"cpu_features": " ".join(ours)}).split()
    assert {f for f in (*theirs, *ours) if f in words} == set(theirs) ^ set(ours)


def test_unknown_features_are_no_difference_and_unknown_versions_are_one() -> None:
    assert not other_features({}, {"cpu_features": "avx2"})
    assert other_versions({"onnx": "1"}, {name: "1" for name in VERSIONS})[0].startswith(
        "onnxmpq of an unknown version"
    )
