from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import TargetError
from onnxmpq.schemes import scheme_named
from onnxmpq.target import Target, load_target, lookup_table
from tests.target.graphs import menu_of, small_model

SMALL = small_model()
LAYERS = len(SMALL.layers)

TARGET = """
name = "published"
description = "a published table"
sources = ["https://arxiv.org/abs/1811.08886"]
dialect = "onnxruntime"
cost = "lookup"
[menu]
Conv = ["fp32", "int8", "w5a6", "w2a2"]
MatMul = ["fp32", "int8", "w5a6"]
[lookup]
latency = "latency.npy"
seconds_per_unit = 1e-3
float_bits = 8
"""


def haq_table(layers: int = LAYERS) -> np.ndarray:
    """[layers, 8, 8] in ms, as HAQ's: 1 to 8 bits on both axes."""
    bits = np.arange(1, 9)
    return np.arange(1, layers + 1)[:, None, None] * (bits[:, None] * bits)[None]


def written(folder: Path, target: str = TARGET) -> Target:
    (folder / "published.toml").write_text(target)
    return load_target(folder / "published.toml")


def test_haq_convention(tmp_path: Path) -> None:
    np.save(tmp_path / "latency.npy", haq_table())
    target = written(tmp_path)
    table = lookup_table(SMALL, target, menu_of(SMALL, target))
    conv, matmul = (layer.name for layer in SMALL.layers)
    assert table.scheme_s(conv, scheme_named("w5a6")) == pytest.approx(30e-3)
    assert table.scheme_s(matmul, scheme_named("w5a6")) == pytest.approx(60e-3)
    assert table.scheme_s(conv, scheme_named("fp32")) == pytest.approx(64e-3)
    assert table.predict_s(SMALL, {conv: scheme_named("w2a2")}) == pytest.approx(4e-3 + 128e-3)
    assert not target.has_energy
    with pytest.raises(TargetError, match="no energies"):
        table.predict_j(SMALL, {})


def test_energies_and_csv(tmp_path: Path) -> None:
    rows = [f"{layer},{w},{a},{(layer + 1) * w * a}" for layer in range(LAYERS) for w in (2, 5, 8) for a in (2, 6, 8)]
    (tmp_path / "latency.csv").write_text("layer,weight_bits,activation_bits,cost\n" + "\n".join(rows))
    np.save(tmp_path / "energy.npy", haq_table().astype(np.float32))
    text = TARGET.replace("latency.npy", "latency.csv") + 'energy = "energy.npy"\njoules_per_unit = 1e-6\n'
    target = written(tmp_path, text)
    table = lookup_table(SMALL, target, menu_of(SMALL, target))
    conv = SMALL.layers[0].name
    assert target.has_energy
    assert table.scheme_s(conv, scheme_named("w5a6")) == pytest.approx(30e-3)
    assert table.predict_j(SMALL, {}) == pytest.approx(3 * 64e-6)


def test_schemes_that_the_table_lacks_are_not_offered(tmp_path: Path) -> None:
    np.save(tmp_path / "latency.npy", haq_table()[:, 3:, 3:])
    target = written(tmp_path, TARGET + "first_bits = 4\n")
    table = lookup_table(SMALL, target, menu_of(SMALL, target))
    conv = SMALL.layers[0].name
    assert "w2a2" not in table.node_s[conv]
    assert table.scheme_s(conv, scheme_named("w5a6")) == pytest.approx(30e-3)


@dataclass(frozen=True)
class Bad:
    id: str
    table: np.ndarray
    message: str


def with_entry(value: float) -> np.ndarray:
    table = haq_table().astype(np.float64)
    table[1, 4, 5] = value
    return table


BAD = [
    Bad("layers", haq_table(53), f"latency.npy has 53 layers, but the model has {LAYERS}; it is for another model"),
    Bad("axes", haq_table()[0], r"it must be an array of numbers \[layers, weight bits, activation bits\]"),
    Bad("negative", with_entry(-1.0), "the cost of layer 1, 5-bit weights, 6-bit activations is -1; it must be above"),
    Bad("zero", with_entry(0.0), "is 0; it must be above 0"),
    Bad("infinite", with_entry(np.inf), "is inf; it must be above 0"),
    Bad("texts", np.array([[["a"]]]), "it must be an array of numbers"),
    Bad("objects", np.array([[[None]]]), "cannot be read: .*pickle"),
    Bad("float-bits", haq_table()[:, :4, :4], "has no 8 bits, which 'float_bits' stands for"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_array(case: Bad, tmp_path: Path) -> None:
    np.save(tmp_path / "latency.npy", case.table)
    target = written(tmp_path)
    with pytest.raises(TargetError, match=case.message):
        lookup_table(SMALL, target, menu_of(SMALL, target))


@dataclass(frozen=True)
class BadText:
    id: str
    text: str
    message: str


HEADER = "layer,weight_bits,activation_bits,cost\n"
BAD_TEXT = [
    BadText("header", "1,2,3,4\n", "its first line must be layer,weight_bits"),
    BadText("empty", HEADER, "it has no entries"),
    BadText("words", HEADER + "0,8,8,fast\n", "could not convert string to float"),
    BadText("columns", HEADER + "0,8,8\n", "not enough values"),
    BadText("zero-bits", HEADER + "0,0,8,1\n", "bits from 1 to 32"),
    BadText("far-layer", HEADER + "999999999,8,8,1\n", "layer 999999999 cannot be right with 1 entries"),
    BadText("binary", "\x00\x01", "its first line must be|cannot be read"),
]


@pytest.mark.parametrize("case", BAD_TEXT, ids=lambda case: case.id)
def test_bad_text(case: BadText, tmp_path: Path) -> None:
    (tmp_path / "latency.csv").write_text(case.text)
    target = written(tmp_path, TARGET.replace("latency.npy", "latency.csv"))
    with pytest.raises(TargetError, match=case.message):
        lookup_table(SMALL, target, menu_of(SMALL, target))


def test_missing_file_and_wrong_target(tmp_path: Path) -> None:
    target = written(tmp_path)
    with pytest.raises(TargetError, match=r"latency\.npy does not exist"):
        lookup_table(SMALL, target, {})
    with pytest.raises(TargetError, match="has no lookup table; its costs are measured"):
        lookup_table(SMALL, load_target("cpu"), {})
    odd = written(tmp_path, TARGET.replace("latency.npy", "latency.txt"))
    with pytest.raises(TargetError, match=r"must be a \.npy or \.csv file"):
        lookup_table(SMALL, odd, {})
