"""Parts of a request that several commands have: the samples, and the quality floors on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from onnxmpq.errors import UsageError
from onnxmpq.feeds import Recipe, divisor, numbers, override
from onnxmpq.quality import Floors, MetricFunction, parse_floors
from onnxmpq.request.accepted import accept
from onnxmpq.request.options import Option, options_of
from onnxmpq.sensitivity import KINDS, OutputKind

DEFAULT_SAMPLES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleOptions:
    """Where samples come from. Raises UsageError for a value that no model makes right, as all of these do."""

    calibration: Annotated[
        Any,
        Option(
            ".npz, folder of .npy or pictures, token file, or module:function (docs/calibration)",
            flags=("--calib",),
            more="From Python also arrays by input name, an iterable of feeds or an onnxruntime CalibrationDataReader. "
            "Without it inputs are made up.",
            group="Samples",
            metavar="SOURCE",
        ),
    ] = None
    recipe: Annotated[
        str | None, Option("how pictures, text or audio become inputs", group="Samples", metavar="RECIPE")
    ] = None
    samples: Annotated[
        int, Option("largest number of calibration samples", "whole", least=1, group="Samples", metavar="N")
    ] = DEFAULT_SAMPLES
    mean: Annotated[
        str | float | Sequence[float] | None,
        Option(
            "of a recipe's pixels after scaling, one number or one per channel: 0.485,0.456,0.406",
            "numbers",
            more="As for std and scale, without a recipe pictures are squeezed to the model's size.",
            group="Samples",
            metavar="NUMBERS",
        ),
    ] = None
    std: Annotated[
        str | float | Sequence[float] | None,
        Option(
            "of a recipe's pixels, by which they are divided last",
            "numbers",
            group="Samples",
            metavar="NUMBERS",
        ),
    ] = None
    scale: Annotated[
        str | float | None,
        Option("of a recipe's pixels from 0 to 255, before mean and std: 1/255", group="Samples", metavar="NUMBER"),
    ] = None
    recipe_fields: Annotated[
        Mapping[str, Any] | None,
        Option(
            "any field of a recipe, such as resize=letterbox; may be repeated (`onnxmpq recipes NAME`)",
            "fields",
            ("--recipe-field",),
            group="Samples",
            metavar="FIELD=VALUE",
        ),
    ] = None

    def __post_init__(self) -> None:
        accept(self)
        _ = self.overrides
        for declared in options_of(type(self)).values():
            least, value = declared.option.least, getattr(self, declared.name)
            if least is not None and value < least:
                raise UsageError(f"{declared.flags[0]} {value}: must be at least {least}")

    @cached_property
    def overrides(self) -> dict[str, Any]:
        """Fields of the recipe that are given beside it."""
        found = dict(self.recipe_fields or {})
        for name in ("mean", "std"):
            if (given := getattr(self, name)) is not None:
                found[name] = numbers(given, f"--{name}")
        return found if self.scale is None else {**found, "divide": divisor(self.scale)}

    @property
    def effective_recipe(self) -> str | Recipe | None:
        """The recipe with its overrides. Raises CalibrationError where they do not fit."""
        return override(self.recipe, self.overrides) if self.overrides else self.recipe


Shape = Annotated[
    Mapping[str, str | Sequence[int]] | None,
    Option(
        "shape of an input that is timed: NAME=8x3x224x224, or several: NAME=1x16@0.7,1x128@0.3 (docs/latency)",
        "shapes",
        group="Target",
        metavar="NAME=SIZES",
        example=["NAME=8x3x224x224"],
    ),
]


Memory = Annotated[
    str | None,
    Option(
        "200MB, or 60% of the original: most that a session may take with one run; measured (docs/latency)",
        more="No plan is chosen by it: a result that takes more is refused.",
        group="Budgets",
        metavar="SIZE",
    ),
]


@dataclass(frozen=True, kw_only=True, eq=False)
class QualityOptions(SampleOptions):
    """Quality floors, and whatever they are judged by: labels, a metric, kinds of outputs."""

    outputs: Annotated[
        Mapping[str, OutputKind] | None,
        Option(
            "NAME=logits|probabilities|values, where the guess is wrong",
            "kinds",
            ("--output-kind",),
            group="Quality",
            metavar="NAME=KIND",
            example=["NAME=logits"],
        ),
    ] = None
    min_sqnr: Annotated[
        str | float | None, Option("quality floor: 30dB at the worst output", group="Quality", metavar="DECIBELS")
    ] = None
    max_divergence: Annotated[
        str | float | None,
        Option("quality floor: 0.01, KL in nats or relative error", group="Quality", metavar="NUMBER"),
    ] = None
    min_agreement: Annotated[
        str | float | None, Option("quality floor: 99% same top class as fp32", group="Quality", metavar="SHARE")
    ] = None
    max_drop: Annotated[
        str | float | None,
        Option("quality floor: 0.5% of the metric on labelled samples", group="Quality", metavar="SHARE"),
    ] = None
    labels: Annotated[
        Any,
        Option(
            "of the samples: .npy, .npz:NAME or .csv",
            more="From Python also an array or a list, one label per sample.",
            group="Quality",
            metavar="FILE",
        ),
    ] = None
    metric: Annotated[
        str | MetricFunction | None,
        Option(
            "module:function of (outputs by name, labels), higher is better; default top-1",
            group="Quality",
            metavar="FUNCTION",
        ),
    ] = None
    guard: Annotated[
        bool,
        Option(
            "refuse a bad result where no floor is given; fastest prefers a good one (docs/quality)",
            "switch",
            group="Quality",
        ),
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.floors.require_labels(self.labels is not None or self.metric is not None)
        for name, kind in (self.outputs or {}).items():
            if kind not in KINDS:
                raise UsageError(f"outputs: {name!r} is {kind!r}; the kinds of outputs are {', '.join(KINDS)}")

    @cached_property
    def floors(self) -> Floors:
        """Quality floors, empty where there is none."""
        return parse_floors(self.min_sqnr, self.max_divergence, self.min_agreement, self.max_drop)
