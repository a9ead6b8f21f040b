"""The processor at hand: its name, and the instruction sets that choose onnxruntime's integer kernels."""

from __future__ import annotations

import functools
import platform
import subprocess
from pathlib import Path

RELEVANT = frozenset(
    {"sse4_1", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"}
    | {"avx_vnni_int8", "amx_tile", "asimd", "asimddp", "i8mm", "sve", "bf16"}
)
"""Names as Linux spells them. MLAS chooses its kernels by these (onnxruntime/core/mlas/lib/platform.cpp)."""
_MACOS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
}


def cpu_model() -> str:
    """The processor's own name, as far as the system tells."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def cpu_features() -> tuple[str, ...]:
    """The machine's architecture and those of its instruction sets that decide on kernels, sorted.

    Only the architecture where the system does not tell (Windows).
    """
    found: set[str] = set()
    for line in _cpuinfo():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            found |= RELEVANT & set(value.split())
            break
    if platform.system() == "Darwin":
        found |= {feature for key, feature in _MACOS.items() if _sysctl(key) == "1"}
    return (platform.machine().lower(), *sorted(found))


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
