"""A child that dies, hangs or raises: what the caller gets, and that the next call works."""

from __future__ import annotations

import gc
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.errors import CalibrationError, CrashError, ModelError, exit_codes
from onnxmpq.isolation import Child, call, isolated, keep, kept, launch, messages
from onnxmpq.runtimes import SessionSettings, open_session, outputs_on, run
from tests.graphs import conv_relu, samples_for
from tests.isolation import functions

HERE = Path(__file__).parents[2]
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim")
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.fixture
def child() -> Iterator[Child]:
    found = Child()
    yield found
    found.close()


def test_a_function_is_computed_elsewhere(child: Child) -> None:
    assert child.call(functions.add, 1, 2) == 3
    assert child.call(functions.pid) == child.pid != os.getpid()
    assert child.call(functions.main_thread)
    np.testing.assert_array_equal(child.call(functions.add, np.arange(3), 1), [1, 2, 3])


def test_what_is_printed_there_does_not_mix_with_answers(child: Child) -> None:
    assert [child.call(functions.babble) for _ in range(3)] == ["answer"] * 3
    assert child.call(functions.listen) == ""


@GLIBC
def test_memory_that_a_call_has_freed_is_given_back(child: Child) -> None:
    most = child.call(functions.leave_holes, 1000, 100_000)
    assert most - child.call(functions.anonymous_bytes) > 80e6


@POSIX
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"])
def test_a_crash_is_an_error_that_names_the_signal(child: Child, name: str) -> None:
    before = child.call(functions.pid)
    with pytest.raises(CrashError, match=f"onnxruntime crashed with {name} while timing a plan") as caught:
        child.call(functions.die, name, doing="timing a plan")
    assert isinstance(caught.value, ModelError) and caught.value.exit_code == 3 and caught.value.searchable
    assert child.call(functions.pid) != before, "the next call has another process"


def test_a_process_that_ends_by_itself(child: Child) -> None:
    with pytest.raises(CrashError, match="code 0x7 while running a model"):
        child.call(functions.leave, 7)
    assert child.call(functions.add, 1, 1) == 2


@POSIX
def test_what_dies_between_calls_is_started_again(child: Child) -> None:
    constant = kept(40)
    assert child.call(functions.add, constant, 2) == 42
    assert child._process is not None
    child._process.kill()
    child._process.wait()
    assert child.call(functions.add, constant, 2) == 42


@POSIX
def test_a_call_that_was_killed_from_outside_is_made_again(child: Child, tmp_path: Path) -> None:
    assert child.call(functions.die_the_first_time, tmp_path / "marker", "SIGKILL") == "alive"
    with pytest.raises(CrashError, match=r"killed \(SIGKILL, perhaps for lack of memory\)") as caught:
        child.call(functions.die, "SIGKILL")
    assert not caught.value.searchable


