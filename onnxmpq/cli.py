"""The command line: thin over `onnxmpq.pipeline`. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import onnx
import typer
from rich.table import Table

import onnxmpq
from onnxmpq import compilers, lint, pipeline, saturation
from onnxmpq import fleet as fleets
from onnxmpq.cache import contents as cache_folder
from onnxmpq.cache import default_folder
from onnxmpq.commands import calibration, doctor, gate, inspection, measure_sensitivity, profile_model
from onnxmpq.errors import CheckError, UsageError, exit_codes
from onnxmpq.feeds import available_recipes, find_recipe, load_feeds, parse_shapes, recipe_fields, shares_of
from onnxmpq.files import check_writable, data_folder, plan_path, require_format, write_text
from onnxmpq.lint import show
from onnxmpq.model import read
from onnxmpq.page import make_page
from onnxmpq.progress import Progress, Remembering
from onnxmpq.replay import replay
from onnxmpq.report import Prediction
from onnxmpq.request import (
    GateOptions,
    GroupedCommand,
    Request,
    SampleOptions,
    asks_for_json,
    config_text,
    given_options,
    option_like,
    take_config,
    toml,
    with_options,
)
from onnxmpq.runtimes import window
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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="fp32 ONNX model; never modified")]
Target = Annotated[str, option_like("target", "--target")]
Provider = Annotated[str | None, option_like("provider", "--provider")]
Threads = Annotated[int, option_like("threads", "--threads", min=0)]
Shape = Annotated[list[str] | None, option_like("shape", "--shape")]
Seed = Annotated[int, option_like("seed", "--seed")]
CacheFolder = Annotated[Path | None, option_like("cache", "--cache")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="reuse and keep nothing", rich_help_panel="Files")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no remarks")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="also how the result came about")]
Debug = Annotated[bool, typer.Option("--debug", help="full traceback on errors")]
JsonOut = Annotated[bool, typer.Option("--json", help="print JSON to stdout instead of tables")]


@app.command(cls=GroupedCommand)
@with_options(Request)
def convert(
    context: typer.Context,
    model: ModelPath,
    destination: Annotated[
        Path | None, typer.Argument(metavar="[OUTPUT]", help="model to write; the same as --output", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file of these options; the command line wins (docs/options)",
            metavar="FILE",
            rich_help_panel="Files",
            is_eager=True,
            callback=take_config,
        ),
    ] = None,
    write_config: Annotated[
        Path | None,
        typer.Option(
            help="also write all options, those in effect as values, to this TOML file",
            metavar="FILE",
            rich_help_panel="Files",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="plan and predict, write no model; exits as convert would", rich_help_panel="Files"
        ),
    ] = False,
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
    asked = {**default, **given}
    if write_config is not None:
        check_writable(write_config)
        write_text(write_config, config_text(context))
    heard = _listening(quiet=quiet, verbose=verbose)
    if dry_run:
        _show_prediction(pipeline.predict(model, **asked, progress=heard), as_json)
        return
    result = pipeline.convert(model, **asked, progress=heard)
    if as_json:
        print(result.report.to_json(), end="")
        return
    console, written = stdout(), Path(asked["output"])
    console.print(f"wrote {written} and {plan_path(written)}", highlight=False, markup=False, soft_wrap=True)
    result.report.render(console, verbose=verbose)


@app.command("convert-many", cls=GroupedCommand)
@with_options(Request, left_out=("output", "report", "curve"))
def convert_many(
    context: typer.Context,
    fleet: Annotated[Path, typer.Argument(metavar="FLEET", help="a fleet file, .toml, or a folder of models")],
    output: Annotated[
        Path, option_like("output", "--output", "-o", help="folder of models, plans, pages and the report of all")
    ],
    no_cache: NoCache = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Convert all models of FLEET; those of a run before this one are kept, failures come last (docs/cluster)."""
    given = given_options(Request, context, options)
    made = fleets.convert_many(fleet, output, **given, progress=reporter(quiet=quiet, verbose=verbose))
    if as_json:
        answer(made.to_dict(), made.error)
        return
    console = stdout()
    made.render(console)
    console.print(
        f"wrote {output / fleets.PAGE} and {output / fleets.JSON}", highlight=False, markup=False, soft_wrap=True
    )
    if made.error is not None:
        raise made.error


def _show_prediction(found: Prediction, as_json: bool) -> None:
    if as_json:
        print(document(found.to_dict()))
    else:
        found.render(stdout())


_OF_A_GATE = (
    *("latency", "size", "threads", "provider", "guard"),
    *("min_sqnr", "max_divergence", "min_agreement", "max_drop"),
)
"""Options of `validate` that a plan decides itself, when it is measured again."""


