"""No telemetry: onnxruntime 1.29 and later write a device id and usage events below the user's cache when imported.

`ORT_DISABLE_TELEMETRY` prevents it, if it is set before onnxruntime is imported. Processes that onnxmpq starts inherit
it (docs/privacy.md).
"""

from __future__ import annotations

import logging
import os
import sys

VARIABLE = "ORT_DISABLE_TELEMETRY"
FIRST = (1, 29)  # version of onnxruntime that has it


def switch_telemetry_off() -> None:
    """Set `ORT_DISABLE_TELEMETRY`, unless the user set it. Warns where onnxruntime was imported before."""
    if VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = "1"
    runtime = sys.modules.get("onnxruntime")
    if runtime is None or not _collects(str(getattr(runtime, "__version__", ""))):
        return
    getattr(runtime, "disable_telemetry_events", lambda: None)()
    logging.getLogger("onnxmpq").warning(
        "onnxruntime was imported before onnxmpq and may have written a device id and usage events below the user's "
        f"cache; import onnxmpq first, or set {VARIABLE}=1 (docs/privacy.md)"
    )


def _collects(version: str) -> bool:
    """True for a version that has telemetry, where `CI` does not switch it off."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return numbers >= FIRST and not os.environ.get("CI")
