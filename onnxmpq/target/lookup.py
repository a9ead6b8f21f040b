"""Costs from a published table: layer x weight bits x activation bits, as HAQ (arXiv 1811.08886) publishes them.

`.npy`: an array [layers, weight bits, activation bits] of floats; index 0 on both bit axes is `first_bits`. HAQ's
MobileNetV2 table is [53, 8, 8] with 1 to 8 bits (its code reads table[layer, weight_bits - 1, activation_bits - 1]).
`.csv`: a header `layer,weight_bits,activation_bits,cost` and a row per entry, layers counted from 0.

Layers are those of the model in graph order, without look-ups in tables of weights (Gather). Regions that are not in
the table, and changes of format between layers, cost nothing: published tables leave them out.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxmpq.cost import CostTable, Menu
from onnxmpq.errors import TargetError
from onnxmpq.model import Model, Region
from onnxmpq.schemes import FP32, Format, Scheme
from onnxmpq.target.types import Lookup, Target

CSV_COLUMNS = ["layer", "weight_bits", "activation_bits", "cost"]


def lookup_table(model: Model, target: Target, menu: Menu) -> CostTable:
    """The published costs of every scheme of the menu whose bit-widths the table has.

    Raises TargetError where the target has no table, or it is unreadable or for another number of layers.
    """
    lookup = target.lookup
    if lookup is None:
        raise TargetError(f"target '{target.name}' has no lookup table; its costs are {target.cost}")
    layers = [region for region in model.layers if not region.operator.looks_up]
    latency = read_table(lookup.latency, lookup.first_bits).for_layers(len(layers))
    energy = read_table(lookup.energy, lookup.first_bits).for_layers(len(layers)) if lookup.energy else None
    return CostTable(
        node_s=_rows(layers, menu, latency, lookup, lookup.seconds_per_unit),
        meta={"target": target.name, "cost": target.cost, "table": lookup.latency.name},
        node_j=_rows(layers, menu, energy, lookup, lookup.joules_per_unit) if energy else {},
    )


@dataclass(frozen=True)
class PublishedTable:
    """costs: [layers, weight bits, activation bits], positive, in the file's unit; NaN where there is no entry."""

    path: Path
    costs: NDArray[np.float64]
    first_bits: int

    def for_layers(self, count: int) -> PublishedTable:
        """The table itself. TargetError where it is for another number of layers."""
        if len(self.costs) != count:
            raise TargetError(
                f"table {self.path} has {len(self.costs)} layers, but the model has {count}; it is for another model"
            )
        return self

    def cost(self, layer: int, weight_bits: int, activation_bits: int) -> float | None:
        """An entry; None where the table has no such bit-widths."""
        w, a = weight_bits - self.first_bits, activation_bits - self.first_bits
        if not (0 <= w < self.costs.shape[1] and 0 <= a < self.costs.shape[2]) or np.isnan(self.costs[layer, w, a]):
            return None
        return float(self.costs[layer, w, a])


def read_table(path: Path, first_bits: int) -> PublishedTable:
    """A `.npy` or `.csv` table. Raises TargetError naming the file and the entry that is wrong."""
    if path.suffix not in (".npy", ".csv"):
        raise TargetError(f"table {path} must be a .npy or .csv file")
    try:
        costs = _read_npy(path) if path.suffix == ".npy" else _read_csv(path, first_bits)
    except FileNotFoundError as error:
        raise TargetError(f"table {path} does not exist; it is looked for beside the target file") from error
    except (OSError, ValueError, EOFError, MemoryError, OverflowError, TypeError, csv.Error) as error:
        raise TargetError(f"table {path} cannot be read: {error}") from error
    bad = np.argwhere((costs <= 0) | np.isinf(costs))
    if len(bad):
        layer, w, a = bad[0]
        entry = f"layer {layer}, {w + first_bits}-bit weights, {a + first_bits}-bit activations"
        raise TargetError(f"table {path}: the cost of {entry} is {costs[layer, w, a]:g}; it must be above 0")
    return PublishedTable(path, costs, first_bits)


def _read_npy(path: Path) -> NDArray[np.float64]:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind not in "fiu" or not array.size:
        raise ValueError("it must be an array of numbers [layers, weight bits, activation bits]")
    return np.asarray(array, dtype=np.float64)


def _read_csv(path: Path, first_bits: int) -> NDArray[np.float64]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if next(rows, []) != CSV_COLUMNS:
            raise ValueError(f"its first line must be {','.join(CSV_COLUMNS)}")
        entries = {(int(layer), int(w), int(a)): float(cost) for layer, w, a, cost in rows}
    if not entries:
        raise ValueError("it has no entries")
    places = np.array(list(entries)) - [0, first_bits, first_bits]
    if places.min() < 0 or places[:, 1:].max() >= 32:
        raise ValueError(f"layers count from 0 and bits from {first_bits} to {first_bits + 31}")
    if places[:, 0].max() >= len(entries):
        raise ValueError(f"layer {places[:, 0].max()} cannot be right with {len(entries)} entries")
    costs = np.full(places.max(axis=0) + 1, np.nan)
    costs[tuple(places.T)] = list(entries.values())
    return costs


def _rows(
    layers: list[Region], menu: Menu, table: PublishedTable, lookup: Lookup, unit: float
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for index, region in enumerate(layers):
        as_float = table.cost(index, lookup.float_bits, lookup.float_bits)
        if as_float is None:
            raise TargetError(f"table {table.path} has no {lookup.float_bits} bits, which 'float_bits' stands for")
        row = {FP32: as_float * unit}
        for scheme in menu.get(region.name, ()):
            cost = _scheme_cost(table, index, scheme)
            if cost is not None:
                row[scheme.name] = cost * unit
        found[region.name] = row
    return found


def _scheme_cost(table: PublishedTable, layer: int, scheme: Scheme) -> float | None:
    """The entry for a scheme that quantizes both operands; weight-only schemes are in no such table."""
    if scheme.weight is None or scheme.reads is Format.FLOAT:
        return None
    return table.cost(layer, scheme.weight.bits, scheme.activation_bits)
