"""Connections to schedulers, clients and workers that cannot be used, and several clients at once."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Any

import pytest

from onnxmpq.cluster import connected
from onnxmpq.errors import ClusterError, UsageError
from onnxmpq.progress import LOGGER, Silent
from onnxmpq.tasks import current
from tests.cluster.conftest import local_cluster
from tests.cluster.work import run, tasks


def test_a_scheduler_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.cluster.pool.WAIT_S", 0.5)
    with local_cluster(0) as client:
        with pytest.raises(ClusterError, match="the scheduler has no workers; start some with `dask worker"):
            run(client, [])
        with pytest.raises(ClusterError, match=r"--device arm: no worker has that tag; start one with: dask worker"):
            run(client, [], device="arm")


def test_no_scheduler_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    monkeypatch.setattr("onnxmpq.cluster.connect.CONNECT_S", 1)
    with pytest.raises(ClusterError, match=r"--cluster tcp://127.0.0.1:9: no scheduler answers .*dask scheduler"):
        run("tcp://127.0.0.1:9", [])


@pytest.mark.parametrize(
    ("address", "settings", "said"),
    [
        ("tcp://[::1:8786", {}, r"cannot be connected to \(invalid address"),
        ("tcp://127.0.0.1:9", {"distributed.comm.require-encryption": True}, "encryption required"),
        ("ucx://127.0.0.1:9", {}, "ucx:// needs Dask's package distributed-ucxx"),
    ],
    ids=["no address", "encryption", "ucx"],
)
def test_a_connection_that_fails_ends_at_once(
    address: str, settings: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dask leaves what could not connect to be closed where it is forgotten, which takes 30 s."""
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    import dask  # noqa: PLC0415

    before = time.monotonic()
    with dask.config.set(settings), pytest.raises(ClusterError, match=said):
        run(address, [])
    gc.collect()
    assert time.monotonic() - before < 20
    assert "Traceback" not in capsys.readouterr().err


def test_clients_that_cannot_be_used() -> None:
    distributed = pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    with local_cluster(0, processes=False) as client:
        address = client.scheduler_info()["address"]

        async def asynchronous() -> None:
            async with distributed.Client(address, asynchronous=True, set_as_default=False) as inside:
                run(inside, [])

        with pytest.raises(UsageError, match="asynchronous here; give one that was made without"):
            client.sync(asynchronous)
        closed = distributed.Client(address, set_as_default=False)
        closed.close()
    with pytest.raises(ClusterError, match="this Client is closed, not running; open one"):
        run(closed, [])


def test_a_worker_that_differs_is_left_out(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "ONNXMPQ_TEST", "")
    from onnxmpq.cluster import pool  # noqa: PLC0415

    here = pool.identity()
    other = {**here.described, "onnxruntime": "1.0.0"}
    monkeypatch.setattr(pool, "identity", Stand(here, other))
    with pytest.raises(ClusterError, match=r"no worker can be used: tcp://.*onnxruntime .* \(here 1.0.0\), and 1 more"):
        run(client, [])


class Stand:
    """Answers as another machine here, and as it is where a worker calls it."""

    def __init__(self, here: Any, described: dict[str, str]) -> None:
        self.here, self.described, self.home = here, described, os.getpid()

    def __call__(self, dask_worker: Any = None) -> Any:
        from dataclasses import replace  # noqa: PLC0415

        from onnxmpq.cluster.remote import identity  # noqa: PLC0415

        here = os.getpid() == self.home
        return replace(self.here, described=self.described) if here else identity(dask_worker)


def test_a_folder_that_workers_do_not_see(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.cluster.pool.sees", unseen)
    with pytest.raises(
        ClusterError, match=r"does not see --cluster-folder \S+, and 1 more; mount it there at the same path"
    ):
        run(client, [], folder=tmp_path)
    with pytest.raises(ClusterError, match="cannot be written"):
        run(client, [], folder=tmp_path / "missing")


def unseen(path: Path, content: str) -> bool:
    return False


def warns(number: int) -> int:
    LOGGER.warning("warned by task %d", number)
    return number


def test_clients_of_one_scheduler_end_apart(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The first one that ends takes nothing from the others."""
    address = client.scheduler_info()["address"]
    with connected(address, Silent()):
        second: Any = current()
        with connected(address, Silent()):
            pass
        assert [found for _, found in second.run(tasks(warns, [(7,)]))] == [7]
        for _ in range(100):
            if "warned by task 7" in caplog.text:
                break
            time.sleep(0.05)
    assert caplog.text.count("warned by task 7") == 1
    with connected(address, Silent()):  # and one that comes later hears them once
        assert [found for _, found in current().run(tasks(warns, [(8,)]))] == [8]  # type: ignore[union-attr]
        for _ in range(100):
            if "warned by task 8" in caplog.text:
                break
            time.sleep(0.05)
    assert caplog.text.count("warned by task 8") == 1


def test_an_error_while_closing_replaces_none(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed  # noqa: PLC0415

    close = distributed.Client.close

    def fails_to_close(self: Any, *arguments: Any, **more: Any) -> None:
        close(self, *arguments, **more)
        raise TimeoutError("closing took too long")

    monkeypatch.setattr(distributed.Client, "close", fails_to_close)
    address = client.scheduler_info()["address"]
    with pytest.raises(ZeroDivisionError), connected(address, Silent()):
        _ = 1 // 0
    with connected(address, Silent()):
        pass
    monkeypatch.undo()  # or clients that are forgotten would fail as well
