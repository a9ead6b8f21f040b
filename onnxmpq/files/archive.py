"""Arrays and a little JSON in one .npz file: the container of cache entries and of calibration files.

`numpy.load` opens it. No pickle, every member has a CRC, and the same content gives the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

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
    def from_bytes(cls, content: bytes, *, packed: bool = True) -> Archive:
        """Inverse of `to_bytes`. packed: False to refuse compressed members, so that no more is read than
        `content` has.

        Raises whatever zipfile, zlib, json and NumPy raise on damaged files.
        """
        arrays: dict[str, Array] = {}
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            require_plausible(file, len(content))
            names = file.namelist()
            if len(set(names)) < len(names):
                raise ValueError("two members have the same name")
            if not packed and not all(_as_it_is(info) for info in file.infolist()):
                raise ValueError("a member is compressed")
            meta = parse_json(file.read(_META))
            for name in names:
                if name != _META:
                    member = file.read(name)  # read whole, so that its CRC is checked
                    arrays[name.removesuffix(".npy")] = _array(member)
        return cls(arrays, meta)

    def array(self, name: str, dtype: DTypeLike, *shape: int | None) -> Array:
        """The array of this name. shape: None for an axis of any length.

        Raises ValueError where it is not there, of another type or shape, or, of floats, holds infinity or NaN.
        """
        found, wanted = self.arrays.get(name), np.dtype(dtype)
        if found is None:
            raise ValueError(f"array {name!r} is missing")
        fits = len(found.shape) == len(shape) and all(w in (None, h) for w, h in zip(shape, found.shape, strict=True))
        if found.dtype != wanted or not fits:
            raise ValueError(f"array {name!r} is {found.dtype}{list(found.shape)}, not {wanted}{list(shape)}")
        if wanted.kind == "f" and not np.isfinite(found).all():
            raise ValueError(f"array {name!r} holds values that are not finite")
        return found


def require_plausible(file: zipfile.ZipFile, held: int) -> None:
    """Raises ValueError for an archive of `held` bytes that claims to unpack to far more, as zip bombs do."""
    claimed = sum(info.file_size for info in file.infolist())
    if claimed > max(PLAUSIBLE_BYTES, PLAUSIBLE_RATIO * held):
        raise ValueError(f"it claims {claimed / 1e9:.1f} GB in {held / 1e6:.3f} MB, as zip bombs do")


def _as_it_is(info: zipfile.ZipInfo) -> bool:
    return info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size


def _array(member: bytes) -> Array:
    """Memory is taken only for values that are there, whatever the header says."""
    stream = io.BytesIO(member)
    shape, _, dtype = read_array_header(stream)
    if dtype.hasobject or stream.tell() + dtype.itemsize * math.prod(shape) != len(member):
        raise ValueError("a header does not match the length of its array")
    stream.seek(0)
    found: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return found


def read_array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether it is in Fortran's order, and dtype of an .npy; the stream is then at its values.

    Raises ValueError, or another error of the parser, where there is no such header."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    return shape, fortran_order, dtype


def _member(name: str, kind: int) -> zipfile.ZipInfo:
    """Dated 1980, so that the bytes do not depend on the clock."""
    info = zipfile.ZipInfo(name)
    info.compress_type = kind
    return info
