"""Ask TensorRT-RTX: `python -m benchmarks.tensorrt PART [--write]` prints a table for docs/tensorrt.md.

With --write the table of the page is replaced (table, placement and models).

PART is one of
    weights   every way of storing a layer's weight: builds or not, bits an element in the engine
    table     the same as the table of docs/tensorrt.md, a line for each operator and scheme
    rules     the linter's errors against the compiler, over its own cases
    random    the same over 100 random layers
    placement pairs and casts in several places: builds or not, bytes
    models    zoo (ONNXMPQ_ZOO) and samples in every scheme of rtx4090, l4 and rtx5090, and in random mixes
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator

from benchmarks.tensorrt import models, page, placement, rules, weights
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


def table_rows(child: Child) -> Iterator[tuple[str, ...]]:
    """A line for each operator and scheme: what builds, in how many bits a weight, and what does not."""
    return summary(weight_rows(child))


def summary(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Rows of `weight_rows`, operators that say the same together: operators, scheme, bits, what builds, what not."""
    cells: dict[tuple[str, str], list[tuple[str, bool, list[float]]]] = {}
    for layer, scheme, granularity, along, scales, zero, one, two in rows:
        weight, _, activations = scheme.partition(" × ")
        key = layer, f"{weight} × {'float' if activations == scales else activations}"
        place = f"{granularity} along {along}s" if granularity.isdigit() else granularity
        place += " of inputs" if granularity == "channel" and along == "input" else ""
        place += ("" if scales == "float" else f" {scales}") + (f" zero point {zero}" if zero else "")
        alone = " (sm120 alone)" if one.startswith("no") and not two.startswith("no") else ""
        told = [float(b) for b in (one, two) if not b.startswith("no")]
        cells.setdefault(key, []).append((place + alone, not two.startswith("no"), told))
    alike: dict[tuple[str, str, str, bool], tuple[list[str], list[float]]] = {}
    for (layer, scheme), found in cells.items():
        builds = ", ".join(p for p, taken, _ in found if taken) or "none"
        refuses = ", ".join(p for p, taken, _ in found if not taken)
        apart = layer.startswith("depthwise")  # of which the bits are others
        layers, bits = alike.setdefault((scheme, builds, refuses, apart), ([], []))
        layers.append(layer)
        bits.extend(b for _, _, told in found for b in told)
    for (scheme, builds, refuses, _), (layers, bits) in alike.items():
        least, most = (min(bits), max(bits)) if bits else (0.0, 0.0)
        told_bits = "" if not bits else f"{least:g}" if least == most else f"{least:g} to {most:g}"
        yield "; ".join(layers), scheme, told_bits, builds, refuses


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
    "table": table_rows,
    "rules": lambda child: rule_rows(rules.cases(), child),
    "random": lambda child: rule_rows(rules.random_layers(), child),
    "placement": placement_rows,
    "models": model_rows,
}


WRITTEN: dict[str, tuple[str, Callable[[page.Rows], page.Rows]]] = {
    "table": ("## Weights", lambda rows: rows),
    "placement": ("## Placement", lambda rows: page.without_repeats(page.placement_cells(rows))),
    "models": ("## Models", page.model_cells),
}
"""Part -> heading of its table in the page, and its rows there."""


def told(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The rows, each printed as it comes."""
    for row in rows:
        print(" | ".join(row), flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    child = Child("TensorRT-RTX")
    try:
        rows = list(told(PARTS[given.part](child)))
    finally:
        child.close()
    if given.write and given.part in WRITTEN:
        heading, cells = WRITTEN[given.part]
        page.PAGE.write_text(page.with_rows(page.PAGE.read_text(), heading, cells(rows)))


if __name__ == "__main__":
    main()
