"""A command line that a signal ends on a cluster: one line, its exit code, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from onnxmpq.progress import SENSITIVITY
from tests.cluster.conftest import ROOT, scheduler, worker

SAMPLES = ROOT / "samples"


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("local", [True, False], ids=["local", "scheduler"])
@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["ctrl-c", "sigterm"],
)
def test_a_signal_leaves_nothing(tmp_path: Path, local: bool, sent: signal.Signals, code: int, said: str) -> None:
    """To all processes of the client, as a terminal and SLURM send it."""
    pytest.importorskip("distributed", reason="the extra onnxmpq[cluster] is not installed")
    temporary, shared = tmp_path / "temporary", tmp_path / "shared"
    temporary.mkdir()
    shared.mkdir()
    with ExitStack() as stack:
        address = "local:2"
        if not local:
            address = stack.enter_context(scheduler())[1]
            stack.enter_context(worker(address))
        command = [sys.executable, "-m", "onnxmpq", "convert", SAMPLES / "digits_transformer.onnx", "--size", "40%"]
        files = ["--calib", SAMPLES / "digits_calib.npz", "-o", tmp_path / "out.onnx", "--cluster-folder", shared]
        process = subprocess.Popen(
            [*command, *files, "--no-cache", "--cluster", address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if SENSITIVITY in line:
                break
        time.sleep(0.3)
        os.killpg(process.pid, sent)
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, [*lines, err]
    assert err.splitlines()[-1].startswith(f"onnxmpq: {said}"), err
    assert "Traceback" not in err and "distributed" not in err, err
    assert out == ""
    assert not [*temporary.iterdir(), *shared.iterdir()]
