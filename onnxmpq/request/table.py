"""The docs' table of options."""

from __future__ import annotations

from onnxmpq.request.options import Declared, options_of
from onnxmpq.request.request import Request


def option_table() -> str:
    """Markdown: a row for every option of `convert` that config files and the command line have."""
    rows = [_row(declared) for declared in options_of(Request).values() if declared.flags]
    return "\n".join(["| argument | command line | default | meaning |", "|---|---|---|---|", *rows])


def _row(declared: Declared) -> str:
    flags = ", ".join(f"`{flag}`" for flag in declared.flags)
    if declared.option.kind == "switch":
        flags = f"`--{'no-' if declared.default else ''}{declared.name.replace('_', '-')}`"
    if declared.option.kind == "cache":
        flags += ", `--no-cache`"
    default = f"`{str(declared.default).lower()}`" if isinstance(declared.default, bool) else f"`{declared.default}`"
    meaning = declared.option.help.replace("|", r"\|") + (f". {declared.option.more}" if declared.option.more else "")
    return f"| `{declared.name}` | {flags} | {default if declared.default not in (None, ()) else ''} | {meaning} |"
