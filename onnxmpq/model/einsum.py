"""Einsum with a constant as MatMul, which is a layer. Exporters write linear layers that way, attention's among them.

`abc,cde->abde` is a product of [a, b, c] and [c, d·e] whose result is given the shape [a, b, d, e]; `abde,dec->abc` one
whose input is [a, b, d·e] first. Equations that need more than this (sums over letters of one operand alone, letters
twice, letters that both operands and the result have) stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxmpq.model.gemm import Namer

_EQUATION = re.compile(r"(\.\.\.)?([A-Za-z]*),([A-Za-z]*)->(\.\.\.)?([A-Za-z]*)")


def simplify_einsums(graph: gs.Graph) -> dict[str, str]:
    """Write Einsums of an activation and a constant as MatMul, with Reshapes where several axes are one of the product.

    Returns new node -> the Einsum that it was part of.
    """
    namer = Namer(graph)
    for node in list(graph.nodes):
        if node.op == "Einsum" and node.domain in (None, "", "ai.onnx") and len(node.inputs) == 2:
            constants = [isinstance(t, gs.Constant) for t in node.inputs]
            if constants.count(True) == 1 and (form := _Form.of(node, constants.index(True))) is not None:
                _write(node, form, graph, namer)
    return namer.made_for


@dataclass(frozen=True)
class _Form:
    """constant: slot of it. order: of its axes, those that are summed first. summed: number of these. kept: axes of the
    other operand before them, where they are known."""

    constant: int
    order: tuple[int, ...]
    summed: int
    kept: int | None

    @classmethod
    def of(cls, node: gs.Node, constant: int) -> _Form | None:
        weight, equation = node.inputs[constant], str(node.attrs.get("equation", "")).replace(" ", "")
        if constant == 0 and "->" in equation:
            (first, _, second), result = equation.split("->")[0].partition(","), equation.split("->")[1]
            equation = f"{second},{first}->{result}"
        match = _EQUATION.fullmatch(equation)
        if match is None or weight.dtype != np.float32 or match[1] != match[4]:
            return None
        given, held, made = match[2], match[3], match[5]
        if any(len(set(part)) < len(part) for part in (given, held, made)) or len(held) != len(weight.shape):
            return None
        summed, free = [c for c in given if c not in made], [c for c in made if c not in given]
        before = given[: len(given) - len(summed)]
        fits = given == before + "".join(summed) and made == before + "".join(free)
        if not fits or not summed or not free or set(held) != {*summed, *free}:
            return None
        order = tuple(held.index(c) for c in (*summed, *free))
        return cls(constant, order, len(summed), None if match[1] else len(before))


def _write(node: gs.Node, form: _Form, graph: gs.Graph, namer: Namer) -> None:
    weight, given, shape = node.inputs[form.constant], node.inputs[1 - form.constant], node.inputs[form.constant].shape
    sizes = [shape[axis] for axis in form.order]
    summed, free = sizes[: form.summed], sizes[form.summed :]
    several = len(summed) > 1 or len(free) > 1
    if several and form.kept is None:  # the axes in front are not counted, so that no shape can keep them
        return
    if several or form.order != (0, 1):
        values = np.ascontiguousarray(weight.values.transpose(form.order)).reshape(int(np.prod(summed)), -1)
        weight = gs.Constant(namer.new(f"{weight.name}/matrix"), values)
    keep = [0] * (form.kept or 0)
    if len(summed) > 1:
        given = _reshaped(given, [*keep, int(np.prod(summed))], node, graph, namer)
    node.op, node.attrs, node.inputs = "MatMul", {}, [given, weight]
    if len(free) > 1:
        [result] = node.outputs
        _reshaped(namer.result(node), [*keep, *free], node, graph, namer, result)


def _reshaped(
    given: gs.Tensor, shape: list[int], part_of: gs.Node, graph: gs.Graph, namer: Namer, result: gs.Tensor | None = None
) -> gs.Tensor:
    """The tensor in another shape, in which 0 keeps an axis; `result` where that is given."""
    sizes = gs.Constant(namer.new(f"{part_of.name}/shape"), np.array(shape, np.int64))
    reshape = namer.node("Reshape", part_of, "reshape", [given, sizes])
    graph.nodes.append(reshape)
    if result is None:
        return namer.result(reshape)
    reshape.outputs = [result]
    return result
