"""Settings that every test shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from onnxmpq.cache import cache
from onnxmpq.cost.measure import Effort
from onnxmpq.isolation import isolated
from tests.short_measurements import DEFAULTS, QUICK

settings.register_profile("onnxmpq", deadline=None)  # the machines that run this are shared: no timed examples
settings.load_profile("onnxmpq")

SAMPLES = Path(__file__).parent.parent / "samples"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew; read the diff")
    parser.addoption("--long", action="store_true", help="also what takes many seconds (tests/cluster)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("long") and not item.config.getoption("--long"):
        pytest.skip("takes many seconds; runs with --long")


@pytest.fixture(scope="session", autouse=True)
def one_child() -> Iterator[None]:
    """One child process for all tests: each conversion would start one of its own."""
    with isolated():
        yield


@pytest.fixture(autouse=True)
def no_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Off unless a test gives a folder: else the second of two conversions would test only that reading works.

    Commands in processes of their own get a folder of their own. The user's is never touched.
    """
    monkeypatch.setattr(cache, "default_folder", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def quick_effort(monkeypatch: pytest.MonkeyPatch) -> Effort:
    """Short measurements where nothing else is asked: for the command line, which has no option for them."""
    monkeypatch.setattr(Effort.__init__, "__defaults__", DEFAULTS)
    return QUICK
