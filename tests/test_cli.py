"""The command line: what it prints, and for everything that can go wrong one line, a code of its own, and no file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer.main
from PIL import Image

import onnxmpq
from onnxmpq import pipeline
from onnxmpq.__main__ import main as entry
from onnxmpq.cli import app, main
from onnxmpq.compilers import COMPILERS, Answer, Message
from onnxmpq.cost.table import CostTable
from onnxmpq.errors import exit_codes
from onnxmpq.feeds import available_recipes, find_recipe
from onnxmpq.feeds.recipes import read_recipe
from onnxmpq.files import data_folder, serialize
from onnxmpq.isolation import launch
from onnxmpq.model import prepare
from onnxmpq.runtimes import CPU
from tests.conftest import QUICK, SAMPLES
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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], quick_effort: object) -> Run:
    """Runs a command line in this process."""

    def command(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["onnxmpq", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return command


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


CHANGING = """
import numpy

def feeds():
    for size in (3, 4):
        yield {"x": numpy.zeros((size - 2, 3, 16, 13 + size), "float32")}
"""
NPU = (data_folder("cost_models") / "edge-npu.toml").read_text(encoding="utf-8").replace('"edge-npu"', '"t"')
X = samples_for(residual_cnn(), 8)["x"]


def with_value(value: float) -> np.ndarray:
    copy = X.copy()
    copy[3, 1, 2, 5] = value
    return copy


@dataclass(frozen=True)
class Bad:
    """A command that must fail. arrange: spoils the folder and gives the arguments."""

    id: str
    arrange: Callable[[Folder], tuple[object, ...]]
    code: int
    message: str


BAD = [
    Bad("no such model", lambda f: ("convert", f / "nothing.onnx", "--quiet"), 3, "no such file"),
    Bad("not ONNX", lambda f: f.spoiled(b"this is a text about models\n"), 3, "not an ONNX model"),
    Bad("check: not ONNX", lambda f: ("check", *f.spoiled(b"a text")[1:2]), 3, "not an ONNX model"),
    Bad(
        "check: unknown dialect", lambda f: ("check", f.model, "--dialect", "tf"), 2, "use one of tensorrt, onnxruntime"
    ),
    Bad(
        "check: samples of another model",
        lambda f: (*f.int8("check"), "--calib", f.samples(other=X)[3]),
        4,
        "input 'x' of the model is missing (found 'other')",
    ),
    Bad("check: no such samples", lambda f: (*f.int8("check"), "--calib", f / "none.npz"), 4, "none.npz"),
    Bad("check: a recipe alone", lambda f: (*f.int8("check"), "--recipe", "cifar10"), 2, "give --calib too"),
    Bad(
        "check: counts for TensorRT",
        lambda f: (*f.int8("check"), "--dialect", "tensorrt", "--calib", f.calib),
        2,
        "in onnxruntime's kernels, not in dialect tensorrt",
    ),
    Bad("check: no counts of no run", lambda f: (*f.unknown("check"), "--calib", f.calib), 3, "cannot load the model"),
    Bad("an empty file", lambda f: f.spoiled(b""), 3, "not an ONNX model"),
    Bad("truncated", lambda f: f.spoiled(f.model.read_bytes()[:-5000]), 3, "truncated"),
    Bad("external data missing", Folder.without_external_data, 3, "external data file 'w.bin' is missing"),
    Bad("already quantized", lambda f: f.saved(all_quantized()), 6, "2 nodes are already quantized"),
    Bad("no layer", lambda f: f.saved(no_layers()), 6, "none of the model's 0 layers can be quantized"),
    Bad("wrong names of arrays", lambda f: f.samples(image=X), 4, "input 'x' of the model is missing (found 'image')"),
    Bad("wrong shape of arrays", lambda f: f.samples(x=X[:, :2]), 4, "array 'x' has shape [8, 2, 16, 16]"),
    Bad("texts for numbers", lambda f: f.samples(x=np.full(X.shape, "a")), 4, "array 'x'"),
    Bad("NaN", lambda f: f.samples(x=with_value(np.nan)), 4, "holds 1 NaN"),
    Bad("infinity", lambda f: f.samples(x=with_value(np.inf)), 4, "index [3, 1, 2, 5]"),
    Bad("an empty folder", Folder.empty_folder, 4, "empty"),
    Bad("no such samples", lambda f: ("convert", f.model, "--calib", f / "none.npz", "--quiet"), 4, "none.npz"),
    Bad("no readable picture", lambda f: f.pictures("cifar10", b"x"), 4, "2 of 2 pictures could not be read"),
    Bad("grey recipe for colours", lambda f: f.pictures("mnist"), 4, "colour = grey makes 1 channel(s)"),
    Bad("pictures without a recipe", lambda f: f.pictures(None), 4, "needs a recipe"),
    Bad(
        "ids outside the table", Folder.foreign_ids, 4, "holds 8 in sample 2, but the model looks it up in a table of 8"
    ),
    Bad("a source that yields nothing", lambda f: f.python("feeds = []"), 4, "yields nothing"),
    Bad("shapes that change", lambda f: f.python(CHANGING), 4, "feed 1, input 'x' has shape [2, 3, 16, 17]"),
    Bad("a source that raises", lambda f: f.python("def feeds(): return 1 / 0"), 4, "raised ZeroDivisionError"),
    Bad("no such function", lambda f: f.python("other = 1"), 2, "cannot be imported"),
    Bad("NaN by the model", Folder.computing_nan, 3, "sample 0: NaN first appears at node 'Log_1' (Log)"),
    Bad("unknown estimator", lambda f: f.convert("--estimator", "max"), 2, "did you mean minmax?"),
    Bad(
        "unknown CPU",
        lambda f: f.convert("--deploy-cpu", "avx3"),
        2,
        "did you mean avx2?",
    ),
    Bad(
        "a CPU for what is none",
        lambda f: f.convert("--deploy-cpu", "vnni", "--target", "edge-npu"),
        2,
        "target 'edge-npu' is none of these CPUs; leave the option out",
    ),
    Bad("unknown recipe", lambda f: f.convert("--recipe", "imagnet"), 4, "imagnet"),
    Bad("budget without a unit", lambda f: f.convert("--latency", "5"), 2, "--latency '5': no number with a unit"),
    Bad("budget of another kind", lambda f: f.convert("--size", "5ms"), 2, "--size '5ms': unknown unit 'ms'"),
    Bad("a factor for a share", lambda f: f.convert("--latency", "2x"), 2, "2 times less is 50%"),
    Bad("two outputs", lambda f: f.convert(f / "a.onnx", "-o", f / "b.onnx"), 2, "give one of them"),
    Bad("a model for a command", lambda f: (f.model, "--size", "30%"), 2, "model.onnx --size 30%`"),
    Bad("an unknown option", lambda f: f.convert("--latencyy", "5ms"), 2, "did you mean --latency?; see `onnxmpq conv"),
    Bad("nothing to convert", lambda f: ("convert",), 2, "missing argument 'MODEL'; see `onnxmpq convert --help`"),
    Bad("unmeetable latency", lambda f: f.convert("--latency", "1ns"), 5, "the fastest plan measures"),
    Bad("unmeetable size", lambda f: f.convert("--size", "1kB"), 5, "the smallest plan takes"),
    Bad("unmeetable pair", lambda f: f.convert("--latency", "1ns", "--size", "1kB"), 5, "cannot be met"),
    Bad("no energies", lambda f: f.convert("--energy", "1mJ"), 8, "cpu"),
    Bad("folder of the output", lambda f: f.convert("-o", f / "no" / "out.onnx"), 7, "does not exist"),
    Bad("output is a folder", lambda f: f.convert("-o", f.path), 7, "is a folder"),
    Bad("output below a file", lambda f: f.convert("-o", f.model / "out.onnx"), 7, "does not exist"),
    Bad("output is the input", lambda f: f.convert("-o", f.model), 7, "is the input model"),
    Bad("report of no format", lambda f: f.convert("--report", f / "report.pdf"), 2, "suffix decides the format"),
    Bad("page of no plan", lambda f: ("report", f.model), 9, "cannot be read"),
    Bad("report below a file", lambda f: f.convert("--report", f.model / "report.json"), 7, "does not exist"),
    Bad("a folder where the plan belongs", Folder.folder_for_the_plan, 7, "model.mpq.plan.json: is a folder"),
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
    Bad("provider of a model", lambda f: f.convert("--target", "edge-npu", "--provider", CPU), 2, "nothing runs there"),
    Bad(
        "unmeetable energy",
        lambda f: f.convert("--target", "edge-npu", "--energy", "1nJ"),
        5,
        "the most frugal plan takes",
    ),
    Bad("table with negative costs", Folder.negative_table, 8, "['int8'] is -"),
    Bad("no such table", lambda f: f.convert("--cost-table", f / "no.json"), 8, "no.json: cannot be read"),
    Bad(
        "table of another shape",
        lambda f: f.convert("--cost-table", int8_pays(f.model, f.path), "--shape", "x=2x3x16x16"),
        8,
        "shape is None, here it is 'x=2x3x16x16': give the same --shape",
    ),
    Bad("a shape of no input", lambda f: f.convert("--shape", "z=1x3"), 2, "--shape z: no such input"),
    Bad("a shape that cannot be", lambda f: f.convert("--shape", "x=1x4x16x16"), 2, "the model declares Nx3x16x16"),
    Bad("table of another model", Folder.foreign_table, 8, "structure_sha256"),
    Bad("ranges of another model", Folder.foreign_ranges, 4, "was made for model 'model' (sha256"),
    Bad("ranges that are none", lambda f: f.convert("--ranges", f.calib), 4, "not a file of `onnxmpq calibrate`"),
    Bad("no such ranges", lambda f: f.convert("--ranges", f / "no.npz"), 4, "give a file written by"),
    Bad("calibrating into nowhere", lambda f: ("calibrate", f.model, "-o", f / "no" / "r.npz"), 7, "does not exist"),
    Bad("cache and none", lambda f: f.convert("--cache", f / "c", "--no-cache"), 2, "exclude each other"),
    Bad("exclusion that matches nothing", lambda f: f.convert("--exclude", "conv*"), 2, "matches no node"),
    Bad("unknown kind of output", lambda f: f.convert("--output-kind", "y=class"), 2, "NAME=KIND"),
    Bad("kind of no output", lambda f: f.convert("--output-kind", "z=logits"), 2, "'z'"),
    Bad("unknown technique", lambda f: f.convert("--without", "magic"), 2, "magic"),
    Bad("nothing is faster", Folder.slow_int8, 10, "nothing beats the original"),
    Bad("plan of another model", lambda f: f.plan(model={"sha256": "0"}), 9, "belongs to another model"),
    Bad("plan that is no JSON", lambda f: ("apply", f.model, f.calib), 9, "calib.npz"),
    Bad("other interface", Folder.other_model, 11, "different inputs"),
    Bad(
        "convert: a floor on made-up samples",
        lambda f: ("convert", f.model, "--max-divergence", "1", "--samples", "8", "--quiet"),
        4,
        "--max-divergence: no quality is judged on made-up samples",
    ),
    Bad(
        "a floor on made-up samples",
        lambda f: ("validate", f.model, f.model, "--min-sqnr", "30dB"),
        4,
        "give real ones",
    ),
    Bad(
        "validate: fastest",
        lambda f: ("validate", f.model, f.model, "--latency", "fastest"),
        2,
        "compares with a limit",
    ),
    Bad(
        "validate: labels missing",
        lambda f: ("validate", f.model, f.model, "--calib", f.calib, "--max-drop", "1%"),
        2,
        "--max-drop needs labels",
    ),
    Bad(
        "validate: kind of no output",
        lambda f: ("validate", f.model, f.model, "--calib", f.calib, "--output-kind", "z=logits", "-q"),
        2,
        "'z' is no output of the model",
    ),
    Bad(
        "a recipe with a field that is none",
        lambda f: f.convert("--recipe", "imagenet", "--recipe-field", "means=1"),
        4,
        "recipe imagenet with means: field 'means' is unknown; did you mean mean?",
    ),
    Bad("a scale of nothing", lambda f: f.convert("--scale", "0"), 2, "--scale '0'"),
    Bad("a mean of words", lambda f: f.convert("--mean", "a,b"), 2, "--mean 'a,b'"),
    Bad("inspecting text", lambda f: ("inspect", f.spoiled(b"text")[1]), 3, "not an ONNX model"),
    Bad("validating text", lambda f: ("validate", f.model, f.calib, "--calib", f.calib, "-q"), 3, "cannot load"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_one_line_a_code_and_no_file(case: Bad, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = Folder(tmp_path)
    arguments = case.arrange(folder)
    before = folder.content()
    found = run(*arguments)
    assert found.code == case.code, found.err
    lines = found.err.splitlines()
    assert len(lines) == 1, found.err
    assert lines[0].startswith("onnxmpq: error: ")
    assert case.message in lines[0]
    assert found.out == ""
    assert folder.content() == before, "a file was left, or the input was changed"


def test_an_unmeetable_budget_names_what_holds_it_back(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    regions = {r.name for r in prepare(folder.model).regions}
    for option, value in (("--latency", "1ns"), ("--size", "1kB")):
        error = run(*folder.convert(option, value)).err
        held = re.search(r"most of it is in (\w+) [\d.]+ (ms|kB), (\w+) ", error)
        assert held, error
        assert {held[1], held[3]} <= regions


def test_debug_shows_where(tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(onnxmpq.errors.ModelError):
        run("convert", tmp_path / "nothing.onnx", "--debug")


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("some\ndefect"), "--debug"), (MemoryError(), "there is not enough memory")],
    ids=["defect", "memory"],
)
def test_a_defect_is_one_line_too(
    error: Exception, said: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "open_model", fail)
    found = run(*Folder(tmp_path).convert())
    assert found.code == 1
    assert len(found.err.splitlines()) == 1
    assert said in found.err and "Traceback" not in found.err


def test_help_lists_every_exit_code(run: Run) -> None:
    text = " ".join(run("--help").out.split())
    for code, meaning in exit_codes():
        assert f"{code} {meaning}" in text
    assert {code for code, _ in exit_codes()} >= {case.code for case in BAD} | {0, 130}


def test_version(run: Run) -> None:
    found = run("--version")
    assert (found.code, found.out.strip()) == (0, onnxmpq.__version__)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    before = folder.content()
    sample, calib = SAMPLES / "digits_transformer.onnx", SAMPLES / "digits_calib.npz"
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxmpq", "convert", sample, "--calib", calib, "-o", folder / "out.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a test run in the background of a shell inherits an ignored SIGINT; a user's terminal does not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "no budget given" in first
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = err.splitlines()
    assert "interrupted" in lines[-1] and "Traceback" not in err
    assert out == ""
    assert folder.content() == before


# ---- what goes well -----------------------------------------------------------------------------


def test_convert_validate_apply(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    source = folder.model.read_bytes()
    table = int8_pays(folder.model, tmp_path)
    report = tmp_path / "report.json"
    found = run(*folder.convert("--latency", "80%", "--cost-table", table, "--report", report))
    assert (found.code, found.err) == (0, "")
    for words in ("weight bytes quantized", "SQNR", "top-1 agreement", "latency", "wrote"):
        assert words in found.out
    assert folder.model.read_bytes() == source
    result, plan = tmp_path / "model.mpq.onnx", tmp_path / "model.mpq.plan.json"
    document = json.loads(report.read_text())
    assert document["schema"].startswith("onnxmpq.report/")
    assert document["result_bytes"] == result.stat().st_size
    again = tmp_path / "again.onnx"
    assert run("apply", folder.model, plan, "-o", again).code == 0
    assert again.read_bytes() == result.read_bytes()
    checked = run("validate", folder.model, result, "--calib", folder.calib, "--json")
    assert checked.code == 0
    [quality] = json.loads(checked.out)["outputs"]
    assert quality["name"] == "y" and quality["sqnr_db"] > 15
    low = run("validate", folder.model, result, "--calib", folder.calib, "--min-sqnr", "200")
    assert low.code == 15 and "at least 200 asked" in low.err


def test_json_is_all_that_is_printed(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    found = run(*folder.convert("--size", "50%", "--json", "-o", tmp_path / "small.onnx"))
    document = json.loads(found.out)
    assert document["plan"]["budgets"] == {"size": "50%"}
    assert document["result_bytes"] <= 0.5 * document["original_bytes"]


def test_made_up_inputs_are_warned_of_even_when_quiet(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    found = run("convert", folder.model, "--size", "smallest", "--quiet", "--samples", "8", *FAST)
    assert found.code == 0
    assert found.err.startswith("warning: ")


def test_inspect(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    text = run("inspect", folder.model).out
    for words in ("4 layers", "Conv+Relu", "w4a8", "other regions"):
        assert words in text
    document = json.loads(run("inspect", folder.model, "--json").out)
    assert [r["name"] for r in document["regions"]][:2] == ["Conv_0", "MaxPool_2"]


@pytest.mark.parametrize(("command", "row"), [("targets", "cpu"), ("recipes", "imagenet")])
def test_lists(command: str, row: str, run: Run) -> None:
    assert row in run(command).out
    assert row in {entry["name"] for entry in json.loads(run(command, "--json").out)}


def test_check(tmp_path: Path, run: Run) -> None:
    """Findings go to stdout, one line and a code of its own to stderr where there are errors among them."""
    folder = Folder(tmp_path)
    found = run("check", folder.model)
    assert (found.code, found.err) == (0, "")
    assert "model.onnx, dialect onnxruntime: no errors or warnings" in found.out
    quantized = folder.saved(all_quantized())[1]
    found = run("check", quantized, "--dialect", "tensorrt")
    assert found.code == 12
    assert len(found.err.splitlines()) == 1
    assert "4 errors and 2 warnings" in found.err
    assert "unsigned" in found.out
    found = run("check", quantized, "--dialect", "tensorrt", "--json")
    document = json.loads(found.out)
    assert found.code == 12
    assert {f["rule"] for f in document["findings"] if f["severity"] == "error"} == {"symmetric", "unsigned"}


def test_check_compiles(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler of the tests in this process: what it says is shown, and what it refuses is an error."""
    folder, fake = Folder(tmp_path), Refusing()
    monkeypatch.setitem(COMPILERS, "tensorrt", fake)
    monkeypatch.setattr(launch, "can_start", lambda: False)
    command = ("check", folder.model, "--dialect", "tensorrt", "--compile", "sm89")
    asked = run(*command)
    assert asked.code == 2 and "input 'x' has dynamic shape [N, 3, 16, 16]; add --shape x=1x3x16x16" in asked.err
    refused = run(*command, "--shape", "x=1x3x16x16", "--json")
    assert refused.code == 12 and "Fake 1.0 does not build it for sm89" in refused.err
    [message] = json.loads(refused.out)["compiled"]["messages"]
    assert message == {"severity": "error", "node": "Conv -> a0", "text": "no"}
    fake.built = True
    taken = run(*command, "--shape", "x=1x3x16x16")
    assert taken.code == 0 and "Fake 1.0 builds it for sm89: engine of 77 bytes" in taken.out
    assert run("check", folder.model, "--shape", "x=1x3x16x16").code == 2


