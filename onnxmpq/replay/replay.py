"""Replay: a plan file and its model give the converted model again, byte for byte; an edited plan gives another one."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec

import onnx

from onnxmpq.context import Context
from onnxmpq.cost import Effort
from onnxmpq.deployment import DeployCpu, named, scheme_for, unproven
from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.errors import PlanError, UsageError
from onnxmpq.feeds import TIMED, Feeds, Recipe, shares_of
from onnxmpq.files import check_writable, dump_json, plain, plan_path, serialize, shown, write_model, write_result
from onnxmpq.integrity import require_whole
from onnxmpq.isolation import isolated
from onnxmpq.model import LayerWeight, Model, Region, Step, prepare, serialized_bytes
from onnxmpq.plan import RETOUCHED, Plan, at_point, in_units, read_plan, stamp
from onnxmpq.profiling import sessions_in_words
from onnxmpq.progress import Progress
from onnxmpq.provenance import describe_runtime, other_features, other_versions
from onnxmpq.quality import MetricFunction, Validation
from onnxmpq.replay.editing import SHOWN, as_edited, require_offered, require_whole_plan, shown_edits, target_of
from onnxmpq.replay.remeasure import Judging, Sessions, feeds_for, remeasured
from onnxmpq.report import USE_IT, on_quality
from onnxmpq.request import DEFAULT_SAMPLES, Source, accepts, parse_step, require_source
from onnxmpq.rescale import restore_factors, restore_order
from onnxmpq.rounding import QuantizedWeight, WeightFormat
from onnxmpq.schemes import Scheme, scheme_named
from onnxmpq.sensitivity import OutputKind
from onnxmpq.shipping import Exactness, Labelled, require_verifiable, verified, verified_note
from onnxmpq.shown import Shown
from onnxmpq.target import load_target
from onnxmpq.weights import PackedWeight, Techniques, pack, restore_biases, restore_weight, round_for_inputs

Given = ParamSpec("Given")
Weights = dict[tuple[str, str], QuantizedWeight]


@dataclass(frozen=True, eq=False, repr=False)
class Applied(Shown):
    """A model, and the plan that it has: the one that was given, or what became of an edited one.

    validation: against the original, where it was measured. sessions: memory and load time of the original and of the
    model, where they were measured.
    """

    model: onnx.ModelProto
    plan: Plan
    validation: Validation | None = None
    sessions: Sessions | None = None

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        heading, facts = self.plan.shown()
        sessions = [] if self.sessions is None else [("sessions", sessions_in_words(*self.sessions))]
        return heading, [*facts, *([] if self.validation is None else self.validation.shown()[1]), *sessions]


@accepts
@isolated()
def apply_plan(
    model: Source,
    plan: Plan | str | Path | Mapping[str, Any],
    *,
    deploy_cpu: str | None = None,
    output: str | Path | None = None,
    point: int | None = None,
    measure: bool = False,
    verify: bool = False,
    calibration: Any = None,
    recipe: str | Recipe | None = None,
    samples: int = DEFAULT_SAMPLES,
    labels: Any = None,
    metric: str | MetricFunction | None = None,
    outputs: Mapping[str, OutputKind] | None = None,
    shape: Mapping[str, str | Sequence[int]] | None = None,
    step: str | None = None,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Write a plan into its model again; `progress` hears of what may make a difference.

    deploy_cpu: on which CPU the weights must compute exactly, as for `convert`; None for the plan's own.
    output: model to write, with the plan beside it.
    point: number of a point of the plan's trade-off curve, to be applied instead of the plan.
    measure: take quality, latency, memory and load time again, on `calibration` (made-up samples without).
    verify: also build the result with the target's compiler, as for `convert`, and write nothing that it refuses.
    calibration, recipe, samples: as for `convert`. Weights that an edited plan does not have are rounded for them.
    labels, metric, outputs, shape, step: as for `convert`, to measure with, and shape to verify with; shape and step
    are the plan's own without.

    Raises PlanError where the plan belongs to another model, is damaged, lacks an entry, or asks for what the model or
    its target does not have; UsageError for arguments that do not go together; CompilerError for `verify`.
    """
    require_source(model)
    heard = progress or Progress()
    by = {"labels": labels, "metric": metric, "output_kind": outputs, "step": step}
    by["shape"] = None if verify else shape
    _require_together(recipe is not None and calibration is None, recipe, by, measure)
    cpu = None if deploy_cpu is None else named(deploy_cpu)
    given, plan = plan, _as_plan(plan)
    if verify:
        require_verifiable(load_target(plan.target))
    destination = _Destination.of(output, model, given, point)
    if retouched := RETOUCHED in plan.notes:
        heard.warn(RETOUCHED)
    chosen = plan if point is None else at_point(plan, point)
    prepared = _prepared(model, chosen, cpu)
    feeds = feeds_for(model, calibration, recipe, samples) if measure or calibration is not None else None
    complete, nearest_rounded = _with_weights(prepared, chosen, None if calibration is None else feeds, heard)
    proto = rebuild(prepared, complete, cpu)
    if prepared.store.spill is not None:
        prepared.store.spill.keep_until_exit()  # what is handed out refers to its files
    require_whole(proto, prepared.proto, prepared.regions, keep_io=plan.keep_io)
    edits = () if point is None else chosen.edits
    stands = _edited(prepared, complete, proto, nearest_rounded, edits) if complete.changed else complete
    _tell_edits(stands, heard, again=complete.changed, by_hand=point is None, measured=measure)
    if stands.decisions_sha256:
        stamp(proto, stands)
    for line in remarks(stands, proto):
        heard.warn(line)
    applied = Applied(proto, _with_size(stands, proto))
    shapes = shares_of(shape if shape is not None else stands.options.get("shape"))
    if verify:
        heard.say(verified_note(verified(proto, load_target(plan.target), shapes, feeds)))
    if measure:
        assert feeds is not None
        phase = parse_step(step if step is not None else stands.options.get("step"))
        judging = Judging(Labelled.of(labels, metric), outputs or {}, shapes, phase)
        applied = _measured(model, applied, feeds, judging, effort or Effort(), heard)
    destination.write(applied, plan_too=measure or complete.changed or retouched)
    return applied


