"""All that workers of `local:N` need for tasks, imported once by the server that forks them."""

from __future__ import annotations

import logging
import signal
from typing import Any

import distributed
import distributed.nanny
import distributed.worker

from onnxmpq import rounding, sensitivity, statistics
from onnxmpq.cluster import remote, run
from onnxmpq.cluster.local import dask_loggers

remote.identity()  # most of it is remembered

__all__ = ["dask_setup", "distributed", "remote", "rounding", "run", "sensitivity", "statistics"]


def dask_setup(_worker: Any) -> None:
    """Called by Dask in a worker that starts. Ctrl-C is the client's: it ends its workers, without their tracebacks.
    What a worker has to say reaches the client by other ways than stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for logger in dask_loggers():
        logger.setLevel(logging.CRITICAL)
