"""Commands that make a converted model, or judge one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxmpq import fleet as fleets
from onnxmpq import pipeline
from onnxmpq.cli.app import Debug, JsonOut, ModelPath, NoCache, Quiet, Verbose, app, listening
from onnxmpq.commands import gate, inspection
from onnxmpq.errors import UsageError
from onnxmpq.files import check_writable, plan_path, write_text
from onnxmpq.replay import replay
from onnxmpq.report import Prediction
from onnxmpq.request import (
    GateOptions,
    GroupedCommand,
    Request,
    config_text,
    given_options,
    option_like,
    take_config,
    with_options,
)
from onnxmpq.screen import answer, document, reporter, stdout


@app.command(cls=GroupedCommand)
@with_options(Request)
def convert(
    context: typer.Context,
    model: ModelPath,
    destination: Annotated[
        Path | None, typer.Argument(metavar="OUTPUT", help="model to write; the same as --output", show_default=False)
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
    """Convert MODEL to mixed precision within the budgets. Writes the model and its plan."""
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
    heard = listening(quiet=quiet, verbose=verbose)
    if dry_run:
        _show_prediction(pipeline.predict(model, **asked, progress=heard), as_json)
        return
    result = pipeline.convert(model, **asked, progress=heard)
    if as_json:
        print(result.report.to_json(), end="")
        return
    console = stdout()
    console.print(_wrote(asked), highlight=False, markup=False, soft_wrap=True)
    result.report.render(console, verbose=verbose)


def _wrote(asked: Mapping[str, Any]) -> str:
    """The files of a conversion, in words."""
    model = Path(asked["output"])
    beside = [plan_path(model), *(Path(asked[name]) for name in ("report", "curve") if asked.get(name) is not None)]
    *others, last = map(str, (model, *beside))
    return f"wrote {', '.join(others)} and {last}"


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
    """Convert all models of FLEET and report on them together. What an earlier run converted is kept (docs/cluster)."""
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
    *("latency", "size", "memory", "threads", "provider", "guard"),
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
        bool, typer.Option("--measure", help="take quality, latency and memory of the result again, on --calib")
    ] = False,
    verify: Annotated[
        bool, option_like("verify", "--verify", help="write nothing that the compiler of the plan's target refuses")
    ] = False,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Write PLAN into MODEL again, as it is or edited. Unedited, it gives the same bytes as convert (docs/plans)."""
    destination = output or model.with_name(model.stem + ".mpq.onnx")
    asked = GateOptions(**given_options(GateOptions, context, options))
    heard = listening(quiet=quiet, verbose=verbose)
    applied = replay.apply_plan(
        model,
        plan,
        deploy_cpu=deploy_cpu,
        output=destination,
        point=point,
        measure=measure,
        verify=verify,
        calibration=asked.calibration,
        recipe=asked.effective_recipe,
        samples=asked.samples,
        labels=asked.labels,
        metric=asked.metric,
        outputs=asked.outputs,
        shape=asked.shape,
        step=asked.step,
        progress=heard,
    )
    if as_json:
        files = {"model": str(destination), "plan": str(plan_path(destination))}
        answer({**files, **replay.as_dict(applied), "warnings": heard.warnings})
        return
    console = stdout()
    console.print(f"wrote {destination} and {plan_path(destination)}", highlight=False, markup=False)
    if applied.validation is not None:
        inspection.draw_validation(applied.validation, console)
    for line in replay.in_words(applied):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


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
    """Judge CONVERTED against ORIGINAL by floors and limits. Exits with 15 if one is missed, or bad without a floor."""
    asked = GateOptions(**given_options(GateOptions, context, options))
    judged = gate(original, converted, asked, listening(quiet=quiet, verbose=verbose))
    if as_json:
        answer({**inspection.validation_dict(judged.found), **judged.figures()}, judged.error)
    else:
        inspection.render_validation(judged, original, converted, stdout())
    if judged.error is not None:
        raise judged.error