def _model_alone(function: Callable[Given, Applied]) -> Callable[Given, onnx.ModelProto]:
    """`apply`: with the arguments of `apply_plan`."""

    @functools.wraps(function)
    def apply(*args: Given.args, **options: Given.kwargs) -> onnx.ModelProto:
        return function(*args, **options).model

    apply.__name__ = apply.__qualname__ = "apply"
    apply.__doc__ = f"""The model of a plan, byte for byte as `convert` wrote it where the plan was not edited.

    As `apply_plan`, whose result also has the plan as it now stands: {function.__doc__}"""
    return apply


apply = _model_alone(apply_plan)


@dataclass(frozen=True)
class _Destination:
    """Where the model goes, if anywhere. same: the plan that is applied lies beside it."""

    path: Path | None
    same: bool

    @classmethod
    def of(cls, output: str | Path | None, model: Source, plan: object, point: int | None) -> _Destination:
        """Raises UsageError or OutputError where it cannot be written."""
        if output is None:
            return cls(None, same=False)
        path, beside = Path(output), plan_path(Path(output))
        same = isinstance(plan, str | Path) and os.path.exists(beside) and beside.samefile(plan)
        if same and point is not None:
            raise UsageError(
                f"--point {point}: {beside} would be overwritten by the plan of the point; give another output"
            )
        check_writable(path, None if isinstance(model, onnx.ModelProto) else Path(model))
        check_writable(beside)
        return cls(path, same)

    def write(self, applied: Applied, *, plan_too: bool) -> None:
        """plan_too: even over the plan that was applied."""
        if self.path is None:
            return
        if plan_too or not self.same:
            write_result(self.path, applied.model, applied.plan.to_json(), applied.plan.beside())
        else:
            write_model(self.path, applied.model)


def _require_together(unread: bool, recipe: object, by: Mapping[str, Any], measure: bool) -> None:
    """unread: there is a recipe and nothing to read by it. by: options of measuring. Raises UsageError."""
    if unread:
        raise UsageError(f"--recipe {recipe!r} says how to read --calib; give --calib too")
    for name in [name for name, value in by.items() if value is not None and not measure]:
        raise UsageError(f"--{name.replace('_', '-')} says how to measure; give --measure too")


def _prepared(model: Source, plan: Plan, cpu: DeployCpu | None) -> Model:
    """The plan's model, prepared as it was. Raises PlanError where it is another one or the plan does not fit it."""
    prepared = prepare(model, plan.opset, plan.steps_left_out, plan.steps_added.__contains__)
    if prepared.source_sha256 != plan.model.get("sha256"):
        raise PlanError(f"the plan belongs to another model ({plan.model.get('name')}, other content); plan this one")
    if cpu is not None and plan.deploy_cpu == DeployCpu.NONE:
        raise UsageError(f"--deploy-cpu {cpu}: the plan is for target '{plan.target}', which is no CPU")
    require_whole_plan(prepared, plan)
    require_offered(prepared, plan)
    return prepared


def _tell_edits(plan: Plan, heard: Progress, *, again: bool, by_hand: bool, measured: bool) -> None:
    """again: the plan was changed since it was written."""
    if again:
        tell = heard.warn if by_hand else heard.say
        tell(f"edited plan: {shown_edits(plan.edits)}{'' if measured else '; nothing was measured again'}")
        for note in plan.notes[1:]:
            heard.say(note)
    elif plan.edits:
        heard.say(f"edited plan: {shown_edits(plan.edits)}")


