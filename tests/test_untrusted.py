"""Files from others: what a short run of the fuzzer makes of them, and what longer runs found."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxmpq
from benchmarks import fuzz
from onnxmpq.errors import CalibrationError, ModelError, OnnxmpqError, PlanError, TargetError, UsageError
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import InputSpec
from onnxmpq.files import Archive, parse_json, read_text, read_toml
from onnxmpq.files.documents import DEEPEST, LARGEST_TOML
from onnxmpq.model import prepare
from onnxmpq.plan import Plan
from tests.graphs import residual_cnn

COUNTS = {"model": 120, "picture": 150}


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    found = fuzz.run_short(name, COUNTS.get(name, 250), tmp_path)
    assert not found, "\n".join(f"{f.place}: {f.detail}" for f in found)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_some_mutants_are_read_and_some_refused(name: str, tmp_path: Path) -> None:
    """Else the run above shows nothing."""
    target, read = fuzz.TARGETS[name], 0
    seeds = target.seeds()
    for number in range(40):
        path = tmp_path / f"x{target.suffix}"
        path.write_bytes(fuzz.mutant(target, seeds, number, 1))
        try:
            target.read(path)
            read += 1
        except OnnxmpqError:
            pass
    assert 0 < read < 40


# ---- messages


def test_names_in_messages_cannot_write_lines_or_steer_a_terminal() -> None:
    error = ModelError("node 'a\nb\x1b[2J\u202e\ud800' is wrong, élan is not")
    assert str(error) == r"node 'a\nb\x1b[2J\u202e\ud800' is wrong, élan is not"


# ---- documents


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"nested more than {DEEPEST} deep"),
        ("9" * 5000, "4300 digits"),
        (f"[{10**20}]", "more than 64 bits"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
    ],
    ids=["recursion", "depth", "digits", "width", "surrogate"],
)
def test_json_that_no_reader_expects(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)
    with pytest.raises(PlanError, match=words):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000 + "]" * 5000, "a" + ".a" * 500 + " = 1", "a = " + "9" * 5000])
def test_toml_that_no_reader_expects(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"nested|digits"):
        read_toml(path)
    for name, family in (("target", TargetError), ("recipe", CalibrationError), ("config", UsageError)):
        path.write_text(text)
        with pytest.raises(family):
            fuzz.TARGETS[name].read(path)


def test_no_more_is_read_than_a_document_may_have() -> None:
    with pytest.raises(ValueError, match=f"more than {LARGEST_TOML} bytes"):
        read_toml(Path("/dev/zero"))
    assert read_text(Path("/dev/null")) == ""


def test_nothing_asks_a_path_whether_it_is_there() -> None:
    """Paths of Python 3.11 raise where a name is too long; `os.path` says no."""
    asking = re.compile(r"\.(exists|is_file|is_dir|is_mount)\(\)")
    package = Path(onnxmpq.__file__).parent
    assert not [str(path) for path in package.rglob("*.py") if asking.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("change", [{"meta": []}, {"meta": {"target": 1}}, {"layout": {"x": []}}, {"base_s": 10**400}])
def test_cost_tables_of_other_types(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({**json.loads(fuzz.costs().to_json()), **change}))
    with pytest.raises(TargetError, match="not a cost table"):
        fuzz.TARGETS["costs"].read(path)


# ---- archives and samples


def bomb(claim: int) -> bytes:
    """An .npz of an array of `claim` zeros in float32, a thousandth of its size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (claim // 192, 3, 8, 8)}
        )
        archive.writestr("x.npy", header.getvalue())
    content = bytearray(buffer.getvalue())
    size = (len(header.getvalue()) + 4 * claim).to_bytes(4, "little")
    central = content.rindex(b"PK\x01\x02")
    content[central + 24 : central + 28] = size  # as the directory claims
    return bytes(content)


def test_zip_bombs_are_refused_before_they_unpack(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(bomb(192 * 2**21))
    with pytest.raises(CalibrationError, match=r"claims 1\.6 GB in 0\.000 MB, as zip bombs do"):
        load_feeds(path, fuzz.SPECS)
    with pytest.raises(ValueError, match="as zip bombs do"):
        Archive.from_bytes(path.read_bytes())


def test_a_picture_that_would_become_gigapixels_is_skipped(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    Image.new("L", (1, 50_000)).save(tmp_path / "long.png")
    with pytest.raises(CalibrationError, match="50000x1 pixels would become"):
        load_feeds(tmp_path, fuzz.PICTURES, recipe="imagenet")


def test_samples_larger_than_the_memory_are_refused(tmp_path: Path) -> None:
    Path(tmp_path / "a.png").write_bytes(fuzz.pictures()[0])
    recipe = tmp_path / "r.toml"
    recipe.write_text('kind = "image"\ndescription = "x"\nresize = "exact"\nsize = [2147483648, 2147483648]\n')
    with pytest.raises(CalibrationError, match="more memory than there is"):
        load_feeds(tmp_path, fuzz.PICTURES, recipe=str(recipe))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_rows_that_csv_does_not_take(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text('"' + "1" * 200_000 + '"\n')
    with pytest.raises(CalibrationError, match="line 1"):
        load_feeds(path, (InputSpec("x", np.dtype(np.float32), ("N", 4)),))


# ---- models


def model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], functions: tuple = ()) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 4]), ("y", None))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("l", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def constant(**fields: object) -> onnx.ModelProto:
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [TensorProto(name="w", **fields)])


