"""The server that forks workers: a copy of a program without threads, else a new Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import onnxmpq

pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
from onnxmpq.cluster.forking import COPIES, FORKS

PROGRAM = r"""
import logging, signal, sys, threading, time
from onnxmpq.cluster import connected
from onnxmpq.progress import LOGGER, Silent
from onnxmpq.tasks import Task, current

class Loud(logging.Handler):
    def emit(self, record):
        write("logged", record.getMessage())

def write(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")  # at once: log lines come from another thread

if __name__ == "__main__":
    LOGGER.addHandler(Loud())
    signal.signal(signal.SIGHUP, lambda *_: None)
    sys.setswitchinterval(0.25)  # a copy has it, a new Python has not
    if sys.argv[1] == "threads":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    sys.stdout.write("once ")  # must not be written again by copies
    with connected("local:2", Silent()):
        tasks = [Task("interval", "asking", sys.getswitchinterval, ()),
                 Task("hang-up", "asking", signal.getsignal, (signal.SIGHUP,)),
                 Task("log", "logging", LOGGER.warning, ("heard",))]
        for task, result in current().run(tasks):
            write(task.key, result)
"""


@pytest.mark.skipif(not FORKS, reason="workers are forked on Linux only")
@pytest.mark.parametrize(("program", "interval"), [("plain", 0.25 if COPIES else 0.005), ("threads", 0.005)])
def test_workers_are_copies_of_a_program_without_threads(program: str, interval: float, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file), program],
        env={**os.environ, "PYTHONPATH": str(Path(onnxmpq.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not done.returncode, done.stderr
    lines = done.stdout.removeprefix("once ").splitlines()
    assert sorted(lines) == sorted([f"interval {interval}", "hang-up 0", "log None", "logged heard"])
