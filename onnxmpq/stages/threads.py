"""Threads and sessions for stages whose time is not being measured."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

from onnxmpq.runtime import SessionSettings

Given = ParamSpec("Given")
Result = TypeVar("Result")


def workers() -> int:
    """Runs side by side in stages whose time is not being measured. No result may depend on it."""
    return max(os.cpu_count() or 1, 1)


def judging(*, exact_integers: bool) -> SessionSettings:
    """Settings of sessions that measure the quality of quantized models, and nothing else."""
    return SessionSettings(threads=workers(), exact_integers=exact_integers)


def with_one_blas_thread(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function with NumPy's and SciPy's BLAS on one thread: several cut sums as the machine has cores."""

    @functools.wraps(function)
    def limited(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
