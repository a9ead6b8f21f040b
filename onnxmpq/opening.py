"""The opening that `convert`, `calibrate`, `profile` and `inspect` share: a target, and a model prepared for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.allocate import QUANTITIES, Budgets
from onnxmpq.context import Context
from onnxmpq.deployment import DeployCpu, needs_exact_integers
from onnxmpq.deployment import deploy_cpu as parse_deploy_cpu
from onnxmpq.dialects import DIALECTS, Dialect
from onnxmpq.errors import TargetError
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import Feeds, Recipe, Timed, find_recipe
from onnxmpq.files import check_writable, plan_path
from onnxmpq.menu import (
    Menu,
    blocks_alone,
    candidates,
    check_requested,
    for_goal,
    one_activation_format,
    require_candidates,
    require_half,
)
from onnxmpq.model import Model, Step, coupled_layers, prepare, require_opset
from onnxmpq.progress import Progress, Silent
from onnxmpq.quality import Metric
from onnxmpq.request import Request, Source
from onnxmpq.runtimes import Rules, SessionSettings, require_provider
from onnxmpq.samples import Samples, agreeing, gather_samples
from onnxmpq.schemes import FP32
from onnxmpq.sensitivity import AUTO
from onnxmpq.target import Target, load_target


@dataclass(frozen=True)
class Opened:
    """A model, prepared, and the target it is for. opset: that the model was to be converted to, if any."""

    source: Source
    model: Model
    device: Target
    opset: int | None = None

    @property
    def dialect(self) -> Dialect:
        """Writes rewritten graphs for the target."""
        return DIALECTS[self.device.dialect]

    def menu(
        self,
        excluded: Iterable[str] = (),
        requested: Iterable[str] = (),
        cpu: DeployCpu | None = None,
        patterns: Mapping[str, Sequence[str]] | None = None,
    ) -> Menu:
        """See `onnxmpq.menu.candidates`."""
        return candidates(self.model, self.device, self.dialect, excluded, requested, cpu, patterns)

    def rules(self, model: Model, feeds: Feeds, couple: str = AUTO) -> Rules:
        """The runtime's rules for a model (this one, or its channels rescaled), for tensors' ranks in a run of the
        typical sample. couple: one of `COUPLE`."""
        rules = self.device.rules(model, {t: len(s) for t, s in float_shapes(model, feeds).items()})
        coupled = couple == "on" or (couple == AUTO and self.device.merges_layers)
        return replace(rules, together=coupled_layers(model)) if coupled else rules

    def with_samples(
        self, calibration: Any, recipe: str | Recipe | None, limit: int, context: Context
    ) -> tuple[Opened, Samples]:
        """The samples, and the model without steps of preparing that change an output on them.

        See `onnxmpq.samples.gather_samples` and `agreeing`.
        """
        with context.progress.stage("reading samples and trying the model on them", 0):
            data = gather_samples(self.model, calibration, recipe, limit, context, self.source)
            model = agreeing(self.source, self.model, data.calibration, self.opset)
        for note in model.notes:
            if note not in self.model.notes:
                context.progress.warn(note)
        return replace(self, model=model), data


def as_given(source: Source) -> Any:
    """A proto as it is, a path as text: the reference of comparisons."""
    return source if isinstance(source, onnx.ModelProto) else str(source)


def in_step(timed: Timed) -> str:
    """A decoder's phase, for the cost table that was timed in it; "" for other models."""
    return f"step {timed.first.step}" if timed.first.step else ""


def say_timed(timed: Timed, progress: Progress) -> None:
    """The inputs that latencies are about, where samples of different shapes leave it open."""
    if timed.first.timed:
        progress.say(timed.first.timed)


def open_target(name: str, batch: int | None = None) -> Target:
    """A target by name or file, serving `batch` samples at a time. Raises TargetError."""
    found = load_target(name)
    device = found if batch is None else found.serving(batch)
    if device.dialect not in DIALECTS:
        raise TargetError(f"target {device.name}: dialect {device.dialect!r} is not available; use another target")
    return device


