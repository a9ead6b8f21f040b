"""The command line: thin over the pipeline and `commands`. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import onnxmpq

from onnxmpq.cli import conversion, analysis, surroundings  # isort: skip (the order of the help)
from onnxmpq.cli.app import app
from onnxmpq.request import asks_for_json
from onnxmpq.screen import as_meant, ended

__all__ = ["analysis", "app", "conversion", "main", "surroundings"]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(onnxmpq.__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: one line and a distinct exit code for every failure; a traceback only with --debug."""
    arguments = as_meant(sys.argv[1:])
    json = asks_for_json(arguments)
    ended(lambda: app(arguments, prog_name="onnxmpq", standalone_mode=False), arguments, json=json)
