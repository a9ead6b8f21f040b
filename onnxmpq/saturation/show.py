"""Counts of saturated sums as tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxmpq.saturation.observed import Observed, Seen


def as_dict(found: Observed) -> dict[str, Any]:
    """For JSON: counts of the model, of its nodes, and of each channel that saturated."""
    return {
        "samples": {"count": found.samples, "source": found.source, "made_up": found.made_up},
        "integer_layers": found.integer_layers,
        "output_values": sum(s.values for s in found.layers),
        "affected_values": sum(int(s.affected.sum()) for s in found.layers),
        "nodes": [_node(seen) for seen in found.layers],
    }


def _node(seen: Seen) -> dict[str, Any]:
    channels = [
        {"channel": int(i), "affected_values": int(seen.affected[i]), "saturated_sums": int(seen.saturated[i])}
        for i in np.flatnonzero(seen.saturated)
    ]
    return {
        "node": seen.layer.name,
        "channels": seen.layer.channels,
        "can_saturate": seen.layer.can,
        "not_counted": seen.layer.reason or None,
        "output_values": seen.values,
        "affected_values": int(seen.affected.sum()),
        "pair_sums": seen.sums,
        "saturated_sums": int(seen.saturated.sum()),
        "saturated": channels,
    }


def render(found: Observed, console: Console) -> None:
    """Draw a line for the model and a row per node that can saturate."""
    if not found.layers:
        what = f"none of the {found.integer_layers} layers of uint8 activations and int8 weights can overflow"
        if not found.integer_layers:
            what = "the model has no layer of uint8 activations and int8 weights"
        console.print(f"overflow: {what}, so there is nothing to count", highlight=False, markup=False)
        return
    on = f"on {found.samples} {'made-up ' if found.made_up else ''}sample{'' if found.samples == 1 else 's'}"
    console.print(f"overflow {on}: {_total(found)}", highlight=False, markup=False)
    table = Table("node", "channels that can", "that did", "output values changed", "pair sums saturated")
    table.columns[0].overflow = "fold"
    for seen in found.layers:
        can = f"{seen.layer.can} of {seen.layer.channels}"
        if not seen.counted:
            cells = ("", f"not counted: {seen.layer.reason}", "")
        elif not seen.did:
            cells = ("0", f"not seen {on}", "")
        else:
            changed = _percent(int(seen.affected.sum()), seen.values)
            cells = (str(seen.did), changed, _percent(int(seen.saturated.sum()), seen.sums))
        table.add_row(Text(seen.layer.name), can, *cells)
    console.print(table)
    console.print("Observed codes prove nothing about other inputs.", highlight=False)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"


def _total(found: Observed) -> str:
    counted = [s for s in found.layers if s.counted]
    did = sum(s.did > 0 for s in counted)
    affected, values = sum(int(s.affected.sum()) for s in counted), sum(s.values for s in counted)
    changed = f"{affected} of their {values} output values ({_percent(affected, values)})" if values else "nothing"
    return f"{did} of {len(found.layers)} nodes that can saturate did; {changed} changed"
