"""Seeded mutation of bytes, of trees (JSON, TOML), of protobuf messages and of zip archives: material for `fuzz`."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import tomllib
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

NUMBERS = (0, 1, -1, 7, 127, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63))
FLOATS = (0.0, -0.0, 1e-45, 5e-324, 1e-30, 0.5, 1e38, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    " ",
    "\0",
    "x",
    "../../etc/passwd",
    "/dev/zero",
    "\n",
    "é" * 40,
    "x" * 5000,
    "fp32",
    "int8",
    "1e999",
    "\u202e",
)
VALUES: tuple[Any, ...] = (*NUMBERS, *FLOATS, *TEXTS, 10**30, 10**400, True, False, None, [], {}, [[]], [1, [2, [3]]])
DEEP, MANY_DIGITS = "[" * 5000 + "]" * 5000, "9" * 5000

Mutator = Callable[[bytes, random.Random], bytes]


def bytes_changed(content: bytes, chance: random.Random) -> bytes:
    """One to eight changes: bits, bytes, runs removed, repeated, moved, or overwritten by numbers."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if not data:
            return b"\0"
        place = chance.randrange(len(data))
        run = min(chance.choice((1, 2, 4, 16, 256)), len(data) - place)
        match chance.randrange(7):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x5B, 0x22))
            case 2:
                del data[place : place + run]
            case 3:
                data[place:place] = data[place : place + run] * chance.choice((1, 2, 50))
            case 4:
                other = chance.randrange(len(data))
                data[place : place + run] = data[other : other + run]
            case 5:
                size, code = chance.choice(((2, "<H"), (4, "<I"), (8, "<Q")))
                number = chance.choice(NUMBERS) % 2 ** (8 * size)
                data[place : place + size] = struct.pack(code, number)
            case 6:
                del data[place:]
    return bytes(data)


# ---- JSON and TOML


def json_changed(content: bytes, chance: random.Random) -> bytes:
    """A changed tree, or a changed text."""
    if chance.random() < 0.2:
        return bytes_changed(content, chance)
    text = json.dumps(tree_changed(json.loads(content), chance))
    return _with_absurd(text, chance).encode("utf-8", "surrogatepass")


def toml_changed(content: bytes, chance: random.Random) -> bytes:
    """A changed tree, or a changed text."""
    if chance.random() < 0.2:
        return bytes_changed(content, chance)
    tree = tree_changed(tomllib.loads(content.decode()), chance)
    text = "\n".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in tree.items()) if isinstance(tree, dict) else ""
    return _with_absurd(text, chance).encode("utf-8", "surrogatepass")


def _with_absurd(text: str, chance: random.Random) -> str:
    """Now and then with a value in it that no parser likes."""
    if chance.random() > 0.05 or ":" not in text + ":" or not text:
        return text
    digits = [n for n, letter in enumerate(text) if letter.isdigit()] or [0]
    place = chance.choice(digits)
    return text[:place] + chance.choice((DEEP, MANY_DIGITS, '"\\ud800"', "NaN", "Infinity")) + text[place + 1 :]


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case None:
            return '""'
        case dict():
            return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case int() | float():
            return repr(value)
        case _:
            return json.dumps(str(value))


def tree_changed(tree: Any, chance: random.Random) -> Any:
    """One to three values of a tree removed, doubled, exchanged, or replaced by odd ones."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return chance.choice(VALUES)
        holder, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(chance.choice(VALUES))
            case 2 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = chance.choice((*NUMBERS, *FLOATS, 10**400))
            case 2 if isinstance(holder[key], str):
                holder[key] = chance.choice((holder[key][:-1], holder[key] * 2, *TEXTS))
            case 3:
                source, other = chance.choice(places)
                holder[key] = copy.deepcopy(source[other])
            case 4 if isinstance(holder, dict):
                holder[chance.choice(TEXTS)] = copy.deepcopy(holder[key])
            case 4:
                holder.insert(key, copy.deepcopy(holder[key]))
            case _:
                holder[key] = [copy.deepcopy(holder[key])]
    return tree


def _places(tree: Any, depth: int = 0) -> Any:
    """(container, key) of every value that is not too deep."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        if depth < 40:
            yield from _places(tree[key], depth + 1)


# ---- protobuf


def model_changed(content: bytes, chance: random.Random) -> bytes:
    """An ONNX model with one to four changed fields, or changed bytes."""
    if chance.random() < 0.15:
        return bytes_changed(content, chance)
    proto = onnx.ModelProto.FromString(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        _change(chance.choice(list(_messages(proto))), proto, chance)
    try:
        return bytes(proto.SerializeToString())
    except (ValueError, DecodeError):  # text that is no UTF-8
        return content


def _messages(message: Message) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)


