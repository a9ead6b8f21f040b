"""Reproducers: what is needed to see an internal error again, without weights, samples or paths of the user's."""

from onnxmpq.reproducer.context import Context, remember, watched
from onnxmpq.reproducer.save import save

__all__ = [
    "Context",
    "remember",
    "save",
    "watched",
]
