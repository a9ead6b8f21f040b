"""The protocol of a runtime: all that planning for one, and measuring on it, asks.

A runtime is one object in one folder, listed in `RUNTIMES`; target files name it (`runtime = "..."`). What the rest of
the package knows of it is in these types: no operator names of its kernels, no layouts, no providers.
docs/architecture.md tries the protocol on a second runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.model import Model, Region, Step
from onnxmpq.runtimes.onnxruntime.session import SessionSettings
from onnxmpq.runtimes.rules import Rules
from onnxmpq.schemes import Scheme

Inputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class KernelTimes:
    """Seconds and number of the kernels of one run, by what they compute.

    region_*: in kernels that compute a region. tensor_*: in kernels that change the format or layout of a tensor.
    other_*: in kernels that could not be attributed. operators: region -> operator types that ran for it.
    """

    region_s: dict[str, float] = field(default_factory=dict)
    tensor_s: dict[str, float] = field(default_factory=dict)
    other_s: float = 0.0
    region_kernels: dict[str, int] = field(default_factory=dict)
    tensor_kernels: dict[str, int] = field(default_factory=dict)
    other_kernels: int = 0
    operators: dict[str, frozenset[str]] = field(default_factory=dict)

    def scaled(self, factor: float) -> KernelTimes:
        """The same with all times multiplied."""
        return replace(
            self,
            region_s={r: s * factor for r, s in self.region_s.items()},
            tensor_s={t: s * factor for t, s in self.tensor_s.items()},
            other_s=self.other_s * factor,
        )


class Runtime(Protocol):
    """A runtime that models are measured on. Stateless: it travels to the child process by its class.

    unfolds_weights: weights stored in fewer bits become float32 when a session is created, so that a model may be
        smaller and run on float32's kernels.
    merges_layers: layers that read one tensor become one where they have the same scheme.
    """

    @property
    def name(self) -> str: ...

    @property
    def unfolds_weights(self) -> bool: ...

    @property
    def merges_layers(self) -> bool: ...

    def open(self, model: Any, settings: SessionSettings) -> Any:
        """A session on a model. Raises ModelError, whose `blamed` are the nodes that its message names."""
        ...

    def prepared(self, session: Any, feeds: Inputs) -> Callable[[], object]:
        """A run on these inputs with everything prepared, so that calling it times the runtime alone."""
        ...

    def run(self, session: Any, feeds: Inputs) -> list[Any]:
        """Outputs of one run. Raises ModelError, whose `blamed` are the nodes that its message names."""
        ...

    def trace(self, proto: onnx.ModelProto, feeds: Inputs, settings: SessionSettings, runs: int, seconds: float) -> Any:
        """Run a rewritten model `runs` times or more, until `seconds` have passed, with each kernel timed. What is
        returned can be pickled, for `kernels`. Raises ModelError."""
        ...

    def kernels(self, model: Model, trace: Any) -> KernelTimes:
        """The kernels of a trace, attributed to the regions and tensors of the model that was rewritten."""
        ...

    def rules(self, model: Model, ranks: Mapping[str, int]) -> Rules:
        """Rules that tell which plans it executes as they are. ranks: tensor -> number of dimensions."""
        ...

    def fuses(self, region: Region, scheme: Scheme, operators: frozenset[str]) -> bool:
        """True if the operators that ran for a region show that it was computed in the scheme."""
        ...

    def takes(self, step: Step, provider: str | None) -> bool:
        """True for an optional step of preparing whose operators it computes right, and faster than what they stand
        for."""
        ...

    def miscomputes(self, scheme: Scheme) -> bool:
        """True if the kernel of the scheme was tried on this CPU and did not compute what it should."""
        ...

    def saturating_cpu(self, provider: str | None) -> bool:
        """True if it computes on CPUs of which some saturate sums of 8-bit products (`deployment.py`)."""
        ...
