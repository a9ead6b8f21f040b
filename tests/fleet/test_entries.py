"""Fleet files: every error names file, entry and field, before any model is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxmpq.errors import UsageError
from onnxmpq.files import data_folder
from onnxmpq.fleet import entries_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.onnx", "b.onnx", "a.npz"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_entries_and_overrides(folder: Path) -> None:
    fleet = written(
        folder,
        """
        [defaults]
        size = "40%"
        samples = 8
        calib = "a.npz"
        [[models]]
        model = "a.onnx"
        target = ["cpu", "edge-npu"]
        [[models]]
        name = "other"
        model = "b.onnx"
        size = "20%"
        calib = "json:dumps"
        min-sqnr = "30dB"
        """,
    )
    first, second, third = entries_of(fleet, {"samples": 4})
    assert [first.name, second.name, third.name] == ["a.cpu", "a.edge-npu", "other"]
    assert (first.target, second.target, third.target) == ("cpu", "edge-npu", "cpu")
    assert first.options["calibration"] == str(folder / "a.npz")
    assert {**third.options} == {
        "size": "20%",
        "samples": 4,
        "calibration": "json:dumps",
        "min_sqnr": "30dB",
        "target": "cpu",
    }
    assert third.files(Path("out"))["plan"] == Path("out/other.mpq.plan.json")


def test_a_folder_with_its_data(folder: Path) -> None:
    (folder / "b").mkdir()
    (folder / "a.mpq.onnx").write_bytes(b"a result")
    (folder / "._a.onnx").write_bytes(b"hidden, as macOS copies attributes")
    first, second = entries_of(folder, {"size": "25%"})
    assert (first.name, first.options["calibration"]) == ("a", str(folder / "a.npz"))
    assert (second.name, second.options["calibration"]) == ("b", str(folder / "b"))
    assert first.options["size"] == "25%"


LONG = "x" * 300
MODEL = '[[models]]\nmodel = "a.onnx"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = ", r"fleet.toml: cannot be read"),
        ("", r"there is no model"),
        ("modls = []", r"fleet.toml: 'modls' is unknown; did you mean models"),
        ("models = 3", r"'models' is 3; write a table \[\[models\]\]"),
        ("defaults = 3\n" + MODEL, r"'defaults' is 3; it must be a table"),
        ('[defaults]\nmodel = "a.onnx"', r"\[defaults\]: 'model' is of a single model"),
        ("[defaults]\nsizes = 3\n" + MODEL, r"\[defaults\]: option 'sizes' is unknown; did you mean size"),
        (MODEL + 'latencyy = "5ms"', r"model 1 \(a.onnx\): option 'latencyy' is unknown; did you mean latency"),
        (MODEL + 'modell = "5ms"', r"model 1 \(a.onnx\): option 'modell' is unknown; did you mean model"),
        (MODEL + 'samples = "8"', r"model 1 \(a.onnx\): option 'samples' is '8'; it must be a whole number"),
        (MODEL + 'size = "8"', r"model 1 \(a.onnx\): .*size"),
        (MODEL + 'output = "x.onnx"', r"option 'output' is about the whole fleet"),
        (MODEL + 'cluster = "local:2"', r"option 'cluster' is about the whole fleet"),
        (MODEL + "target = [3]", r"'target' is \[3\]; it must be a name"),
        (MODEL + "target = []", r"'target' is \[\]; it must be a name"),
        (MODEL + 'name = "../a"', r"model 1 \(../a\): 'name' is '../a'; it must be a text that a file"),
        ('[[models]]\nname = "x"', r"model 1 \(x\): has no 'model'"),
        ('[[models]]\nmodel = "c.onnx"', r"model 1 \(c.onnx\): 'model': there is no file .*c.onnx"),
        ("[[models]]\nmodel = 3", r"model 1: 'model' is 3; it must be a path"),
        (MODEL + 'target = "nope"', r"model 1 \(a.onnx\): no target is called 'nope'"),
        (MODEL + 'calib = "photos/"', r"model 1 \(a.onnx\): 'calib': there is no file or folder .*photos"),
        (MODEL + 'labels = "y/none.npz:y"', r"model 1 \(a.onnx\): 'labels': there is no file or folder .*none.npz:y"),
        (MODEL + 'ranges = "r.json"', r"model 1 \(a.onnx\): 'ranges': there is no file or folder .*r.json"),
        (MODEL + MODEL, r"model 2 \(a.onnx\): 'name' is 'a', .*model 1 \(a.onnx\) is called 'a'"),
        (MODEL + 'name = "A"\n' + MODEL, r"model 2 \(a.onnx\): 'name' is 'a', .*model 1 \(A\) is called 'A'"),
        (MODEL + 'name = "Fleet"', r"'name' is 'Fleet', and so would be its files; the page of all is called"),
        (MODEL + 'target = ["cpu", "cpu"]', r"model 1 \(a.onnx\): 'target' has 'cpu' and 'cpu', whose files"),
        (MODEL + 'name = "x\\u0000y"', r"'name' is 'x\\x00y'; it must be a text that a file"),
        (MODEL + 'name = "x\\ny"', r"'name' is 'x\\ny'; it must be a text that a file"),
        (MODEL + 'name = "\\u001b"', r"'name' is '\\x1b'; it must be a text that a file"),
        (MODEL + f'name = "{LONG}"', r"'name' is 'x*\.\.\.; it must be a text that a file .* of 200 bytes"),
        (MODEL + f'name = "{LONG[:197]}"\ntarget = ["cpu"]', r"of 200 bytes"),
        (MODEL + 'name = ""', r"'name' is ''; it must be a text that a file"),
        (f'[[models]]\nmodel = "{LONG}"', r"'model': there is no file .*x"),
        ('[[models]]\nmodel = ""', r"model 1 \(\): 'model' is ''; it must be a path"),
        ('[[models]]\nmodel = "a\\u0000"', r"'model' is 'a\\x00'; it must be a path"),
        (MODEL + f'calib = "{LONG}"', r"'calib': there is no file or folder .*x"),
        (MODEL + f'ranges = "{LONG}"', r"'ranges': there is no file or folder .*x"),
        (MODEL + 'calib = ""', r"option 'calib' is ''; it must be a path"),
        (MODEL + "calib = 3", r"option 'calib' is 3; it must be a path"),
        (MODEL + "labels = 3", r"option 'labels' is 3; it must be a path"),
        (MODEL + 'ranges = ""', r"option 'ranges' is ''; it must be a path"),
        (MODEL + 'cost_table = "a\\u0000"', r"option 'cost_table' is 'a\\x00'; it must be a path"),
        (MODEL + "estimator = 3", r"option 'estimator' is 3; it must be a text"),
        (MODEL + "no-cache = true", r"option 'no-cache' is about the whole fleet"),
        (MODEL + 'cash = "x"', r"option 'cash' is unknown; (?!.*did you mean cache)"),
        (MODEL + 'calib = "a.npz"\ncalibration = "a.npz"', r"option 'calibration' is given twice, also as 'calib'"),
        (MODEL + "min-sqnr = 3\nmin_sqnr = 3", r"option 'min_sqnr' is given twice, also as 'min-sqnr'"),
        (MODEL + 'recipe = "nope"', r"model 1 \(a.onnx\): no recipe is called 'nope'"),
        (MODEL + 'recipe = "no.toml"', r"model 1 \(a.onnx\): recipe .*no.toml does not exist"),
        (MODEL + 'target = "l4"\nbatch = 0', r"model 1 \(a.onnx\): a batch has at least one sample"),
        (MODEL + 'scheme = ["nope"]', r"model 1 \(a.onnx\): .*'nope'"),
        (MODEL + 'scheme = ["w4a8-fp8"]', r"model 1 \(a.onnx\): target cpu does not offer 'w4a8-fp8'"),
        (MODEL + 'set = {"*" = "w4a8-fp8"}', r"model 1 \(a.onnx\): target cpu does not offer 'w4a8-fp8'"),
        (MODEL + "opset = 3", r"model 1 \(a.onnx\): opset 3 is not in"),
        (MODEL + 'metric = "nomod:f"', r"model 1 \(a.onnx\): .*'nomod:f' .*No module named"),
        (MODEL + 'metric = ":f"', r"model 1 \(a.onnx\): .*':f' .*[Ee]mpty module"),
        (MODEL + 'calib = "nomod:f"', r"model 1 \(a.onnx\): .*'nomod:f' .*No module named"),
        (MODEL + 'min-sqnr = "30dB"', r"model 1 \(a.onnx\): .*calib"),
        (MODEL + "verify = true", r"model 1 \(a.onnx\): --verify: no compiler"),
        (MODEL + 'provider = "Nope"', r"model 1 \(a.onnx\): .*'Nope'"),
    ],
)
def test_errors(folder: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        entries_of(written(folder, text))
    assert "fleet.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_folder_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no model"):
        entries_of(tmp_path)
    for name in ("no.toml", LONG):
        with pytest.raises(UsageError, match="cannot be read"):
            entries_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Fleet", "the page of all is called 'fleet.html'"),
        ("A", "'name' is 'a', and so would be its files"),
        ("x\ny", "it must be a text that a file"),
        ("x" * 220, "of 200 bytes"),
    ],
)
def test_names_of_models_in_a_folder(name: str, said: str, folder: Path) -> None:
    (folder / f"{name}.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match=said):
        entries_of(folder)


def test_a_folder_whose_name_is_no_text() -> None:
    with pytest.raises(UsageError, match="is no text in UTF-8"):
        entries_of(Path(os.fsdecode(b"\xff/models")))


def test_a_file_with_a_mark_of_its_encoding(folder: Path) -> None:
    fleet = written(folder, "")
    fleet.write_text(MODEL, encoding="utf-8-sig")
    assert [entry.name for entry in entries_of(fleet)] == ["a"]


def test_a_recipe_beside_the_file(folder: Path) -> None:
    (folder / "own.toml").write_text((data_folder("calibration") / "imagenet.toml").read_text())
    [entry] = entries_of(written(folder, MODEL + 'calib = "a.npz"\nrecipe = "own.toml"'))
    assert entry.options["recipe"] == str(folder / "own.toml")
