"""Outputs that cannot be written, plans and models of something else."""

from __future__ import annotations

from tests.cli.folders import Folder
from tests.cli.refused.case import Bad

LONG = "x" * 300
REFUSED = [
    Bad("name of the output", lambda f: f.convert("-o", f / LONG), 7, "cannot be written (File name too long)"),
    Bad("name of the report", lambda f: f.convert("--report", f / f"{LONG}.html"), 7, "cannot be written (File name"),
    Bad(
        "name of the model",
        lambda f: ("convert", f / LONG, "--quiet", "-o", f / "o.onnx"),
        3,
        "cannot be read (File name too long)",
    ),
    Bad("name of the samples", lambda f: f.convert("--calib", f / LONG), 4, "does not exist"),
    Bad("name of the labels", lambda f: f.convert("--labels", f / LONG), 4, "do not exist"),
    Bad("name of the ranges", lambda f: f.convert("--ranges", f / LONG), 4, "cannot be read"),
    Bad("name of the fleet", lambda f: ("convert-many", f / LONG, "-o", f.path), 2, "cannot be read (File name"),
    Bad("name of the fleet's folder", lambda f: ("convert-many", f.path, "-o", f / LONG), 7, "cannot be created"),
    Bad("folder of the output", lambda f: f.convert("-o", f / "no" / "out.onnx"), 7, "does not exist"),
    Bad("output is a folder", lambda f: f.convert("-o", f.path), 7, "is a folder"),
    Bad("output below a file", lambda f: f.convert("-o", f.model / "out.onnx"), 7, "does not exist"),
    Bad("output is the input", lambda f: f.convert("-o", f.model), 7, "is the input model"),
    Bad("page of no plan", lambda f: ("report", f.model), 9, "cannot be read"),
    Bad("report below a file", lambda f: f.convert("--report", f.model / "report.json"), 7, "does not exist"),
    Bad("a folder where the plan belongs", Folder.folder_for_the_plan, 7, "model.mpq.plan.json: is a folder"),
    Bad("calibrating into nowhere", lambda f: ("calibrate", f.model, "-o", f / "no" / "r.npz"), 7, "does not exist"),
    Bad("plan of another model", lambda f: f.plan(model={"sha256": "0"}), 9, "belongs to another model"),
    Bad("plan that is no JSON", lambda f: ("apply", f.model, f.calib), 9, "calib.npz"),
    Bad("other interface", Folder.other_model, 11, "different inputs"),
]
