"""The command line: thin over `onnxmpq.pipeline`. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import onnx
import typer
from rich.table import Table

import onnxmpq
from onnxmpq import calibration, doctor, inspection, lint, pipeline, replay, saturation
from onnxmpq.comparison import Validation
from onnxmpq.errors import CheckError, UsageError, ValidationError, exit_codes
from onnxmpq.feeds import available_recipes, load_feeds
from onnxmpq.isolation import call
from onnxmpq.lint import show
from onnxmpq.model import read
from onnxmpq.output import check_writable, plan_path, write_text
from onnxmpq.progress import Progress
from onnxmpq.request import DEFAULT_SAMPLES, Request, given_options, options_of, read_config, with_options
from onnxmpq.resources import data_folder
from onnxmpq.runtimes import SessionSettings, absolute, specs_of, window
from onnxmpq.saturation import show as counted
from onnxmpq.saturation import suspects
from onnxmpq.screen import Commands, answer, as_meant, document, ended, reporter, stdout
from onnxmpq.target import available_targets

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in exit_codes()) + "."
app = typer.Typer(
    help="Mixed-precision quantization of ONNX models to a measured latency and size budget.",
    epilog=_EPILOG,
    no_args_is_help=True,
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
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
Threads = Annotated[int, typer.Option("--threads", min=0, help=_HELP["threads"])]
CacheFolder = Annotated[Path | None, typer.Option("--cache", help=_HELP["cache"])]
NoCache = Annotated[bool, typer.Option("--no-cache", help="reuse and keep nothing")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no remarks")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="also how the result came about")]
Debug = Annotated[bool, typer.Option("--debug", help="full traceback on errors")]
JsonOut = Annotated[bool, typer.Option("--json", help="print JSON to stdout instead of tables")]


@app.command()
@with_options(Request)
def convert(
    context: typer.Context,
    model: ModelPath,
    destination: Annotated[
        Path | None, typer.Argument(metavar="[OUTPUT]", help="model to write; the same as --output", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of these options; the command line wins (docs/options)")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="also write the report as JSON to this file")] = None,
    no_cache: NoCache = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Convert MODEL to mixed precision within the budgets; writes the model and its plan."""
    default = {"output": model.with_name(model.stem + ".mpq.onnx")}
    given = given_options(Request, context, options)
    if destination is not None:
        if "output" in given:
            raise UsageError(f"output {destination} and --output {given['output']}: give one of them")
        given["output"] = destination
    if no_cache:
        given["cache"] = _cache(given.get("cache"), no_cache)
    asked = {**default, **({} if config is None else read_config(config)), **given}
    if report is not None:
        check_writable(report)
    result = pipeline.convert(model, **asked, progress=reporter(quiet=quiet, verbose=verbose))
    text = document(result.report.to_dict())
    if report is not None:
        write_text(report, text + "\n")
    if as_json:
        print(text)
        return
    console, written = stdout(), Path(asked["output"])
    console.print(f"wrote {written} and {plan_path(written)}", highlight=False, markup=False, soft_wrap=True)
    result.report.render(console, verbose=verbose)


