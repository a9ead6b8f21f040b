"""Cost tables that are made up, so that a conversion chooses the same plan on every machine."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxmpq.cost.exchange import describe
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import DIALECTS
from onnxmpq.menu import candidates
from onnxmpq.model import prepare
from onnxmpq.runtimes import CPU
from onnxmpq.target.load import load_target


def int8_pays(source: Path | onnx.ModelProto, folder: Path, kernel: str = "int8") -> Path:
    """A table file by which int8, or another kernel, takes half of float32's time everywhere, and changes of format are
    free."""
    model, target = prepare(source), load_target("cpu")
    menu = candidates(model, target, DIALECTS[target.dialect])
    costs = {name: {s.kernel: 5e-4 if s.kernel == kernel else 1e-3 for s in row} for name, row in menu.items()}
    path = folder / "costs.json"
    path.write_text(CostTable(costs, base_s=1e-6, meta=describe(model, "cpu", CPU, 1)).to_json(), encoding="utf-8")
    return path
