"""Inner tensors of a graph made visible: their values, shapes and types in a run of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxmpq.feeds import Array, Feeds
from onnxmpq.model import Model, WeightStore
from onnxmpq.runtimes import SessionSettings, open_session, run

_AS_WRITTEN = SessionSettings(threads=2, optimize=False, mapped=True)  # no decision depends on last bits


def with_outputs(graph: onnx.ModelProto | WeightStore, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy of the graph whose outputs are these tensors."""
    copy = whole(graph)
    if copy is graph:
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=t) for t in dict.fromkeys(tensors))
    return copy


def whole(graph: onnx.ModelProto | WeightStore) -> onnx.ModelProto:
    """The graph as a session takes it: a proto is handed back, a store's graph is put together."""
    return graph.assembled() if isinstance(graph, WeightStore) else graph


def values_once(
    graph: onnx.ModelProto | WeightStore, inputs: Mapping[str, Array], tensors: Sequence[str]
) -> dict[str, Array]:
    """Values of these tensors in one run of the graph as it is written, without the runtime's optimisations.

    Their last bits may depend on the machine. Raises ModelError.
    """
    if not tensors:
        return {}
    session = open_session(with_outputs(graph, tensors), _AS_WRITTEN)
    return dict(zip(tensors, run(session, dict(inputs), tensors), strict=True))


def tensor_shapes(
    model: Model, feeds: Feeds, tensors: Sequence[str], sample: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor in a run of one sample; of the typical one if None."""
    inputs = feeds.batch([feeds.typical if sample is None else sample])
    return {t: tuple(np.shape(v)) for t, v in values_once(model.store, inputs, tensors).items()}


def float_shapes(model: Model, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Shapes of all float tensors between regions, in a run of the typical sample."""
    return tensor_shapes(model, feeds, list(dict.fromkeys(t for r in model.regions for t in (*r.inputs, *r.outputs))))
