"""Fields that only target files have: figures, each with its source."""

from __future__ import annotations

from onnxmpq.errors import TargetError
from onnxmpq.files import Fields, shown
from onnxmpq.target.types import Figure

ASSUMPTION, MEASURED = "assumption:", "measured:"


class TargetFields(Fields):
    """A table of a target file."""

    @classmethod
    def of(cls, values: dict[str, object], path: str) -> TargetFields:
        return cls(values, f"target file {path}", TargetError)

    def figure(self, name: str) -> Figure:
        """`{ value = 1e12, source = "https://..." }`: a positive number with a URL or a stated assumption."""
        table = self.table(name)
        figure = Figure(table.positive("value"), table.source())
        table.finish()
        return figure

    def source(self) -> str:
        """This table's `source`: a URL, an assumption, or the place in docs/ that tells of a measurement."""
        text = self.text("source")
        if not text.startswith(("https://", "http://", ASSUMPTION, MEASURED)):
            self.wrong("source", f"is {shown(text)}; it must be a URL, or begin with '{ASSUMPTION}' and state it")
        return text