@app.command(cls=GroupedCommand)
@with_options(GateOptions, left_out=_OF_A_GATE)
def apply(
    context: typer.Context,
    model: ModelPath,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="a .plan.json file that convert wrote, edited or not")],
    output: Annotated[
        Path | None, option_like("output", "--output", "-o", help="default: MODEL with .mpq.onnx")
    ] = None,
    deploy_cpu: Annotated[
        str | None,
        option_like("deploy_cpu", "--deploy-cpu", help="refuse the plan if int8 is not exact there; as for convert"),
    ] = None,
    point: Annotated[
        int | None, typer.Option("--point", metavar="N", help="of the plan's trade-off curve, instead of the plan")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="take quality and latency of the result again, on --calib")
    ] = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Write PLAN into MODEL again: the same bytes as convert, or what an edited plan asks for (docs/plans)."""
    destination = output or model.with_name(model.stem + ".mpq.onnx")
    asked = GateOptions(**given_options(GateOptions, context, options))
    heard = _listening(quiet=quiet, verbose=verbose)
    applied = replay.apply_plan(
        model,
        plan,
        deploy_cpu=deploy_cpu,
        output=destination,
        point=point,
        measure=measure,
        calibration=asked.calibration,
        recipe=asked.effective_recipe,
        samples=asked.samples,
        labels=asked.labels,
        metric=asked.metric,
        outputs=asked.outputs,
        shape=asked.shape,
        progress=heard,
    )
    if as_json:
        files = {"model": str(destination), "plan": str(plan_path(destination))}
        answer({**files, **replay.as_dict(applied), "warnings": heard.warnings})
        return
    console = stdout()
    if applied.validation is not None:
        inspection.draw_validation(applied.validation, console)
    for line in replay.in_words(applied):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {destination} and {plan_path(destination)}", highlight=False, markup=False)


@app.command(cls=GroupedCommand)
@with_options(SampleOptions)
def calibrate(
    context: typer.Context,
    model: ModelPath,
    output: Annotated[Path, option_like("output", "--output", "-o", help="calibration to write, .npz")],
    target: Target = "cpu",
    seed: Seed = 0,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Observe MODEL's activations; `convert --ranges` takes their ranges from the file."""
    check_writable(output, model)
    asked = SampleOptions(**given_options(SampleOptions, context, options))
    heard = _listening(quiet=quiet, verbose=verbose)
    found = calibration.calibrate(
        model,
        calibration=asked.calibration,
        recipe=asked.effective_recipe,
        target=target,
        samples=asked.samples,
        seed=seed,
        cache=_cache(cache, no_cache),
        progress=heard,
    )
    found.write(output)
    if as_json:
        answer({**found.to_dict(), "warnings": heard.warnings})
        return
    console = stdout()
    calibration.render(found, console)
    console.print(f"wrote {output}", highlight=False, markup=False)


