"""Hashes for the keys of cached values: of the model, the samples, and the programs that compute."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import onnx

from onnxmpq.cache import content_hash
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.provenance import describe_runtime


@functools.cache
def source() -> str:
    """Hash of this package's own source."""
    root = Path(__file__).parent
    return content_hash({p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.py")})


@functools.cache
def programs() -> str:
    """Hash of what computes: this package's own source, the libraries' versions, and the CPU.

    The source rather than only the version, so that no developer ever sees a value of yesterday's code.
    """
    return content_hash(source(), describe_runtime())


def model_hash(model: Model) -> str:
    """Hash of the prepared graph, piece by piece: whole, a large one is beyond protobuf's 2 GB."""
    graph, digest = model.structure.graph, hashlib.sha256()
    described = (*model.structure.opset_import, *graph.input, *graph.output, *graph.node)
    for piece in chain(described, map(_stored(model), model.store)):
        content = piece.SerializeToString(deterministic=True)
        digest.update(b"%s %d;" % (type(piece).__name__.encode(), len(content)))
        digest.update(content)
    return content_hash(digest.hexdigest(), model.opset, model.already_quantized)


def _stored(model: Model) -> Callable[[str], onnx.TensorProto]:
    """A constant by name; of a model that is never whole in memory with a hash instead of its values."""

    def piece(name: str) -> onnx.TensorProto:
        if not (content := model.store.content(name)):
            return model.store[name]
        handed = model.store.handed(name)
        return onnx.TensorProto(name=name, data_type=handed.data_type, dims=handed.dims, doc_string=content)

    return piece


def feeds_hash(feeds: Feeds) -> str:
    """Hash of the samples' values and of how they are handed to the model; not of where they came from."""
    specs = [(s.name, s.dtype.str, s.shape, s.batch_axis) for s in feeds.specs]
    if not feeds.ragged and not feeds.shared:
        return content_hash(feeds.arrays, specs)
    return content_hash(feeds.arrays, feeds.ragged, feeds.shared, specs)
