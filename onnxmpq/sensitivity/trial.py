"""All perturbations that show up at one tensor, run together batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import numpy as np

from onnxmpq.execution import NOTHING, Cutter, OpenPart
from onnxmpq.feeds import Array
from onnxmpq.model import Region, Spelling, array_of
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity.divergence import Code
from onnxmpq.sensitivity.effects import Effects, Frame, InputKey, KernelKey, Perturbations, Try, WeightKey
from onnxmpq.sensitivity.elimination import Elimination

Catch = Callable[[Try, slice, Mapping[str, Array]], None]
"""Gets a perturbation, its samples, and the tensors that it changed; of several candidates those of the first."""


class Trial:
    """Perturbs one tensor: as a layer's result with other weights or a narrow input, and by quantizing its values.

    region: the layer whose first output the tensor is, where its weights or inputs are tried; its other outputs then
    change too. route: the parts of the graph behind these tensors, one after the other. caught: is told what changes.
    """

    def __init__(
        self,
        tensor: str,
        region: Region | None,
        tries: Perturbations,
        route: Sequence[OpenPart],
        frame: Frame,
        cutter: Cutter,
        settings: SessionSettings,
        caught: Catch | None = None,
    ) -> None:
        self.caught = caught or _ignored
        self.tensor, self.region, self.route, self.frame = tensor, region, route, frame
        name = region.name if region is not None else None
        self.weights: dict[WeightKey, Code] = {k: self._unchanged() for k in tries.weights if k[0] == name}
        self.kernels: dict[KernelKey, Code] = {k: self._unchanged() for k in tries.kernels if k[0] == name}
        self.inputs: dict[InputKey, Code] = {k: self._unchanged() for k in tries.inputs if k[0] == name}
        self.narrow = tries.inputs
        self.candidates = tries.activations.get(tensor, ())
        self.elimination = Elimination(frame.divergence, frame.reference, len(self.candidates))
        self.rounded = self.computed = self.exact = OpenPart(NOTHING, settings)
        if region is not None:
            places = region.params.weights
            rounded = (
                Spelling({p.slot: p.stored(w.dequantize()) for p, w in zip(places, tries.weights[k], strict=True)})
                for k in self.weights
            )
            exact = (Spelling({p.slot: array_of(cutter.constants[p.tensor]) for p in places}) for _ in self.inputs)
            self.rounded = OpenPart(cutter.variants(region, rounded), settings)
            self.computed = OpenPart(cutter.variants(region, [tries.kernels[k] for k in self.kernels]), settings)
            self.exact = OpenPart(cutter.variants(region, islice(exact, 1)), settings)

    @property
    def count(self) -> int:
        return len(self.weights) + len(self.kernels) + len(self.inputs) + len(self.candidates)

    def run(self, rows: slice, given: Mapping[str, Array]) -> None:
        """Every perturbation on these samples, from their fp32 values; batches may run side by side."""
        weights = {Try("weight", k): change for k, change in self.weights.items()}
        kernels = {Try("kernel", k): change for k, change in self.kernels.items()}
        for part, changes in ((self.rounded, weights), (self.computed, kernels)):
            results = list(part.run(given).values())
            for number, (tried, change) in enumerate(changes.items()):
                self.caught(tried, rows, self._fill(change, rows, self._made(results, number), given))
        for key, change in self.inputs.items():
            assert self.region is not None
            source = self.region.inputs[0]
            narrow = self.narrow[key].simulate(np.asarray(given[source], np.float32))
            results = list(self.exact.run({**given, source: narrow}).values())
            self.caught(Try("input", key), rows, self._fill(change, rows, self._made(results, 0), given))
        for number in self.elimination.running:
            params = self.candidates[number]
            rounded = params.simulate(np.asarray(given[self.tensor]))
            made = self._fill(self.elimination.changes[number], rows, {self.tensor: rounded}, given)
            if number == 0:
                self.caught(Try("activation", self.tensor), rows, made)

    def look(self, done: int) -> None:
        """The first `done` samples have been run."""
        self.elimination.look(done)

    def add_to(self, effects: Effects) -> None:
        """Hand over what has been measured, once all samples were run."""
        effects.weights.update(self.weights)
        effects.inputs.update(self.inputs)
        effects.kernels.update(self.kernels)
        for number in self.elimination.running:
            effects.activations[self.tensor] = self.elimination.changes[number]
            effects.params[self.tensor] = self.candidates[number]

    def _unchanged(self) -> Code:
        return np.zeros_like(self.frame.reference)

    def _made(self, results: Sequence[Array], variant: int) -> dict[str, Array]:
        """Results of a variant of the layer, by tensor."""
        assert self.region is not None
        outputs = self.region.outputs
        return dict(zip(outputs, results[variant * len(outputs) :], strict=False))

    def _fill(
        self, change: Code, rows: slice, instead: Mapping[str, Array], given: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Codes of these samples with tensors replaced, less the reference; outputs out of reach do not change. The
        tensors that changed."""
        made = dict(instead)
        for part in self.route:
            made |= part.run({**given, **made})
        self.frame.divergence.fill(change, self.frame.reference, rows, made)
        return made


def _ignored(tried: Try, rows: slice, made: Mapping[str, Array]) -> None:
    """Nobody wants the values."""
