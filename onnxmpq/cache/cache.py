"""A folder of computed values, found again by the content of everything that they depend on (docs/cache.md).

An entry is an .npz file of arrays and a little JSON, named by a SHA-256 that it also holds. It appears whole or not at
all, so runs may share a folder. Whoever reads an entry checks it; what is damaged or does not fit is computed again.
The entries that were not used for longest go first when the folder grows over its limit. Without a folder nothing is
found and nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from onnxmpq.files import Archive
from onnxmpq.progress import Progress

LIMIT_BYTES = 4 * 2**30
"""Size of a cache folder. Three conversions of squeezenet1.1 leave 24 MB, of gpt_char 174 MB."""
_SWEEP_SHARE = 1 / 16  # of the limit may be written between two looks at the folder's size
Value = TypeVar("Value")
ENTRY = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64}\.npz|\.writing-\w+)")


def default_folder() -> Path | None:
    """$XDG_CACHE_HOME/onnxmpq, else ~/.cache/onnxmpq; None where there is no home either."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification wants relative ones ignored
        base = os.path.expanduser("~/.cache")
    return Path(base) / "onnxmpq" if os.path.isabs(base) else None


class Cache:
    """Entries below `folder`; None for a cache that keeps nothing. Never raises: a broken cache only costs time."""

    def __init__(self, folder: Path | None, progress: Progress | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self.reused: dict[str, tuple[int, int]] = {}
        self._progress = progress or Progress()
        self._writes = folder is not None
        self._unswept = float("inf")  # bytes written since the folder was last looked at

    @classmethod
    def of(cls, choice: str | Path | bool, progress: Progress) -> Cache:
        """True for the default folder, False for none, or a folder."""
        if not isinstance(choice, bool):
            return cls(Path(choice), progress)
        folder = default_folder() if choice else None
        if choice and folder is None:
            progress.say("nothing is cached: there is no home folder; name one with --cache, or give --no-cache")
        given = os.environ.get("XDG_CACHE_HOME", "")
        if folder is not None and given and not os.path.isabs(given):
            progress.say(f"XDG_CACHE_HOME {given!r} is ignored, since it is not absolute; the cache is {folder}")
        return cls(folder, progress)

    def get(self, key: str, read: Callable[[Archive], Value]) -> Value | None:
        """The entry of this key as `read` makes it, None where there is none.

        read: checks all that it takes from the entry (`Archive.array`), and raises any error where that is not what it
        wants. Such an entry, a damaged one, and one that was kept under another key are not there; a line of detail
        tells why.
        """
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            found = read(_opened(self._content(path), key))
        except FileNotFoundError:
            return None
        except Exception as error:  # also whatever zipfile, zlib, json and NumPy raise on damaged files
            self._progress.detail(f"cache entry {key[:12]} is not used: {' '.join(str(error).split())[:200]}")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
        return found

    def _content(self, path: Path) -> bytes:
        """Raises ValueError where it is no file, or larger than any that is kept, and OSError."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > self.limit_bytes:
            raise ValueError("it is not a file, or larger than the cache may be")
        with path.open("rb") as file:
            return file.read(status.st_size)

    def put(self, key: str, entry: Archive) -> None:
        """Keep an entry; the first failure is told, and ends all writing."""
        if self.folder is None or not self._writes:
            return
        content = replace(entry, meta={"key": key, "meta": entry.meta}).to_bytes()
        if len(content) > self.limit_bytes * (1 - _SWEEP_SHARE):
            return
        try:
            self._make_room(len(content))
            self._write(self._path(key), content)
        except OSError as error:
            self._writes = False
            self._progress.warn(
                f"nothing is cached: {self.folder} cannot be written ({error.strerror}); "
                "choose another folder with --cache, or --no-cache"
            )

    def count(self, what: str, reused: int, total: int) -> None:
        """Count values of one kind that came from here, and report the count if it is not zero."""
        if self.folder is None or not total:
            return
        self.reused[what] = reused, total
        if reused:
            self._progress.detail(f"{what}: {reused} of {total} from the cache")

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.npz"

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C as well
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest, so that the folder stays below its limit until the next look."""
        self._unswept += size
        if self._unswept < self.limit_bytes * _SWEEP_SHARE:
            return
        assert self.folder is not None
        found = []
        for path in self.folder.glob("??/*"):
            if ENTRY.fullmatch(path.relative_to(self.folder).as_posix()):  # a user's own files are not ours to remove
                with contextlib.suppress(OSError):  # another run may have removed it
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(s for _, s, _ in found) + size - self.limit_bytes * (1 - _SWEEP_SHARE)
        for _, held, path in sorted(found):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                excess -= held
        self._unswept = 0


NO_CACHE = Cache(None)


def _opened(content: bytes, key: str) -> Archive:
    """An entry as it was put. Raises ValueError where it belongs to another key."""
    entry = Archive.from_bytes(content, packed=False)
    if not isinstance(entry.meta, dict) or entry.meta.get("key") != key:
        raise ValueError("it was kept under another key")
    return replace(entry, meta=entry.meta["meta"])


class _Hasher(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def content_hash(*parts: object) -> str:
    """SHA-256 (hex) of values: numbers, text, bytes, arrays (of strings too), and sequences, mappings, sets and
    dataclasses of these.

    Types, lengths, dtypes and shapes count, the order of mappings and sets does not. Raises TypeError for others.
    """
    hasher = hashlib.sha256()
    _feed(hasher, parts)
    return hasher.hexdigest()


def _feed(hasher: _Hasher, value: object) -> None:
    match value:
        case None | bool() | int() | float():
            hasher.update(f"{type(value).__name__} {value!r};".encode())
        case str() | bytes():
            content = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
            hasher.update(f"{'bytes' if isinstance(value, bytes) else 'text'} {len(content)};".encode())
            hasher.update(content)
        case np.ndarray() | np.generic():
            if value.dtype.hasobject:
                if not all(isinstance(item, str) for item in value.ravel()):
                    raise TypeError("an array of Python objects has no content to hash")
                hasher.update(f"strings {value.shape};".encode())
                _feed(hasher, value.ravel().tolist())
                return
            hasher.update(f"array {value.dtype.str} {value.shape};".encode())
            hasher.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        case Mapping():
            hasher.update(b"mapping %d;" % len(value))
            for key in sorted(value):
                _feed(hasher, key)
                _feed(hasher, value[key])
        case set() | frozenset():
            _feed(hasher, ("set", *sorted(value)))
        case Sequence():
            hasher.update(b"sequence %d;" % len(value))
            for part in value:
                _feed(hasher, part)
        case _ if is_dataclass(value):
            _feed(hasher, (type(value).__name__, {f.name: getattr(value, f.name) for f in fields(value)}))
        case _:
            raise TypeError(f"{type(value).__name__} has no content to hash")
