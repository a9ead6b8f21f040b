"""Shipping: the plan that keeps budgets and quality, built, measured to the end, and what is said about it."""

from onnxmpq.shipping.compiled import require_verifiable, unfolding_note, verified, verified_note
from onnxmpq.shipping.default_session import Disagreement, as_shipped, disagreement
from onnxmpq.shipping.dry import predicted
from onnxmpq.shipping.exactness import RULE, Exactness
from onnxmpq.shipping.guard import finish
from onnxmpq.shipping.job import Job, Labelled, QualityCheck, Shipped

__all__ = [
    "RULE",
    "Disagreement",
    "Exactness",
    "Job",
    "Labelled",
    "QualityCheck",
    "Shipped",
    "as_shipped",
    "disagreement",
    "finish",
    "predicted",
    "require_verifiable",
    "unfolding_note",
    "verified",
    "verified_note",
]
