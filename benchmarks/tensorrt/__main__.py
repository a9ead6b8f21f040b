"""Ask TensorRT-RTX: `python -m benchmarks.tensorrt PART [--json FILE]` prints a table for docs/tensorrt.md.

PART is one of
    weights   every way of storing a layer's weight: builds or not, bits an element in the engine
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from benchmarks.tensorrt import weights
from onnxmpq.compilers import Compiled, compile_model
from onnxmpq.isolation import Child

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


PARTS: dict[str, Callable[[Child], Iterator[tuple[str, ...]]]] = {"weights": weight_rows}


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
