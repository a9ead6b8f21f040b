"""Models on their way to who does tasks with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from onnxmpq.cache import content_hash
from onnxmpq.keys import model_hash
from onnxmpq.model import Model
from onnxmpq.tasks import Elsewhere


@contextmanager
def shared_model(elsewhere: Elsewhere, model: Model) -> Iterator[Any]:
    """A stand-in for the model in tasks. It stays there for later steps; without its files where tasks do not see
    them."""
    travelling = model if elsewhere.sees_files else replace(model, store=model.store.resident())
    with elsewhere.shared(content_hash("model", model_hash(model)), travelling, lasting=True) as there:
        yield there
