"""The workbench: what a rewritten model is built from, whatever schemes its regions get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from onnxmpq.context import Context
from onnxmpq.dialects import Dialect, Rewrite
from onnxmpq.execution import in_order
from onnxmpq.menu import Menu, activation_tensors, activation_type, narrow_inputs, weight_formats
from onnxmpq.model import Model, serialized_bytes
from onnxmpq.ranges import Observation, QuantParams, params_key
from onnxmpq.reproducer import remember
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.schemes import Scheme
from onnxmpq.weights import pair_bound

ROUNDING = "nearest"
"""Method of `onnxmpq.rounding` by which a bench is prepared."""


@dataclass(frozen=True)
class Workbench:
    """Everything a rewritten model is built from, for any assignment.

    weights: by key of the weight and name of its format. keep_io: see `Rewrite`. exact_integers: of the sessions that
    measure the quality of what is built. stamp_bytes: what a written file has beyond what is built (`onnxmpq.stamp`).
    by_samples: keys of weights that samples took part in rounding; the others are rounded to nearest.
    """

    model: Model
    dialect: Dialect
    activations: Mapping[str, QuantParams]
    weights: Mapping[tuple[str, str], QuantizedWeight]
    keep_io: bool = True
    exact_integers: bool = False
    stamp_bytes: int = 0
    by_samples: frozenset[tuple[str, str]] = frozenset()

    def build(self, assignment: Mapping[str, Scheme]) -> onnx.ModelProto:
        """The mixed-precision graph of an assignment."""
        remember(assignment=assignment)
        roots, keep_io = self.model.roots, self.keep_io
        return self.dialect.rewrite(Rewrite(self.model, assignment, self.activations, self.weights, roots, keep_io))

    def file_bytes(self, proto: onnx.ModelProto) -> int:
        """Size of a model that was built, as a file."""
        return serialized_bytes(proto) + self.stamp_bytes

    def with_weights(self, weights: Mapping[tuple[str, str], QuantizedWeight]) -> Workbench:
        """The same with these weights instead of those of the same region and format."""
        return replace(self, weights={**self.weights, **weights}, by_samples=self.by_samples | weights.keys())

    def with_activations(self, activations: Mapping[str, QuantParams]) -> Workbench:
        """The same with these parameters instead of those of the same tensors."""
        return replace(self, activations={**self.activations, **activations})


def prepare_bench(model: Model, menu: Menu, observation: Observation, dialect: Dialect, context: Context) -> Workbench:
    """Activation parameters of every width by the first estimator, and rounded weights for every scheme on the menu."""
    wanted, places = weight_formats(model, menu), model.weights
    weights: dict[tuple[str, str], QuantizedWeight] = {}

    def rounded(key: tuple[str, str]) -> QuantizedWeight:
        (region, place), weight_format = places[key[0]], wanted[key]
        bound = pair_bound(region, place, weight_format)
        nearest = quantize_weight(model.matrix(place), weight_format, method=ROUNDING, bound=bound)
        return nearest.kept_by(model.store.kept)

    with context.progress.stage("rounding weights", len(wanted)) as tick:
        for key, weight in zip(wanted, in_order(rounded, wanted, context.threads), strict=True):
            weights[key] = weight
            tick(1)
    kind, estimator = activation_type(menu), observation.estimators[0]
    activations = {t: observation.estimate(t, estimator, kind=kind) for t in activation_tensors(model, menu)}
    for tensor, bits in sorted({(tensor, bits) for (_, bits), tensor in narrow_inputs(model, menu).items()}):
        activations[params_key(tensor, bits)] = observation.estimate(tensor, estimator, bits)
    return Workbench(model, dialect, activations, weights)
