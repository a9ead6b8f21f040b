"""Models that cannot be read, run or quantized."""

from __future__ import annotations

from tests.cli.folders import Folder, all_quantized, no_layers
from tests.cli.refused.case import Bad

REFUSED = [
    Bad("no such model", lambda f: ("convert", f / "nothing.onnx", "--quiet"), 3, "no such file"),
    Bad("not ONNX", lambda f: f.spoiled(b"this is a text about models\n"), 3, "not an ONNX model"),
    Bad("check: not ONNX", lambda f: ("check", *f.spoiled(b"a text")[1:2]), 3, "not an ONNX model"),
    Bad("check: no counts of no run", lambda f: (*f.unknown("check"), "--calib", f.calib), 3, "cannot load the model"),
    Bad("an empty file", lambda f: f.spoiled(b""), 3, "not an ONNX model"),
    Bad("truncated", lambda f: f.spoiled(f.model.read_bytes()[:-5000]), 3, "truncated"),
    Bad("external data missing", Folder.without_external_data, 3, "external data file 'w.bin' is missing"),
    Bad("already quantized", lambda f: f.saved(all_quantized()), 6, "2 nodes are already quantized"),
    Bad("no layer", lambda f: f.saved(no_layers()), 6, "none of the model's 0 layers can be quantized"),
    Bad("NaN by the model", Folder.computing_nan, 3, "sample 0: NaN first appears at node 'Log_1' (Log)"),
    Bad("inspecting text", lambda f: ("inspect", f.spoiled(b"text")[1]), 3, "not an ONNX model"),
    Bad("validating text", lambda f: ("validate", f.model, f.calib, "--calib", f.calib, "-q"), 3, "cannot load"),
]