def _change(message: Any, root: onnx.ModelProto, chance: random.Random) -> None:
    fields = list(message.DESCRIPTOR.fields)
    present = [field for field, _ in message.ListFields()]
    field = chance.choice(present if present and chance.random() < 0.8 else fields)
    if chance.random() < 0.12:
        message.ClearField(field.name)
    elif field.message_type is not None:
        _change_messages(message, field, root, chance)
    elif field.is_repeated:
        values = getattr(message, field.name)
        new = [_scalar(field, None, root, chance) for _ in range(chance.choice((1, 1, 3)))]
        if len(values) and chance.random() < 0.7:
            values[chance.randrange(len(values))] = new[0]
        else:
            values.extend(new)
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), root, chance))


def _change_messages(message: Any, field: Any, root: onnx.ModelProto, chance: random.Random) -> None:
    """Remove, double, exchange, or graft a message of the same type from elsewhere."""
    same = [m for m in _messages(root) if m.DESCRIPTOR is field.message_type] or [field.message_type._concrete_class()]
    graft = type(same[0])()
    graft.CopyFrom(chance.choice(same))
    if not field.is_repeated:
        getattr(message, field.name).CopyFrom(graft)
        return
    values = getattr(message, field.name)
    if len(values) and chance.random() < 0.4:
        del values[chance.randrange(len(values))]
    elif len(values) > 1 and chance.random() < 0.4:
        kept = [type(v).FromString(v.SerializePartialToString()) for v in values]
        chance.shuffle(kept)
        del values[:]
        values.extend(kept)
    else:
        values.add().CopyFrom(graft)


def _scalar(field: Any, now: Any, root: onnx.ModelProto, chance: random.Random) -> Any:
    if field.enum_type is not None:
        return chance.choice([v.number for v in field.enum_type.values])
    if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT64, field.CPPTYPE_INT64):
        low, high = (-(2**31), 2**31 - 1) if field.cpp_type == field.CPPTYPE_INT32 else (-(2**63), 2**63 - 1)
        low = 0 if field.cpp_type == field.CPPTYPE_UINT64 else low
        small = chance.randrange(30)
        return chance.choice([small, small, *(n for n in NUMBERS if low <= n <= high)])
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return chance.choice([f for f in FLOATS if f != 1e308])
    if field.type == field.TYPE_BYTES:
        return bytes_changed(now or b"abcd", chance)
    names = [*{n for node in root.graph.node for n in (*node.input, *node.output, node.op_type)}]
    operators = ("If", "Loop", "Scan", "Constant", "Reshape", "Identity", "QuantizeLinear", "Tile", "Expand", "LSTM")
    return chance.choice([*names, *operators, *TEXTS])


# ---- zip


def archive_changed(content: bytes, chance: random.Random) -> bytes:
    """An .npz with a changed member (header, values, name, compression, count of members), or changed bytes."""
    if chance.random() < 0.3:
        return bytes_changed(content, chance)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [[info.filename, archive.read(info)] for info in archive.infolist()]
    member = chance.choice(members)
    match chance.randrange(6):
        case 0:
            member[1] = bytes_changed(member[1], chance)
        case 1 if member[0].endswith(".json"):
            member[1] = json_changed(member[1], chance)
        case 1:
            member[1] = _header_changed(member[1], chance)
        case 2:
            member[0] = chance.choice((*TEXTS[:7], "a.npy", "b/c.npy", "meta.json"))
        case 3:
            members.append(list(chance.choice(members)))
        case 4:
            members.remove(member)
        case 5:
            member[1] = member[1][: chance.randrange(len(member[1]) + 1)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, values in members:
            with warnings.catch_warnings(action="ignore"):  # of a name that is there twice
                archive.writestr(zipfile.ZipInfo(name or "x"), values)
    return buffer.getvalue()


def npy_changed(content: bytes, chance: random.Random) -> bytes:
    """An .npy with a changed header, or changed bytes."""
    return bytes_changed(content, chance) if chance.random() < 0.4 else _header_changed(content, chance)


_SHAPES = ("()", "(0,)", "(-1,)", "(-2, -8)", "(2, 2**40)", "(1099511627776,)", "(4, 3.5)", "(True, 4)", "'x'", "None")
_DTYPES = ("<f4", ">f8", "|O", "|S0", "<U3", "|V8", "<M8[ns]", "<c8", "|b1", "<f2", "x", "<f4,<i2")


def _header_changed(content: bytes, chance: random.Random) -> bytes:
    """The .npy with another type, order or shape in its header, or a header that is none."""
    length = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + length].decode("latin1")
    match chance.randrange(5):
        case 0:
            header = str({"descr": chance.choice(_DTYPES), "fortran_order": False, "shape": (4, 4)})
        case 1:
            order, shape = chance.choice((True, False)), chance.choice(_SHAPES)
            header = f"{{'descr': '<f4', 'fortran_order': {order}, 'shape': {shape}}}"
        case 2:
            header = header.replace("False", "True")
        case 3:
            header = chance.choice(("(" * 3000, "{}", "[1]", "{'descr': '<f4'}", "\0\0", "__import__('os')"))
        case 4:
            header = bytes_changed(header.encode("latin1"), chance).decode("latin1")
    raw = header.encode("latin1", "replace")[:60000]
    return content[:8] + struct.pack("<H", len(raw)) + raw + content[10 + length :]
