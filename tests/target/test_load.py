from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxmpq.errors import TargetError, UsageError
from onnxmpq.files import data_folder
from onnxmpq.rounding import PerChannel
from onnxmpq.runtimes import RUNTIMES
from onnxmpq.schemes import SCHEMES, Format, scheme_named
from onnxmpq.target import available_targets, load_target
from onnxmpq.target.fields import ASSUMPTION, MEASURED

GOOD = """
name = "mine"
description = "a test"
sources = ["https://example.org"]
dialect = "onnxruntime"
cost = "roofline"
[menu]
Conv = ["fp32", "int8"]
[menu.activations]
Add = ["fp32", "int8"]
[roofline]
bandwidth_bytes_per_s = { value = 1e9, source = "https://example.org" }
launch_s = { value = 1e-6, source = "assumption: a guess" }
float_bits = 32
transitions = "fused"
[roofline.macs_per_s]
fp32 = { value = 1e9, source = "https://example.org" }
int8 = { value = 4e9, source = "https://example.org" }
[roofline.kernels.fp32]
compute = "fp32"
source = "https://example.org"
[roofline.kernels.int8]
compute = "int8"
source = "https://example.org"
[energy]
dram_j_per_byte = { value = 1e-10, source = "https://example.org" }
on_chip_j_per_byte = { value = 1e-12, source = "https://example.org" }
[energy.mac_j]
fp32 = { value = 4e-12, source = "https://example.org" }
int8 = { value = 1e-12, source = "https://example.org" }
"""

SHIPPED = [
    "bismo-cloud",
    "bismo-edge",
    "bitfusion-cloud",
    "bitfusion-edge",
    "cpu",
    "edge-npu",
    "gaudi2",
    "h100",
    "h200",
    "l4",
    "orin",
    "rtx4090",
    "rtx5090",
]


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the user's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "onnxmpq" / "cost_models"
    folder.mkdir(parents=True)
    return folder


def test_shipped_targets_are_valid() -> None:
    targets = {target.name: target for target in available_targets()}
    assert set(SHIPPED) <= set(targets)
    assert [name for name, target in targets.items() if not target.has_energy] == ["cpu"]
    assert targets["cpu"].provider == "CPUExecutionProvider"


def test_every_figure_has_a_source() -> None:
    """The schema asks for it; this counts that nothing slips past it, and that some are more than assumptions."""
    for path in data_folder("cost_models").glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        figures = re.findall(r"\{ value = .*? \}", text)
        assert all(any(f'source = "{p}' in figure for p in ("http", ASSUMPTION, MEASURED)) for figure in figures), (
            path.name
        )
        if figures:
            assert any('source = "http' in figure for figure in figures), path.name