def _with_size(plan: Plan, proto: onnx.ModelProto) -> Plan:
    """A plan that is not of this file yet, as its plan."""
    if plan.output_sha256:
        return plan
    plan = replace(plan, output_sha256=hashlib.sha256(serialize(proto)).hexdigest())
    return replace(plan, measured={"size_bytes": serialized_bytes(proto)}).with_figures()


def _measured(
    model: Source, applied: Applied, feeds: Feeds, judging: Judging, effort: Effort, heard: Progress
) -> Applied:
    """With quality, latency and memory beside the original."""
    for note in feeds.notes:
        (heard.warn if feeds.synthetic else heard.say)(note)
    with heard.stage("measuring", 0):
        plan, validation, sessions = remeasured(model, applied.model, applied.plan, feeds, judging, effort)
    return replace(applied, plan=plan, validation=validation, sessions=sessions)


def in_words(applied: Applied) -> list[str]:
    """Lines on the model that was written: predicted for an edited plan, measured where it was."""
    plan, lines = applied.plan, []
    if plan.edits and plan.prediction:
        lines.append(f"predicted: {in_units(plan.prediction)}")
    if applied.validation is not None:
        lines.append(f"measured: {in_units(plan.measured)}")
        lines += [] if applied.sessions is None else [sessions_in_words(*applied.sessions)]
        lines += [note for note in plan.notes if TIMED in note]
        words = {True: "met", False: "NOT met", None: "not known to be met"}[plan.met]
        asked = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in plan.budgets.items())
        lines.append(f"budget of the plan: {asked}; {words}")
        reasons = "; ".join(plan.quality.get("reasons", ()))
        lines.append(f"quality: {plan.quality['level']}{f' ({reasons})' if reasons else ''}")
        lines.append(f"next: {'; '.join(_advice(plan)) or USE_IT}")
    return lines


def _advice(plan: Plan) -> Iterator[str]:
    """Steps to take after a plan was measured again, in the words of `convert`."""
    yield from on_quality(plan.quality["level"], synthetic=False)
    if plan.met is False:
        yield "the budget of the plan is not met here: convert again on this machine"
    elif plan.met is None:
        yield "measure on the target of the plan, with the labels of its floor, to know that its budget is met"


def as_dict(applied: Applied) -> dict[str, Any]:
    """JSON-ready."""
    plan = applied.plan
    return {
        "edits": list(plan.edits),
        "prediction": plain(plan.prediction),
        "measured": plain(plan.measured),
        "met": plan.met,
        "quality": plain(plan.quality),
        "notes": list(plan.notes),
        "validation": plain(applied.validation),
        "sessions": applied.sessions and dict(zip(("original", "result"), plain(applied.sessions), strict=True)),
    }


def _as_plan(plan: Plan | str | Path | Mapping[str, Any]) -> Plan:
    if isinstance(plan, Mapping):
        return Plan.from_json(dump_json(plan))
    if not isinstance(plan, Plan | str | Path):
        raise UsageError(f"{shown(plan)} is no plan; give the path of a .plan.json file, or a Plan")
    return plan if isinstance(plan, Plan) else read_plan(Path(plan))


def _edited(
    prepared: Model, plan: Plan, proto: onnx.ModelProto, nearest_rounded: Sequence[str], edits: Sequence[str]
) -> Plan:
    """The plan as it now stands, with what the written graph proves."""
    found = as_edited(prepared, plan, nearest_rounded, edits)
    assignment = {node: scheme_named(name) for node, name in found.schemes.items()}
    exactness = Exactness.of(proto, prepared, assignment, DeployCpu(found.deploy_cpu))
    return replace(found, exactness=exactness.in_words())


def remarks(plan: Plan, proto: onnx.ModelProto) -> list[str]:
    """Differences between this machine and the one that the plan was made on, as far as the user has to know it."""
    here, lines = describe_runtime(), []
    versions = other_versions(plan.runtime, here)
    if versions and plan.output_sha256 and hashlib.sha256(serialize(proto)).hexdigest() != plan.output_sha256:
        lines.append(
            f"this is not byte for byte the file that convert wrote: the plan was made with {', '.join(versions)}, or "
            "was edited; check it with `onnxmpq validate`"
        )
    if (apart := other_features(plan.runtime, here)) and plan.deploy_cpu != DeployCpu.ANY:
        lines.append(
            f"values were rounded for the kernels of {plan.runtime['cpu_features']}; this machine comes {apart}, and "
            "its kernels may compute other values: check quality with `onnxmpq validate`"
        )
    if lacking := _lacking(plan):
        lines.append(
            f"onnxruntime {here.get('onnxruntime', '')} computes something else than the plan's model says, for a step "
            f"of preparing that was taken where the plan was made ({', '.join(lacking)}): do not run the model here; "
            "convert it here, or update onnxruntime"
        )
    return lines


