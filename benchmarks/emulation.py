"""Python under a CPU emulator: how a process is started there, and started once more when it stops for good.

qemu 7.2 gets some AVX2 instructions wrong that NumPy uses (maxima of strided float32), so NumPy keeps to its baseline.
OpenBLAS, which NumPy loads, chooses its kernels by the CPU's family and stops at instructions that an emulated Nehalem
does not have, so its kernels are named. That version of qemu also stops for good at times.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
_NUMPY = {"NPY_DISABLE_CPU_FEATURES": "X86_V3 AVX2 FMA3", "OPENBLAS_CORETYPE": "Nehalem"}


@dataclass(frozen=True)
class Machine:
    """A CPU to run Python on. command: starts its interpreter. variables: added to the environment."""

    name: str
    command: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)


THIS = Machine("this machine", (sys.executable,))


def emulated(cpu: str) -> Machine:
    """This interpreter under `qemu-x86_64 -cpu CPU`. Exits where that is not installed."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        sys.exit("qemu-x86_64 is missing; install the package qemu-user")
    packages = [str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]
    variables = {"PYTHONPATH": os.pathsep.join(packages), **_NUMPY}
    return Machine(cpu, (emulator, "-cpu", cpu, os.path.realpath(sys.executable)), variables)


def foreign(text: str) -> Machine:
    """NAME=COMMAND, of a command that starts another interpreter, such as one for Arm. Raises ValueError."""
    name, _, command = text.partition("=")
    if not name or not command:
        raise ValueError(f"{text!r} is not NAME=COMMAND")
    return Machine(name, tuple(shlex.split(command)))


def patiently(machine: Machine, arguments: Sequence[str], limit_s: float, tries: int = 2) -> bytes:
    """Standard output of Python with these arguments. A run beyond limit_s seconds is stopped and started again.

    Raises CalledProcessError, and TimeoutExpired for the last try.
    """
    command, environment = [*machine.command, *arguments], os.environ | machine.variables
    for attempt in range(tries):
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=limit_s, env=environment
            )
            return done.stdout
        except subprocess.TimeoutExpired:
            if attempt == tries - 1:
                raise
    raise ValueError("no tries")
