"""Threads of steps whose time is not being measured."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

Given = ParamSpec("Given")
Result = TypeVar("Result")


def workers() -> int:
    """Runs side by side in steps whose time is not being measured. No result may depend on it."""
    return max(os.cpu_count() or 1, 1)


def with_one_blas_thread(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function with NumPy's and SciPy's BLAS on one thread: several would cut sums by the number of cores."""

    @functools.wraps(function)
    def limited(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
