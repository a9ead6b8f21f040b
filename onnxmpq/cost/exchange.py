"""Cost tables as files: written on the device by `onnxmpq profile`, read elsewhere by `convert --cost-table`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from onnxmpq.cost.table import CostTable
from onnxmpq.errors import TargetError
from onnxmpq.model import Model
from onnxmpq.runtime import describe_runtime

_MUST_MATCH = ("structure_sha256", "target", "provider", "threads", "onnxruntime")
_ADVICE = {
    "structure_sha256": "it was measured on another model",
    "target": "it was measured for another target",
    "provider": "it was measured with another execution provider",
    "threads": "give the same --threads, or profile again",
    "onnxruntime": "fusions differ between versions; profile again with this one",
}


def describe(model: Model, target: str, provider: str, threads: int) -> dict[str, str]:
    """What a cost table is valid for: runtime, CPU, threads, and a hash of the prepared graph's structure."""
    structure = hashlib.sha256()
    for node in model.proto.graph.node:
        structure.update(f"{node.op_type} {node.name} {list(node.input)} {list(node.output)}\n".encode())
    for region in model.layers:
        structure.update(f"{region.name} {region.params.weight_shape}\n".encode())
    return {
        **describe_runtime(),
        "target": target,
        "provider": provider,
        "threads": str(threads),
        "structure_sha256": structure.hexdigest(),
    }


def read_table(path: Path, expected: dict[str, str]) -> CostTable:
    """A table from a file. Raises TargetError where it cannot be read, has impossible costs, or fits something else."""
    try:
        table = CostTable.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TargetError(
            f"{path}: cannot be read ({error.strerror}); give a file written by `onnxmpq profile`"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetError(f"{path}: not a cost table of `onnxmpq profile` ({error}); profile again") from None
    for field in _MUST_MATCH:
        if table.meta.get(field) != expected[field]:
            raise TargetError(
                f"{path}: {field} is {table.meta.get(field)!r}, here it is {expected[field]!r}: {_ADVICE[field]}"
            )
    for place, seconds in _node_costs(table):
        if not math.isfinite(seconds) or seconds < 0:
            raise TargetError(f"{path}: {place}: {seconds} is not a cost in seconds; profile again")
    return table


def _node_costs(table: CostTable) -> Iterator[tuple[str, float]]:
    for region, costs in table.node_s.items():
        for kernel, seconds in costs.items():
            yield f"node_s[{region!r}][{kernel!r}]", seconds
