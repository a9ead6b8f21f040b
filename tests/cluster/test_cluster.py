"""Tasks on Dask's workers: the same bytes, another try elsewhere, a name where nothing helps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.cluster import connected
from onnxmpq.context import Context
from onnxmpq.errors import ClusterError, LostError
from onnxmpq.files import serialize
from onnxmpq.progress import SENSITIVITY, Progress, Silent
from onnxmpq.tasks import Task, current
from tests.cluster.conftest import local_cluster, scheduler, worker
from tests.cluster.work import Heard, dies, dies_first, doubled, fails, fails_first, fails_on, naps, run, tasks, where
from tests.conftest import QUICK
from tests.graphs import graph, residual_cnn, samples_for
from tests.tables import int8_pays

PROTO = residual_cnn()
LAYERS = 24
DEEP = graph(  # of several groups, so that there are several tasks of effects
    " ".join(f"m{n} = MatMul (t{n}, w{n}) t{n + 1} = Tanh (m{n})" for n in range(LAYERS)),
    "float[N, 16] t0",
    f"float[N, 16] t{LAYERS}",
    ", ".join(f"float[16, 16] w{n}" for n in range(LAYERS)),
)


def converted(folder: Path, proto: onnx.ModelProto = PROTO, latency: str = "60%", **more: Any) -> tuple[bytes, str]:
    made = onnxmpq.convert(
        proto,
        calibration=samples_for(proto, 8),
        cost_table=int8_pays(proto, folder),
        latency=latency,
        **{"progress": Silent(), **more},
    )
    return serialize(made.model), made.plan.to_json()


def test_the_same_bytes_whoever_does_the_work(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.weights.first.WORTH_PROCESSES", 0)
    alone = converted(tmp_path, cache=False)
    heard = Heard()
    cache = tmp_path / "cache"
    assert converted(tmp_path, cache=cache, cluster=client) == alone
    assert list(cache.rglob("*.npz"))
    assert converted(tmp_path, cache=False, cluster=client, cluster_folder=tmp_path) == alone
    with local_cluster(1, processes=False) as one:
        assert converted(tmp_path, cache=False, cluster=one) == alone
    assert not list(tmp_path.glob("*.pickle")) and current() is None
    with connected(client, heard):
        assert Context().elsewhere is (elsewhere := current()) is not None
        assert elsewhere.task_bytes > 0
    assert heard.lines == ["2 workers of the cluster, 2 tasks at a time"]


@pytest.mark.long
@pytest.mark.parametrize("effects", ["full", "block"])
def test_the_same_bytes_with_any_number_of_workers(
    effects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are threads here, which start at once."""
    monkeypatch.setattr("onnxmpq.weights.first.WORTH_PROCESSES", 0)
    given = {"cache": False, "effects": effects}
    alone = converted(tmp_path, DEEP, "80%", **given)
    for workers in (1, 8):
        with local_cluster(workers, processes=False) as client:
            assert converted(tmp_path, DEEP, "80%", cluster=client, **given) == alone


def test_shared_values_and_results(client: Any, tmp_path: Path) -> None:
    large = np.arange(300_000, dtype=np.float32)
    for folder in (None, tmp_path):
        with connected(client, Silent(), folder=folder):
            elsewhere = current()
            assert elsewhere is not None
            with elsewhere.shared("key", large) as there:
                found = dict(elsewhere.run(tasks(doubled, [(there, n) for n in range(9)])))
        assert len(found) == 9
        for task, result in found.items():
            np.testing.assert_array_equal(result, 2 * large + task.arguments[1])


def test_what_fails_is_tried_again(client: Any, tmp_path: Path) -> None:
    heard = Heard()
    rows = [(str(tmp_path), n) for n in range(3)]
    assert run(client, tasks(fails_first, rows), heard) == {f"layer {n}": n for n in range(3)}
    assert sum("not yet" in line and "trying again" in line for line in heard.lines) == 3


def test_a_worker_that_fails_at_once_does_not_end_the_run(client: Any) -> None:
    """It is always idle, and would get each task that waits again."""
    broken = min(client.nthreads())
    assert run(client, tasks(fails_on, [(broken, n) for n in range(6)])) == {f"layer {n}": n for n in range(6)}


def test_a_paused_worker_gets_nothing(client: Any) -> None:
    """Dask pauses one whose memory is nearly full; what is sent there waits until it is not."""
    one, other = sorted(client.nthreads())
    heard = Heard()

    def status(dask_worker: Any, name: str) -> None:
        from distributed.core import Status  # noqa: PLC0415

        dask_worker.status = Status[name]

    client.run(status, name="paused", workers=[one])
    try:
        found = run(client, tasks(where, [(n,) for n in range(4)]), heard)
        assert set(found.values()) == {other}
        assert any(line.startswith("1 worker of the cluster") for line in heard.lines)
    finally:
        client.run(status, name="running", workers=[one])


def test_three_failures_name_the_layer(client: Any) -> None:
    with pytest.raises(ClusterError, match=r"layer 0: failed 3 times \(ValueError: no 7; on tcp://"):
        run(client, tasks(fails, [(7,)]))


