"""Lint: which rules of a dialect a graph breaks, and where. For exports of this package and for graphs of others."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
import onnx.inliner

from onnxmpq.errors import OnnxmpqError, UsageError
from onnxmpq.files import nearest
from onnxmpq.lint.common import STANDARD_DOMAINS, is_quantizer, same_grid
from onnxmpq.lint.graph import FLOAT8, FOUR_BIT, UNDEFINED, Graph, Quantizer, graphs, integer, label, type_name
from onnxmpq.lint.overflow import CODE_OFFSET, IntegerLayer, integer_layers, overflow, summed_rows
from onnxmpq.lint.rules import DIALECTS, RULES
from onnxmpq.lint.types import Finding, Hit, Rule

__all__ = [
    "CODE_OFFSET",
    "DIALECTS",
    "FLOAT8",
    "FOUR_BIT",
    "RULES",
    "STANDARD_DOMAINS",
    "UNDEFINED",
    "Finding",
    "Graph",
    "Hit",
    "IntegerLayer",
    "Quantizer",
    "Rule",
    "graphs",
    "integer",
    "integer_layers",
    "is_quantizer",
    "label",
    "lint",
    "lint_export",
    "overflow",
    "same_grid",
    "summed_rows",
    "type_name",
    "without_functions",
]


def lint(proto: onnx.ModelProto, dialect: str) -> list[Finding]:
    """Every violation of the dialect's rules, in the order of the table. The model is not changed.

    Raises UsageError for a dialect that does not exist; never for the graph, however odd it is.
    """
    if dialect not in DIALECTS:
        raise UsageError(f"dialect {dialect!r} does not exist; {nearest(dialect, DIALECTS, 'use one of')}")
    parts = graphs(without_functions(proto))
    return [
        Finding(rule.name, node, message, rule.severity[dialect])
        for rule in RULES
        if dialect in rule.severity
        for graph in parts
        for node, message in rule.check(graph)
    ]


def lint_export(
    proto: onnx.ModelProto, source: onnx.ModelProto, dialect: str, apart: Collection[str] = ()
) -> tuple[str, ...]:
    """A line per warning about a graph that this package wrote from `source`.

    apart: rules whose warnings the caller reports in its own way.
    What the source broke before is not the export's fault, and left out. Raises OnnxmpqError for an error: the
    rewriter is wrong then, not the user.
    """
    known = {(f.rule, f.node) for f in lint(source, dialect)}
    fresh = [f for f in lint(proto, dialect) if (f.rule, f.node) not in known and f.rule not in apart]
    for finding in fresh:
        if finding.severity == "error":
            where = f" at node {finding.node!r}" if finding.node else ""
            raise OnnxmpqError(
                f"the converted graph breaks rule {finding.rule} of dialect {dialect}{where}: {finding.message}; "
                f"this is a fault of onnxmpq, report it"
            )
    return tuple(_grouped(fresh))


def _grouped(findings: Iterable[Finding]) -> list[str]:
    """One line per rule, with the first node and how many more."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    return [
        f"{rule}: {found[0].node}: {found[0].message}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
        for rule, found in by_rule.items()
    ]


def without_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Local functions written out, so that the rules see the nodes inside."""
    if not proto.functions:
        return proto
    try:
        return onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError, onnx.checker.ValidationError):
        return proto  # damaged; what can be seen from outside is checked
