"""The sections of a page, in their order. A new section is a file with a `SECTION`, and its row here."""

from onnxmpq.page.sections import (
    budget,
    curve,
    operators,
    outputs,
    provenance,
    regions,
    remarks,
    sensitivity,
    strip,
    transitions,
)
from onnxmpq.page.sections.types import Section

SECTIONS: tuple[Section, ...] = (
    budget.SECTION,
    strip.SECTION,
    operators.SECTION,
    sensitivity.SECTION,
    transitions.SECTION,
    curve.SECTION,
    outputs.SECTION,
    remarks.SECTION,
    regions.SECTION,
    provenance.SECTION,
)