def test_own_file_by_path_by_name_and_in_the_place_of_a_shipped_one(tmp_path: Path, user_folder: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    by_path = load_target(tmp_path / "mine.toml")
    assert by_path.menu == {"Conv": ("fp32", "int8")}
    assert by_path.activation_menu == {"Add": ("fp32", "int8")}
    assert by_path.has_energy
    (user_folder / "mine.toml").write_text(GOOD)
    assert load_target("mine") == by_path
    (user_folder / "l4.toml").write_text(GOOD.replace('"mine"', '"l4"'))
    assert load_target("l4").description == "a test"
    assert "mine" in [target.name for target in available_targets()]


@dataclass(frozen=True)
class Unknown:
    name: str
    message: str


@pytest.mark.parametrize(
    "case",
    [
        Unknown("h10", r"no target is called 'h10'; did you mean h100"),
        Unknown("bismo", r"did you mean bismo-cloud or bismo-edge\?"),
        Unknown("qqqq", r"the targets are bismo-cloud, .*, rtx5090 \(a path to your own \.toml file works too\)"),
        Unknown("nowhere.toml", r"target file nowhere\.toml does not exist"),
    ],
    ids=lambda case: case.name,
)
def test_unknown_target(case: Unknown) -> None:
    with pytest.raises(TargetError, match=case.message):
        load_target(case.name)


@dataclass(frozen=True)
class Bad:
    """`old` in the good file replaced by `new`; the message in one line names file, field and reason."""

    id: str
    old: str
    new: str
    message: str


BAD = [
    Bad("malformed", 'cost = "roofline"', "cost = roofline", r"no readable TOML file: .*line 6"),
    Bad("other-name", 'name = "mine"', 'name = "other"', r"'name' is 'other', but the file is called mine\.toml"),
    Bad("missing", 'description = "a test"\n', "", r"field 'description' is missing"),
    Bad("empty-text", '"a test"', '" "', r"field 'description' is ' '; it must be a text"),
    Bad("unknown-field", "[menu]", "providr = 1\n[menu]", r"field 'providr' is unknown; did you mean provider\?"),
    Bad("unknown-cost", '"roofline"\n', '"ruler"\n', r"field 'cost' is 'ruler'; it must be one of measured, roofline"),
    Bad("two-sources", '"roofline"\n', '"measured"\n', r"field 'roofline' is unknown"),
    Bad("dialect", '"onnxruntime"', '"openvino"', r"field 'dialect' .* one of onnxruntime, onnxruntime-cuda, tensorrt"),
    Bad("scheme", '["fp32", "int8"]\n[menu.', '["fp32", "int9"]\n[menu.', r"'menu\.Conv' .*'int9'; did you mean int8"),
    Bad("bits", '["fp32", "int8"]\n[menu.', '["fp32", "w9a8"]\n[menu.', r"'menu\.Conv' names an unknown scheme"),
    Bad("operator", "Conv = ", "Cnov = ", r"'menu\.Cnov' is no ONNX operator; did you mean Conv"),
    Bad("menu-type", '["fp32", "int8"]\n[menu.', '"fp32"\n[menu.', r"'menu\.Conv' is 'fp32'; it must be a list"),
    Bad("negative", "value = 1e9,", "value = -1e9,", r"'roofline\.bandwidth_bytes_per_s\.value' is -1.*above 0"),
    Bad("zero", "value = 1e-6,", "value = 0,", r"field 'roofline\.launch_s\.value' is 0; it must be a number above 0"),
    Bad("infinite", "value = 1e-6,", "value = inf,", r"field 'roofline\.launch_s\.value' is inf"),
    Bad("huge", "value = 1e-6,", f"value = 1{'0' * 400},", r"field 'roofline\.launch_s\.value' is 10000"),
    Bad("not-a-number", "value = 1e-6,", "value = nan,", r"field 'roofline\.launch_s\.value' is nan"),
    Bad("text-for-number", "value = 1e-6,", 'value = "1us",', r"'roofline\.launch_s\.value' is '1us'"),
    Bad("no-source", ', source = "assumption: a guess"', "", r"'roofline\.launch_s\.source' is missing"),
    Bad("bad-source", "assumption: a guess", "a guess", r"'roofline\.launch_s\.source' .* a URL, or begin with"),
    Bad("float-bits", "float_bits = 32", "float_bits = 3", r"'roofline\.float_bits' is 3; .* from 8 to 32"),
    Bad("truth-for-number", "float_bits = 32", "float_bits = true", r"'roofline\.float_bits' is True"),
    Bad("compute", 'compute = "int8"', 'compute = "int4"', r"'roofline\.kernels\.int8\.compute' .* one of fp32, int8"),
    Bad("no-kernel", "[roofline.kernels.int8]", "[roofline.kernels.int4]", r"offers 'int8' without saying how it runs"),
    Bad("no-fp32", "[roofline.kernels.fp32]", "[roofline.kernels.f32]", r"'roofline\.kernels\.fp32' is missing"),
    Bad("energy-of-nothing", "[energy.mac_j]", "[energy.mac_j]\nint4 = 1", r"field 'energy\.mac_j\.int4' is unknown"),
    Bad(
        "energy-missing",
        'fp32 = { value = 4e-12, source = "https://example.org" }\n',
        "",
        r"'energy\.mac_j\.fp32' is m",
    ),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_file(case: Bad, tmp_path: Path) -> None:
    assert case.old in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(case.old, case.new, 1))
    with pytest.raises(TargetError, match=case.message) as caught:
        load_target(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 8


def test_measured_target_names_a_runtime(tmp_path: Path) -> None:
    cpu = (data_folder("cost_models") / "cpu.toml").read_text(encoding="utf-8")
    named, provider = 'runtime = "onnxruntime"', 'provider = "CPUExecutionProvider"'
    assert load_target("cpu").runtime is RUNTIMES["onnxruntime"]
    faults = [
        ([named, provider], "", "field 'runtime' is missing; a measured target names its runtime, one of: onnxruntime"),
        ([named], "", "field 'provider' is a runtime's; name the runtime as well"),
        ([named], 'runtime = "tflite"', "field 'runtime'"),
    ]
    for old, new, message in faults:
        text = cpu
        for line in old:
            text = text.replace(line, new)
        (tmp_path / "cpu.toml").write_text(text)
        with pytest.raises(TargetError, match=message):
            load_target(tmp_path / "cpu.toml")


def test_made_schemes() -> None:
    made = scheme_named("w5a6")
    assert (made.name, made.weight, made.activation_bits) == ("w5a6", PerChannel(5), 6)
    assert (made.reads, made.writes, made.kernel) == (Format.INT8, Format.INT8, "int8")
    assert all(scheme_named(name) is scheme for name, scheme in SCHEMES.items())
    for wrong in ("w1a8", "w8a9", "w7", "w5a6 ", ""):
        with pytest.raises(UsageError, match="no scheme is called"):
            scheme_named(wrong)


def test_without_a_home_there_are_the_shipped_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user without a home and without an entry for one
    assert "cpu" in [target.name for target in available_targets()]
