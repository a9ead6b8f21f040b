"""All that workers need for tasks, imported once by the server that forks them."""

from __future__ import annotations

import distributed
import distributed.nanny
import distributed.worker

import onnxmpq.pipeline
from onnxmpq.cluster import remote, run

remote.identity()  # most of it is remembered

__all__ = ["distributed", "onnxmpq", "remote", "run"]
