"""Finding and reading target files: shipped ones, the user's own, or a path; each checked field by field."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import onnx

from onnxmpq.errors import TargetError, UsageError
from onnxmpq.files import data_folder, nearest, read_toml
from onnxmpq.runtimes import RUNTIMES
from onnxmpq.schemes import FP32, scheme_named
from onnxmpq.target.fields import TargetFields
from onnxmpq.target.types import (
    BITS,
    BitLaw,
    BitScaling,
    CostSource,
    Energy,
    Figure,
    Kernel,
    Lookup,
    Menus,
    NarrowGroups,
    Roofline,
    Target,
    Transitions,
)

DIALECTS = ("onnxruntime", "onnxruntime-cuda", "tensorrt", "portable")
_WIDEST = 64
_MOST_ROWS = 65536


def user_folder() -> Path:
    """Where the user's own target files lie; a file there takes the place of a shipped one of the same name."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # as it is where there is no home
    return Path(base) / "onnxmpq" / "cost_models"


def load_target(name_or_path: str | Path) -> Target:
    """The target of that name, or in that `.toml` file.

    Raises TargetError: unknown name (with the nearest ones), unreadable file, or a field that is wrong.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return read_target(path)
    files = _target_files()
    if str(name_or_path) in files:
        return read_target(files[str(name_or_path)])
    hint = nearest(str(name_or_path), files, "the targets are")
    raise TargetError(f"no target is called '{name_or_path}'; {hint} (a path to your own .toml file works too)")


def available_targets() -> list[Target]:
    """Every target that can be given by name, by name."""
    return [read_target(path) for _, path in sorted(_target_files().items())]


def _target_files() -> dict[str, Path]:
    folders = (data_folder("cost_models"), user_folder())
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def read_target(path: Path) -> Target:
    """The target in a file. Raises TargetError naming the file, the line or field, and the reason."""
    fields = TargetFields.of(_toml(path), str(path))
    name = fields.text("name")
    if name != path.stem:
        fields.wrong("name", f"is '{name}', but the file is called {path.name}; targets are found by their file's name")
    cost = fields.choice("cost", get_args(CostSource))
    target = Target(
        name,
        description=fields.text("description"),
        sources=fields.texts("sources"),
        dialect=fields.choice("dialect", DIALECTS),
        runtime=RUNTIMES[fields.choice("runtime", tuple(RUNTIMES))] if fields.has("runtime") else None,
        provider=fields.text("provider", None),
        cost=cost,
        menu=_menus(menu := fields.table("menu"), menu.names("activations")),
        activation_menu=_menus(inner := menu.table("activations"), inner.names()) if menu.has("activations") else {},
        roofline=_roofline(fields) if cost == "roofline" else None,
        lookup=_lookup(fields.table("lookup"), path.parent) if cost == "lookup" else None,
        merging=fields.text("merging", ""),
        capability=fields.text("capability", "") or "",
    )
    fields.finish()
    if target.provider is not None and target.runtime is None:
        fields.wrong("provider", "is a runtime's; name the runtime as well")
    if target.measured and target.runtime is None:
        fields.wrong("runtime", f"is missing; a measured target names its runtime, one of: {', '.join(RUNTIMES)}")
    if target.roofline is not None:
        _check_kernels(target, target.roofline, str(path))
    return target


def _toml(path: Path) -> dict[str, object]:
    try:
        return read_toml(path)
    except FileNotFoundError as error:
        raise TargetError(f"target file {path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise TargetError(f"target file {path} is no readable TOML file: {error}") from error


def _menus(table: TargetFields, operators: Iterable[str]) -> Menus:
    """operator -> scheme names, all of them known."""
    menus: Menus = {}
    for operator in operators:
        if not onnx.defs.has(operator):
            known = {schema.name for schema in onnx.defs.get_all_schemas()}
            table.wrong(operator, f"is no ONNX operator; {nearest(operator, known, 'see the list of operators:')}")
        menus[operator] = table.texts(operator)
        for scheme in menus[operator]:
            try:
                scheme_named(scheme)
            except UsageError as error:
                table.wrong(operator, f"names an unknown scheme: {error}")
    return menus


def _roofline(fields: TargetFields) -> Roofline:
    table = fields.table("roofline")
    rates = table.table("macs_per_s") if table.has("macs_per_s") else None
    macs_per_s = _figures(rates) if rates else {}
    bits = _bit_scaling(table.table("bits")) if table.has("bits") else None
    if not macs_per_s and bits is None:
        table.wrong("macs_per_s", "is missing; give the peak rate of each compute format, or [roofline.bits]")
    kernels = table.table("kernels")
    roofline = Roofline(
        bandwidth_bytes_per_s=table.figure("bandwidth_bytes_per_s"),
        launch_s=table.figure("launch_s"),
        float_bits=table.whole("float_bits", 8, 32),
        transitions=table.choice("transitions", get_args(Transitions)),
        batch=table.whole("batch", 1, 65536, 1),
        macs_per_s=macs_per_s,
        bits=bits,
        kernels={name: _kernel(kernels.table(name), macs_per_s, bits) for name in kernels.names()},
        energy=_energy(fields.table("energy"), macs_per_s, bits) if fields.has("energy") else None,
        narrow_groups=_narrow_groups(table.table("narrow_groups")) if table.has("narrow_groups") else None,
    )
    table.finish()
    return roofline


def _figures(table: TargetFields) -> dict[str, Figure]:
    return {name: table.figure(name) for name in table.names()}


def _bit_scaling(table: TargetFields) -> BitScaling:
    scaling = BitScaling(
        law=table.choice("law", get_args(BitLaw)),
        widths=table.wholes("widths", 1, _WIDEST),
        steps_per_s=table.figure("steps_per_s"),
    )
    table.finish()
    return scaling


def _kernel(table: TargetFields, macs_per_s: dict[str, Figure], bits: BitScaling | None) -> Kernel:
    computes = [*macs_per_s, *([BITS] if bits else [])]
    kernel = Kernel(
        compute=table.choice("compute", computes),
        source=table.source(),
        weight_bits=table.whole("weight_bits", 1, _WIDEST, None),
        activation_bits=table.whole("activation_bits", 1, _WIDEST, None),
        unfolds_to=table.whole("unfolds_to", 1, _WIDEST, None),
        rows_inside=table.whole("rows_inside", 0, _MOST_ROWS, 0),
    )
    if kernel.rows_inside and kernel.unfolds_to is None:
        table.wrong("rows_inside", "is for kernels with unfolds_to")
    table.finish()
    return kernel


def _narrow_groups(table: TargetFields) -> NarrowGroups:
    groups = NarrowGroups(
        fewest_channels=table.whole("fewest_channels", 2, 1024), weight_bits=table.figure("weight_bits")
    )
    table.finish()
    return groups


def _energy(table: TargetFields, macs_per_s: dict[str, Figure], bits: BitScaling | None) -> Energy:
    """Joules for every compute format that has a rate, and for no other."""
    rates = table.table("mac_j") if macs_per_s else None
    mac_j = {name: rates.figure(name) for name in macs_per_s} if rates else {}
    if rates:
        rates.finish()
    energy = Energy(
        dram_j_per_byte=table.figure("dram_j_per_byte"),
        on_chip_j_per_byte=table.figure("on_chip_j_per_byte"),
        mac_j=mac_j,
        step_j=table.figure("step_j") if bits else None,
    )
    table.finish()
    return energy


def _lookup(table: TargetFields, folder: Path) -> Lookup:
    has_energy = table.has("energy")
    lookup = Lookup(
        latency=folder / table.text("latency"),
        seconds_per_unit=table.positive("seconds_per_unit"),
        energy=folder / table.text("energy") if has_energy else None,
        joules_per_unit=table.positive("joules_per_unit") if has_energy else 1.0,
        first_bits=table.whole("first_bits", 1, 32, 1),
        float_bits=table.whole("float_bits", 1, 32),
    )
    table.finish()
    return lookup


def _check_kernels(target: Target, roofline: Roofline, where: str) -> None:
    """Every scheme on a menu has a kernel: its own entry, or on bit-scalable hardware the bits it is quantized to."""
    if FP32 not in roofline.kernels:
        reason = "is missing; say how regions that stay in float run"
        raise TargetError(f"target file {where}: field 'roofline.kernels.{FP32}' {reason}")
    for section, menus in (("menu", target.menu), ("menu.activations", target.activation_menu)):
        for operator, schemes in menus.items():
            for name in schemes:
                scales = roofline.bits is not None and scheme_named(name).reads.quantized
                if name not in roofline.kernels and not scales:
                    reason = f"offers '{name}' without saying how it runs; add [roofline.kernels.{name}]"
                    raise TargetError(f"target file {where}: field '{section}.{operator}' {reason}")
