"""The command line: thin over `onnxmpq.pipeline`. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import onnx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

import onnxmpq
from onnxmpq import calibration, doctor, inspection, lint, pipeline, replay, reproducer, saturation
from onnxmpq.comparison import Validation
from onnxmpq.errors import INTERRUPTED_EXIT_CODE, CheckError, OnnxmpqError, UsageError, ValidationError, exit_codes
from onnxmpq.feeds import available_recipes, load_feeds
from onnxmpq.isolation import call
from onnxmpq.lint import show
from onnxmpq.model import read
from onnxmpq.output import check_writable, plan_path, write_text
from onnxmpq.page import make_page
from onnxmpq.progress import Progress, Tick
from onnxmpq.request import DEFAULT_SAMPLES, Request, given_options, options_of, read_config, with_options
from onnxmpq.resources import data_folder
from onnxmpq.runtimes import SessionSettings, absolute, specs_of, window
from onnxmpq.saturation import show as counted
from onnxmpq.saturation import suspects
from onnxmpq.target import available_targets

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in exit_codes()) + "."
app = typer.Typer(
    help="Mixed-precision quantization of ONNX models to a measured latency and size budget.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="fp32 ONNX model; never modified")]
_HELP = {name: declared.option.help for name, declared in options_of(Request).items()}
Calib = Annotated[str | None, typer.Option("--calib", help=_HELP["calibration"])]
Recipe = Annotated[str | None, typer.Option("--recipe", help=_HELP["recipe"])]
Target = Annotated[str, typer.Option("--target", help=_HELP["target"])]
Provider = Annotated[str | None, typer.Option(help=_HELP["provider"])]
Threads = Annotated[int, typer.Option("--threads", min=1, help=_HELP["threads"])]
CacheFolder = Annotated[Path | None, typer.Option("--cache", help=_HELP["cache"])]
NoCache = Annotated[bool, typer.Option("--no-cache", help="reuse and keep nothing")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no remarks")]
Debug = Annotated[bool, typer.Option("--debug", help="full traceback on errors")]
JsonOut = Annotated[bool, typer.Option("--json", help="print JSON to stdout instead of tables")]


class _Drawn(Progress):
    """Progress bars and remarks on stderr; bars only on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self.console = Console(stderr=True)
        self.quiet = quiet

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        if self.quiet or not self.console.is_terminal:
            yield lambda _: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with RichProgress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(what, total=total or None)
            yield lambda steps: bars.advance(task, steps)

    def say(self, message: str) -> None:
        if not self.quiet:
            self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        self.console.print(f"warning: {message}", style="bold yellow", highlight=False, markup=False, soft_wrap=True)


@app.command()
@with_options(Request)
def convert(
    context: typer.Context,
    model: ModelPath,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of these options; the command line wins (docs/options)")
    ] = None,
    no_cache: NoCache = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Convert MODEL to mixed precision within the budgets; writes the model and its plan."""
    default = {"output": model.with_name(model.stem + ".mpq.onnx")}
    given = given_options(Request, context, options)
    if no_cache:
        given["cache"] = _cache(given.get("cache"), no_cache)
    asked = {**default, **({} if config is None else read_config(config)), **given}
    result = pipeline.convert(model, **asked, progress=_Drawn(quiet))
    if as_json:
        print(result.report.to_json(), end="")
        return
    console, destination = _stdout(), Path(asked["output"])
    console.print(f"wrote {destination} and {plan_path(destination)}", highlight=False, markup=False)
    result.report.render(console)


@app.command()
def apply(
    model: ModelPath,
    plan: Annotated[Path, typer.Argument(help="a .plan.json file that convert wrote, edited or not")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="default: MODEL with .mpq.onnx")] = None,
    deploy_cpu: Annotated[
        str | None, typer.Option("--deploy-cpu", help="refuse the plan if int8 is not exact there; as for convert")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write PLAN into MODEL again: the same bytes as convert."""
    destination = output or model.with_name(model.stem + ".mpq.onnx")
    replay.apply(model, plan, deploy_cpu=deploy_cpu, output=destination, progress=_Drawn(quiet=False))
    _stdout().print(f"wrote {destination}", highlight=False, markup=False)


