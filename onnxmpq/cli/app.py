"""The application, and the options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxmpq.errors import UsageError
from onnxmpq.progress import Remembering
from onnxmpq.request import option_like
from onnxmpq.runtimes import window
from onnxmpq.screen import Commands, reporter

app = typer.Typer(
    help="Mixed-precision quantization of ONNX models to a measured latency and size budget.",
    no_args_is_help=True,
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="fp32 ONNX model; never modified")]
Target = Annotated[str, option_like("target", "--target")]
Provider = Annotated[str | None, option_like("provider", "--provider")]
Threads = Annotated[int, option_like("threads", "--threads", min=0)]
Shape = Annotated[list[str] | None, option_like("shape", "--shape")]
Step = Annotated[str | None, option_like("step", "--step")]
Seed = Annotated[int, option_like("seed", "--seed")]
CacheFolder = Annotated[Path | None, option_like("cache", "--cache")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="reuse and keep nothing", rich_help_panel="Files")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no remarks")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="also how the result came about")]
Debug = Annotated[bool, typer.Option("--debug", help="full traceback on errors")]
JsonOut = Annotated[bool, typer.Option("--json", help="print JSON to stdout instead of tables")]


def listening(*, quiet: bool, verbose: bool) -> Remembering:
    """Where a command's progress, remarks and warnings go; the first warning is of an onnxruntime that is untested."""
    heard = Remembering(reporter(quiet=quiet, verbose=verbose))
    window.warn_outside(heard.warn)
    return heard


def cache_of(folder: Path | None, no_cache: bool) -> Path | bool:
    if folder is not None and no_cache:
        raise UsageError("--cache and --no-cache exclude each other; give one of them")
    return folder if folder is not None else not no_cache
