"""The request: what a user asks of `convert`. Values are checked as far as that is possible without the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from onnxmpq.allocate import DEFAULT as DEFAULT_SOLVER
from onnxmpq.allocate import QUANTITIES, SOLVERS, Budgets, parse_budgets, require_solver
from onnxmpq.cost import Effort
from onnxmpq.deployment import CHOICES as CPUS
from onnxmpq.errors import UsageError
from onnxmpq.floors import Floors, MetricFunction, parse_floors
from onnxmpq.output import require_report_format
from onnxmpq.progress import Progress
from onnxmpq.ranges import CHOICES as RANGES
from onnxmpq.ranges import Calibration, require_estimator
from onnxmpq.request.options import Option, options_of
from onnxmpq.sensitivity import KINDS, OutputKind
from onnxmpq.weights import TECHNIQUES, Techniques
from onnxmpq.weights import without as all_but

DEFAULT_SAMPLES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """The options of `convert`. Raises UsageError for a value that no model makes right.

    Names are those of Python's arguments and of config files; the command line's are in the options' flags.
    """

    latency: Annotated[
        str | None, Option("5ms, 60% of the original, or fastest", more="Without any budget the fastest plan is made.")
    ] = None
    size: Annotated[str | None, Option("3MB, 25% of the original, or smallest")] = None
    energy: Annotated[str | None, Option("3mJ or 50% of the original, on targets with energies")] = None
    output: Annotated[
        str | Path | None,
        Option(
            "model to write, with its plan beside it; default of the command line: MODEL with .mpq.onnx",
            "file",
            ("--output", "-o"),
        ),
    ] = None
    calibration: Annotated[
        Any,
        Option(
            ".npz, folder of .npy or pictures, token file, or module:function (docs/calibration)",
            flags=("--calib",),
            more="From Python also arrays by input name, an iterable of feeds or an onnxruntime CalibrationDataReader. "
            "Without it inputs are made up.",
        ),
    ] = None
    recipe: Annotated[str | None, Option("how pictures, text or audio become inputs")] = None
    samples: Annotated[int, Option("largest number of calibration samples", "whole", least=1)] = DEFAULT_SAMPLES
    target: Annotated[str, Option("a name from `onnxmpq targets`, or a .toml file")] = "cpu"
    provider: Annotated[str | None, Option("onnxruntime execution provider instead of the target's")] = None
    deploy_cpu: Annotated[
        str,
        Option(
            f"where int8 must be exact: {', '.join(CPUS)} (docs/overflow)",
            more="Weights that saturate no x86 kernel for any and avx2, the full range of int8 for the others.",
        ),
    ] = "any"
    threads: Annotated[int, Option("threads of the runtime while measuring", "whole", least=1)] = 1
    exclude: Annotated[
        Iterable[str], Option("node name, glob or /regex/ to leave in float32; may be repeated", "texts")
    ] = ()
    schemes: Annotated[
        Iterable[str],
        Option("use no other schemes than this; may be repeated (`inspect` lists them)", "texts", ("--scheme",)),
    ] = ()
    opset: Annotated[int | None, Option("of the result; 19 holds fp8, 21 (default) also int4", "whole")] = None
    batch: Annotated[int | None, Option("samples at a time on a modelled target; costs per sample", "whole")] = None
    keep_io: Annotated[
        bool, Option("inputs and outputs stay float32, or are 16 bits wide where the plan has them so", "switch")
    ] = True
    outputs: Annotated[
        Mapping[str, OutputKind] | None,
        Option("NAME=logits|probabilities|values, where the guess is wrong", "kinds", ("--output-kind",)),
    ] = None
    cost_table: Annotated[
        str | Path | None, Option("costs measured by `onnxmpq profile`, instead of measuring here", "file")
    ] = None
    ranges: Annotated[
        str | Path | Calibration | None,
        Option("activation ranges from `onnxmpq calibrate`, instead of calibrating here", "file"),
    ] = None
    estimator: Annotated[
        str,
        Option(
            f"of activation ranges: {', '.join(RANGES)}",
            more="auto chooses for each tensor by the error of the outputs.",
        ),
    ] = "auto"
    without: Annotated[Iterable[str], Option(f"switch off: {', '.join(TECHNIQUES)}; may be repeated", "texts")] = ()
    min_sqnr: Annotated[str | float | None, Option("quality floor: 30dB at the worst output")] = None
    max_divergence: Annotated[str | float | None, Option("quality floor: 0.01, KL in nats or relative error")] = None
    min_agreement: Annotated[str | float | None, Option("quality floor: 99% same top class as fp32")] = None
    max_drop: Annotated[str | float | None, Option("quality floor: 0.5% of the metric on labelled samples")] = None
    labels: Annotated[str | Path | None, Option("of the samples: .npy, .npz:NAME or .csv")] = None
    metric: Annotated[
        str | MetricFunction | None,
        Option("module:function of (outputs by name, labels), higher is better; default top-1"),
    ] = None
    guard: Annotated[
        bool, Option("refuse a bad result where no floor is given; fastest prefers a good one (docs/quality)", "switch")
    ] = True
    solver: Annotated[
        str,
        Option(
            f"of the allocation problem: {', '.join(SOLVERS)}",
            more="milp is exact and knows what a change of format costs; the others are baselines.",
        ),
    ] = DEFAULT_SOLVER
    best_effort: Annotated[bool, Option("write the closest plan where a budget cannot be met", "switch")] = False
    curve: Annotated[str | Path | None, Option("also write the trade-off curve to this .csv", "file")] = None
    report: Annotated[
        str | Path | None,
        Option("also write the report: FILE.html is a page for people, FILE.json for programs (docs/report)", "file"),
    ] = None
    cache: Annotated[str | Path | bool, Option("folder of values to reuse (docs/cache)", "cache")] = True
    seed: Annotated[int, Option("for everything random", "whole", least=0)] = 0
    effort: Annotated[Effort | None, Option("how long kernels and plans are timed", "python")] = None
    progress: Annotated[Progress | None, Option("is told of stages, remarks and warnings", "python")] = None

    def __post_init__(self) -> None:
        for name in ("exclude", "schemes", "without"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for declared in options_of(Request).values():
            least, value = declared.option.least, getattr(self, declared.name)
            if least is not None and value < least:
                raise UsageError(f"{declared.flags[0]} {value}: must be at least {least}")
        self.floors.require_labels(self.labels is not None or self.metric is not None)
        if self.report is not None:
            require_report_format(self.report)
        require_estimator(self.estimator)
        require_solver(self.solver)
        for name, kind in (self.outputs or {}).items():
            if kind not in KINDS:
                raise UsageError(f"outputs: {name!r} is {kind!r}; the kinds of outputs are {', '.join(KINDS)}")
        _ = self.budgets, self.techniques

    @cached_property
    def budgets(self) -> Budgets:
        """Empty where there is none."""
        return parse_budgets(**{name: getattr(self, name) for name in QUANTITIES})

    @cached_property
    def floors(self) -> Floors:
        """Quality floors, empty where there is none."""
        return parse_floors(self.min_sqnr, self.max_divergence, self.min_agreement, self.max_drop)

    @cached_property
    def techniques(self) -> Techniques:
        """Techniques that may be applied to weights."""
        return all_but(self.without)
