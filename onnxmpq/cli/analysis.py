"""Commands that look at a model, or measure something of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import onnx
import typer

from onnxmpq import compilers, lint, saturation
from onnxmpq.cli.app import (
    CacheFolder,
    Debug,
    JsonOut,
    ModelPath,
    NoCache,
    Provider,
    Quiet,
    Seed,
    Shape,
    Step,
    Target,
    Threads,
    Verbose,
    app,
    cache_of,
    listening,
)
from onnxmpq.commands import calibration, inspection, measure_sensitivity, profile_model
from onnxmpq.decoding import load_samples
from onnxmpq.errors import CheckError, UsageError
from onnxmpq.feeds import parse_shapes, shares_of
from onnxmpq.files import check_writable, require_format, write_text
from onnxmpq.lint import show
from onnxmpq.model import read
from onnxmpq.progress import Progress
from onnxmpq.request import GroupedCommand, SampleOptions, given_options, option_like, parse_step, with_options
from onnxmpq.saturation import show as counted
from onnxmpq.saturation import suspects
from onnxmpq.screen import answer, stdout


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
    """Observe MODEL's activations and write their ranges. `convert --ranges` reads the file."""
    check_writable(output, model)
    asked = SampleOptions(**given_options(SampleOptions, context, options))
    heard = listening(quiet=quiet, verbose=verbose)
    found = calibration.calibrate(
        model,
        calibration=asked.calibration,
        recipe=asked.effective_recipe,
        target=target,
        samples=asked.samples,
        seed=seed,
        cache=cache_of(cache, no_cache),
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
    step: Step = None,
    seed: Seed = 0,
    as_json: JsonOut = False,
    cluster: Annotated[str | None, option_like("cluster", "--cluster")] = None,
    device: Annotated[str | None, option_like("device", "--device")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Measure MODEL's costs and write a cost table. Here or on a --device; `convert --cost-table` reads it anywhere."""
    check_writable(output, model)
    asked = SampleOptions(**given_options(SampleOptions, context, options))
    heard = listening(quiet=quiet, verbose=verbose)
    table = profile_model(
        model,
        calibration=asked.calibration,
        recipe=asked.effective_recipe,
        target=target,
        provider=provider,
        threads=threads,
        seed=seed,
        shape=parse_shapes(shape or ()),
        step=parse_step(step),
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
    """Show MODEL's layers and the schemes that each can have. Also estimates what a conversion will need."""
    listening(quiet=quiet, verbose=verbose)
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
    """Measure the effect of each layer and scheme alone. Also says why a scheme is not offered."""
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
        cache=cache_of(cache, no_cache),
        seed=seed,
        progress=listening(quiet=quiet, verbose=verbose),
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
    """Check MODEL against the rules of a runtime. With --calib, counts how often int8 kernels overflow (docs/check)."""
    asked = SampleOptions(**given_options(SampleOptions, context, options))
    calib, recipe = asked.calibration, asked.effective_recipe
    if recipe is not None and calib is None:
        raise UsageError("--recipe says how to read --calib; give --calib too")
    if calib is not None and dialect != "onnxruntime":
        raise UsageError(f"--calib counts overflow in onnxruntime's kernels, not in dialect {dialect}; leave one out")
    if shape and compile_for is None:
        raise UsageError("--shape is for --compile, which builds the model for these shapes; give both")
    progress = listening(quiet=quiet, verbose=verbose)
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
    feeds = load_samples(proto, asked.calibration, specs, recipe=asked.effective_recipe, limit=asked.samples)
    for note in feeds.notes:
        progress.say(note)
    return saturation.observe(suspects(proto), feeds, progress)