@app.command()
def calibrate(
    model: ModelPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="calibration to write, .npz")],
    calib: Calib = None,
    recipe: Recipe = None,
    target: Target = "cpu",
    samples: Annotated[int, typer.Option(min=1, help="largest number of samples")] = DEFAULT_SAMPLES,
    seed: Annotated[int, typer.Option(help=_HELP["seed"])] = 0,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Observe MODEL's activations; `convert --ranges` takes their ranges from the file."""
    check_writable(output, model)
    found = calibration.calibrate(
        model,
        calibration=calib,
        recipe=recipe,
        target=target,
        samples=samples,
        seed=seed,
        cache=_cache(cache, no_cache),
        progress=_Drawn(quiet),
    )
    found.write(output)
    if as_json:
        print(_dump(found.to_dict()))
        return
    console = _stdout()
    calibration.render(found, console)
    console.print(f"wrote {output}", highlight=False, markup=False)


@app.command()
def profile(
    model: ModelPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="cost table to write, .json")],
    calib: Calib = None,
    recipe: Recipe = None,
    target: Target = "cpu",
    provider: Provider = None,
    threads: Threads = 1,
    seed: Annotated[int, typer.Option(help=_HELP["seed"])] = 0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure MODEL's costs on this machine; `convert --cost-table` plans with them, here or elsewhere."""
    check_writable(output, model)
    table = pipeline.profile_model(
        model,
        calibration=calib,
        recipe=recipe,
        target=target,
        provider=provider,
        threads=threads,
        seed=seed,
        progress=_Drawn(quiet),
    )
    write_text(output, table.to_json() + "\n")
    _stdout().print(f"wrote {output}", highlight=False, markup=False)


@app.command()
def inspect(model: ModelPath, target: Target = "cpu", as_json: JsonOut = False, debug: Debug = False) -> None:
    """Layers, parameters, multiply-accumulates, and the schemes the target offers for each."""
    found = inspection.inspect(model, target)
    if as_json:
        print(_dump(found.to_dict()))
    else:
        found.render(_stdout())


@app.command()
def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="any ONNX model, quantized by whatever tool")],
    dialect: Annotated[str, typer.Option(help=f"whose rules: {', '.join(lint.DIALECTS)}")] = "onnxruntime",
    calib: Calib = None,
    recipe: Recipe = None,
    samples: Annotated[int, typer.Option(min=1, help="largest number of samples of --calib")] = DEFAULT_SAMPLES,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rules of a runtime that MODEL breaks, and the nodes; with --calib, how often it overflows (docs/check)."""
    if recipe is not None and calib is None:
        raise UsageError(f"--recipe {recipe!r} says how to read --calib; give --calib too")
    if calib is not None and dialect != "onnxruntime":
        raise UsageError(f"--calib counts overflow in onnxruntime's kernels, not in dialect {dialect}; leave one out")
    proto, _, _ = read(model)
    found = lint.lint(proto, dialect)
    observed = None if calib is None else _count_overflow(proto, calib, recipe, samples, _Drawn(quiet))
    if as_json:
        counts = {} if observed is None else {"overflow": counted.as_dict(observed)}
        print(_dump(show.as_dict(found, model.name, dialect) | counts))
    else:
        show.render(found, model.name, dialect, _stdout())
        if observed is not None:
            counted.render(observed, _stdout())
    if any(f.severity == "error" for f in found):
        raise CheckError(f"{model}: {show.count(found)} against the rules of dialect {dialect}")


def _count_overflow(
    proto: onnx.ModelProto, calib: str, recipe: str | None, samples: int, progress: Progress
) -> saturation.Observed:
    feeds = load_feeds(calib, saturation.specs(proto), recipe=recipe, limit=samples)
    for note in feeds.notes:
        progress.say(note)
    return saturation.observe(suspects(proto), feeds, progress)


@app.command()
def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE [OTHER]", help="a .plan.json, or a report as .json; two are compared")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="page to write, .html; default: named as FILE")
    ] = None,
    model_explorer: Annotated[
        Path | None,
        typer.Option(help="also write node data for Google's Model Explorer: X.json is X.scheme.json and two more"),
    ] = None,
    debug: Debug = False,
) -> None:
    """A page of a plan or report: verdict, time by operator, layers, trade-off (docs/report)."""
    for written in make_page(files, output, model_explorer):
        _stdout().print(f"wrote {written}", highlight=False, markup=False)


@app.command()
def targets(as_json: JsonOut = False, debug: Debug = False) -> None:
    """Targets that ship, and where to put your own."""
    rows = available_targets()
    if as_json:
        print(_dump([{"name": t.name, "cost": t.cost, "description": t.description} for t in rows]))
        return
    table = Table("name", "costs", "dialect", "description")
    for row in rows:
        table.add_row(row.name, row.cost, row.dialect, row.description)
    console = _stdout()
    console.print(table)
    console.print(f"shipped in {data_folder('cost_models')}; your own: --target path/to/file.toml", highlight=False)


@app.command("doctor")
def doctor_command(
    fresh: Annotated[bool, typer.Option("--fresh", help="ask onnxruntime again instead of reading the cache")] = False,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    as_json: JsonOut = False,
    debug: Debug = False,
) -> None:
    """For bug reports: versions, CPU, what onnxruntime does here, timer, folders (docs/runtimes)."""
    found = doctor.examine(_cache(cache, no_cache), fresh=fresh)
    if as_json:
        print(_dump(doctor.as_dict(found)))
    else:
        doctor.render(found, _stdout())


@app.command()
def recipes(as_json: JsonOut = False, debug: Debug = False) -> None:
    """Input recipes that ship: how pictures, text and audio become the model's inputs."""
    rows = available_recipes()
    if as_json:
        print(_dump([{"name": r.name, "description": r.description} for r in rows]))
        return
    table = Table("name", "description")
    for row in rows:
        table.add_row(row.name, row.description)
    _stdout().print(table)


