"""What the package imports is what an installation brings."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {"pillow": {"PIL"}, "onnx": {"onnx", "google", "ml_dtypes"}}
"""By distribution, where it is not its name; onnx itself needs protobuf and ml_dtypes."""


def test_nothing_else_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["text"], *extras["cluster"]]
    brought = {re.split(r"[<>=\[ ]", line)[0] for line in named}
    known = {module for name in brought for module in MODULES.get(name, {name.replace("-", "_")})}
    found = set[str]()
    for file in (ROOT / "onnxmpq").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.split(".")[0] for name in names}
    assert found - sys.stdlib_module_names - {"onnxmpq"} == known