def _lacking(plan: Plan) -> list[str]:
    """Optional steps of the plan whose operators the runtime at hand does not compute right."""
    target = target_of(plan) if plan.steps_added else None
    return [str(step) for step in plan.steps_added if target is None or not target.takes(Step(step))]


def rebuild(model: Model, plan: Plan, cpu: DeployCpu | None = None) -> onnx.ModelProto:
    """The mixed-precision graph of a plan. cpu: on which the weights must compute exactly. Raises PlanError."""
    model = restore_order(restore_factors(model, plan.factors), plan.order)
    dialect, regions = DIALECTS[plan.dialect], {r.name: r for r in model.regions}
    assignment: dict[str, Scheme] = {}
    weights: Weights = {}
    for name, scheme_name in plan.schemes.items():
        region = regions[name]
        scheme = scheme_named(scheme_name)
        if not dialect.supports(region, scheme, model.opset):
            raise PlanError(f"layers: node {name!r} ({region.op_type}) cannot have scheme {scheme_name!r}")
        scheme = assignment[name] = scheme_for(region, scheme, DeployCpu(plan.deploy_cpu))
        for place in _stored_in(region, scheme):
            assert scheme.weight is not None
            weights[place.key, scheme.weight.name] = restore_weight(
                model, region, place, scheme.weight, plan.weights, plan.rounding
            )
    if cpu is not None and (wrong := unproven(model, assignment, weights, cpu)):
        raise PlanError(_beyond(wrong, plan, cpu))
    model = restore_biases(model, plan.biases)
    try:
        return dialect.rewrite(Rewrite(model, assignment, plan.activations, weights, model.roots, plan.keep_io))
    except KeyError as error:
        raise PlanError(f"activations: no parameters for tensor {error}; convert again instead of editing") from None


def _with_weights(model: Model, plan: Plan, feeds: Feeds | None, progress: Progress) -> tuple[Plan, list[str]]:
    """The plan with rounded weights for the schemes that it has, and the regions for which it has none.

    In this order: its own, those of the curve's points, rounded for the samples. Weights of schemes that no region has
    any more are left out.
    """
    if not plan.changed:
        return plan, []
    model = restore_order(restore_factors(model, plan.factors), plan.order)
    found: dict[str, PackedWeight] = {}
    missing: dict[tuple[str, str], WeightFormat] = {}
    for region in model.layers:
        name = plan.schemes.get(region.name)
        scheme = None if name is None else scheme_for(region, scheme_named(name), DeployCpu(plan.deploy_cpu))
        for place in _stored_in(region, scheme):
            assert scheme is not None and scheme.weight is not None
            packed = _packed_in(plan, place.key, scheme.weight.name)
            if packed is None:
                missing[place.key, scheme.weight.name] = scheme.weight
            else:
                found[place.key] = packed
    if missing and feeds is not None:
        context = Context(progress)
        rounded = round_for_inputs(model, missing, feeds, Techniques(), context, alone=True)
        found |= {key: pack(weight, model.store.spill) for (key, _), weight in rounded.items()}
        missing = {key: spec for key, spec in missing.items() if key not in rounded}
    places = model.weights
    regions = dict.fromkeys(places[key][0].name for key, _ in missing)
    unbiased = {r: b for r, b in plan.biases.items() if plan.chosen.get(r) == plan.schemes.get(r)}
    return replace(plan, weights=found, biases=unbiased), [r for r in regions if _loses(plan, r)]


def _loses(plan: Plan, region: str) -> bool:
    """True for a scheme whose weights are worth more than rounding to nearest: one that was changed by hand."""
    return not plan.chosen or plan.chosen.get(region) != plan.schemes.get(region)


def _packed_in(plan: Plan, key: str, weight_format: str) -> PackedWeight | None:
    own = plan.weights.get(key)
    if own is not None and own.format == weight_format:
        return own
    return plan.point_weights.get(key, {}).get(weight_format)


def _stored_in(region: Region, scheme: Scheme | None) -> Sequence[LayerWeight]:
    """The layer's weights that are stored as the scheme says; none where it leaves them as they are."""
    if region.layer is None or scheme is None or scheme.weight is None:
        return ()
    return region.layer.weights


def _beyond(wrong: Sequence[tuple[str, int, int]], plan: Plan, cpu: DeployCpu) -> str:
    shown = ", ".join(f"{name} ({count} of {of} channels)" for name, count, of in wrong[:SHOWN])
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return (
        f"the plan is for --deploy-cpu {plan.deploy_cpu}; weights of {len(wrong)} layers can saturate on x86 CPUs "
        f"without VNNI: {shown}{more}; convert again with --deploy-cpu {cpu}"
    )
