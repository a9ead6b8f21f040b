"""Commands about what is not a model: pages, targets, recipes, the machine, the cache."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from onnxmpq.cache import contents as cache_folder
from onnxmpq.cache import default_folder
from onnxmpq.cli.app import CacheFolder, Debug, JsonOut, NoCache, Quiet, Verbose, app, cache_of, listening
from onnxmpq.commands import doctor
from onnxmpq.errors import UsageError
from onnxmpq.feeds import available_recipes, find_recipe, recipe_fields
from onnxmpq.files import data_folder
from onnxmpq.page import make_page
from onnxmpq.request import GroupedCommand, option_like, toml
from onnxmpq.screen import answer, document, stdout
from onnxmpq.target import available_targets


@app.command(cls=GroupedCommand)
def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="a .plan.json, or a report as .json; two are compared")
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
    """Make a page of a plan or report, or compare two. Verdict, time by operator, layers, trade-off (docs/report)."""
    listening(quiet=quiet, verbose=verbose)
    written = make_page(files, output, model_explorer)
    if as_json:
        answer({"written": [str(path) for path in written]})
        return
    for path in written:
        stdout().print(f"wrote {path}", highlight=False, markup=False)


@app.command(cls=GroupedCommand)
def targets(as_json: JsonOut = False, quiet: Quiet = False, verbose: Verbose = False, debug: Debug = False) -> None:
    """List the targets that ship. Also says where to put your own (docs/targets)."""
    listening(quiet=quiet, verbose=verbose)
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


@app.command(cls=GroupedCommand)
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="show the fields of this recipe, or of a .toml file")
    ] = None,
    as_json: JsonOut = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """List input recipes, or show the fields of one. They say how pictures, text and audio become inputs."""
    listening(quiet=quiet, verbose=verbose)
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
    """Show what a bug report needs: versions, CPU, folders. Also what onnxruntime does on this CPU (docs/runtimes)."""
    listening(quiet=quiet, verbose=verbose)
    found = doctor.examine(cache_of(cache, no_cache), fresh=fresh)
    if as_json:
        answer(doctor.as_dict(found))
    else:
        doctor.render(found, stdout())


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
    """Show or clear the folder of values that are reused. Where it is, how large, what is in it (docs/cache)."""
    listening(quiet=quiet, verbose=verbose)
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
