"""Workers whose results may have other bits are told apart, and what is given for a cluster is checked before Dask."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import onnxmpq
from onnxmpq.cluster import connected
from onnxmpq.errors import ClusterError, UsageError
from onnxmpq.progress import Silent
from onnxmpq.provenance import describe_runtime

HERE = describe_runtime()


def there(**changes: str) -> Any:
    from onnxmpq.cluster.remote import Identity  # noqa: PLC0415

    described = {**HERE, **{k: v for k, v in changes.items() if k in HERE}}
    return Identity(described, changes.get("source", "a"), changes.get("blas", "Haswell"), "machine")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"onnxruntime": "1.0.0"}, f"onnxruntime 1.0.0 (here {HERE['onnxruntime']})"),
        ({"source": "b"}, f"another source of onnxmpq {HERE['onnxmpq']}"),
        ({"blas": "Zen"}, "BLAS runs Zen (here Haswell)"),
        ({"cpu_features": HERE["cpu_features"] + " more"}, "this machine's CPU is without more"),
        ({"cpu": "another name"}, ""),
        ({"platform": "another"}, ""),
    ],
    ids=lambda given: next(iter(given), "same") if isinstance(given, dict) else "",
)
def test_differences(changes: dict[str, str], said: str) -> None:
    assert there(**changes).apart_from(there()) == said


def test_a_device_may_have_another_cpu_but_no_other_programs() -> None:
    other = there(cpu_features="neon", onnx="1.0")
    assert other.other_programs(there()) == [f"onnx 1.0 (here {HERE['onnx']})"]
    assert replace(other, described={**HERE, "cpu_features": "neon"}).other_programs(there()) == []


@pytest.mark.parametrize(
    "cluster",
    [
        "localhost:8786",
        "http://localhost:8786",
        "tcp://localhost",
        "tcp://localhost:x",
        "tcp://localhost:1/x",
        "local:1000000",
        "local",
        "local:0",
        "local:x",
        "local:\N{ARABIC-INDIC DIGIT TWO}",
        "tcp://localhost:99999",
        "ws://localhost:65536/x",
        8786,
        ["tcp://a:1"],
    ],
)
def test_what_is_no_cluster(cluster: Any) -> None:
    with pytest.raises(UsageError, match="cluster"), connected(cluster, Silent()):
        pass


@pytest.mark.parametrize("option", ["device", "folder"])
def test_options_that_need_a_cluster(option: str) -> None:
    with pytest.raises(UsageError, match="give --cluster too"), connected(None, Silent(), **{option: "x"}):  # type: ignore[arg-type]
        pass


def test_without_dask_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"pip install 'onnxmpq\[cluster\]'"), connected("local:1", Silent()):
        pass


def test_nothing_of_dask_is_imported_without_a_cluster() -> None:
    code = "import sys, onnxmpq.cli, onnxmpq.cluster; sys.exit('dask' in sys.modules or 'distributed' in sys.modules)"
    home = str(Path(onnxmpq.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code], cwd=home, check=False).returncode == 0
