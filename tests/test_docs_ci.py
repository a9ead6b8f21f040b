"""The workflow and the commands of docs/ci.md, run in their order on the sample models."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.short_measurements import write_program

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
UPLOADED = ("digits.mpq.onnx", "digits.mpq.plan.json", "report.json", "gate.json")


def block(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def steps() -> Iterator[str]:
    """Values of `run:`, those that are folded (`>`) in one line, but for the installation."""
    lines = iter(block("yaml")[0].splitlines())
    for line in lines:
        found = re.match(r"^( *)(?:- )?run: (.*)$", line)
        if found is None or found[2].startswith("pip "):
            continue
        parts = [] if found[2] == ">" else [found[2]]
        while found[2] == ">" and (more := next(lines)).startswith(found[1] + "  "):
            parts.append(more.strip())
        yield " ".join(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the samples and the config file of the page."""
    path = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "samples", path / "samples")
    [config] = block("toml")
    (path / "onnxmpq.toml").write_text(config)
    write_program(path)
    return path


def ran(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": search, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_every_command_runs(folder: Path) -> None:
    shown = [line for body in block("sh") for line in body.splitlines()]
    workflow = list(steps())
    assert [s.split()[1] for s in workflow] == ["convert", "convert", "validate"]
    for command in (*workflow, *shown):
        done = ran(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    for name in UPLOADED:
        assert (folder / name).is_file() and name in block("yaml")[0]
    assert json.loads((folder / "gate.json").read_text())["passed"] is True
    assert (folder / "again.onnx").read_bytes() == (folder / "digits.mpq.onnx").read_bytes()


def test_the_gate_fails_as_the_page_says(folder: Path) -> None:
    """By what is missed, and by what somebody forgets."""
    gate = list(steps())[-1].split(" > ")[0]
    model = "samples/digits_cnn.onnx"
    missed = ran(gate.replace("digits.mpq.onnx", model).replace("--size 40%", "--size 40kB"), folder)
    assert missed.returncode == 15 and json.loads(missed.stdout)["missed"]
    forgotten = re.sub(r"--calib \S+ --samples \d+|--max-drop \S+ --labels \S+", "", gate)
    assert ran(forgotten.replace("digits.mpq.onnx", model), folder).returncode == 4


def test_links_lead_somewhere() -> None:
    for page, anchor in re.findall(r"\]\(([\w.]+)(?:#([\w-]+))?\)", PAGE):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        titles = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in re.findall(r"^#+ (.*)$", text, re.M)]
        assert not anchor or anchor in titles, f"{page}#{anchor}"
