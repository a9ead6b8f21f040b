"""Threads for stages whose time is not being measured."""

from __future__ import annotations

import os


def workers() -> int:
    """Threads for stages whose time is not being measured."""
    return max(os.cpu_count() or 1, 1)
