"""A folder of computed values, found again by the content of all that they depend on; and what it holds."""

from onnxmpq.cache.cache import NO_CACHE, Cache, content_hash, default_folder

__all__ = [
    "NO_CACHE",
    "Cache",
    "content_hash",
    "default_folder",
]
