"""Names and doc strings that are not UTF-8. Exporters write them in other encodings; onnxruntime loads such models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def is_utf8(message: Message) -> bool:
    """True if all texts of a message, at any depth, are UTF-8."""
    return next(_other(message), None) is None


def escape_texts(message: Message) -> None:
    """Replace the bytes of all texts that are not UTF-8 with escapes (`\\xe9`), in place.

    protobuf hands such a text out as `bytes` and does not take it back, so that no graph could be copied field by
    field. Equal texts stay equal, so names still refer to what they did.
    """
    for part, field, texts in list(_other(message)):
        if isinstance(texts, bytes):
            setattr(part, field, _escaped(texts))
        else:
            getattr(part, field)[:] = [_escaped(t) if isinstance(t, bytes) else t for t in texts]


def _other(message: Message) -> Iterator[tuple[Message, str, Any]]:
    """Fields with a text in another encoding: message, name of the field, its text or texts."""
    open_: list[Any] = [message]
    while open_:
        part = open_.pop()
        for field, value in part.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                open_.extend([value] if isinstance(value, Message) else value)
            elif field.type == FieldDescriptor.TYPE_STRING and _bytes_in(value):
                yield part, field.name, value


def _bytes_in(texts: Any) -> bool:
    return not isinstance(texts, str) and (isinstance(texts, bytes) or any(isinstance(t, bytes) for t in texts))


def _escaped(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
