"""Patterns: what the user says about regions by name or operator type (`--set`, `--exclude`).

A pattern is the name of a node, a glob, a /regex/, or an operator type. It stands for the regions that have such a
node, of the model as it came or as it was prepared, or whose head is of that type.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxmpq.errors import UsageError
from onnxmpq.files import nearest_names
from onnxmpq.model import Model, Region
from onnxmpq.schemes import FP32, scheme_named

_SHOWN = 3


@dataclass(frozen=True)
class Setting:
    """One `--set PATTERN=SCHEMES`. option: how it was asked for."""

    pattern: str
    schemes: tuple[str, ...]
    option: str = "--set"

    @property
    def shown(self) -> str:
        """As the command line spells it."""
        return f"{self.option} {self.pattern!r}" + ("" if self.option == "--exclude" else f"={'|'.join(self.schemes)}")


@dataclass(frozen=True)
class Asked:
    """By region: schemes that it may have, of those that it offers. settings: the one that decided, by region.

    free: regions that may stay in float32 beside that, since they hold no weights and a glob or /regex/ met them by
    the way. notes: for whoever set something, a line each.
    """

    schemes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def settings_of(excluded: Iterable[str], patterns: Mapping[str, Sequence[str]]) -> tuple[Setting, ...]:
    """`--set` in its order, then `--exclude`, which wins."""
    given = [Setting(pattern, tuple(schemes)) for pattern, schemes in patterns.items()]
    return (*given, *(Setting(pattern, (FP32,), "--exclude") for pattern in excluded))


def asked_of(model: Model, settings: Sequence[Setting], offers: Mapping[str, Sequence[str]]) -> Asked:
    """The schemes that the last setting of each region leaves it. offers: names of schemes by region.

    Raises UsageError for a pattern that matches nothing, and where no region that it matches offers its schemes; for
    the name of a node also where one of them does not.
    """
    schemes, decided, free, notes = dict[str, frozenset[str]](), dict[str, Setting](), set[str](), []
    for setting in settings:
        for name in setting.schemes:
            scheme_named(name)
        matched = _matched(model, setting)
        able = {r.name: found for r in matched.regions if (found := _offered(setting, offers[r.name]))}
        unable = [r for r in matched.regions if r.name not in able]
        if unable and (not able or matched.named):
            raise UsageError(_not_offered(setting, unable, offers))
        layers = [r.name for r in unable if r.layer is not None]
        if layers:
            notes.append(f"{setting.shown}: {_listed(layers)} cannot be that and keep their choice")
        schemes |= able
        decided |= dict.fromkeys(able, setting)
        loose = {r.name for r in matched.regions if r.layer is None and not matched.meant}
        free = (free - set(able)) | (loose & set(able))
    return Asked(schemes, decided, frozenset(free), tuple(notes))


def matching_regions(model: Model, patterns: Iterable[str]) -> frozenset[str]:
    """Names of the regions that patterns of `--exclude` match. Raises UsageError for one that matches nothing."""
    settings = settings_of(patterns, {})
    return frozenset(r.name for setting in settings for r in _matched(model, setting).regions)


@dataclass(frozen=True)
class _Matched:
    """named: the pattern is the name of a node. meant: it is a name or an operator type."""

    regions: tuple[Region, ...]
    named: bool
    meant: bool


def _matched(model: Model, setting: Setting) -> _Matched:
    pattern = setting.pattern
    by_name = [r for r in model.regions if any(_matches(n, setting) for n in _names(model, r))]
    by_type = [r for r in model.regions if r.op_type == pattern]
    if not by_name and not by_type:
        raise UsageError(_nothing(model, setting))
    chosen = {r.name for r in (*by_name, *by_type)}
    exact = any(pattern in _names(model, r) for r in by_name)
    regions = tuple(r for r in model.regions if r.name in chosen)
    return _Matched(regions, exact and not by_type, exact or bool(by_type))


def _names(model: Model, region: Region) -> list[str]:
    return [original for node in region.nodes for original in (node, *model.origin.get(node, ()))]


def _matches(name: str, setting: Setting) -> bool:
    pattern = setting.pattern
    if len(pattern) > 2 and pattern[0] == pattern[-1] == "/":
        try:
            return re.search(pattern[1:-1], name) is not None
        except re.error as error:
            raise UsageError(f"{setting.shown}: not a regular expression ({error})") from None
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def _offered(setting: Setting, offers: Sequence[str]) -> frozenset[str]:
    return frozenset(setting.schemes) & {FP32, *offers}


def _nothing(model: Model, setting: Setting) -> str:
    types = sorted({r.op_type for r in model.regions})
    names = [n for r in model.regions for n in _names(model, r)]
    near = nearest_names(setting.pattern, (*names, *types))
    inside = sorted({r.pattern for r in model.regions if setting.pattern in r.pattern.split("+")[1:]})
    if inside:
        hint = f"{setting.pattern} is computed as a part of {', '.join(inside)} and follows its first operator"
    elif near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"`onnxmpq inspect` lists the names; operators here are {', '.join(types)}"
    return f"{setting.shown} matches no node; {hint}"


def _not_offered(setting: Setting, regions: Sequence[Region], offers: Mapping[str, Sequence[str]]) -> str:
    rows = [f"{r.name} ({r.op_type}) offers {', '.join([FP32, *offers[r.name]])}" for r in regions[:_SHOWN]]
    more = f" and {len(regions) - _SHOWN} more" if len(regions) > _SHOWN else ""
    return f"{setting.shown}: no such scheme there: {'; '.join(rows)}{more}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
