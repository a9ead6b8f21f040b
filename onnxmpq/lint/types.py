"""Rules and their findings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from onnxmpq.lint.graph import Graph

Severity = Literal["error", "warning"]
Hit = tuple[str, str]  # node name, message
Check = Callable[[Graph], Iterable[Hit]]


@dataclass(frozen=True)
class Finding:
    """One violation. node: its name, or the operator and its result where it has none; "" for the whole model."""

    rule: str
    node: str
    message: str
    severity: Severity


@dataclass(frozen=True)
class Rule:
    """A row of the table of rules.

    check: graph -> what breaks the rule. severity: by dialect; a rule does not apply to the others. An error is what
    the runtime refuses or computes wrongly, a warning is what it computes slowly or less exactly than it could.
    """

    name: str
    check: Check
    severity: Mapping[str, Severity]

    @property
    def summary(self) -> str:
        """The first paragraph of the check's docstring, on one line."""
        return " ".join(inspect.cleandoc(self.check.__doc__ or "").partition("\n\n")[0].split())

    @property
    def source(self) -> str:
        """Where the rule comes from: the line of the docstring that starts with `Source:`."""
        lines = inspect.cleandoc(self.check.__doc__ or "").splitlines()
        return next((line.removeprefix("Source:").strip() for line in lines if line.startswith("Source:")), "")
