"""Arrays and a little JSON in one .npz file: the container of cache entries and of calibration files.

`numpy.load` opens it. No pickle, every member has a CRC, and the same content gives the same bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.files.documents import parse_json

Array = NDArray[np.generic]
_META = "meta.json"
PLAUSIBLE_BYTES, PLAUSIBLE_RATIO = 2**30, 200
"""Members that unpack to more than so many bytes, and so many times their packed size, are refused. Calibrations and
cache entries that mostly hold zeros are packed better, but are small."""


@dataclass(frozen=True, eq=False)
class Archive:
    """arrays: without Python objects. meta: whatever JSON holds; member `meta.json` of the file."""

    arrays: Mapping[str, Array] = field(default_factory=dict)
    meta: Any = None

    def to_bytes(self, compress: bool = False) -> bytes:
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as file:
            file.writestr(_member(_META, kind), json.dumps(self.meta, ensure_ascii=False, indent=1))
            for name, values in self.arrays.items():
                with file.open(_member(f"{name}.npy", kind), "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.asarray(values), allow_pickle=False)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Archive:
        """Inverse of `to_bytes`. Raises whatever zipfile, zlib, json and NumPy raise on damaged files."""
        arrays: dict[str, Array] = {}
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            require_plausible(file, len(content))
            meta = parse_json(file.read(_META))
            for name in file.namelist():
                if name != _META:
                    member = io.BytesIO(file.read(name))  # read whole, so that its CRC is checked
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        return cls(arrays, meta)


def require_plausible(file: zipfile.ZipFile, held: int) -> None:
    """Raises ValueError for an archive of `held` bytes that claims to unpack to far more, as zip bombs do."""
    claimed = sum(info.file_size for info in file.infolist())
    if claimed > max(PLAUSIBLE_BYTES, PLAUSIBLE_RATIO * held):
        raise ValueError(f"it claims {claimed / 1e9:.1f} GB in {held / 1e6:.3f} MB, as zip bombs do")


def _member(name: str, kind: int) -> zipfile.ZipInfo:
    """Dated 1980, so that the bytes do not depend on the clock."""
    info = zipfile.ZipInfo(name)
    info.compress_type = kind
    return info
