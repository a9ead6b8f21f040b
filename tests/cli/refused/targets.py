"""Targets, providers and cost tables that cannot be used."""

from __future__ import annotations

from onnxmpq.files import data_folder
from tests.cli.folders import Folder
from tests.cli.refused.case import Bad
from tests.tables import int8_pays

NPU = (data_folder("cost_models") / "edge-npu.toml").read_text(encoding="utf-8").replace('"edge-npu"', '"t"')


REFUSED = [
    Bad("no energies", lambda f: f.convert("--energy", "1mJ"), 8, "cpu"),
    Bad("unknown target", lambda f: f.convert("--target", "cpux"), 8, "cpux"),
    Bad("target that is no TOML", lambda f: f.target('name = "t"\ncost = \n'), 8, "(at line 2, column 8)"),
    Bad("target without fields", lambda f: f.target('name = "t"\n'), 8, "t.toml: field 'cost' is missing"),
    Bad("no such target file", lambda f: f.convert("--target", f / "no.toml"), 8, "does not exist"),
    Bad(
        "negative rate",
        lambda f: f.target(NPU.replace("4e9", "-4e9")),
        8,
        "'roofline.bandwidth_bytes_per_s.value' is -",
    ),
    Bad("a rate of nothing", lambda f: f.target(NPU.replace("512e9", "0")), 8, "'roofline.macs_per_s.int8.value' is 0"),
    Bad(
        "no such provider", lambda f: f.convert("--provider", "OpenVINOExecutionProvider"), 8, "not in this onnxruntime"
    ),
    Bad("table with negative costs", Folder.negative_table, 8, "['int8'] is -"),
    Bad("no such table", lambda f: f.convert("--cost-table", f / "no.json"), 8, "no.json: cannot be read"),
    Bad(
        "table of another shape",
        lambda f: f.convert("--cost-table", int8_pays(f.model, f.path), "--shape", "x=2x3x16x16"),
        8,
        "shape is None, here it is 'x=2x3x16x16': give the same --shape",
    ),
    Bad("table of another model", Folder.foreign_table, 8, "structure_sha256"),
]
