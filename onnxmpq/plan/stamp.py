"""The stamp of a written model: what made it, and from what. Only what equal inputs make equal: no dates, no
measurements, no names of files. Those are in the plan and in the report.

| field of the model | what it holds |
|---|---|
| `producer_name`, `producer_version` | onnxmpq and the version that made the plan |
| `onnxmpq.plan` | hash of the plan's decisions (`Plan.decided`) |
| `onnxmpq.options` | options that were asked for, as JSON |
| `onnxmpq.target` | target |
| `onnxmpq.data` | hash of the calibration samples; `made up` where there were none |
| `onnxmpq.source` | producer of the original model |
| `onnxmpq.edited` | how many regions differ from the plan as it was solved for |

Source: onnx.proto, `ModelProto.producer_name` ("the name of the framework or tool used to generate this model"),
`ModelProto.metadata_props`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

import onnxmpq
from onnxmpq.files import dump_json
from onnxmpq.plan.plan import Plan
from onnxmpq.schemes import MARK

TOOL = "onnxmpq"
MADE_UP = "made up"
_HASH = "0" * 64


def stamp(proto: onnx.ModelProto, plan: Plan) -> None:
    """Give a model that this plan makes its stamp; changes the proto."""
    edited = f"{len(plan.edits)} regions" if len(plan.edits) > 1 else "".join(plan.edits)
    _put(proto, plan.runtime.get(TOOL, ""), plan.decided(), plan.target, plan.options, plan.data, edited)


def stamp_bytes(source: onnx.ModelProto, target: str, options: Mapping[str, Any], data: Mapping[str, Any]) -> int:
    """Bytes that a stamp adds to a model made from `source`."""
    small = onnx.ModelProto()
    for name in ("producer_name", "producer_version"):
        if source.HasField(name):  # an empty one that is set takes bytes
            setattr(small, name, getattr(source, name))
    small.metadata_props.extend(source.metadata_props)
    before = small.ByteSize()
    _put(small, onnxmpq.__version__, _HASH, target, options, data, "")
    added: int = small.ByteSize() - before
    return added


def stamped(proto: onnx.ModelProto) -> dict[str, str]:
    """The entries of a model's stamp by name, without `onnxmpq.`; empty where it has none."""
    start = f"{MARK}."
    return {e.key.removeprefix(start): e.value for e in proto.metadata_props if e.key.startswith(start)}


def _put(
    proto: onnx.ModelProto,
    version: str,
    decided: str,
    target: str,
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    edited: str,
) -> None:
    known = stamped(proto)
    source = known.get("source", f"{proto.producer_name} {proto.producer_version}".strip())
    entries = {
        "plan": decided,
        "options": dump_json(options, indent=None, sort_keys=True) if options else "",
        "target": target,
        "data": MADE_UP if data.get("made_up") else str(data.get("sha256", "")),
        "source": source,
        "edited": edited,
    }
    kept = [e for e in proto.metadata_props if not e.key.startswith(f"{MARK}.")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for name, value in entries.items():
        if value:
            proto.metadata_props.add(key=f"{MARK}.{name}", value=value)
    proto.producer_name, proto.producer_version = TOOL, version
