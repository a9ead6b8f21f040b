"""The user page keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path

from onnxmpq.files import data_folder
from onnxmpq.schemes import scheme_named
from onnxmpq.target import load_target, roofline_table
from tests.target.graphs import menu_of, shapes_of, small_model

PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")


def test_every_shipped_target_is_listed() -> None:
    names = {path.stem for path in data_folder("cost_models").glob("*.toml")}
    table = PAGE.partition("| target |")[2].partition("\n\n")[0]
    assert names <= set(re.findall(r"`([\w-]+)`", table))


def test_the_example_loads_and_predicts(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my-npu.toml").write_text(example)
    target = load_target(tmp_path / "my-npu.toml")
    model = small_model()
    table = roofline_table(model, target, shapes_of(model), menu_of(model, target))
    eight = {layer.name: scheme_named("int8") for layer in model.layers}
    assert 0 < table.predict_s(model, eight) < table.predict_s(model, {})
    assert 0 < table.predict_j(model, eight) < table.predict_j(model, {})
