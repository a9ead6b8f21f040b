"""The request: what a user asks of `convert`. Values are checked as far as that is possible without the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from onnxmpq.allocate import DEFAULT as DEFAULT_SOLVER
from onnxmpq.allocate import QUANTITIES, SOLVERS, Budgets, Limit, parse_budgets, parse_memory, require_solver
from onnxmpq.cost import Effort
from onnxmpq.deployment import CHOICES as CPUS
from onnxmpq.errors import UsageError
from onnxmpq.feeds import Share, shares_of
from onnxmpq.files import nearest, require_report_format
from onnxmpq.progress import Progress
from onnxmpq.ranges import CHOICES as RANGES
from onnxmpq.ranges import Calibration, require_estimator
from onnxmpq.request.options import Option
from onnxmpq.request.parts import Memory, QualityOptions, Shape
from onnxmpq.request.patterns import patterns_of
from onnxmpq.schemes import FP32
from onnxmpq.sensitivity import AUTO, require_method
from onnxmpq.sensitivity import CHOICES as METHODS
from onnxmpq.weights import TECHNIQUES, Techniques
from onnxmpq.weights import without as all_but

COUPLE = (AUTO, "on", "off")


@dataclass(frozen=True, kw_only=True, eq=False)
class Request(QualityOptions):
    """The options of `convert`. Raises UsageError for a value that no model makes right.

    Names are those of Python's arguments and of config files; the command line's are in the options' flags.
    """

    latency: Annotated[
        str | None,
        Option(
            "5ms, 60% of the original, or fastest",
            more="Without any budget the fastest plan is made.",
            group="Budgets",
            metavar="DURATION",
        ),
    ] = None
    size: Annotated[str | None, Option("3MB, 25% of the original, or smallest", group="Budgets", metavar="SIZE")] = None
    energy: Annotated[
        str | None, Option("3mJ or 50% of the original, on targets with energies", group="Budgets", metavar="ENERGY")
    ] = None
    memory: Memory = None
    output: Annotated[
        str | Path | None,
        Option(
            "model to write, with its plan beside it; default of the command line: MODEL with .mpq.onnx",
            "file",
            ("--output", "-o"),
            group="Files",
            metavar="FILE",
        ),
    ] = None
    target: Annotated[
        str, Option("a name from `onnxmpq targets`, or a .toml file", group="Target", metavar="TARGET")
    ] = "cpu"
    provider: Annotated[
        str | None, Option("onnxruntime execution provider instead of the target's", group="Target", metavar="PROVIDER")
    ] = None
    deploy_cpu: Annotated[
        str,
        Option(
            f"where int8 must be exact: {', '.join(CPUS)} (docs/overflow)",
            more="Weights that saturate no x86 kernel for any and avx2, the full range of int8 for the others.",
            group="Target",
            metavar="CPU",
        ),
    ] = "any"
    threads: Annotated[
        int,
        Option(
            "of the sessions that the latency budget is about; 0: as a default session, one per core",
            "whole",
            least=0,
            group="Target",
            metavar="N",
        ),
    ] = 1
    shape: Shape = None
    set: Annotated[
        Mapping[str, str | Iterable[str]] | None,
        Option(
            "PATTERN=SCHEME[|SCHEME]: node name, glob, /regex/ or operator type; may be repeated (docs/options)",
            "patterns",
            more="From Python by pattern: {'Softmax': 'fp32', 'head*': ['int8', 'w8']}. The last that matches wins.",
            group="Schemes",
            metavar="PATTERN=SCHEME",
        ),
    ] = None
    exclude: Annotated[
        Iterable[str],
        Option(
            "leave in float32, as --set PATTERN=fp32; wins over --set; may be repeated",
            "texts",
            group="Schemes",
            metavar="PATTERN",
        ),
    ] = ()
    schemes: Annotated[
        Iterable[str],
        Option(
            "use no other schemes than this; may be repeated (`inspect` lists them)",
            "texts",
            ("--scheme",),
            group="Schemes",
            metavar="SCHEME",
        ),
    ] = ()
    opset: Annotated[
        int | None,
        Option(
            "of the result; 19 holds fp8, 21 (default) also int4", "whole", group="Schemes", metavar="N", example=21
        ),
    ] = None
    replan_blocks: Annotated[
        bool,
        Option(
            "plan layers anew that the model has in MatMulNBits, or keep them as they are (docs/blocks)",
            "switch",
            group="Schemes",
        ),
    ] = False
    batch: Annotated[
        int | None,
        Option(
            "samples at a time on a modelled target; costs per sample", "whole", group="Target", metavar="N", example=1
        ),
    ] = None
    keep_io: Annotated[
        bool,
        Option(
            "inputs and outputs stay float32, or are 16 bits wide where the plan has them so", "switch", group="Schemes"
        ),
    ] = True
    verify: Annotated[
        bool,
        Option(
            "also build the result with the target's compiler, and write nothing that it refuses (docs/tensorrt)",
            "switch",
            group="Target",
        ),
    ] = False
    cost_table: Annotated[
        str | Path | None,
        Option(
            "costs measured by `onnxmpq profile`, instead of measuring here", "file", group="Target", metavar="FILE"
        ),
    ] = None
    ranges: Annotated[
        str | Path | Calibration | None,
        Option(
            "activation ranges from `onnxmpq calibrate`, instead of calibrating here",
            "file",
            group="Method",
            metavar="FILE",
        ),
    ] = None
    estimator: Annotated[
        str,
        Option(
            f"of activation ranges: {', '.join(RANGES)}",
            more="auto chooses for each tensor by the error of the outputs.",
            group="Method",
            metavar="NAME",
        ),
    ] = "auto"
    effects: Annotated[
        str,
        Option(
            f"how the effect of a scheme is measured: {', '.join(METHODS)} (docs/quality)",
            more="full runs the rest of the model for each, block the rest of its block; auto decides by their time.",
            group="Method",
            metavar="NAME",
        ),
    ] = AUTO
    without: Annotated[
        Iterable[str],
        Option(f"switch off: {', '.join(TECHNIQUES)}; may be repeated", "texts", group="Method", metavar="TECHNIQUE"),
    ] = ()
    solver: Annotated[
        str,
        Option(
            f"of the allocation problem: {', '.join(SOLVERS)}",
            more="milp is exact and knows what a change of format costs; the others are baselines.",
            group="Method",
            metavar="NAME",
        ),
    ] = DEFAULT_SOLVER
    couple: Annotated[
        str,
        Option(
            f"one scheme for q, k and v of an attention, gate and up of an MLP: {', '.join(COUPLE)} (docs/plans)",
            more="auto does so where the target merges such layers.",
            group="Method",
            metavar="WHEN",
        ),
    ] = AUTO
    best_effort: Annotated[
        bool, Option("write the closest plan where a budget cannot be met", "switch", group="Budgets")
    ] = False
    cluster: Annotated[
        Any,
        Option(
            "Dask scheduler whose workers share the work, as tcp://HOST:8786, or local:N for N here (docs/cluster)",
            more="From Python also a distributed.Client.",
            group="Cluster",
            metavar="ADDRESS",
        ),
    ] = None
    cluster_folder: Annotated[
        str | Path | None,
        Option(
            "folder that all workers see, through which models travel; without, from worker to worker",
            "file",
            group="Cluster",
            metavar="FOLDER",
        ),
    ] = None
    device: Annotated[
        str | None,
        Option(
            "measure latency on the workers of --cluster that have the resource onnxmpq-NAME (docs/cluster)",
            group="Cluster",
            metavar="NAME",
        ),
    ] = None
    curve: Annotated[
        str | Path | None, Option("also write the trade-off curve to this .csv", "file", group="Files", metavar="FILE")
    ] = None
    report: Annotated[
        str | Path | None,
        Option(
            "also write the report: FILE.html is a page for people, FILE.json for programs (docs/report)",
            "file",
            group="Files",
            metavar="FILE",
        ),
    ] = None
    cache: Annotated[
        str | Path | bool, Option("folder of values to reuse (docs/cache)", "cache", group="Files", metavar="FOLDER")
    ] = True
    seed: Annotated[int, Option("for everything random", "whole", least=0, group="Method", metavar="N")] = 0
    effort: Annotated[Effort | None, Option("how long kernels and plans are timed", "python", group="Python only")] = (
        None
    )
    progress: Annotated[
        Progress | None, Option("is told of stages, remarks and warnings", "python", group="Python only")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.report is not None:
            require_report_format(self.report)
        require_estimator(self.estimator)
        require_method(self.effects)
        if self.couple not in COUPLE:
            raise UsageError(f"--couple {self.couple}: {nearest(self.couple, COUPLE, 'the choices are')}")
        require_solver(self.solver)
        _ = self.memory_limit, self.budgets, self.techniques, self.patterns, self.shapes

    @cached_property
    def budgets(self) -> Budgets:
        """Empty where there is none."""
        return parse_budgets(**{name: getattr(self, name) for name in QUANTITIES})

    @cached_property
    def memory_limit(self) -> Limit | None:
        """Bytes of a session, None where they are not limited."""
        return parse_memory(self.memory)

    @cached_property
    def shapes(self) -> tuple[Share, ...]:
        """Of the inputs that are timed, with their shares; empty where a sample's are."""
        return shares_of(self.shape)

    @cached_property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        """Names of schemes by pattern, as set."""
        return patterns_of(self.set or {})

    @property
    def recorded_patterns(self) -> dict[str, str]:
        """Patterns with their schemes as plans have them, `exclude` last."""
        excluded = dict.fromkeys(self.exclude, FP32)
        given = {p: "|".join(schemes) for p, schemes in self.patterns.items() if p not in excluded}
        return {**given, **excluded}

    @cached_property
    def techniques(self) -> Techniques:
        """Techniques that may be applied to weights."""
        return all_but(self.without)
