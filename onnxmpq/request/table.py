"""The docs' table of options."""

from __future__ import annotations

from onnxmpq.request.options import GROUPS, Declared, options_of
from onnxmpq.request.request import Request


def option_table() -> str:
    """Markdown: a table for every group of options of `convert` that config files and the command line have."""
    declared = [d for d in options_of(Request).values() if d.flags]
    parts = [(group, [_row(d) for d in declared if d.option.group == group]) for group in GROUPS]
    head = ["| argument | command line | default | meaning |", "|---|---|---|---|"]
    return "\n\n".join("\n".join([f"### {group}", "", *head, *rows]) for group, rows in parts if rows)


def _row(declared: Declared) -> str:
    flags = ", ".join(f"`{flag}`" for flag in declared.flags)
    if declared.option.kind == "switch":
        flags = f"`--{'no-' if declared.default else ''}{declared.name.replace('_', '-')}`"
    elif declared.option.metavar:
        flags += f" {declared.option.metavar}"
    if declared.option.kind == "cache":
        flags += ", `--no-cache`"
    default = f"`{str(declared.default).lower()}`" if isinstance(declared.default, bool) else f"`{declared.default}`"
    meaning = declared.option.help.replace("|", r"\|") + (f". {declared.option.more}" if declared.option.more else "")
    return f"| `{declared.name}` | {flags} | {default if declared.default not in (None, ()) else ''} | {meaning} |"
