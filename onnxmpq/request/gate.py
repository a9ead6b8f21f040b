"""The request of `validate`: samples and floors as for `convert`, and limits of the converted model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from onnxmpq.allocate import LATENCY, SIZE, Budgets, Limit, parse_budgets, parse_memory
from onnxmpq.errors import UsageError
from onnxmpq.feeds import Share, shares_of
from onnxmpq.request.options import Option
from onnxmpq.request.parts import Memory, Phase, QualityOptions, Shape, parse_step


@dataclass(frozen=True, kw_only=True, eq=False)
class GateOptions(QualityOptions):
    """Options of `validate`. Raises UsageError for a value that cannot be understood."""

    latency: Annotated[
        str | None, Option("most that it may take: 5ms, or 60% of the original", group="Budgets", metavar="DURATION")
    ] = None
    size: Annotated[
        str | None, Option("most that it may take: 3MB, or 25% of the original", group="Budgets", metavar="SIZE")
    ] = None
    memory: Memory = None
    threads: Annotated[
        int,
        Option(
            "of the runtime while measuring; 0: as a default session, one per core",
            "whole",
            least=0,
            group="Target",
            metavar="N",
        ),
    ] = 1
    provider: Annotated[str | None, Option("onnxruntime execution provider", group="Target", metavar="PROVIDER")] = None

    shape: Shape = None
    step: Phase = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.shapes, self.memory_limit
        parse_step(self.step)
        if self.limits.fastest or self.limits.smallest:
            raise UsageError("validate compares with a limit: give --latency and --size as numbers, such as 5ms or 25%")

    @cached_property
    def shapes(self) -> tuple[Share, ...]:
        """Of the inputs that are timed, with their shares; empty where a sample's are."""
        return shares_of(self.shape)

    @cached_property
    def memory_limit(self) -> Limit | None:
        """Bytes of a session, None where they are not limited."""
        return parse_memory(self.memory)

    @cached_property
    def limits(self) -> Budgets:
        """Of latency and size."""
        return parse_budgets(**{LATENCY: self.latency, SIZE: self.size})
