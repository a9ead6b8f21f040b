"""Ask TensorRT-RTX: `python -m benchmarks.tensorrt PART [--json FILE]` prints a table for docs/tensorrt.md.

PART is one of
    weights   every way of storing a layer's weight: builds or not, bits an element in the engine
    rules     the linter's errors against the compiler, over its own cases
    random    the same over 100 random layers
    placement pairs and casts in several places: builds or not, bytes
    models    zoo (ONNXMPQ_ZOO) and samples in every scheme of rtx4090, l4 and rtx5090, and in random mixes
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from benchmarks.tensorrt import models, placement, rules, weights
from onnxmpq.compilers import Compiled, compile_model
from onnxmpq.feeds import Share
from onnxmpq.isolation import Child
from onnxmpq.target import load_target

CAPABILITIES = ("sm89", "sm120")


def stored_bits(compiled: Compiled, elements: int) -> float | None:
    """Bits a weight in the engine, beyond the scales and other constants of the model."""
    if compiled.answer.weight_bytes is None:
        return None
    return 8 * max(compiled.answer.weight_bytes - compiled.constants.other_bytes, 0) / elements


def weight_rows(child: Child) -> Iterator[tuple[str, ...]]:
    for spelling in weights.spellings():
        proto = weights.graph(spelling)
        row = [spelling.layer.name, spelling.scheme, spelling.granularity, spelling.along, spelling.scales]
        row.append("" if spelling.zero is None else str(spelling.zero))
        for capability in CAPABILITIES:
            found = compile_model(proto, capability, child=child)
            bits = stored_bits(found, spelling.elements)
            row.append("no: " + found.errors[0].text[:120] if not found.built else f"{bits:.1f}" if bits else "yes")
        yield tuple(row)


def rule_rows(questions: Iterator[rules.Question], child: Child) -> Iterator[tuple[str, ...]]:
    """A row for each graph, and how often both agree that it is refused or taken."""
    agree = total = 0
    for question in questions:
        found = compile_model(question.proto, "sm89", child=child)
        agree += found.built != bool(question.errors)
        total += 1
        said = "builds" if found.built else "no: " + found.errors[0].text[:120]
        warned = "; ".join(sorted({m.text[:100] for m in found.warnings}))
        same = "" if found.built != bool(question.errors) else "differs"
        yield (question.name, ", ".join(question.errors), ", ".join(question.warnings), said, warned, same)
    yield (f"agree: {agree} of {total}",)


def placement_rows(child: Child) -> Iterator[tuple[str, ...]]:
    for place in placement.placements():
        row = [place.question, place.spelling]
        for capability in CAPABILITIES:
            found = compile_model(place.proto, capability, child=child)
            told = f"{found.answer.engine_bytes}, {found.answer.weight_bytes}"
            row.append(told if found.built else "no: " + found.errors[0].text[:120])
        yield (*row, str(found.constants.bytes))


def model_rows(child: Child) -> Iterator[tuple[str, ...]]:
    for target in ("l4", "rtx5090"):
        capability = load_target(target).capability
        for written in models.written(target):
            found = compile_model(written.proto, capability, [Share(1.0, written.shapes)], child=child)
            bits = "" if found.widths is None else ", ".join(f"{n} {b}" for n, b in found.widths.items())
            engine = str(found.answer.engine_bytes) if found.built else "no: " + found.errors[0].text[:120]
            warned = "; ".join(sorted({m.text for m in found.warnings}))
            sizes = str(found.constants.bytes), str(found.answer.weight_bytes)
            yield (target, written.model, written.scheme, str(written.regions), engine, *sizes, bits, warned)


PARTS: dict[str, Callable[[Child], Iterator[tuple[str, ...]]]] = {
    "weights": weight_rows,
    "rules": lambda child: rule_rows(rules.cases(), child),
    "random": lambda child: rule_rows(rules.random_layers(), child),
    "placement": placement_rows,
    "models": model_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    child = Child("TensorRT-RTX")
    try:
        for row in PARTS[parser.parse_args().part](child):
            print(" | ".join(row), flush=True)
    finally:
        child.close()


if __name__ == "__main__":
    main()
