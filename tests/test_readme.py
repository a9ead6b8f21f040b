"""The commands that the README shows are run, and those that CI takes from it are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.short_measurements import write_program

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SKIPPED = ("python -m venv", "python3 -m venv", "pip ")
_BLOCK = re.compile(r"<!-- (\w+(?:: \w+)?) -->\s*```sh\n(.*?)```", re.DOTALL)


def blocks(mark: str) -> list[str]:
    """Fenced sh blocks behind a comment such as <!-- test -->."""
    return [body for found, body in _BLOCK.findall(README) if found == mark]


def commands(body: str) -> list[str]:
    """One per line; a line that ends in a backslash goes on."""
    lines = body.replace("\\\n", " ").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith(("#", *SKIPPED))]


@pytest.mark.skipif(not blocks("test"), reason="the README has no such block yet")
@pytest.mark.parametrize("body", blocks("test"))
def test_commands_run(body: str, tmp_path: Path) -> None:
    """In a copy of the samples, by the onnxmpq of this environment."""
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    tools = tmp_path / "tools"
    write_program(tools)
    search = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": search, "PYTHONPATH": str(ROOT)}
    for command in commands(body):
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.skipif("<!-- ci:" not in README, reason="the README has no such block yet")
@pytest.mark.parametrize("mark", ["ci: run", "ci: test"])
def test_ci_finds_its_commands(mark: str) -> None:
    [body] = blocks(mark)
    assert len(commands(body.replace("python3 -m venv .venv && ", ""))) == 1


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
