"""Habits of typing: options at other places, a model where a command belongs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from onnxmpq.errors import UsageError, exit_codes
from onnxmpq.files import nearest

VERSION, VERBOSE = "--version", ("-v", "--verbose")


def as_meant(arguments: Sequence[str]) -> list[str]:
    """The command line as the commands understand it: --version counts anywhere and alone, -v also before the command.

    `onnxmpq -v` alone asks for the version, as it does elsewhere.
    """
    found = list(arguments)
    options = found[: found.index("--")] if "--" in found else found
    if VERSION in options or (len(found) == 1 and found[0] in VERBOSE):
        return [VERSION]
    if found and found[0] in VERBOSE:
        return [*found[1:], VERBOSE[0]]
    return found


class Commands(TyperGroup):
    """The commands of the program. Raises UsageError for a model in the place of one, or an unknown name."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """All exit codes, one a line."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in exit_codes()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        first = args[0]
        if first not in self.commands and (first.endswith(".onnx") or os.path.isfile(Path(first))):
            rest = " ".join(args[1:])
            said = f"onnxmpq convert {first} {rest}".strip() if rest else f"onnxmpq convert {first} --latency 60%"
            what = "a file, not a command" if os.path.isfile(Path(first)) else "no command, and there is no such file"
            raise UsageError(f"{first}: is {what}; write `{said}`")
        if first not in self.commands and not first.startswith("-"):
            raise UsageError(f"no such command: {first}; {nearest(first, self.commands, 'the commands are')}")
        found = super().resolve_command(ctx, args)
        _require_dashes(first, found[1], args[1:])
        return found


def _require_dashes(name: str, command: Any, rest: Sequence[str]) -> None:
    """Raises UsageError for an option without its dashes, such as `cache clear`, of a command without arguments."""
    if not rest or command is None or any(p.param_type_name == "argument" for p in command.params):
        return
    option = f"--{rest[0]}"
    if any(option in p.opts for p in command.params):
        raise UsageError(f"{name} {rest[0]}: {name} takes options only; write `onnxmpq {name} {option}`")
