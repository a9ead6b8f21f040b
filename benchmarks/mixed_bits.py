"""Mixed bit-widths against one width everywhere, at the same modelled latency.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.mixed_bits [MODEL] [--target bismo-edge] [--uniform w5a5 w4a4]
        [--samples 85]

The model is converted for the target with nothing but one scheme on the menu of its layers, then with every scheme
from w2a2 to w8a8 within the latency that the first came to. Quality is that of samples which calibration did not see.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import onnxmpq
from benchmarks.stages import table_of
from benchmarks.zoo import arrays, zoo
from onnxmpq.files import data_folder

EVERY = [f"w{w}a{a}" for w in range(2, 9) for a in range(2, 9)]
LAYERS = re.compile(r"^(Conv|Gemm|MatMul) = \[.*?\]", re.DOTALL | re.MULTILINE)


def target_with(schemes: list[str], base: str, folder: Path) -> Path:
    """A copy of a shipped target whose layers have these schemes; regions without weights keep theirs."""
    head, mark, rest = (data_folder("cost_models") / f"{base}.toml").read_text(encoding="utf-8").partition("[menu.act")
    listed = ", ".join(f'"{s}"' for s in ["fp32", *schemes])
    path = folder / f"menu-of-{len(schemes)}.toml"
    text = LAYERS.sub(lambda m: f"{m[1]} = [{listed}]", head).replace(f'"{base}"', f'"{path.stem}"')
    path.write_text(text + mark + rest, encoding="utf-8")
    return path


def row_of(label: str, result: onnxmpq.Result) -> list[str]:
    """Modelled latency and energy, and quality of the first output."""
    plan, output = result.plan.prediction, result.report.validation.outputs[0]
    kl = "" if output.kl_nats is None else f"{output.kl_nats:.4f}"
    cost = [f"{plan['latency_ms']:.3f}", f"{plan['energy_mj']:.3g}", f"{result.report.result_bytes / 1e6:.3f}"]
    return [label, *cost, kl, f"{output.sqnr_db:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="resnet20_cifar10")
    parser.add_argument("--target", default="bismo-edge")
    parser.add_argument("--uniform", nargs="+", default=["w5a5", "w4a4"])
    parser.add_argument("--samples", type=int, default=85)
    options = parser.parse_args()
    entry = zoo().load(options.model)
    samples = arrays(entry, "calib", options.samples)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        every = target_with(EVERY, options.target, Path(folder))
        for scheme in options.uniform:
            only = target_with([scheme], options.target, Path(folder))
            one = onnxmpq.convert(entry.model, latency="fastest", target=str(only), calibration=samples)
            rows.append(row_of(f"{scheme} everywhere", one))
            limit = f"{one.plan.prediction['latency_ms']}ms"
            mixed = onnxmpq.convert(entry.model, latency=limit, target=str(every), calibration=samples)
            rows.append(row_of("w2a2 to w8a8, as fast", mixed))
    print(f"\n{options.model} on {options.target}, modelled\n")
    print(table_of(("bits", "ms", "mJ", "MB", "KL to fp32", "SQNR dB"), rows))


if __name__ == "__main__":
    main()
