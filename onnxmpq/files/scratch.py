"""Temporary folders, and what to say where there is none or it is full."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from onnxmpq.errors import OutputError

_ROOM_BYTES = 2**20  # that a folder must still have where something failed in it, or it is to blame


@contextlib.contextmanager
def scratch_folder(what: str) -> Iterator[Path]:
    """A temporary folder for `what`, gone afterwards.

    Raises OutputError naming the folder where none can be made, and in place of whatever goes wrong inside while the
    folder has no room: onnxruntime writes profiles and optimised graphs without looking at the result.
    """
    try:
        holder = tempfile.TemporaryDirectory(prefix="onnxmpq-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            f"no temporary folder can be made for {what} ({error.strerror}); set TMPDIR to a folder that can be written"
        ) from None
    with holder as name:
        folder = Path(name)
        try:
            yield folder
        except Exception as error:
            if not (reason := _lacks_room(folder)):
                raise
            raise OutputError(
                f"temporary folder {folder.parent}: {what} cannot be written there ({reason}); set TMPDIR to a folder "
                "with more room"
            ) from error


def _lacks_room(folder: Path) -> str:
    """Why not even a little can be written there; empty where it can."""
    probe = folder / "room"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""