@app.command()
def validate(
    original: Annotated[Path, typer.Argument(help="the fp32 model")],
    converted: Annotated[Path, typer.Argument(help="the converted model")],
    calib: Calib = None,
    recipe: Recipe = None,
    threads: Threads = 1,
    samples: Annotated[int, typer.Option(min=1, help="largest number of samples")] = DEFAULT_SAMPLES,
    min_sqnr: Annotated[float | None, typer.Option(help="fail where an output's SQNR in dB is lower")] = None,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare CONVERTED with ORIGINAL: quality of every output, latency side by side, size."""
    specs = call(specs_of, absolute(original), doing=f"loading {original}")
    feeds = load_feeds(calib, specs, recipe=recipe, limit=samples)
    drawn = _Drawn(quiet)
    for note in feeds.notes:
        (drawn.warn if feeds.synthetic else drawn.say)(note)
    found = pipeline.validate(original, converted, feeds, SessionSettings(threads=threads))
    if as_json:
        print(_dump(inspection.validation_dict(found)))
    else:
        inspection.render_validation(found, original, converted, _stdout())
    _check_floor(found, min_sqnr)


def _check_floor(found: Validation, min_sqnr: float | None) -> None:
    if min_sqnr is not None and found.worst_sqnr_db < min_sqnr:
        raise ValidationError(f"SQNR {found.worst_sqnr_db:.1f} dB is below --min-sqnr {min_sqnr:g} dB")


def _cache(folder: Path | None, no_cache: bool) -> Path | bool:
    if folder is not None and no_cache:
        raise UsageError("--cache and --no-cache exclude each other; give one of them")
    return folder if folder is not None else not no_cache


def _dump(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, default=str)


def _stdout() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=120)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(onnxmpq.__version__)
        raise typer.Exit
    window.warn_outside(_Drawn(quiet=False).warn)


def main() -> None:
    """Entry point: one line and a distinct exit code for every failure; a traceback only with --debug."""
    debug = "--debug" in sys.argv
    with reproducer.watched(sys.argv[1:]) as context:
        try:
            app()
        except OnnxmpqError as error:
            saved = _reproduced(error, context) if type(error) is OnnxmpqError else ""  # a fault of ours, found by us
            if debug:
                raise
            print(f"onnxmpq: error: {error}{saved}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        except SystemExit as end:  # typer turns Ctrl-C into this, without a word
            if end.code == INTERRUPTED_EXIT_CODE:
                print("onnxmpq: interrupted; nothing was written", file=sys.stderr)
            raise
        except MemoryError as error:
            if debug:
                raise
            why = f" ({' '.join(str(error).split())})" if str(error) else ""
            print(f"onnxmpq: error: there is not enough memory{why}; give fewer samples", file=sys.stderr)
            raise SystemExit(OnnxmpqError.exit_code) from None
        except Exception as error:
            saved = _reproduced(error, context)
            what = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"onnxmpq: internal error: {what}; report it (--debug shows more){saved}", file=sys.stderr)
            if debug:
                raise
            raise SystemExit(OnnxmpqError.exit_code) from None


def _reproduced(error: Exception, context: reproducer.Context) -> str:
    """Save a reproducer, and say where it is."""
    path = reproducer.save(error, context)
    return f"; attach {path}: structure and statistics of the model, no weights or samples" if path else ""
