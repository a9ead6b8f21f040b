"""Compiling without the compiler: shapes, names, and what is said where the package is missing or odd."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import onnx
import pytest

from onnxmpq.compilers import COMPILERS, Answer, Compiled, Message, as_dict, compile_model, lines, stored, tensorrt_rtx
from onnxmpq.compilers.naming import renamed, traced
from onnxmpq.errors import CompilerError, UsageError
from onnxmpq.feeds import shares_of
from onnxmpq.isolation import Child, launch
from tests.compilers.graphs import float8, int4_weights
from tests.graphs import graph
from tests.isolation import functions

DYNAMIC = graph("y = Relu (x)", "float[N, 3, H] x", "float[N, 3, H] y")


class Fake:
    """A compiler that refuses every graph of more than one node, and keeps what it was asked."""

    name = "Fake"

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []

    def version(self) -> str:
        return "1.0"

    def capabilities(self) -> tuple[str, ...]:
        return "sm1", "sm2"

    def build(self, proto: onnx.ModelProto, capability: str, ranges: object) -> Answer:
        self.asked.append((capability, ranges))
        if len(proto.graph.node) == 1:
            return Answer((), 100, 10)
        return Answer((Message("error", "", f"cannot fuse {proto.graph.node[1].name} at all"),))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """In this process, where it can be asked afterwards."""
    found = Fake()
    monkeypatch.setitem(COMPILERS, "tensorrt", found)
    monkeypatch.setattr(launch, "can_start", lambda: False)
    return found


def test_capabilities_are_those_of_the_compiler(fake: Fake) -> None:
    assert compile_model(graph("y = Relu (x)", "float[2] x", "float[2] y"), "SM2").capability == "sm2"
    with pytest.raises(UsageError, match=r"Fake compiles for no 'sm3'; did you mean sm1 or sm2\?"):
        compile_model(int4_weights(), "sm3")
    with pytest.raises(UsageError, match="dialect portable has no compiler that runs here; give --dialect tensorrt"):
        compile_model(int4_weights(), "sm1", dialect="portable")


def test_dynamic_shapes_have_ranges(fake: Fake) -> None:
    """Of several shapes the smallest and largest dimensions, and the one with the largest share."""
    compile_model(DYNAMIC, "sm1", shares_of({"x": "1x3x8@0.2,4x3x2@0.8"}))
    [(_, ranges)] = fake.asked
    assert isinstance(ranges, dict)
    assert (ranges["x"].least, ranges["x"].typical, ranges["x"].most) == ((1, 3, 2), (4, 3, 2), (4, 3, 8))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"input 'x' has dynamic shape \[N, 3, H\]; add --shape x=1x3x1, or several"),
        ({"x": "1x4x8"}, r"--shape x=1x4x8: the input is \?x3x\?"),
        ({"x": "1x3"}, r"--shape x=1x3: the input is \?x3x\?"),
        ({"x": "1x3x8", "z": "1"}, r"--shape z: the model has no such input; its inputs are x"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compile_model(DYNAMIC, "sm1", shares_of(shapes))


def test_messages_name_nodes_as_the_model_does(fake: Fake) -> None:
    found = compile_model(int4_weights(), "sm1")
    assert not found.built
    assert found.errors == (Message("error", "MatMul -> y", "cannot fuse 'MatMul -> y' at all"),)
    assert lines(found) == [
        "Fake 1.0 does not build it for sm1",
        "error: MatMul -> y: cannot fuse 'MatMul -> y' at all",
    ]
    assert as_dict(found)["engine_bytes"] is None


def test_every_node_is_found_again_those_in_bodies_too() -> None:
    body = (
        "y = If (b) <then_branch = t () => (float[2] c) { c = Relu (x) }, "
        "else_branch = e () => (float[2] d) { d = Abs (x) }>"
    )
    proto = graph(body, "float[2] x, bool b", "float[2] y")
    proto.graph.node[0].name = "choice"
    before = proto.SerializeToString(deterministic=True)
    named, known = renamed(proto)
    assert proto.SerializeToString(deterministic=True) == before
    assert [known[i] for i in sorted(known)] == ["choice", "Relu -> c", "Abs -> d"]
    inner = named.graph.node[0].attribute[0].g.node[0].name
    assert traced(Message("error", inner, f"at {inner}: no"), known) == Message(
        "error", "Relu -> c", "at 'Relu -> c': no"
    )
    assert traced(Message("warning", "", "plain"), known) == Message("warning", "", "plain")


def test_a_crash_is_an_error_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler ends its process: said as its answer, with its name."""
    child = Child("TensorRT-RTX")
    monkeypatch.setattr("onnxmpq.compilers.compile._about", functions.constant_about)
    monkeypatch.setattr("onnxmpq.compilers.compile._build", functions.die_of_anything)
    try:
        found = compile_model(int4_weights(), "sm89", child=child)
    finally:
        child.close()
    [error] = found.errors
    assert error.text == "TensorRT-RTX crashed with SIGSEGV while compiling the model"


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setattr(launch, "can_start", lambda: False)
    with pytest.raises(
        CompilerError, match=r"tensorrt-rtx is not installed; install it with: pip install .onnxmpq\[tensorrt\]"
    ) as error:
        compile_model(int4_weights(), "sm89")
    assert error.value.exit_code == 18


@pytest.mark.parametrize(("version", "usable"), [("1.6.9", False), ("2.0.1", False), ("1.7.0.3", True), ("1.12", True)])
def test_versions(version: str, usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__=version))
    if usable:
        assert tensorrt_rtx.TensorRtRtx().version() == version
        return
    with pytest.raises(CompilerError, match=rf"tensorrt-rtx {version} is installed, and 1.7 or a later 1.x is needed"):
        tensorrt_rtx.TensorRtRtx().version()


def test_words_about_what_is_stored() -> None:
    model = int4_weights()
    narrow = stored(model)
    answers = {
        narrow.bytes + 500: "int4 weights stay narrow",
        narrow.at({"int4": 16}): "stored wider: int4 at 16 bits",
        narrow.bytes * 100: "which no one width of its quantized weights explains",
    }
    for weight_bytes, words in answers.items():
        found = Compiled("Fake", "sm1", Answer((), 10**6, weight_bytes), narrow)
        assert words in lines(found)[0]
    assert as_dict(Compiled("Fake", "sm1", Answer((), 10**6, narrow.bytes), narrow))["weights"] == [
        {"element": "int4", "tensors": 1, "elements": 131072, "bytes": 65536, "stored_bits": 4}
    ]
    assert stored(float8()).kinds[0].element == "float8e4m3fn"