def open_model(
    source: Source,
    device: Target,
    opset: int | None = None,
    progress: Progress | None = None,
    *,
    provider: str | None = None,
    replan_blocks: bool = False,
) -> Opened:
    """The model, folded and cut into regions. provider: of the runtime, None for the target's. replan_blocks: weights
    that are in blocks become float32 first. Raises ModelError."""
    with (progress or Silent()).stage("preparing the model", 0):
        left_out = () if replan_blocks else (Step.UNPACK_BLOCKS,)
        model = prepare(source, opset, left_out, lambda step: device.takes(step, provider))
        return Opened(source, model, device, opset)


@dataclass(frozen=True)
class Asked:
    """A request and what follows from it before the model is read.

    budgets: never empty. cpu: the deployment CPU. settings: of sessions that are timed.
    """

    request: Request
    budgets: Budgets
    device: Target
    cpu: DeployCpu
    settings: SessionSettings

    @classmethod
    def of(cls, source: Source, request: Request, context: Context) -> Asked:
        """Raises UsageError, CalibrationError for a recipe that there is not and for floors without samples,
        TargetError, and OutputError for files that cannot be written."""
        request.floors.require_data(request.calibration is None)
        budgets = request.budgets
        if budgets.empty:
            budgets = Budgets(fastest=True)
            what = "no budget" if request.floors.empty else "a quality floor and no budget"
            context.progress.say(f"{what} given: converting for the lowest latency (as --latency fastest)")
        device = open_target(request.target, request.batch)
        for name in budgets.limits:
            QUANTITIES[name].require(device)
        if request.memory is not None and not device.measured:
            raise TargetError(f"--memory: target {device.name} is modelled, no session runs there; leave it out")
        settings = SessionSettings(threads=request.threads).on(device.runs_on(request.provider))
        cpu = parse_deploy_cpu(request.deploy_cpu, device, request.provider)
        require_provider(settings.provider)
        further = {name for schemes in request.patterns.values() for name in schemes}
        check_requested(frozenset((*request.schemes, *further)) - {FP32}, device)
        if request.opset is not None:
            require_opset(request.opset)
        if request.effective_recipe is not None:
            find_recipe(request.effective_recipe)
        Metric.named(request.metric)
        if request.output is not None:
            check_writable(Path(request.output), None if isinstance(source, onnx.ModelProto) else Path(source))
            check_writable(plan_path(Path(request.output)))
        for written in (request.curve, request.report):
            if written is not None:
                check_writable(Path(written))
        return cls(request, budgets, device, cpu, settings)

    @property
    def exact_integers(self) -> bool:
        """Quality is measured in sessions that compute int8 exactly."""
        return needs_exact_integers(self.cpu)

    @property
    def small(self) -> bool:
        """A quantity is asked for that follows from what is stored."""
        return any(QUANTITIES[name].of_storage for name in self.budgets.asked)

    @property
    def fast(self) -> bool:
        """A quantity is asked for that follows from the kernels that run."""
        return any(not QUANTITIES[name].of_storage for name in self.budgets.asked)

    def stages(self, opened: Opened) -> list[tuple[str, Menu]]:
        """Menus from all that the target lists to what serves the budgets, with why each is shorter than the last."""
        saves = "its weights are smaller, not faster" if not self.small else "it saves time, not bytes"
        why = (
            "excluded, or not among the schemes that were asked for",
            "another format of activations reaches more of the model",
            f"{saves}, and no {'size' if not self.small else 'latency'} was asked for",
            "of a large model, weights in blocks are as small, and computed with as they are",
        )
        return [("", opened.menu(cpu=self.cpu)), *zip(why, self._offered(opened), strict=True)]

    def _offered(self, opened: Opened) -> tuple[Menu, Menu, Menu, Menu]:
        """Schemes that were asked for, those with one format of activations, of these what serves the budgets, and what
        a model of this size has time for."""
        request = self.request
        listed = opened.menu(request.exclude, request.schemes, self.cpu, request.patterns)
        consistent = one_activation_format(opened.model, listed)
        measured = self.device.measured
        serving = for_goal(consistent, small=self.small, fast=self.fast) if measured else consistent
        large = opened.model.store.spill is not None and measured and not request.schemes
        return listed, consistent, serving, blocks_alone(serving) if large else serving

    def menu(self, opened: Opened) -> Menu:
        """Schemes per region, before anything is observed or timed. Raises NothingToQuantizeError and UsageError."""
        request = self.request
        *_, offered = self._offered(opened)
        require_candidates(opened.model, offered, bool(request.exclude or request.patterns))
        if not request.keep_io:
            require_half(offered, self.device)
        return offered
