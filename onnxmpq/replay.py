"""Replay: a plan file and its model give the converted model again, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx

from onnxmpq.deployment import DeployCpu, named, scheme_for, unproven
from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.errors import PlanError, UsageError
from onnxmpq.integrity import require_whole
from onnxmpq.model import Model, prepare
from onnxmpq.output import check_writable, serialize, write_model
from onnxmpq.plan import Plan, read_plan
from onnxmpq.progress import Progress
from onnxmpq.provenance import describe_runtime, other_features, other_versions
from onnxmpq.rescale import restore_factors, restore_order
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import SCHEMES, Scheme, scheme_named
from onnxmpq.weights import (
    restore_biases,
    restore_weight,
)

SHOWN = 3  # nodes that an error names
Weights = dict[tuple[str, str], QuantizedWeight]


def apply(
    model: str | Path | onnx.ModelProto,
    plan: Plan | str | Path,
    *,
    deploy_cpu: str | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> onnx.ModelProto:
    """Write a plan into a model again, byte for byte as `convert` did; `progress` hears of what may make a difference.

    deploy_cpu: on which CPU the weights must compute exactly, as for `convert`; None for the plan's own. Raises
    PlanError where they may not, where the plan belongs to another model, names a node or scheme that does not exist,
    or lacks parameters that it needs; UsageError for a CPU that does not exist, or a plan for a target that is none.
    """
    asked = None if deploy_cpu is None else named(deploy_cpu)
    plan = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    if output is not None:
        check_writable(Path(output), None if isinstance(model, onnx.ModelProto) else Path(model))
    prepared = prepare(model, plan.opset, plan.steps_left_out)
    if prepared.source_sha256 != plan.model.get("sha256"):
        raise PlanError(f"the plan belongs to another model ({plan.model.get('name')}, other content); plan this one")
    if asked is not None and plan.deploy_cpu == DeployCpu.NONE:
        raise UsageError(f"--deploy-cpu {deploy_cpu}: the plan is for target '{plan.target}', which is no CPU")
    proto = rebuild(prepared, plan, asked)
    require_whole(proto, prepared.proto, prepared.regions, keep_io=plan.keep_io)
    for line in remarks(plan, proto):
        (progress or Progress()).warn(line)
    if output is not None:
        write_model(Path(output), proto)
    return proto


def remarks(plan: Plan, proto: onnx.ModelProto) -> list[str]:
    """Differences between this machine and the one that the plan was made on, as far as the user has to know it."""
    here, lines = describe_runtime(), []
    versions = other_versions(plan.runtime, here)
    if versions and hashlib.sha256(serialize(proto)).hexdigest() != plan.output_sha256:
        lines.append(
            f"this is not byte for byte the file that convert wrote: the plan was made with {', '.join(versions)}, or "
            "was edited; check it with `onnxmpq validate`"
        )
    if (apart := other_features(plan.runtime, here)) and plan.deploy_cpu != DeployCpu.ANY:
        lines.append(
            f"values were rounded for the kernels of {plan.runtime['cpu_features']}; this machine comes {apart}, and "
            "its kernels may compute other values: check quality with `onnxmpq validate`"
        )
    return lines


def rebuild(model: Model, plan: Plan, cpu: DeployCpu | None = None) -> onnx.ModelProto:
    """The mixed-precision graph of a plan. cpu: on which the weights must compute exactly. Raises PlanError."""
    if plan.dialect not in DIALECTS:
        raise PlanError(f"field dialect: {plan.dialect!r} is unknown; use one of {', '.join(DIALECTS)}")
    model = restore_order(restore_factors(model, plan.factors), plan.order)
    dialect, regions = DIALECTS[plan.dialect], {r.name: r for r in model.regions}
    for name in (row.node for row in plan.layers if row.node not in regions):
        raise PlanError(f"layers: node {name!r} is not in the model; `onnxmpq inspect` lists the names")
    assignment: dict[str, Scheme] = {}
    weights: Weights = {}
    for name, scheme_name in plan.schemes.items():
        region, scheme = regions[name], _known_scheme(scheme_name)
        if scheme is None:
            raise PlanError(
                f"layers: node {name!r} has unknown scheme {scheme_name!r}; use one of {', '.join(SCHEMES)}"
            )
        if not dialect.supports(region, scheme, model.opset):
            raise PlanError(f"layers: node {name!r} ({region.op_type}) cannot have scheme {scheme_name!r}")
        scheme = assignment[name] = scheme_for(region, scheme, DeployCpu(plan.deploy_cpu))
        if region.layer is not None and scheme.weight is not None:
            for place in region.layer.weights:
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


def _beyond(wrong: Sequence[tuple[str, int, int]], plan: Plan, cpu: DeployCpu) -> str:
    shown = ", ".join(f"{name} ({count} of {of} channels)" for name, count, of in wrong[:SHOWN])
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return (
        f"the plan is for --deploy-cpu {plan.deploy_cpu}; weights of {len(wrong)} layers can saturate on x86 CPUs "
        f"without VNNI: {shown}{more}; convert again with --deploy-cpu {cpu}"
    )


def _known_scheme(name: str) -> Scheme | None:
    try:
        return scheme_named(name)
    except UsageError:
        return None
