"""Candidates: what is worth measuring, and what is worth having its effect measured."""

from __future__ import annotations

from onnxmpq.allocate import Limits, Problem, solve
from onnxmpq.cost.judge import Judge
from onnxmpq.errors import NothingToQuantizeError, UsageError
from onnxmpq.menu import Menu, Reasons
from onnxmpq.model import Model
from onnxmpq.schemes import Format
from onnxmpq.target.types import Target


def storage_only(menu: Menu) -> Menu:
    return {name: tuple(s for s in schemes if s.reads is Format.FLOAT) for name, schemes in menu.items()}


def widest_weights(menu: Menu) -> Menu:
    """The menu without weights of fewer bits than others that the same kernel computes with: they are smaller, not
    faster."""
    kept: Menu = {}
    for name, row in menu.items():
        most: dict[tuple[str, Format], int] = {}
        for scheme in row:
            if scheme.weight is not None:
                kind = scheme.kernel, scheme.reads
                most[kind] = max(most.get(kind, 0), scheme.weight.bits)
        kept[name] = tuple(s for s in row if s.weight is None or s.weight.bits == most[s.kernel, s.reads])
    return kept


def require_candidates(model: Model, menu: Menu, reasons: Reasons, excluded: bool = False) -> None:
    """Raises NothingToQuantizeError where no layer has a choice."""
    if any(len(menu[r.name]) > 1 for r in model.layers):
        return
    if excluded:
        raise NothingToQuantizeError("--exclude leaves no layer to quantize; exclude fewer nodes")
    already = f"; {len(model.already_quantized)} nodes are already quantized" if model.already_quantized else ""
    known = [f"{r.name}: {reasons[r.name]}" for r in model.layers if r.name in reasons]
    why = known[0] if known else "Conv, MatMul, Gemm or Gather with a constant float32 weight, opset 13 or newer"
    raise NothingToQuantizeError(
        f"none of the model's {len(model.layers)} layers can be quantized ({why}){already}; use the model as it is"
    )


def require_half(menu: Menu, target: Target) -> None:
    """Raises UsageError where no scheme computes in 16 bits, so that inputs and outputs cannot have them."""
    if not any(s.half for row in menu.values() for s in row):
        raise UsageError(
            f"--no-keep-io: no scheme that may be used on target {target.name} computes in 16 bits, so inputs and "
            "outputs stay float32; leave it out, or use another target or scheme"
        )


def used_when_fastest(problem: Problem, judge: Judge) -> Menu:
    """The menu, with int8 for regions without weights only where the fastest plans use it.

    Such a scheme stores nothing; it is there for speed alone. What helps neither the fastest plan by the table nor
    the fastest that was measured is dropped before its effect on the outputs is measured.
    """
    fastest = solve(problem, "latency", Limits())
    used = set(fastest.assignment if fastest else ())
    if judge.known:
        used |= set(min(judge.known, key=lambda pair: pair[1])[0])
    return {
        name: tuple(o.scheme for o in options if problem.regions[name].layer or o.scheme.is_float or name in used)
        for name, options in problem.options.items()
    }
