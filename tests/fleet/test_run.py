"""A fleet: failures do not stop it, a second run does only what is left, and one file tells of all."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.errors import FleetError, LostError, OutputError
from onnxmpq.fleet import Converted, run
from onnxmpq.fleet.results import SCHEMA
from onnxmpq.progress import Silent
from tests.conftest import QUICK
from tests.graphs import residual_cnn, samples_for

TIGHT = "1%"


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Twelve entries: one model is broken, one budget out of reach."""
    protos = {"cnn": residual_cnn(), "other": residual_cnn()}
    rows = []
    for name, proto in protos.items():
        onnx.save(proto, tmp_path / f"{name}.onnx")
        np.savez(tmp_path / f"{name}.npz", **samples_for(proto, 4))
        for number in range(5):
            rows.append(f'[[models]]\nname = "{name}{number}"\nmodel = "{name}.onnx"\ncalib = "{name}.npz"\n')
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    rows.insert(3, '[[models]]\nmodel = "broken.onnx"\n')
    rows.append(f'[[models]]\nname = "tight"\nmodel = "cnn.onnx"\ncalib = "cnn.npz"\nsize = "{TIGHT}"\n')
    assert len(rows) == 12
    path = tmp_path / "fleet.toml"
    path.write_text('[defaults]\nsize = "90%"\ntarget = "edge-npu"\nguard = false\n' + "".join(rows), encoding="utf-8")
    return path


def many(fleet: Path, **more: Any) -> onnxmpq.Fleet:
    folder = fleet.parent
    return onnxmpq.convert_many(
        fleet, folder / "out", cache=folder / "cache", progress=Silent(), effort=QUICK, **{"samples": 4, **more}
    )


def test_twelve_models(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = many(fleet), fleet.parent / "out"
    assert [(r.name, r.code) for r in made.failed] == [("broken", 3), ("tight", 5)]
    assert isinstance(made.error, FleetError) and "2 of 12 models were not converted: broken (exit code 3)" in str(
        made.error
    )
    told = json.loads((out / "fleet.json").read_text(encoding="utf-8"))
    assert told["schema"] == "onnxmpq.fleet/1" and told["converted"] == 10 and told["failed"] == ["broken", "tight"]
    page = (out / "fleet.html").read_text(encoding="utf-8")
    for row in made.rows:
        assert row.name in page
        if row.done:
            assert row.files is not None and all((out / name).is_file() for name in row.files.values())
            assert (row.size_bytes or 0) < (row.original_bytes or 0) and not row.reused

    asked: list[str] = []
    convert = run.convert

    def counted(model: Any, **options: Any) -> Any:
        asked.append(Path(options["output"]).name)
        return convert(model, **options)

    monkeypatch.setattr(run, "convert", counted)
    (out / "cnn0.mpq.onnx").unlink()
    np.savez(fleet.parent / "other.npz", **samples_for(residual_cnn(), 5))
    again = many(fleet)
    fresh = {"broken", "tight", "cnn0", *(f"other{n}" for n in range(5))}
    assert {name.removesuffix(".mpq.onnx") for name in asked} == fresh
    assert {r.name for r in again.rows if r.reused} == {f"cnn{n}" for n in range(1, 5)}
    assert [r.output_sha256 for r in again.rows if r.name.startswith("cnn")] == [
        r.output_sha256 for r in made.rows if r.name.startswith("cnn")
    ]


def test_a_run_that_is_stopped_goes_on_where_it_was(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert, count = run.convert, 0

    def stopped(model: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return convert(model, **options)

    monkeypatch.setattr(run, "convert", stopped)
    with pytest.raises(KeyboardInterrupt):
        many(fleet)
    told = json.loads((fleet.parent / "out" / "fleet.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in told["models"]] == ["cnn0", "cnn1"] and len(told["unfinished"]) == 10
    assert [r.name for r in many(fleet).rows if r.reused] == ["cnn0", "cnn1"]


def test_an_internal_error_is_a_row_and_a_lost_scheduler_the_end(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(error: BaseException) -> None:
        def convert(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(run, "convert", convert)

    raises(ZeroDivisionError("oops"))
    assert {(r.code, r.error.partition(";")[0]) for r in many(fleet).failed} == {
        (1, "internal error: ZeroDivisionError: oops")
    }
    raises(LostError("gone"))
    with pytest.raises(LostError):
        many(fleet)


def test_a_damaged_report_costs_time_alone(fleet: Path) -> None:
    out = fleet.parent / "out"
    out.mkdir()
    good = Converted("a", "key", "a.onnx", "cpu", {"size": "40%"}, size_bytes=3, latency_ms=1.0, files={"model": "m"})
    row = asdict(good)
    wrong = [3, {"name": "a"}, {**row, "more": 1}, *({**row, name: [[]]} for name in row)]
    wrong += [{**row, **other} for other in ({"code": True}, {"files": {"model": 3}}, {"seconds": None}, {"met": 1})]
    for document in (None, [], 3, {}, *({"schema": SCHEMA, "models": models} for models in (3, None, {}, "x", wrong))):
        (out / "fleet.json").write_text(json.dumps(document), encoding="utf-8")
        assert run.rows_by_name(run._read(out / "fleet.json")) == {}
    (out / "fleet.json").write_text("{", encoding="utf-8")
    assert run.rows_by_name(run._read(out / "fleet.json")) == {}
    for seconds in (0.5, 0):
        document = {"schema": SCHEMA, "models": [{**row, "seconds": seconds}]}
        assert run.rows_by_name(document) == {"a": replace(good, seconds=seconds)}


def test_an_output_that_cannot_be_written(fleet: Path) -> None:
    (fleet.parent / "out").write_bytes(b"a file")
    with pytest.raises(OutputError, match="cannot be created"):
        many(fleet)