@POSIX
def test_a_crash_of_its_own_is_not_tried_again(child: Child, tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        child.call(functions.die_the_first_time, tmp_path / "marker", "SIGSEGV")


def test_a_hang_is_a_crash(child: Child) -> None:
    with pytest.raises(CrashError, match="took more than 1 s while trying a model") as caught:
        child.call(functions.hang, doing="trying a model", limit_s=1.0)
    assert not caught.value.searchable
    assert child.call(functions.add, 1, 1, limit_s=600.0) == 2


def test_errors_keep_their_class_and_message(child: Child) -> None:
    before = child.call(functions.pid)
    with pytest.raises(CalibrationError, match="holds NaN") as caught:
        child.call(functions.refuse)
    assert str(caught.value) == "input 'x' holds NaN"
    assert "in refuse" in "".join(caught.value.__notes__), "where it happened"
    assert child.call(functions.pid) == before, "an error is no crash"


def test_an_error_that_cannot_be_pickled_is_told(child: Child) -> None:
    with pytest.raises(RuntimeError, match="Odd: 1 is not 2"):
        child.call(functions.be_odd)


def test_onnxruntime_s_errors_are_those_of_a_session_here(child: Child) -> None:
    for where in (child.call, lambda function, *arguments: function(*arguments)):
        with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
            where(outputs_on, b"not a model", {})


def test_what_cannot_be_sent_is_said_and_does_not_end_the_child_for_good(child: Child) -> None:
    with pytest.raises((TypeError, AttributeError), match=r"pickle|local object"):
        child.call(functions.add, threading.Lock(), 1)
    assert child.call(functions.add, 1, 1) == 2


# ---- what is kept there --------------------------------------------------------------------------


@POSIX
def test_a_kept_value_is_made_once_and_again_after_a_crash(child: Child, tmp_path: Path) -> None:
    log = tmp_path / "log"
    content = kept(b"content")
    value = keep(functions.Counted, log, content)
    for _ in range(3):
        assert child.call(functions.content_of, value) == b"content"
    assert log.read_text() == "made\n"
    with pytest.raises(CrashError):
        child.call(functions.die)
    assert child.call(functions.content_of, value) == b"content"
    assert log.read_text() == "made\nmade\n"


def test_what_nobody_holds_any_more_is_forgotten(child: Child) -> None:
    first, second = kept(b"first"), kept(b"second")
    assert child.call(functions.add, first, second) == b"firstsecond"
    del first
    gc.collect()
    assert child.call(functions.add, second, b"!") == b"second!"
    assert set(child._there) == {second.key}


def test_sessions_can_be_kept(child: Child) -> None:
    proto = conv_relu()
    feeds = samples_for(proto)
    session = keep(open_session, proto, SessionSettings())
    [there], [here] = child.call(run, session, feeds), outputs_on(proto, feeds)
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("limit", [messages.INLINE_BYTES, 100], ids=["through the pipe", "through a file"])
def test_models_arrive_as_they_are(child: Child, limit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(messages, "INLINE_BYTES", limit)
    proto = conv_relu()
    serialized = child.call(onnx.ModelProto.SerializeToString, proto, doing="reading")
    again = onnx.load_from_string(serialized)
    assert again.graph.node == proto.graph.node
    for one, other in zip(again.graph.initializer, proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other))


# ---- the end ---------------------------------------------------------------------------------------


@POSIX
def test_temporary_files_of_a_crash_are_removed(child: Child) -> None:
    path = Path(child.call(functions.temporary, 10))
    assert path.exists()
    with pytest.raises(CrashError):
        child.call(functions.die)
    assert not path.exists()


def test_a_full_temporary_folder_is_none_of_its_business(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    assert child.call(functions.add, 1, 1) == 2


def test_the_outermost_block_ends_the_process() -> None:
    with isolated(Child()) as outer:
        with isolated() as inner:
            assert inner is outer
            assert call(functions.pid) == outer.pid
        assert outer.pid is not None
    assert outer.pid is None


def test_threads_take_turns(child: Child) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda n=n: found.append(child.call(functions.add, n, 1))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 9))


def test_a_system_that_starts_no_process_computes_here(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(module: str, environment: object = None) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(launch, "start", refused)
    child.start()
    assert child.call(functions.pid) == os.getpid() and child.pid is None


def test_a_folder_of_the_package_s_name_is_not_imported(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxmpq").mkdir()
    (tmp_path / "onnxmpq" / "__init__.py").write_text("raise SystemExit('another package')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    child.start()
    assert child.call(functions.pid) == child.pid != os.getpid()


def test_a_frozen_application_computes_here(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    constant = kept(40)
    assert child.call(functions.add, keep(functions.add, constant, 1), 1) == 42
    assert child.call(functions.pid) == os.getpid() and child.pid is None


HANGING = """
import os, signal, sys
from onnxmpq.isolation import Child
from tests.isolation import functions
child = Child()
print(child.call(functions.pid), flush=True)
try:
    {before}
    child.call(functions.hang)
except KeyboardInterrupt:
    print("interrupted", child.pid, flush=True)
"""


def started(before: str, folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A program with a child that hangs, and the child's process id."""
    code, environment = HANGING.format(before=before), {**os.environ, "TMPDIR": str(folder)}
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=HERE, env=environment
    )
    assert program.stdout is not None
    return program, int(program.stdout.readline())


def assert_ends(pid: int) -> None:
    waiting = threading.Event()
    for _ in range(200):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return  # ended, and waited for by nobody
        except (ProcessLookupError, FileNotFoundError):
            return
        waiting.wait(0.1)
    raise AssertionError(f"process {pid} goes on")


@POSIX
def test_ctrl_c_ends_a_hanging_child(tmp_path: Path) -> None:
    program, pid = started(
        # a test run in the background of a shell inherits an ignored SIGINT
        "import threading; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()",
        tmp_path,
    )
    output, _ = program.communicate(timeout=60)
    assert output.split() == ["interrupted", "None"] and program.returncode == 0
    assert_ends(pid)


@POSIX
def test_no_child_outlives_its_parent(tmp_path: Path) -> None:
    program, pid = started(
        "import threading; threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()", tmp_path
    )
    program.communicate(timeout=60)
    assert program.returncode == -signal.SIGKILL
    assert_ends(pid)


def test_a_crash_has_the_exit_code_of_its_family() -> None:
    assert [code for code, _ in exit_codes()].count(CrashError("").exit_code) == 1
