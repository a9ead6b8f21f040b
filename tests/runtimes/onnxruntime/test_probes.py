"""Probes: each is answered on the onnxruntime and CPU at hand, whatever they are; a crash costs one answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.cache import Cache
from onnxmpq.files import Archive
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.probe_graphs import DYNAMIC_LSTM, PROBES
from onnxmpq.runtimes.onnxruntime.probe_worker import Answer, answer

ROOT = Path(__file__).parents[3]


@pytest.fixture
def nothing_known() -> Iterator[None]:
    kept, stores = dict(probes._known), list(probes._stores)
    probes._known.clear()
    probes.keep_in(Cache(None))
    yield
    probes._known.clear()
    probes._known.update(kept)
    probes._stores[:] = stores


def test_every_question_has_an_answer() -> None:
    found = probes.answers()
    assert set(found) == set(PROBES)
    assert [name for name, a in found.items() if a.holds is None] == []


@pytest.mark.parametrize("kind", sorted({p.kind for p in PROBES.values()}))
def test_graphs_are_valid(kind: str) -> None:
    for probe in (p for p in PROBES.values() if p.kind == kind):
        onnx.checker.check_model(probe.graph(), full_check=True)


@pytest.mark.parametrize("name", [n for n, p in PROBES.items() if p.kind != "loads"])
def test_the_child_says_what_this_process_would(name: str) -> None:
    assert probes.answers()[name] == answer(PROBES[name])


def test_answers_are_kept_and_asked_again(tmp_path: Path, nothing_known: None) -> None:
    store = Cache(tmp_path)
    probes.keep_in(store)
    first = probes.answers()
    name = next(n for n, p in PROBES.items() if p.kind == "loads")
    told = {n: asdict(a) for n, a in first.items() if PROBES[n].kind not in probes.HERE}
    store.put(probes._key(), Archive(meta=told | {name: {"holds": True, "note": "from the cache"}}))
    probes._known.clear()
    assert probes.answers()[name] == Answer(True, "from the cache")
    assert probes.answers(fresh=True)[name] == first[name]
    probes._known.clear()
    assert probes.answers()[name] == first[name], "the fresh answer is the one that is kept"


@pytest.mark.parametrize("meta", [None, {}, {"x": 1}, [1], "text"], ids=str)
def test_damaged_entries_are_asked_again(meta: object, tmp_path: Path, nothing_known: None) -> None:
    store = Cache(tmp_path)
    store.put(probes._key(), Archive(meta=meta))
    probes.keep_in(store)
    assert set(probes.answers()) == set(PROBES)


def test_a_graph_that_ends_the_process_costs_its_own_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_known: None
) -> None:
    """A program that takes the worker's place, and is killed on two of the graphs."""
    crashing = [next(n for n, p in PROBES.items() if p.kind == kind) for kind in ("fuses", "loads")]
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "for name in json.load(sys.stdin):\n"
        f"    if name in {crashing!r}: os.abort()\n"
        "    print(json.dumps([name, {'holds': True, 'note': ''}]), flush=True)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    found = probes.answers()
    for name in crashing:
        assert found[name].holds is (False if PROBES[name].kind == "loads" else None)
        assert "ended with code -6" in found[name].note
    others = [n for n, p in PROBES.items() if p.kind not in probes.HERE and n not in crashing]
    assert all(found[n] == Answer(True) for n in others)


def test_without_a_python_to_start_the_answers_come_from_here(
    monkeypatch: pytest.MonkeyPatch, nothing_known: None
) -> None:
    expected = probes.answers()
    probes._known.clear()
    monkeypatch.setattr(sys, "executable", "/opt/frozen/application")
    assert probes.answers() == expected


def test_the_worker_is_a_program() -> None:
    names = '["uint8 Conv by int8"]'
    command = [sys.executable, "-m", "onnxmpq.runtimes.onnxruntime.probe_worker"]
    done = subprocess.run(command, input=names, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith('["uint8 Conv by int8", {"holds": ')


@pytest.mark.parametrize("name", DYNAMIC_LSTM)
def test_the_dynamic_lstm_is_exact_within_the_bound(name: str) -> None:
    """On every CPU: its scheme is left out where it is not. Weights beyond the bound are as exact as other kernels."""
    assert probes.holds(name) is True
    assert probes.answers()["uint8 LSTM by int8 saturates"].holds == probes.saturates()


def test_a_kernel_that_computes_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that forgets the direction, and one whose weights are others than the probe says."""
    probe = PROBES[DYNAMIC_LSTM[0]]
    for other in (
        replace(probe, body=probe.body.replace("Affine", "Tanh", 1)),
        replace(probe, values=(("w", 63.0),)),
    ):
        assert answer(other).holds is False


def product(weight: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """codes x weight as the default session computes it, with scales of 1."""
    probe = PROBES["uint8 MatMul by int8 saturates"]
    graph = replace(probe, x=f"float{list(codes.shape)}").graph()
    for tensor in graph.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    session = open_session(graph.SerializeToString(), SessionSettings())
    return run(session, {"x": codes.astype(np.float32)})[0]


@pytest.mark.parametrize("seed", range(3))
def test_saturation_is_what_weights_beyond_the_bound_suffer(seed: int) -> None:
    """Exact everywhere where no pair of neighbours can exceed 16 bits; beyond that, exact where nothing saturates."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(200, 256, (4, 64))
    safe = generator.integers(-64, 65, (64, 32)).astype(np.int8)
    np.testing.assert_array_equal(product(safe, codes), codes @ safe.astype(np.int64))
    wild = generator.integers(100, 128, (64, 32)).astype(np.int8)
    exact = (product(wild, codes) == codes @ wild.astype(np.int64)).all()
    assert exact == (not probes.saturates())