def calls(*called: list[str]) -> onnx.ModelProto:
    """Local functions f0, f1, ...; each calls others one after the other."""
    functions = []
    for number, names in enumerate(called):
        values = ["a", *(f"t{n}" for n in range(len(names) - 1)), "b"]
        nodes = [helper.make_node(n, [values[i]], [values[i + 1]], domain="l") for i, n in enumerate(names)]
        functions.append(helper.make_function("l", f"f{number}", ["a"], ["b"], nodes, [helper.make_opsetid("l", 1)]))
    return model([helper.make_node(f"f{len(called) - 1}", ["x"], ["y"], domain="l")], [], tuple(functions))


@dataclass(frozen=True)
class Hostile:
    id: str
    build: Callable[[], onnx.ModelProto]
    words: str


HOSTILE = [
    Hostile("negative dims", lambda: constant(data_type=1, dims=[-2, -2], raw_data=bytes(16)), "negative dimension"),
    Hostile("terabytes", lambda: constant(data_type=1, dims=[2**40, 4]), "claims 4398046511104 values"),
    Hostile("overflow", lambda: constant(data_type=1, dims=[2**32, 2**32]), "claims 18446744073709551616 values"),
    Hostile(
        "short", lambda: constant(data_type=1, dims=[4], raw_data=bytes(15)), "has 15 bytes, its shape .4. asks for 16"
    ),
    Hostile("no values", lambda: constant(data_type=1, dims=[4]), "has 0 values, its shape .4. asks for 4"),
    Hostile(
        "a segment",
        lambda: constant(data_type=1, dims=[4], raw_data=bytes(16), segment=TensorProto.Segment(begin=0, end=2)),
        "is a segment",
    ),
    Hostile("no type", lambda: constant(dims=[4], raw_data=bytes(16)), "no type that is known"),
    Hostile(
        "a cycle",
        lambda: model([helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Relu", ["y"], ["z"])], []),
        "has a cycle at node 'Add_0'",
    ),
    Hostile("a function that calls itself", lambda: calls(["f0"]), "'f0' calls itself"),
    Hostile("functions that call each other", lambda: calls(["f1"], ["f0"]), "calls itself"),
    Hostile("functions that double", lambda: calls(["Relu"], *([f"f{n}"] * 2 for n in range(60))), "unfold to 115"),
    Hostile("a long chain of functions", lambda: calls(["Relu"], *([f"f{n}"] for n in range(3000))), "too deeply"),
]


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.id)
def test_hostile_models_are_refused_in_one_line(case: Hostile, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(case.build().SerializeToString())
    with pytest.raises(ModelError, match=case.words) as caught:
        prepare(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_constants_that_double_without_end_are_left_alone() -> None:
    """40 Concat nodes, each of the last one twice: neither inference of shapes nor folding computes them."""
    nodes = [helper.make_node("Concat", [f"w{n}"] * 2, [f"w{n + 1}"], axis=0) for n in range(40)]
    nodes += [helper.make_node("ReduceSum", ["w40"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    found = prepare(model(nodes, [onnx.numpy_helper.from_array(np.ones(1, np.float32), "w0")]))
    assert len(found.proto.graph.node) == 42
    assert any("values out of constants" in note for note in found.notes)


@pytest.mark.parametrize(("side", "left"), [(3, ["Add"]), (2**17, ["ConstantOfShape", "ReduceSum", "Add"])])
def test_sizes_that_are_computed_are_known_before_anything_of_them_is_made(side: int, left: list[str]) -> None:
    """Inference does not follow floats, so that the size shows once the Cast is folded."""
    proto = fuzz.model(
        f"""h = Constant <value = float[2] {{{side}.0, {side}.0}}> ()
            i = Cast <to = 7> (h)
            k = ConstantOfShape (i)
            r = ReduceSum <keepdims = 0> (k)
            y = Add (x, r)""",
        "float[N, 4] x",
        "float[N, 4] y",
    )
    assert [n.op_type for n in prepare(proto).proto.graph.node] == left


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ("y = local.twice (x)", f"float[{2**40}] x"),
        (f"s = Constant <value = int64[1] {{{2**40}}}> ()  k = Expand (x, s)  y = local.twice (k)", "float[1] x"),
    ],
    ids=["declared", "computed"],
)
def test_vectors_without_an_end_are_not_written_down(body: str, given: str) -> None:
    twice = '<domain: "local", opset_import: ["" : 21]> twice (a) => (b) { b = Add (a, a) }'
    assert prepare(fuzz.model(body, given, "float[N] y", more=twice)).proto.graph.node


def test_attributes_that_inference_does_not_take_are_left_to_the_runtime() -> None:
    proto = fuzz.model("c = Cast <to = 1> (x)\n y = MatMul (c, w)", "float[N, 4] x", "float[N, 4] y", "float[4, 4] w")
    proto.graph.node[0].attribute[0].i = 255
    assert prepare(proto).proto.graph.node


# ---- external data


def external(folder: Path, change: Callable[[list[onnx.TensorProto]], object]) -> Path:
    """A model whose weights are in weights.bin, in the folder's subfolder `model`."""
    path = folder / "model" / "model.onnx"
    path.parent.mkdir()
    proto = onnx.ModelProto()
    proto.CopyFrom(residual_cnn())
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "outside.bin").write_bytes((path.parent / "weights.bin").read_bytes())
    proto = onnx.load(path, load_external_data=False)
    change(list(proto.graph.initializer))
    path.write_bytes(proto.SerializeToString())
    return path


def put(key: str, value: str) -> Callable[[list[onnx.TensorProto]], None]:
    def change(tensors: list[onnx.TensorProto]) -> None:
        entries = {e.key: e.value for e in tensors[0].external_data} | {key: value}
        del tensors[0].external_data[:]
        for name, text in entries.items():
            tensors[0].external_data.add(key=name, value=text)

    return change


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("location", "../outside.bin", "not below the model's folder"),
        ("location", "a/../../outside.bin", "not below the model's folder"),
        ("location", "..\\outside.bin", "not below the model's folder"),
        ("location", "/etc/passwd", "not below the model's folder"),
        ("location", "C:\\x", "not below the model's folder"),
        ("location", "", "not below the model's folder"),
        ("location", "x" * 5000, "is missing"),
        ("location", "gone.bin", "'gone.bin' is missing"),
        ("offset", "-4", "is bytes -4 to"),
        ("offset", "99999999999999", "which has"),
        ("offset", "four", "no number"),
        ("length", "99999999999999", "which has"),
        ("length", "-1", "which has"),
        ("length", "8", "has 8 bytes, its shape .16, 3, 3, 3. asks for 1728"),
    ],
)
def test_external_data_is_read_from_beside_the_model_alone(key: str, value: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        prepare(external(tmp_path, put(key, value)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_links_are_not_followed(folder: bool, tmp_path: Path) -> None:
    path = external(tmp_path, put("location", "link/outside.bin" if folder else "link"))
    (path.parent / "link").symlink_to(tmp_path if folder else tmp_path / "outside.bin")
    with pytest.raises(ModelError, match="is a link, which is not followed"):
        prepare(path)


def test_the_same_part_of_a_file_a_thousand_times_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.model.bounds.LARGEST_BYTES", 2**16)

    def repeat(tensors: list[onnx.TensorProto]) -> None:
        first = next(t for t in tensors if list(t.dims) == [16, 16, 3, 3])
        for tensor in tensors:
            tensor.CopyFrom(first)

    with pytest.raises(ModelError, match="again and again"):
        prepare(external(tmp_path, repeat))


def test_external_data_of_constant_nodes_counts_as_part_of_the_model(tmp_path: Path) -> None:
    found = []
    for value in (1.0, 2.0):
        (tmp_path / "c.bin").write_bytes(np.full(4, value, np.float32).tobytes())
        tensor = TensorProto(name="c", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="c.bin")
        nodes = [helper.make_node("Constant", [], ["k"], value=tensor), helper.make_node("Add", ["x", "k"], ["y"])]
        (tmp_path / "m.onnx").write_bytes(model(nodes, []).SerializeToString())
        found.append(prepare(tmp_path / "m.onnx"))
    assert found[0].source_sha256 != found[1].source_sha256
    assert found[0].source_bytes == (tmp_path / "m.onnx").stat().st_size + 16


def test_windows_of_one_sample_of_a_long_file_are_not_listed(tmp_path: Path) -> None:
    """250 million of them."""
    with (tmp_path / "long.raw").open("wb") as file:
        file.truncate(500_000_000)  # sparse
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'kind = "audio"\ndescription = "x"\nsample_rate = 16000\nfallback_window = 1\nraw_format = "int16"\n'
    )
    assert len(load_feeds(tmp_path, fuzz.SOUND, recipe=str(recipe), limit=3)) == 3
