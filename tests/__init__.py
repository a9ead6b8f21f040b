"""Tests mirror the package, room by room."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small matrices on busy cores lose with more