def test_a_slow_task_is_given_to_another_worker_too(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.cluster.run.SLOW_S", 0.5)
    monkeypatch.setattr("onnxmpq.cluster.run.POLL_S", 0.1)
    heard = Heard()
    assert run(client, tasks(naps, [(0.01,), (3.0,)]), heard) == {"layer 0": 0.01, "layer 1": 3.0}
    assert any(line.startswith("layer 1: slow on tcp://") and "also given to another" in line for line in heard.lines)


@pytest.mark.long
def test_workers_that_die(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cluster of its own, as its workers are started again."""
    import tempfile  # noqa: PLC0415

    monkeypatch.setattr("onnxmpq.cluster.pool.RETURN_S", 45.0)
    with local_cluster(2) as client, tempfile.TemporaryDirectory() as folder:
        rows = [(folder, n) for n in range(4)]
        assert run(client, tasks(dies_first, rows)) == {f"layer {n}": n for n in range(4)}
        with pytest.raises(ClusterError, match=r"layer 0: \d workers? (was|were) lost with it"):
            run(client, tasks(dies, [(1,)]))


def sums(numbers: tuple[int, ...]) -> list[int]:
    """Ends its worker where it is asked for more than one."""
    if len(numbers) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return list(numbers)


def halves(numbers: tuple[int, ...]) -> Task[list[int]]:
    half = len(numbers) // 2
    parts = [numbers[:half], numbers[half:]]
    smaller = (lambda: [halves(part) for part in parts]) if half else None
    return Task(f"sums {numbers}", f"layer {numbers[0]}", sums, (numbers,), smaller)


def test_a_task_that_a_worker_was_lost_with_is_divided() -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    with connected("local:2", Silent()):
        pool: Any = current()
        found = [result for _, result in pool.run([halves((0, 1, 2, 3))])]
    assert sorted(found) == [[0], [1], [2], [3]]


def test_all_workers_lost_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.cluster.pool.RETURN_S", 1.0)
    heard = Heard()
    with local_cluster(1) as client, connected(client, heard):
        pool: Any = current()
        client.cluster.scale(0)
        while client.nthreads():
            time.sleep(0.05)
        with pytest.raises(ClusterError, match=r"all workers were lost, and none has come back in 1 s.*in the cache"):
            list(pool.run(tasks(doubled, [(1,)])))
        assert any("all workers are lost; waiting" in line for line in heard.lines)


def test_a_scheduler_that_goes_away_ends_the_run_with_a_line() -> None:
    with local_cluster(1) as client, connected(client, Silent()):
        pool: Any = current()
        with pytest.raises(ClusterError, match=r"the scheduler is gone or was started again; what is done is in"):
            for _ in pool.run(tasks(naps, [(0.01,)] * 100)):
                client.cluster.close()


class Ends(Progress):
    """Ends a process once so many steps of a stage are done."""

    def __init__(self, process: subprocess.Popen[str], stage: str, steps: int) -> None:
        self.process, self.wanted, self.steps = process, stage, steps

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        def tick(steps: int) -> None:
            self.steps -= steps if what == self.wanted else 0
            if self.steps <= 0 and self.process.poll() is None:
                self.process.kill()
                self.process.wait(30)

        yield tick


@pytest.mark.long
def test_after_the_scheduler_was_started_again_a_second_run_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.cluster.run.CONNECT_S", 3.0)
    alone, cache = converted(tmp_path, DEEP, "80%", cache=False), tmp_path / "cache"
    with scheduler() as (process, address), worker(address):
        with pytest.raises(LostError, match="the scheduler is gone or was started again; what is done is in the cache"):
            converted(tmp_path, DEEP, "80%", cache=cache, cluster=address, progress=Ends(process, SENSITIVITY, 1))
        assert process.poll() is not None
    heard = Heard()
    with scheduler(address) as (_, again), worker(again):
        assert again == address
        assert converted(tmp_path, DEEP, "80%", cache=cache, cluster=address, progress=heard) == alone
    reused = next(line for line in heard.lines if "effects" in line and "cache" in line)
    assert int(re.findall(r"\d+", reused)[0]) > 0, heard.lines


@pytest.mark.long
def test_devices_take_nothing_but_measurements(tmp_path: Path) -> None:
    """A profile with its times taken on the device, and a conversion whose tasks stay away from it."""
    with local_cluster(1) as client:
        address = client.scheduler_info()["address"]
        with worker(address, "--resources", "onnxmpq-board=1", "--name", "board"):
            client.wait_for_workers(2, timeout=60)
            with connected(client, Silent(), device="board"):
                found = {where for _, where in current().run(tasks(doing, [(n,) for n in range(8)]))}  # type: ignore[union-attr]
            assert found and "board" not in found
            heard = Heard()
            table = onnxmpq.profile(
                PROTO, calibration=samples_for(PROTO, 4), cluster=client, device="board", effort=QUICK, progress=heard
            )
            assert any("board" in line and "latency is measured on" in line for line in heard.lines)
            assert table.node_s
            with pytest.raises(ClusterError, match=r"--device arm: no worker has that tag; those there are: board"):
                run(client, [], device="arm")


@pytest.mark.long
def test_a_profile_needs_a_device_alone() -> None:
    with scheduler() as (_, address), worker(address, "--resources", "onnxmpq-board=1"):
        table = onnxmpq.profile(
            PROTO, calibration=samples_for(PROTO, 4), cluster=address, device="board", effort=QUICK, progress=Silent()
        )
    assert table.node_s


def doing(_number: int) -> str:
    from distributed import get_worker  # noqa: PLC0415

    return str(get_worker().name)
