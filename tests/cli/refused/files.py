"""Outputs that cannot be written, plans and models of something else."""

from __future__ import annotations

from tests.cli.folders import Folder
from tests.cli.refused.case import Bad

REFUSED = [
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
