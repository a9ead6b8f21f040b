"""The JSON schemas in docs/schemas/, from the dataclasses whose fields the files have: `python -m tests.schemas` writes
them anew. JSON Schema draft 2020-12.

Every field is required, and no other is allowed: the files are written whole. Numbers may be null where infinity and
NaN are possible, for which JSON has no word. Descriptions are what the docstrings say of a field.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxmpq import cost, lint
from onnxmpq.cost.table import SCHEMA as COST_TABLE
from onnxmpq.files import dump_json
from onnxmpq.lint.show import SCHEMA as CHECK
from onnxmpq.plan import plan
from onnxmpq.report import prediction, report

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}
_NUMBERS: Schema = {"type": "object", "additionalProperties": {"type": ["number", "string", "null"]}}


@dataclass(frozen=True)
class _File:
    """made: its dataclass. without: fields that the file does not have. others: fields that it has beside them."""

    schema: str
    made: type[Any]
    others: Mapping[str, Schema]
    without: tuple[str, ...] = ()


FILES = {
    "plan": _File(plan.SCHEMA, plan.Plan, {}),
    "report": _File(
        report.SCHEMA,
        report.Report,
        {"conclusion": {"type": "object"}, "curve": {"type": "array", "items": _NUMBERS}},
    ),
    "cost-table": _File(
        COST_TABLE,
        cost.CostTable,
        {"layout": {"type": "object", "additionalProperties": {"enum": ["starts", "follows"]}}},
        ("rules",),
    ),
    "prediction": _File(prediction.SCHEMA, prediction.Prediction, {}),
    "check": _File(
        CHECK,
        lint.Finding,
        {"model": _PLAIN[str], "dialect": _PLAIN[str]},
    ),
}
"""By name of the file in docs/schemas/."""


class _Definitions:
    """Schemas of types; those of dataclasses once, by name."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of a type as annotations have it."""
        origin, arguments = get_origin(kind), get_args(kind)
        if kind in _PLAIN:
            return _PLAIN[kind]
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(a) for a in arguments]}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is tuple and arguments[-1] is not Ellipsis:
            return {"type": "array", "prefixItems": [self.of(a) for a in arguments], "minItems": len(arguments)}
        if origin in (tuple, list, Sequence, frozenset):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [member.value for member in kind]}
        if is_dataclass(kind):
            name = kind.__name__
            if name not in self.found:
                self.found[name] = {}
                self.found[name] = self.table(kind)
            return {"$ref": f"#/$defs/{name}"}
        raise TypeError(f"{kind} has no schema")

    def table(self, made: Any, others: Mapping[str, Schema] | None = None, without: Sequence[str] = ()) -> Schema:
        """An object with the fields of a dataclass."""
        hints, said = get_type_hints(made), _described(made)
        properties = {
            row.name: {**self.of(hints[row.name]), **({"description": said[row.name]} if row.name in said else {})}
            for row in fields(made)
            if row.name not in (others or {}) and row.name not in without
        }
        properties = {**(others or {}), **properties}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


def _described(made: Any) -> dict[str, str]:
    """What the docstring of a dataclass says of its fields, as "name: text.\""""
    text = " ".join((made.__doc__ or "").split())
    names = "|".join(row.name for row in fields(made))
    starts = list(re.finditer(rf"(?:^|(?<=[.;] ))(?:(?:\w+, )*)?({names}): ", text))
    ends = [*(m.start() for m in starts[1:]), len(text)]
    return {m[1]: text[m.end() : end].strip(" ;") for m, end in zip(starts, ends, strict=False)}


def schema(name: str) -> Schema:
    """The schema of one of `FILES`."""
    file, definitions = FILES[name], _Definitions()
    if name == "check":
        findings = {"findings": {"type": "array", "items": definitions.of(file.made)}}
        properties = {"schema": {"const": file.schema}, **file.others, **findings}
        top: Schema = {"type": "object", "properties": properties, "required": list(properties)}
    else:
        top = definitions.table(file.made, {"schema": {"const": file.schema}, **file.others}, file.without)
    return {"$schema": DRAFT, "$id": file.schema, "title": _title(file.made), **top, "$defs": definitions.found}


def _title(made: type[Any]) -> str:
    module = __import__(made.__module__, fromlist=["_"])
    return (module.__doc__ or "").strip().split("\n")[0]


def text(name: str) -> str:
    """The file of a schema."""
    return dump_json(schema(name)) + "\n"


if __name__ == "__main__":
    for each in FILES:
        (FOLDER / f"{each}.json").write_text(text(each), encoding="utf-8")
