"""Pages of files that were kept; everything that is wrong with them is one line, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxmpq.errors import OnnxmpqError, OutputError, PlanError, UsageError
from onnxmpq.page import default_output, make_page
from tests.page.reports import Parsed, made_report


def kept(folder: Path) -> tuple[Path, Path]:
    """A report and a plan."""
    report = made_report()
    (folder / "a.json").write_text(json.dumps(report))
    (folder / "b.plan.json").write_text(json.dumps({"schema": "onnxmpq.plan/2", **report["plan"]}))
    return folder / "a.json", folder / "b.plan.json"


def test_one_file(tmp_path: Path) -> None:
    report, plan = kept(tmp_path)
    assert make_page([report]) == [tmp_path / "a.html"]
    assert make_page([plan]) == [tmp_path / "b.html"]
    assert "Not in this file" not in Parsed((tmp_path / "a.html").read_text()).text
    assert "Not in this file" in Parsed((tmp_path / "b.html").read_text()).text


def test_two_files(tmp_path: Path) -> None:
    report, plan = kept(tmp_path)
    assert make_page([report, plan]) == [tmp_path / "a.vs.b.html"]
    assert "a.json and b.plan.json" in Parsed((tmp_path / "a.vs.b.html").read_text()).text


def test_overlays_beside_it(tmp_path: Path) -> None:
    report, _ = kept(tmp_path)
    written = make_page([report], tmp_path / "page.HTML", tmp_path / "o.json")
    assert [p.name for p in written] == ["page.HTML", "o.scheme.json", "o.latency.json", "o.effect.json"]
    assert all(p.stat().st_size for p in written)


@pytest.mark.parametrize(
    "files, name",
    [(["m.mpq.plan.json"], "m.mpq.html"), (["r.json"], "r.html"), (["a.plan.json", "b.plan.json"], "a.vs.b.html")],
)
def test_names(files: list[str], name: str) -> None:
    assert default_output([Path("folder") / f for f in files]) == Path("folder") / name


@dataclass(frozen=True)
class Bad:
    """Arguments that are refused, the family of the error, and words of it."""

    id: str
    make: Callable[[Path, Path], object]
    error: type[OnnxmpqError]
    words: str


BAD = [
    Bad("no file", lambda a, b: make_page([]), UsageError, "not 0"),
    Bad("three files", lambda a, b: make_page([a, b, a]), UsageError, "not 3"),
    Bad("suffix", lambda a, b: make_page([a], a.with_name("page.pdf")), UsageError, "ends in .html"),
    Bad("page as json", lambda a, b: make_page([a], a.with_name("page.json")), UsageError, "ends in .html"),
    Bad("overlay's suffix", lambda a, b: make_page([a], None, a.with_name("o.txt")), UsageError, "ends in .json"),
    Bad("overlay of two", lambda a, b: make_page([a, b], None, a.with_name("o.json")), UsageError, "of one plan"),
    Bad("absent", lambda a, b: make_page([a.with_name("none.json")]), PlanError, "cannot be read"),
    Bad("other folder", lambda a, b: make_page([a], a.parent / "none" / "p.html"), OutputError, "does not exist"),
    Bad(
        "overlay's folder", lambda a, b: make_page([a], None, a.parent / "no" / "o.json"), OutputError, "does not exist"
    ),
    Bad("no JSON", lambda a, b: make_page([_spoiled(a, "{")]), PlanError, "cannot be read"),
    Bad("another file", lambda a, b: make_page([_spoiled(a, "{}")]), PlanError, "names no schema"),
    Bad("nested", lambda a, b: make_page([_spoiled(a, "[" * 10_000)]), PlanError, "cannot be read"),
    Bad("surrogates", lambda a, b: make_page([_spoiled(a, '{"schema": "\\ud800"}')]), PlanError, "cannot be read"),
]


def _spoiled(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("case", BAD, ids=lambda c: c.id)
def test_what_is_wrong_is_said(case: Bad, tmp_path: Path) -> None:
    files = kept(tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(case.error, match=case.words) as caught:
        case.make(*files)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == names
