"""Command lines of tests: what they came to, and folders that they run in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

import onnxmpq
from onnxmpq.cost.table import CostTable
from tests.conftest import QUICK
from tests.graphs import graph, residual_cnn, samples_for, token_model
from tests.lint.cases import INT8_MATMUL, MATRIX, U8, changed, model
from tests.tables import int8_pays

FAST = ("--without", "gptq", "--without", "bias-correction")


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


class Folder:
    """A folder with a good model and good samples, for cases to spoil."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model, self.calib = path / "model.onnx", path / "calib.npz"
        onnx.save_model(residual_cnn(), self.model)
        np.savez(self.calib, **samples_for(residual_cnn(), 8))  # type: ignore[arg-type]

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def content(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.path)): p.read_bytes() for p in self.path.rglob("*") if p.is_file()}

    def convert(self, *options: object) -> tuple[object, ...]:
        return ("convert", self.model, "--calib", self.calib, "--quiet", *FAST, *options)

    def samples(self, **arrays: np.ndarray) -> tuple[object, ...]:
        np.savez(self.calib, **arrays)  # type: ignore[arg-type]
        return self.convert("--size", "smallest")

    def spoiled(self, content: bytes) -> tuple[object, ...]:
        self.model.write_bytes(content)
        return self.convert()

    def saved(self, proto: onnx.ModelProto, *options: object) -> tuple[object, ...]:
        onnx.save_model(proto, self.model)
        np.savez(self.calib, **samples_for(proto, 8))  # type: ignore[arg-type]
        return self.convert(*options)

    def few(self, *arguments: object) -> tuple[object, ...]:
        """A command with two samples."""
        np.savez(self.calib, **samples_for(residual_cnn(), 2))  # type: ignore[arg-type]
        return (*arguments, "--calib", self.calib)

    def int8(self, command: str) -> tuple[object, ...]:
        """A command on a MatMul of uint8 activations and int8 weights that can all overflow."""
        onnx.save_model(changed(model(U8 + INT8_MATMUL, MATRIX), w=127, s=0.001), self.model)
        return (command, self.model)

    def unknown(self, command: str) -> tuple[object, ...]:
        onnx.save_model(graph("y = Unheard (x)", "float[N, 3, 16, 16] x", "float[N, 3, 16, 16] y"), self.model)
        return (command, self.model)

    def without_external_data(self) -> tuple[object, ...]:
        onnx.save_model(residual_cnn(), self.model, save_as_external_data=True, location="w.bin", size_threshold=0)
        (self / "w.bin").unlink()
        return self.convert()

    def empty_folder(self) -> tuple[object, ...]:
        (self / "empty").mkdir()
        return ("convert", self.model, "--calib", self / "empty", "--quiet")

    def pictures(self, recipe: str | None, content: bytes = b"") -> tuple[object, ...]:
        (self / "pictures").mkdir()
        for number in range(2):
            Image.new("RGB", (20, 20)).save(self / "pictures" / f"{number}.png")
            if content:
                (self / "pictures" / f"{number}.png").write_bytes(content)
        chosen = () if recipe is None else ("--recipe", recipe)
        return ("convert", self.model, "--calib", self / "pictures", *chosen, "--quiet")

    def foreign_ids(self) -> tuple[object, ...]:
        samples = samples_for(token_model(), 8)
        samples["tokens"][2, 1] = 8
        onnx.save_model(token_model(), self.model)
        return self.samples(**samples)

    def python(self, text: str) -> tuple[object, ...]:
        name = f"source_{hashlib.sha256(text.encode()).hexdigest()[:8]}"  # modules are imported once
        (self / f"{name}.py").write_text(text)
        return ("convert", self.model, "--calib", f"{name}:feeds", "--quiet")

    def computing_nan(self) -> tuple[object, ...]:
        body = "a = MatMul (x, w)  b = Log (a)  y = MatMul (b, w)"
        return self.saved(graph(body, "float[N, 8] x", "float[N, 8] y", "float[8, 8] w"))

    def folder_for_the_plan(self) -> tuple[object, ...]:
        (self / "model.mpq.plan.json").mkdir()
        return self.convert()

    def plan(self, **fields: object) -> tuple[object, ...]:
        plan = onnxmpq.convert(
            residual_cnn(), size="smallest", calibration=samples_for(residual_cnn(), 8), effort=QUICK, without=["gptq"]
        ).plan
        (self / "plan.json").write_text(json.dumps({**json.loads(plan.to_json()), **fields}))
        return ("apply", self.model, self / "plan.json")

    def slow_int8(self) -> tuple[object, ...]:
        path = int8_pays(self.model, self.path)
        table = CostTable.from_json(path.read_text())
        costs = {r: {k: s * (4 if k == "int8" else 1) for k, s in row.items()} for r, row in table.node_s.items()}
        path.write_text(CostTable(costs, base_s=table.base_s, meta=table.meta).to_json())
        return self.convert("--latency", "fastest", "--cost-table", path)

    def foreign_table(self) -> tuple[object, ...]:
        return self.convert("--cost-table", int8_pays(token_model(), self.path))

    def negative_table(self) -> tuple[object, ...]:
        path = int8_pays(self.model, self.path)
        path.write_text(path.read_text().replace("0.0005", "-0.0005", 1))
        return self.convert("--cost-table", path)

    def target(self, text: str) -> tuple[object, ...]:
        (self / "t.toml").write_text(text)
        return self.convert("--target", self / "t.toml", "--latency", "80%")

    def foreign_ranges(self) -> tuple[object, ...]:
        samples = samples_for(token_model(), 8)
        onnxmpq.calibrate(token_model(), calibration=samples).write(self / "ranges.npz")
        return self.convert("--ranges", self / "ranges.npz")

    def other_model(self) -> tuple[object, ...]:
        onnx.save_model(token_model(), self / "other.onnx")
        return ("validate", self.model, self / "other.onnx", "--calib", self.calib, "--quiet")


def no_layers() -> onnx.ModelProto:
    return graph("y = Relu (x)", "float[N, 8] x", "float[N, 8] y")


def all_quantized() -> onnx.ModelProto:
    return graph(
        "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = MatMul (d, w)",
        "float[N, 8] x",
        "float[N, 4] y",
        "float[8, 4] w, float s = {0.1}, uint8 z = {128}",
    )


def warned(ran: Ran) -> list[str]:
    return [line.removeprefix("warning: ") for line in ran.err.splitlines() if line.startswith("warning: ")]
