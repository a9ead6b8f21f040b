"""Help texts with the options in groups."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from onnxmpq.request.options import GROUPS

_REST = "Options"


class GroupedCommand(TyperCommand):
    """A command whose `--help` lists the options by their `rich_help_panel`, in the order of `GROUPS`, the rest last.

    Plain text, as typer writes it without rich. Arguments come first.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments by their names alone; typer puts those that are required in braces."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", *GROUPS)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                title = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or _REST
                name = record[0].split(" <")[0] if argument else record[0]  # the type says nothing here
                sections.setdefault(title, []).append((name, record[1]))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
