"""Tasks on Dask's workers: the same bytes, another try elsewhere, a name where nothing helps."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import subprocess
import sys
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
from onnxmpq.cluster.local import STARTS, dask_loggers
from onnxmpq.context import Context
from onnxmpq.errors import ClusterError, LostError, UsageError
from onnxmpq.files import serialize
from onnxmpq.progress import LOGGER, SENSITIVITY, Progress, Silent
from onnxmpq.tasks import Task, current
from tests.cluster.conftest import ROOT, local_cluster, scheduler, worker
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


class Heard(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    detail = warn = say


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


# ---- functions for workers: they find them by name -----------------------------------------------


def doubled(value: Any, more: int = 0) -> Any:
    return 2 * value + more


def fails(value: int) -> int:
    raise ValueError(f"no {value}")


def fails_first(folder: str, value: int) -> int:
    """Fails for the first worker that comes."""
    try:
        os.mkdir(os.path.join(folder, str(value)))
    except FileExistsError:
        return value
    raise ValueError("not yet")


def dies_first(folder: str, value: int) -> int:
    try:
        os.mkdir(os.path.join(folder, f"died {value}"))
    except FileExistsError:
        return value
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dies(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(value)


def naps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def tasks(function: Any, rows: list[tuple[Any, ...]]) -> list[Task[Any]]:
    return [Task(f"{function.__name__} {n}", f"layer {n}", function, row) for n, row in enumerate(rows)]


def run(client: Any, made: list[Task[Any]], heard: Progress | None = None, **more: Any) -> dict[str, Any]:
    with connected(client, heard or Silent(), **more):
        elsewhere = current()
        assert elsewhere is not None
        return {task.about: result for task, result in elsewhere.run(made)}


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


def test_local_workers_come_back_however_long_they_take(tmp_path: Path) -> None:
    """A LocalCluster closes the nanny of a worker that takes longer than this setting."""
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    import dask  # noqa: PLC0415

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}):
        rows = [(str(tmp_path), n) for n in range(2)]
        assert run("local:1", tasks(dies_first, rows)) == {f"layer {n}": n for n in range(2)}


def test_local_workers_whose_nanny_has_closed_are_started_again() -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    with connected("local:1", Silent()):
        pool: Any = current()
        cluster = pool.client.cluster
        for _ in range(2):
            cluster.sync(cluster.workers[0].close)
            assert [result for _, result in pool.run(tasks(doubled, [(n,) for n in range(3)]))] == [0, 2, 4]


def test_local_workers_that_cannot_start_end_the_run(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    monkeypatch.setattr("onnxmpq.cluster.local._PRELOADED", "no_such_module")
    with pytest.raises(ClusterError, match=r"--cluster local:1: workers end while they start \(ModuleNotFoundError"):
        run("local:1", tasks(doubled, [(1,)]))
    assert capfd.readouterr().err.count("Traceback") <= STARTS


def levels(_number: int) -> dict[str, int]:
    return {logger.name: logger.level for logger in dask_loggers()}


def test_nothing_of_dask_is_written_to_the_terminal() -> None:
    """Some of its loggers have levels of their own."""
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    before = levels(0)
    assert {"distributed", "distributed.client"} <= before.keys()
    with connected("local:1", Silent()):
        [there] = [found for _, found in current().run(tasks(levels, [(0,)]))]  # type: ignore[union-attr]
        for found in (there, levels(0)):
            assert found.keys() >= before.keys()
            assert set(found.values()) == {logging.CRITICAL}
    assert levels(0) == before


UNGUARDED_SCRIPT = """
from onnxmpq.cluster import connected
from onnxmpq.cluster.local import STARTS, dask_loggers
from onnxmpq.progress import Silent
from onnxmpq.tasks import current

print("top level", flush=True)
with connected("local:2", Silent()):
    print(current().width)
"""


@pytest.mark.parametrize(
    ("in_file", "said", "imports"),
    [
        (True, 'put what it does under `if __name__ == "__main__":`', 3),
        (False, "<stdin> is no file; save it in one", 1),
    ],
    ids=["no main guard", "standard input"],
)
def test_a_script_that_workers_cannot_import(tmp_path: Path, in_file: bool, said: str, imports: int) -> None:
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script) if in_file else "-"],
        stdin=script.open(),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1, done.stderr  # of the script itself
    assert done.stdout.count("top level") <= imports


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


def doing(_number: int) -> str:
    from distributed import get_worker  # noqa: PLC0415

    return str(get_worker().name)
