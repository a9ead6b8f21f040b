"""Figures of quality that follow from others in a document."""

from __future__ import annotations

from onnxmpq.page.tree import Tree


def divergence(validation: Tree) -> float | None:
    """Measured, as predictions count it: summed over outputs, KL in nats where they are class scores, else error over
    variance."""
    outputs = validation.rows("outputs")
    deciding = [o for o in outputs if o.text("kind") != "labels"] or outputs
    kls = [(o.number("kl_nats"), o.number("relative_mse")) for o in deciding]
    values = [mse if kl is None else kl for kl, mse in kls]
    return sum(v for v in values if v is not None) if values and None not in values else None
