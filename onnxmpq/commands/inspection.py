"""The layers of a model and the schemes that a target offers for them; and how a validation is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxmpq.cache import Cache
from onnxmpq.commands.gate import Judged
from onnxmpq.decoding import find_decoder, load_samples
from onnxmpq.errors import OnnxmpqError
from onnxmpq.execution import float_shapes
from onnxmpq.files import Rows
from onnxmpq.isolation import call, isolated
from onnxmpq.model import RegionKind, table_rows
from onnxmpq.needs import Needs, needs
from onnxmpq.opening import Opened, open_model, open_target
from onnxmpq.profiling import sessions_in_words
from onnxmpq.provenance import describe_runtime
from onnxmpq.quality import EMULATED, Validation
from onnxmpq.report import source_name, threads_in_words
from onnxmpq.request import DEFAULT_SAMPLES, Source, accepts, require_source
from onnxmpq.runtimes import probes, specs_of
from onnxmpq.shown import Shown


@dataclass(frozen=True)
class InspectedRegion:
    """macs: for one sample, 0 where shapes are unknown; schemes: what the target lists, before it is measured."""

    name: str
    pattern: str
    kind: str
    parameters: int
    macs: int
    schemes: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Inspection(Shown):
    """A model's regions on a target. needs: what a conversion will take here with the usual number of samples; None
    where there is nothing to convert."""

    model: str
    target: str
    opset: int
    bytes: int
    regions: tuple[InspectedRegion, ...]
    notes: tuple[str, ...]
    needs: Needs | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def layers(self) -> Rows:
        """A row for each layer."""
        rows = [asdict(r) for r in self.regions if r.kind == RegionKind.LAYER]
        return Rows(
            ({**row, "schemes": " ".join(row["schemes"])} for row in rows), (f.name for f in fields(InspectedRegion))
        )

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        layers, movable = self.layers, [r for r in self.regions if r.kind != RegionKind.LAYER and len(r.schemes) > 1]
        return f"{self.model} on {self.target}, opset {self.opset}, {self.bytes / 1e6:.3f} MB", [
            ("layers", f"{len(layers)}, {sum(layers.column('parameters'))} parameters, {_macs(layers)}"),
            ("others", f"{len(self.regions) - len(layers)} regions, {len(movable)} of which have a choice"),
            ("schemes", ", ".join(dict.fromkeys(name for r in self.regions for name in r.schemes))),
            ("notes", "; ".join(self.notes)),
        ]

    def _repr_html_(self) -> str:
        """The facts, and the first layers."""
        return super()._repr_html_() + self.layers._repr_html_()

    def render(self, console: Console) -> None:
        """Draw a table of the layers and a line for the rest."""
        layers = [r for r in self.regions if r.kind == RegionKind.LAYER]
        total = sum(r.parameters for r in layers)
        table = Table(title=f"{self.model}: {len(layers)} layers, {total} parameters, opset {self.opset}")
        for column in ("layer", "operators", "parameters", "MACs", f"schemes on {self.target}"):
            table.add_column(column, justify="right" if column in ("parameters", "MACs") else "left", overflow="fold")
        for row in layers:
            table.add_row(row.name, row.pattern, str(row.parameters), str(row.macs or "?"), " ".join(row.schemes))
        console.print(table)
        movable = sum(len(r.schemes) > 1 for r in self.regions if r.kind != RegionKind.LAYER)
        console.print(f"{len(self.regions) - len(layers)} other regions, {movable} of which have a choice")
        for note in self.notes:
            console.print(f"note: {note}", highlight=False, markup=False)
        if self.needs is not None:
            console.print(self.needs.in_words(), highlight=False, markup=False)


def _macs(layers: Rows) -> str:
    """Multiply-accumulates of one sample."""
    counts = layers.column("macs")
    return f"{sum(counts)} MACs" + (" and more of unknown shapes" if 0 in counts else "")


@accepts
@isolated()
def inspect(model: Source, target: str = "cpu") -> Inspection:
    """Layers and other regions of a model with the schemes a target lists for them.

    model: path, or the model itself. target: a name from `onnxmpq targets`, or a .toml file. Raises ModelError,
    TargetError, and UsageError for what is no model.
    """
    require_source(model)
    probes.keep_in(Cache(None))  # nothing is written
    opened = open_model(model, open_target(target))
    prepared, device, menu = opened.model, opened.device, opened.menu()
    rows = tuple(
        InspectedRegion(
            region.name,
            region.pattern,
            region.kind.value,
            region.layer.parameters if region.layer else 0,
            region.layer.macs if region.layer else 0,
            tuple(s.name for s in menu[region.name]),
        )
        for region in prepared.regions
    )
    found = needs(prepared, menu, shapes_of(opened), DEFAULT_SAMPLES) if prepared.layers else None
    size = prepared.source_bytes
    decoder = find_decoder(prepared.structure)
    notes = (*prepared.notes, *([] if decoder is None else [decoder.in_words()]))
    return Inspection(source_name(model), device.name, prepared.opset, size, rows, notes, found)


def shapes_of(opened: Opened) -> Mapping[str, Sequence[int]] | None:
    """Shapes of float tensors in a run of a made-up sample; None for a model that does not run on one."""
    model = opened.model
    try:
        specs = call(specs_of, model.proto, doing="loading the model")
        structure = model.structure
        feeds = load_samples(model.proto, None, specs, structure=structure, limit=1, bounds=table_rows(structure))
        return call(float_shapes, model, feeds, doing="running the model")
    except OnnxmpqError:
        return None


def validation_dict(found: Validation) -> dict[str, Any]:
    steps = [step.figures() for step in found.steps]
    return {"schema": "onnxmpq.validation/1", "runtime": describe_runtime(), **asdict(found), "steps": steps}


_STYLES = {True: "green", False: "bold red", None: "yellow"}


def draw_validation(found: Validation, console: Console) -> None:
    """Draw quality per output, and latency."""
    table = Table("output", "SQNR dB", "cosine", "relative error", "KL nats", "top-1 agreement", "unfused SQNR dB")
    for o in found.outputs:
        kl = "" if o.kl_nats is None else f"{o.kl_nats:.4g}"
        agreement = "" if o.top1_agreement is None else f"{o.top1_agreement:.1%}"
        unfused = "" if o.sqnr_unfused_db is None else f"{o.sqnr_unfused_db:.1f}"
        table.add_row(o.name, f"{o.sqnr_db:.1f}", f"{o.cosine:.5f}", f"{o.relative_mse:.3g}", kl, agreement, unfused)
    console.print(table)
    for t in (found.timing, *found.other_timings):
        if t is not None:
            with_threads = threads_in_words(t.threads)
            times = f"{t.original_s * 1e3:.3f} ms -> {t.result_s * 1e3:.3f} ms ({t.ratio:.2f}x)"
            console.print(f"latency {times}, {with_threads}")
    for step in found.steps:
        before, after = step.tokens_per_s
        times = f"{step.timing.original_s * 1e3:.3f} ms -> {step.timing.result_s * 1e3:.3f} ms"
        console.print(f"{step.in_words()}: {times}, {before:.1f} -> {after:.1f} tokens/s", highlight=False)
    if found.emulated:
        console.print(EMULATED, highlight=False)


def render_validation(judged: Judged, original: Path, converted: Path, console: Console) -> None:
    """Draw quality per output, latency and size, and the verdict last."""
    found = judged.found
    draw_validation(found, console)
    if judged.shape:
        console.print(f"latency is that of {judged.shape}", highlight=False, markup=False)
    if judged.sessions is not None:
        console.print(sessions_in_words(*judged.sessions), highlight=False)
    if (metric := found.metric) is not None:
        console.print(f"{metric.name} {metric.original:.4g} -> {metric.result:.4g}", highlight=False, markup=False)
    before, after = judged.original_bytes, judged.result_bytes
    console.print(f"size {before / 1e6:.3f} MB -> {after / 1e6:.3f} MB; {found.samples} samples")
    console.print(judged.in_words(), style=_STYLES[judged.passed], highlight=False, markup=False)