class Refusing:
    name, built = "Fake", False

    def version(self) -> str:
        return "1.0"

    def capabilities(self) -> tuple[str, ...]:
        return ("sm89",)

    def build(self, proto: onnx.ModelProto, capability: str, ranges: object) -> Answer:
        return Answer((), 77) if self.built else Answer((Message("error", proto.graph.node[0].name, "no"),))


def test_check_counts_overflow(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    command = (*folder.int8("check"), "--calib", folder.calib, "--quiet")
    np.savez(folder.calib, x=np.ones((3, 4, 128), np.float32))
    found = run(*command)
    assert (found.code, found.err) == (0, "")
    assert "overflow on 3 samples: 1 of 1 nodes that can saturate did; 384 of their 384 output values" in found.out
    counts = json.loads(run(*command, "--samples", 2, "--json").out)["overflow"]
    assert (counts["output_values"], counts["affected_values"], counts["samples"]["count"]) == (256, 256, 2)
    [node] = counts["nodes"]
    assert (node["channels"], node["can_saturate"], node["saturated_sums"]) == (32, 32, 256 * 64)
    assert node["saturated"][31] == {"channel": 31, "affected_values": 8, "saturated_sums": 512}
    np.savez(folder.calib, x=np.full((3, 4, 128), 0.1, np.float32))
    assert "not seen on 3 samples" in run(*command).out
    assert "overflow" not in json.loads(run("check", folder.model, "--json").out)


def test_check_of_a_model_without_integer_layers(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    found = run("check", folder.model, "--calib", folder.calib)
    assert found.code == 0
    assert "the model has no layer of uint8 activations and int8 weights, so there is nothing to count" in found.out
    counts = json.loads(run("check", folder.model, "--calib", folder.calib, "--json").out)["overflow"]
    assert (counts["integer_layers"], counts["nodes"]) == (0, [])


def test_profile_here_plan_there(tmp_path: Path, run: Run) -> None:
    """A table measured once serves later conversions without measuring."""
    folder = Folder(tmp_path)
    table = tmp_path / "table.json"
    found = run("profile", folder.model, "--calib", folder.calib, "-o", table)
    assert found.code == 0, found.err
    assert CostTable.from_json(table.read_text()).node_s
    found = run(*folder.convert("--size", "60%", "--cost-table", table, "-o", tmp_path / "out.onnx"))
    assert found.code == 0, found.err
    assert serialize(onnxmpq.apply(folder.model, tmp_path / "out.plan.json")) == (tmp_path / "out.onnx").read_bytes()


def test_calibrate_then_convert(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    ranges = tmp_path / "ranges.npz"
    found = run("calibrate", folder.model, "--calib", folder.calib, "-o", ranges, "--no-cache", "--quiet")
    assert (found.code, found.err) == (0, "")
    for words in ("6 samples", "min", "max", "mse", "1x16x8x8", "wrote"):
        assert words in found.out
    again = run("calibrate", folder.model, "--calib", folder.calib, "-o", ranges, "--json")
    document = json.loads(again.out)
    assert document["schema"].startswith("onnxmpq.calibration/")
    assert document["samples"]["count"] == 6 and set(document["estimators"]) >= {"mse", "minmax", "percentile"}
    table = int8_pays(folder.model, tmp_path)
    found = run(*folder.convert("--latency", "80%", "--cost-table", table, "--ranges", ranges, "--no-cache"))
    assert (found.code, found.err) == (0, "")


def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    found = run(*folder.convert("--size", "smallest", "--cache", folder.model / "cache"))
    assert found.code == 0
    assert found.err.count("warning") == 1 and "nothing is cached" in found.err


def test_the_cache_is_where_it_was_asked_for(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    command = folder.convert("--size", "smallest", "--cache", tmp_path / "cache")
    assert run(*command).code == 0
    assert list((tmp_path / "cache").glob("*/*.npz"))


def test_ctrl_c_during_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupting:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "onnxmpq.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "onnxmpq.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        entry()
    assert end.value.code == 130
    assert capsys.readouterr().err == "onnxmpq: interrupted; nothing was written\n"


def test_nothing_heavy_is_imported_before_the_command_line() -> None:
    code = "import sys, onnxmpq.__main__; print(sorted({'onnx', 'numpy', 'highspy', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_lack_of_memory_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB\nfor an array")

    monkeypatch.setattr("onnxmpq.commands.inspection.inspect", fails)
    found = run("inspect", SAMPLES / "digits_cnn.onnx")
    assert found.code == 1 and not found.out
    assert found.err == (
        "onnxmpq: error: there is not enough memory (Unable to allocate 9 TiB for an array); give fewer samples\n"
    )


def test_a_dry_run_predicts_and_writes_nothing(tmp_path: Path, run: Run) -> None:
    """And ends as convert would."""
    folder = Folder(tmp_path)
    table = int8_pays(folder.model, folder.path)
    before = folder.content()
    found = run(*folder.convert("--latency", "80%", "--cost-table", table, "--dry-run", "--json"))
    assert found.code == 0, found.err
    said = json.loads(found.out)
    assert said["schema"] == "onnxmpq.prediction/1"
    assert said["figures"]["latency_ms"] <= 0.8 * said["original"]["latency_ms"]
    assert said["met"] and said["schemes"]
    text = run(*folder.convert("--latency", "80%", "--min-sqnr", "9dB", "--cost-table", table, "--dry-run")).out
    assert "nothing was written" in text and "not predicted, convert measures it: --min-sqnr 9dB" in text
    for options, code in ((("--latency", "1ns"), 5), (("--latency", "200%"), 14), (("--size", "1kB"), 5)):
        assert run(*folder.convert(*options, "--cost-table", table, "--dry-run")).code == code
    closest = run(*folder.convert("--latency", "1ns", "--cost-table", table, "--dry-run", "--best-effort", "--json"))
    assert closest.code == 0 and not json.loads(closest.out)["met"]
    assert folder.content() == before


@pytest.mark.parametrize("name", [recipe.name for recipe in available_recipes()])
def test_a_recipe_shows_its_fields(name: str, tmp_path: Path, run: Run) -> None:
    """As a file that is the same recipe."""
    shown = run("recipes", name)
    assert shown.code == 0
    (tmp_path / "copy.toml").write_text(shown.out)
    assert read_recipe(tmp_path / "copy.toml", name) == find_recipe(name)
    assert json.loads(run("recipes", name, "--json").out)["kind"] == tomllib.loads(shown.out)["kind"]


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name: str) -> None:
    flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
    assert flags >= {"--json", "--quiet", "-q", "--verbose", "-v", "--debug"}


def test_json_of_commands_that_write_files(tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    plan = onnxmpq.convert(folder.model, size="smallest", cost_table=int8_pays(folder.model, tmp_path)).plan
    (tmp_path / "a.plan.json").write_text(plan.to_json())
    page = json.loads(run("report", tmp_path / "a.plan.json", "--json", "-q").out)
    assert page["written"] == [str(tmp_path / "a.html")] and (tmp_path / "a.html").exists()
    table = tmp_path / "table.json"
    measured = json.loads(run("profile", folder.model, "-o", table, "--json", "-q").out)
    assert measured["table"] == str(table) and CostTable.from_json(table.read_text())
    assert any("made up" in warning for warning in measured["warnings"])


def warned(ran: Ran) -> list[str]:
    return [line.removeprefix("warning: ") for line in ran.err.splitlines() if line.startswith("warning: ")]


WARNING: dict[str, Callable[[Folder], tuple[object, ...]]] = {
    "convert": lambda f: f.convert("--size", "60%", "-o", f / "o.onnx"),
    "convert, made-up samples": lambda f: (
        *("convert", f.model, "--size", "60%", "--samples", 8, "-q", *FAST, "-o", f / "o.onnx"),
    ),
    "convert, few samples": lambda f: f.few("convert", f.model, "--size", "60%", "-q", *FAST, "-o", f / "o.onnx"),
    "dry run": lambda f: ("convert", f.model, "--size", "60%", "--samples", 8, "-q", *FAST, "--dry-run"),
    "validate": lambda f: ("validate", f.model, f.model, "-q"),
    "validate, a floor": lambda f: f.few("validate", f.model, f.model, "-q", "--min-sqnr", "10dB"),
    "calibrate": lambda f: ("calibrate", f.model, "-q", "-o", f / "r.npz"),
    "apply": lambda f: (*f.plan()[:3], "--measure"),
}


@pytest.mark.parametrize("case", WARNING)
def test_json_has_the_warnings_of_the_screen(case: str, tmp_path: Path, run: Run) -> None:
    found = run(*WARNING[case](Folder(tmp_path)), "--json")
    assert json.loads(found.out)["warnings"] == warned(found)
    assert bool(warned(found)) == (case not in ("convert", "validate, a floor"))


def test_completion_knows_commands_and_options() -> None:
    """As bash asks for it."""
    program = "import sys; sys.argv[0] = 'onnxmpq'; from onnxmpq.__main__ import main; main()"

    def completed(words: str, place: int) -> list[str]:
        asked = {"_ONNXMPQ_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("onnxmpq conv", 1) == ["convert", "convert-many"]
    assert completed("onnxmpq validate --min-", 2) == ["--min-sqnr", "--min-agreement"]
