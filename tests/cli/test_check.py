"""`check`: findings, the compiler, and how often kernels overflow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.compilers import COMPILERS, Answer, Message
from onnxmpq.isolation import launch
from tests.cli.folders import Folder, Run, all_quantized


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
