"""Cost tables as files: written on the device by `onnxmpq profile`, read elsewhere by `convert --cost-table`.

A table says what it was measured on: model structure, target, provider, threads and onnxruntime version must be those
of the conversion, and the schema the one read here. CPU, its features and the date are told, not compared: another CPU
than this machine's is what such a table is for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

from onnxmpq.cost.table import CostTable
from onnxmpq.errors import TargetError
from onnxmpq.files import as_path, read_text
from onnxmpq.measuring import described
from onnxmpq.model import Model
from onnxmpq.provenance import SchemaMismatch, another_cpu, describe_runtime

_MUST_MATCH = ("structure_sha256", "target", "provider", "threads", "shape", "onnxruntime")
_ADVICE = {
    "structure_sha256": "it was measured on another model, or on samples for which other steps of preparing change an "
    "output (a warning says so); profile this model with the samples that it is converted with",
    "target": "it was measured for another target",
    "provider": "it was measured with another execution provider",
    "threads": "give the same --threads, or profile again",
    "shape": "give the same --shape, or profile again",
    "onnxruntime": "what is fused differs between versions; profile again with this one",
}


def describe(model: Model, target: str, provider: str, threads: int, shape: str = "") -> dict[str, str]:
    """The origin of a cost table: runtime, CPU, threads, date, and a hash of the prepared graph's structure.

    shape: of the inputs that are timed, where the user gave one.
    """
    return {
        **described(),
        "date": date.today().isoformat(),
        "target": target,
        "provider": provider,
        "threads": str(threads),
        "structure_sha256": _structure(model),
        **({"shape": shape} if shape else {}),
    }


def _structure(model: Model) -> str:
    """Hash of everything in the prepared graph but the values of its constants."""
    digest = hashlib.sha256()
    graph = model.structure.graph
    for message in (*graph.input, *graph.node):
        digest.update(message.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        digest.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}\n".encode())
    return digest.hexdigest()


def read_cost_table(path: str | Path) -> CostTable:
    """A cost table from a file that `onnxmpq profile` wrote, whatever it was measured on; `convert` checks that.

    Raises TargetError where it cannot be read or is none.
    """
    try:
        return CostTable.from_json(read_text(as_path(path, "a file of `onnxmpq profile`")))
    except OSError as error:
        raise TargetError(f"{path}: cannot be read ({error.strerror}); give a file of `onnxmpq profile`") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetError(f"{path}: no cost table of this version ({error}); run `onnxmpq profile` again") from None


def read_table(path: Path, expected: dict[str, str]) -> CostTable:
    """A table from a file. Raises TargetError where it cannot be read, has impossible costs, or fits something else."""
    try:
        table = CostTable.from_json(read_text(path))
        costs = list(_costs(table))
    except OSError as error:
        raise TargetError(
            f"{path}: cannot be read ({error.strerror}); give a file written by `onnxmpq profile`"
        ) from None
    except SchemaMismatch as error:
        raise TargetError(
            f"{path}: not a cost table of `onnxmpq profile` as it is now: {error}; profile again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetError(f"{path}: not a cost table of `onnxmpq profile` ({error}); profile again") from None
    for field in _MUST_MATCH:
        there, here = table.meta.get(field), expected.get(field)
        if there != here:
            raise TargetError(f"{path}: {field} is {there!r}, here it is {here!r}: {_ADVICE[field]}")
    _check_costs(path, table, costs)
    return table


def elsewhere(table: CostTable) -> bool:
    """True for a table that was measured on another CPU than this machine's."""
    return bool(another_cpu(table.meta, describe_runtime()))


def origin(table: CostTable) -> str:
    """Where and when a table was measured, and what this machine is where it is another one: a line for the user."""
    there = table.meta.get("cpu", "an unknown CPU"), table.meta.get("cpu_features", "features unknown")
    line = f"costs measured on {there[0]} ({there[1]}), {table.meta.get('date', 'undated')}"
    here = another_cpu(table.meta, describe_runtime())
    return f"{line}; this machine is another: {here}" if here else line


def _check_costs(path: Path, table: CostTable, costs: list[tuple[str, object]]) -> None:
    """Raises TargetError for a cost that is no finite number, or a negative one of a kernel.

    A kernel may cost nothing (it is fused into its neighbour's), and a transition less than that; not everything may.
    """
    for place, cost in costs:
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not math.isfinite(cost):
            raise TargetError(f"{path}: {place} is {cost!r}, which is no number; profile again")
        if cost < 0 and place.startswith("node"):
            raise TargetError(f"{path}: {place} is {cost}; a kernel cannot cost less than nothing; profile again")
    if table.base_s + sum(table.scheme_s(region, None) for region in table.node_s) <= 0:
        raise TargetError(f"{path}: the costs of the float32 model add up to nothing; profile again")


def _costs(table: CostTable) -> Iterator[tuple[str, object]]:
    """(where it stands, what stands there) of every number; AttributeError where there is no table of numbers."""
    yield "base_s", table.base_s
    for name in ("node_s", "node_j"):
        for region, costs in getattr(table, name).items():
            for kernel, cost in costs.items():
                yield f"{name}[{region!r}][{kernel!r}]", cost
    for name in ("shared", "edges"):
        for key, transition in getattr(table, name).items():
            for field, cost in asdict(transition).items():
                yield f"{name}[{key!r}].{field}", cost
