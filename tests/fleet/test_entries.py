"""Fleet files: every error names file, entry and field, before any model is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmpq.errors import UsageError
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
        calib = "samples:made"
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
        "calibration": "samples:made",
        "min_sqnr": "30dB",
        "target": "cpu",
    }
    assert third.files(Path("out"))["plan"] == Path("out/other.mpq.plan.json")


def test_a_folder_with_its_data(folder: Path) -> None:
    (folder / "b").mkdir()
    (folder / "a.mpq.onnx").write_bytes(b"a result")
    first, second = entries_of(folder, {"size": "25%"})
    assert (first.name, first.options["calibration"]) == ("a", str(folder / "a.npz"))
    assert (second.name, second.options["calibration"]) == ("b", str(folder / "b"))
    assert first.options["size"] == "25%"


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
        (MODEL + 'target = "nope"', r"model 1 \(a.onnx\): 'target': no target is called 'nope'"),
        (MODEL + 'calib = "photos/"', r"model 1 \(a.onnx\): 'calib': there is no file or folder .*photos"),
        (MODEL + 'labels = "y/none.npz:y"', r"model 1 \(a.onnx\): 'labels': there is no file or folder .*none.npz:y"),
        (MODEL + 'ranges = "r.json"', r"model 1 \(a.onnx\): 'ranges': there is no file or folder .*r.json"),
        (MODEL + MODEL, r"models 1 and 2 are both called 'a'"),
    ],
)
def test_errors(folder: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        entries_of(written(folder, text))
    assert "fleet.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_folder_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no model"):
        entries_of(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        entries_of(tmp_path / "no.toml")