@app.command(cls=GroupedCommand)
@with_options(SampleOptions, left_out=("samples",))
def profile(
    context: typer.Context,
    model: ModelPath,
    output: Annotated[Path, option_like("output", "--output", "-o", help="cost table to write, .json")],
    target: Target = "cpu",
    provider: Provider = None,
    threads: Threads = 1,
    shape: Shape = None,
    seed: Seed = 0,
    as_json: JsonOut = False,
    cluster: Annotated[str | None, option_like("cluster", "--cluster")] = None,
    device: Annotated[str | None, option_like("device", "--device")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Measure MODEL's costs, here or on a --device; `convert --cost-table` plans with them, here or elsewhere."""
    check_writable(output, model)
    asked = SampleOptions(**given_options(SampleOptions, context, options))
    heard = _listening(quiet=quiet, verbose=verbose)
    table = profile_model(
        model,
        calibration=asked.calibration,
        recipe=asked.effective_recipe,
        target=target,
        provider=provider,
        threads=threads,
        seed=seed,
        shape=parse_shapes(shape or ()),
        cluster=cluster,
        device=device,
        progress=heard,
    )
    write_text(output, table.to_json() + "\n")
    if as_json:
        answer({"table": str(output), "warnings": heard.warnings})
        return
    stdout().print(f"wrote {output}", highlight=False, markup=False)


@app.command(cls=GroupedCommand)
def inspect(
    model: ModelPath,
    target: Target = "cpu",
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Layers, parameters, multiply-accumulates, and the schemes the target offers for each."""
    _listening(quiet=quiet, verbose=verbose)
    found = inspection.inspect(model, target)
    if as_json:
        answer(found.to_dict())
    else:
        found.render(stdout())


@app.command("sensitivity", cls=GroupedCommand)
@with_options(SampleOptions)
def sensitivity_command(
    context: typer.Context,
    model: ModelPath,
    output: Annotated[
        Path | None, option_like("output", "--output", "-o", help="table to write, .csv or .json")
    ] = None,
    target: Target = "cpu",
    exclude: Annotated[list[str] | None, option_like("exclude", "--exclude")] = None,
    scheme: Annotated[list[str] | None, option_like("schemes", "--scheme")] = None,
    seed: Seed = 0,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Effect of every layer and scheme on MODEL's outputs, one at a time, and why a scheme is not offered."""
    if output is not None:
        require_format(output)
        check_writable(output, model)
    asked = SampleOptions(**given_options(SampleOptions, context, options))
    rows = measure_sensitivity(
        model,
        calibration=asked.calibration,
        recipe=asked.effective_recipe,
        target=target,
        samples=asked.samples,
        exclude=exclude or (),
        schemes=scheme or (),
        cache=_cache(cache, no_cache),
        seed=seed,
        progress=_listening(quiet=quiet, verbose=verbose),
    )
    if output is not None:
        rows.write(output)
    if as_json:
        print(rows.to_json(), end="")
    elif output is None:
        print(rows.to_csv(), end="")
    else:
        stdout().print(f"wrote {output}: {len(rows)} rows", highlight=False, markup=False)


@app.command(cls=GroupedCommand)
@with_options(SampleOptions)
def check(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="any ONNX model, quantized by whatever tool")],
    dialect: Annotated[
        str, typer.Option(help=f"whose rules: {', '.join(lint.DIALECTS)}", metavar="NAME")
    ] = "onnxruntime",
    compile_for: Annotated[
        str | None,
        typer.Option(
            "--compile",
            help="also build it with the dialect's own compiler, for a GPU such as sm89 (docs/tensorrt)",
            metavar="CAPABILITY",
        ),
    ] = None,
    shape: Shape = None,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Rules of a runtime that MODEL breaks, and the nodes; with --calib, how often it overflows (docs/check)."""
    asked = SampleOptions(**given_options(SampleOptions, context, options))
    calib, recipe = asked.calibration, asked.effective_recipe
    if recipe is not None and calib is None:
        raise UsageError("--recipe says how to read --calib; give --calib too")
    if calib is not None and dialect != "onnxruntime":
        raise UsageError(f"--calib counts overflow in onnxruntime's kernels, not in dialect {dialect}; leave one out")
    if shape and compile_for is None:
        raise UsageError("--shape is for --compile, which builds the model for these shapes; give both")
    progress = _listening(quiet=quiet, verbose=verbose)
    proto, _, _ = read(model)
    found = lint.lint(proto, dialect)
    compiled = None
    if compile_for is not None:
        compiled = compilers.compile_model(proto, compile_for, shares_of(parse_shapes(shape or ())), dialect)
    observed = None if calib is None else _count_overflow(proto, asked, progress)
    broken = [f"{show.count(found)} against the rules of dialect {dialect}"] * any(f.severity == "error" for f in found)
    if compiled is not None and not compiled.built:
        broken.append(f"{compiled.compiler} does not build it for {compiled.capability}")
    error = CheckError(f"{model}: {'; '.join(broken)}") if broken else None
    if as_json:
        counts = {} if observed is None else {"overflow": counted.as_dict(observed)}
        counts |= {} if compiled is None else {"compiled": compilers.as_dict(compiled)}
        answer(show.as_dict(found, model.name, dialect) | counts | {"warnings": progress.warnings}, error)
    else:
        show.render(found, model.name, dialect, stdout())
        if observed is not None:
            counted.render(observed, stdout())
        for line in compilers.lines(compiled) if compiled is not None else ():
            stdout().print(line, highlight=False, markup=False, soft_wrap=True)
    if error is not None:
        raise error


def _count_overflow(proto: onnx.ModelProto, asked: SampleOptions, progress: Progress) -> saturation.Observed:
    specs = saturation.specs(proto)
    feeds = load_feeds(asked.calibration, specs, recipe=asked.effective_recipe, limit=asked.samples)
    for note in feeds.notes:
        progress.say(note)
    return saturation.observe(suspects(proto), feeds, progress)


@app.command(cls=GroupedCommand)
def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE [OTHER]", help="a .plan.json, or a report as .json; two are compared")
    ],
    output: Annotated[
        Path | None, option_like("output", "--output", "-o", help="page to write, .html; default: named as FILE")
    ] = None,
    model_explorer: Annotated[
        Path | None,
        typer.Option(
            help="also write node data for Google's Model Explorer: X.json is X.scheme.json and two more",
            metavar="FILE",
            rich_help_panel="Files",
        ),
    ] = None,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """A page of a plan or report: verdict, time by operator, layers, trade-off (docs/report)."""
    _listening(quiet=quiet, verbose=verbose)
    written = make_page(files, output, model_explorer)
    if as_json:
        answer({"written": [str(path) for path in written]})
        return
    for path in written:
        stdout().print(f"wrote {path}", highlight=False, markup=False)


@app.command(cls=GroupedCommand)
def targets(as_json: JsonOut = False, quiet: Quiet = False, verbose: Verbose = False, debug: Debug = False) -> None:
    """Targets that ship, and where to put your own."""
    _listening(quiet=quiet, verbose=verbose)
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


@app.command("doctor", cls=GroupedCommand)
def doctor_command(
    fresh: Annotated[bool, typer.Option("--fresh", help="ask onnxruntime again instead of reading the cache")] = False,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """For bug reports: versions, CPU, what onnxruntime does here, timer, folders (docs/runtimes)."""
    _listening(quiet=quiet, verbose=verbose)
    found = doctor.examine(_cache(cache, no_cache), fresh=fresh)
    if as_json:
        answer(doctor.as_dict(found))
    else:
        doctor.render(found, stdout())


@app.command(cls=GroupedCommand)
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="show the fields of this recipe, or of a .toml file")
    ] = None,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Input recipes that ship, and their fields: how pictures, text and audio become the model's inputs."""
    _listening(quiet=quiet, verbose=verbose)
    if name is not None:
        fields = recipe_fields(find_recipe(name))
        print(document(fields) if as_json else "\n".join(f"{field} = {toml(value)}" for field, value in fields.items()))
        return
    rows = available_recipes()
    if as_json:
        answer([{"name": r.name, "description": r.description} for r in rows])
        return
    table = Table("name", "description")
    for row in rows:
        table.add_row(row.name, row.description)
    stdout().print(table)
    stdout().print("fields of one: onnxmpq recipes NAME; other values: --recipe-field FIELD=VALUE", highlight=False)


@app.command("cache", cls=GroupedCommand)
def cache_command(
    folder: CacheFolder = None,
    clear: Annotated[bool, typer.Option("--clear", help="remove all entries, after asking")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """The folder of values that are reused: where it is, how large, what is in it (docs/cache)."""
    _listening(quiet=quiet, verbose=verbose)
    place = folder or default_folder()
    if place is None:
        raise UsageError("there is no home folder, so nothing is cached; name a folder with --cache")
    found = cache_folder.contents(place)
    if not clear:
        print(document(found.to_dict())) if as_json else found.render(stdout())
        return
    if not yes and not sys.stdin.isatty():
        raise UsageError("--clear asks before it removes anything, and there is nobody to ask; add --yes")
    if not yes and not typer.confirm(f"remove {found.total.entries} entries from {place}?", err=True):
        return
    removed = cache_folder.clear(place)
    text = f"removed {removed.entries} entries, {removed.bytes / 1e6:.1f} MB, from {place}"
    print(document({"folder": str(place), "removed": removed.entries, "bytes": removed.bytes}) if as_json else text)


@app.command(cls=GroupedCommand)
@with_options(GateOptions)
def validate(
    context: typer.Context,
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="the fp32 model")],
    converted: Annotated[Path, typer.Argument(metavar="CONVERTED", help="the converted model")],
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Compare CONVERTED with ORIGINAL, and refuse it where it misses a floor or a limit (exit code 15; docs/ci)."""
    asked = GateOptions(**given_options(GateOptions, context, options))
    judged = gate(original, converted, asked, _listening(quiet=quiet, verbose=verbose))
    if as_json:
        answer({**inspection.validation_dict(judged.found), **judged.figures()}, judged.error)
    else:
        inspection.render_validation(judged, original, converted, stdout())
    if judged.error is not None:
        raise judged.error


def _listening(*, quiet: bool, verbose: bool) -> Remembering:
    """Where a command's progress, remarks and warnings go; the first warning is of an onnxruntime that is untested."""
    heard = Remembering(reporter(quiet=quiet, verbose=verbose))
    window.warn_outside(heard.warn)
    return heard


def _cache(folder: Path | None, no_cache: bool) -> Path | bool:
    if folder is not None and no_cache:
        raise UsageError("--cache and --no-cache exclude each other; give one of them")
    return folder if folder is not None else not no_cache


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