@app.command()
def apply(
    model: ModelPath,
    plan: Annotated[Path, typer.Argument(help="a .plan.json file that convert wrote, edited or not")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="default: MODEL with .mpq.onnx")] = None,
    deploy_cpu: Annotated[
        str | None, typer.Option("--deploy-cpu", help="refuse the plan if int8 is not exact there; as for convert")
    ] = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write PLAN into MODEL again: the same bytes as convert."""
    destination = output or model.with_name(model.stem + ".mpq.onnx")
    replay.apply(model, plan, deploy_cpu=deploy_cpu, output=destination, progress=reporter(verbose=verbose))
    stdout().print(f"wrote {destination}", highlight=False, markup=False)


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
    verbose: Verbose = False,
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
        progress=reporter(quiet=quiet, verbose=verbose),
    )
    found.write(output)
    if as_json:
        answer(found.to_dict())
        return
    console = stdout()
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
    verbose: Verbose = False,
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
        progress=reporter(quiet=quiet, verbose=verbose),
    )
    write_text(output, table.to_json() + "\n")
    stdout().print(f"wrote {output}", highlight=False, markup=False)


@app.command()
def inspect(model: ModelPath, target: Target = "cpu", as_json: JsonOut = False, debug: Debug = False) -> None:
    """Layers, parameters, multiply-accumulates, and the schemes the target offers for each."""
    found = inspection.inspect(model, target)
    if as_json:
        answer(found.to_dict())
    else:
        found.render(stdout())


@app.command()
def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="any ONNX model, quantized by whatever tool")],
    dialect: Annotated[str, typer.Option(help=f"whose rules: {', '.join(lint.DIALECTS)}")] = "onnxruntime",
    calib: Calib = None,
    recipe: Recipe = None,
    samples: Annotated[int, typer.Option(min=1, help="largest number of samples of --calib")] = DEFAULT_SAMPLES,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Rules of a runtime that MODEL breaks, and the nodes; with --calib, how often it overflows (docs/check)."""
    if recipe is not None and calib is None:
        raise UsageError(f"--recipe {recipe!r} says how to read --calib; give --calib too")
    if calib is not None and dialect != "onnxruntime":
        raise UsageError(f"--calib counts overflow in onnxruntime's kernels, not in dialect {dialect}; leave one out")
    proto, _, _ = read(model)
    found = lint.lint(proto, dialect)
    progress = reporter(quiet=quiet, verbose=verbose)
    observed = None if calib is None else _count_overflow(proto, calib, recipe, samples, progress)
    broken = any(f.severity == "error" for f in found)
    error = CheckError(f"{model}: {show.count(found)} against the rules of dialect {dialect}") if broken else None
    if as_json:
        counts = {} if observed is None else {"overflow": counted.as_dict(observed)}
        answer(show.as_dict(found, model.name, dialect) | counts, error)
    else:
        show.render(found, model.name, dialect, stdout())
        if observed is not None:
            counted.render(observed, stdout())
    if error is not None:
        raise error


def _count_overflow(
    proto: onnx.ModelProto, calib: str, recipe: str | None, samples: int, progress: Progress
) -> saturation.Observed:
    feeds = load_feeds(calib, saturation.specs(proto), recipe=recipe, limit=samples)
    for note in feeds.notes:
        progress.say(note)
    return saturation.observe(suspects(proto), feeds, progress)


@app.command()
def targets(as_json: JsonOut = False, debug: Debug = False) -> None:
    """Targets that ship, and where to put your own."""
    rows = available_targets()
    if as_json:
        answer([{"name": t.name, "cost": t.cost, "description": t.description} for t in rows])
        return
    table = Table("name", "costs", "dialect", "description")
    for row in rows:
        table.add_row(row.name, row.cost, row.dialect, row.description)
    console = stdout()
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
        answer(doctor.as_dict(found))
    else:
        doctor.render(found, stdout())


@app.command()
def recipes(as_json: JsonOut = False, debug: Debug = False) -> None:
    """Input recipes that ship: how pictures, text and audio become the model's inputs."""
    rows = available_recipes()
    if as_json:
        answer([{"name": r.name, "description": r.description} for r in rows])
        return
    table = Table("name", "description")
    for row in rows:
        table.add_row(row.name, row.description)
    stdout().print(table)


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
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare CONVERTED with ORIGINAL: quality of every output, latency side by side, size."""
    specs = call(specs_of, absolute(original), doing=f"loading {original}")
    feeds = load_feeds(calib, specs, recipe=recipe, limit=samples)
    drawn = reporter(quiet=quiet, verbose=verbose)
    for note in feeds.notes:
        (drawn.warn if feeds.synthetic else drawn.say)(note)
    if feeds.timed:
        drawn.say(feeds.timed)
    with drawn.stage("comparing and timing both models", 0):
        found = pipeline.validate(original, converted, feeds, SessionSettings(threads=threads))
    error = _missed_floor(found, min_sqnr)
    if as_json:
        answer(inspection.validation_dict(found), error)
    else:
        inspection.render_validation(found, original, converted, stdout())
    if error is not None:
        raise error


def _missed_floor(found: Validation, min_sqnr: float | None) -> ValidationError | None:
    if min_sqnr is None or found.worst_sqnr_db >= min_sqnr:
        return None
    return ValidationError(f"SQNR {found.worst_sqnr_db:.1f} dB is below --min-sqnr {min_sqnr:g} dB")


def _cache(folder: Path | None, no_cache: bool) -> Path | bool:
    if folder is not None and no_cache:
        raise UsageError("--cache and --no-cache exclude each other; give one of them")
    return folder if folder is not None else not no_cache


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(onnxmpq.__version__)
        raise typer.Exit
    window.warn_outside(reporter().warn)


def main() -> None:
    """Entry point: one line and a distinct exit code for every failure; a traceback only with --debug."""
    arguments = as_meant(sys.argv[1:])
    ended(lambda: app(arguments, prog_name="onnxmpq", standalone_mode=False), arguments)
