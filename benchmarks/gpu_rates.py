"""Rates of an NVIDIA GPU, measured with PyTorch, beside the roofline of a target file.

    ONNXMPQ_ZOO=... python -m benchmarks.gpu_rates shapes > shapes.json      # products of the zoo's transformers
    python benchmarks/gpu_rates.py measure shapes.json rates.json            # on the GPU; needs PyTorch alone
    python -m benchmarks.gpu_rates compare rates.json --target h200          # tables

Measured are the copy of a large tensor, one kernel of a captured CUDA graph, and matrix products [M, K] x [K, N] in
each format: the median of seven replays of a captured graph that holds a product for each of several weights. These
weights together are larger than the L2 cache ("cold"), or they are one weight ("hot"), as in a small model that runs
repeatedly. Data is random (zeros are faster). Each format's product is compared with float64 first.

Formats: fp32 without TF32, tf32, fp16, bf16, fp8 (E4M3, scales per tensor), fp8-rows (a scale per row of x and per
output), int8, int4 (weights in blocks of 64 with bfloat16 scales, activations in bfloat16).
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

LARGE = (
    *((m, 4096, 4096) for m in (1, 8, 16, 64, 256, 1024, 4096, 16384)),
    *((m, 4096, 14336) for m in (1, 16, 4096)),
    *((m, 14336, 4096) for m in (1, 16, 4096)),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (8192, 8192, 8192),
)
"""Products of a decoder of 8 billion weights, one to many tokens, and cubes."""
REPLAYS = 7
COLD_BYTES = 256e6
"""Of all weights in one graph: several times the L2 cache (50 MB of an H100, 60 MB of an H200)."""
MOST_CALLS = 512
GROUP = 64
WEIGHT_BITS = {"fp32": 32.0, "tf32": 32.0, "fp16": 16.0, "bf16": 16.0, "fp8": 8.0, "fp8-rows": 8.0, "int8": 8.0}
WEIGHT_BITS["int4"] = 4.0 + 2 * 16 / GROUP
READ_BITS = {"fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "fp8-rows": 8, "int8": 8, "int4": 16}
WRITTEN_BITS = READ_BITS | {"fp8": 16, "fp8-rows": 16, "int8": 32}
Product = Callable[[int], Any]


@dataclass(frozen=True)
class Measured:
    """One product. seconds: of one product, median over the replays; spread: largest over smallest of them."""

    m: int
    k: int
    n: int
    format: str
    weights: str  # "cold" or "hot"
    seconds: float
    spread: float


class Gpu:
    """The measuring itself. torch: the imported package."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.device = torch.device("cuda")

    def graph_s(self, call: Product, calls: int) -> tuple[float, float]:
        """Seconds of one call inside a captured graph of so many, and the spread over the replays."""
        torch = self.torch
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for i in range(2):
                call(i % calls)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(calls):
                call(i)
        graph.replay()
        times = []
        for _ in range(REPLAYS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3 / calls)
        return statistics.median(times), max(times) / min(times)

    def kernel_bytes_per_s(self, elements: int = 1 << 30) -> float:
        """Bytes read plus bytes written by a kernel that adds two large float16 tensors."""
        x, y, total = (self.torch.randn(elements, device=self.device, dtype=self.torch.float16) for _ in range(3))
        seconds, _ = self.graph_s(lambda i: self.torch.add(x, y, out=total), 4)
        return 3 * 2 * elements / seconds

    def copy_bytes_per_s(self, size: int = 1 << 32) -> float:
        """Bytes read plus bytes written by a copy of so many bytes, without a captured graph."""
        source = self.torch.randint(0, 255, (size,), dtype=self.torch.uint8, device=self.device)
        target = self.torch.empty_like(source)
        times = []
        for _ in range(REPLAYS):
            start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            target.copy_(source)
            end.record()
            self.torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return 2 * size / statistics.median(times)

    def launch_s(self) -> float:
        """Seconds of one kernel that does nothing worth mentioning, each waiting for the one before it."""
        one = self.torch.zeros(1, device=self.device)
        return self.graph_s(lambda i: one.add_(1.0), 1000)[0]

    def eager_launch_s(self) -> float:
        """The same without a captured graph."""
        one, calls = self.torch.zeros(1, device=self.device), 2000
        for _ in range(100):
            one.add_(1.0)
        self.torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            one.add_(1.0)
        self.torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    def elementwise(self, rows: int, width: int) -> dict[str, float]:
        """Seconds of regions without weights on [rows, width] in float16."""
        torch, functional = self.torch, self.torch.nn.functional
        x, y = (torch.randn(rows, width, device=self.device, dtype=torch.float16) for _ in range(2))
        calls: dict[str, Product] = {
            "Add": lambda i: x + y,
            "LayerNormalization": lambda i: functional.layer_norm(x, (width,)),
            "Softmax": lambda i: torch.softmax(x, -1),
            "GELU": lambda i: functional.gelu(x),
        }
        return {name: self.graph_s(call, 50)[0] for name, call in calls.items()}

    def product(self, name: str, m: int, k: int, n: int, weights: int) -> tuple[Product, Callable[[], float]]:
        """A function that multiplies with weight i, and one that compares weight 0's product with float64."""
        torch, device = self.torch, self.device
        x = torch.randn(m, k, device=device)
        if name == "int4":
            return self._int4(x.to(torch.bfloat16), n, weights)
        w = torch.randn(weights, n, k, device=device) / math.sqrt(k)
        if name in ("fp32", "tf32", "fp16", "bf16"):
            types = {"fp16": torch.float16, "bf16": torch.bfloat16}
            x, w = x.to(types.get(name, torch.float32)), w.to(types.get(name, torch.float32))

            def multiply(i: int) -> Any:
                torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
                return x @ w[i].t()

            exact = x.double() @ w[0].double().t()
        elif name == "int8":
            codes, w = (torch.clamp(t * s, -127, 127).to(torch.int8) for t, s in ((x, 40.0), (w, 40.0 * math.sqrt(k))))

            def multiply(i: int) -> Any:
                return torch._int_mm(codes, w[i].t())

            exact = codes.double() @ w[0].double().t()
        else:
            narrow, w = x.to(torch.float8_e4m3fn), (w * math.sqrt(k)).to(torch.float8_e4m3fn)
            rows = name == "fp8-rows"
            of_x, of_w = (torch.ones(s, device=device) * 0.5 for s in (((m, 1), (1, n)) if rows else ((), ())))

            def multiply(i: int) -> Any:
                return torch._scaled_mm(
                    narrow, w[i].t(), scale_a=of_x, scale_b=of_w, out_dtype=torch.bfloat16, use_fast_accum=True
                )

            exact = narrow.double() @ w[0].double().t() * 0.25
        return multiply, lambda: float((multiply(0).double() - exact).norm() / exact.norm())

    def _int4(self, x: Any, n: int, weights: int) -> tuple[Product, Callable[[], float]]:
        torch, k = self.torch, x.shape[1]
        codes = torch.randint(0, 16, (n, k), device=self.device, dtype=torch.int32)
        bytes_ = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
        packed = torch.ops.aten._convert_weight_to_int4pack(bytes_, 8)
        scales = torch.zeros(k // GROUP, n, 2, device=self.device, dtype=torch.bfloat16)
        scales[..., 0] = 0.01
        all_packed = [packed.clone() for _ in range(weights)]
        exact = x.double() @ ((codes.double() - 8) * float(scales[0, 0, 0])).t()

        def multiply(i: int) -> Any:
            return torch.ops.aten._weight_int4pack_mm(x, all_packed[i], GROUP, scales)

        return multiply, lambda: float((multiply(0).double() - exact).norm() / exact.norm())


def _first(multiply: Product, i: int) -> Any:
    return multiply(0)


def takes(name: str, m: int, k: int, n: int) -> bool:
    """True where PyTorch has a kernel of that format for the shape; that of int4 is for few rows."""
    multiples = {"fp8": 16, "fp8-rows": 16, "int8": 8}.get(name, 1)
    if name == "int4":
        return k % 128 == 0 and n % 8 == 0 and m <= 64
    return k % multiples == 0 and n % multiples == 0 and (name != "int8" or m > 16)


def weights_of(name: str, m: int, k: int, n: int) -> int:
    """Weights in one graph: larger than the cache together, and no more work than about 20 ms."""
    cold = math.ceil(COLD_BYTES / (k * n * WEIGHT_BITS[name] / 8))
    enough = math.ceil(0.02 / (m * k * n / 2e14 + 2e-6))
    return max(2, min(cold, enough, MOST_CALLS))


def measured(gpu: Gpu, shapes: list[tuple[int, int, int]], deadline: float) -> Iterator[Measured]:
    """Every product in every format that takes it, until the deadline (of `time.monotonic`)."""
    for m, k, n in shapes:
        for name in WEIGHT_BITS:
            if not takes(name, m, k, n) or (name == "fp32" and m * k * n > 1e11):
                continue
            if time.monotonic() > deadline:
                print("out of time", m, k, n, name, file=sys.stderr, flush=True)
                return
            calls = weights_of(name, m, k, n)
            try:
                multiply, error = gpu.product(name, m, k, n, calls)
                if not (found := error()) < 0.02:
                    print(f"{name} {m}x{k}x{n}: relative error {found}", file=sys.stderr, flush=True)
                    continue
                yield Measured(m, k, n, name, "cold", *gpu.graph_s(multiply, calls))
                if k * n < 1e6:
                    yield Measured(m, k, n, name, "hot", *gpu.graph_s(partial(_first, multiply), 100))
            except RuntimeError as problem:
                print(f"{name} {m}x{k}x{n}: {str(problem).splitlines()[0]}", file=sys.stderr, flush=True)


def measure(shapes_file: Path, result: Path, seconds: float) -> None:
    """Everything of one GPU, into a JSON file."""
    torch = importlib.import_module("torch")
    deadline, gpu = time.monotonic() + seconds, Gpu(torch)
    with torch.inference_mode():
        found: dict[str, Any] = {
            "device": torch.cuda.get_device_name(0),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "date": time.strftime("%Y-%m-%d"),
            "l2_bytes": torch.cuda.get_device_properties(0).L2_cache_size,
            "kernel_bytes_per_s": gpu.kernel_bytes_per_s(),
            "copy_bytes_per_s": gpu.copy_bytes_per_s(),
            "launch_s": gpu.launch_s(),
            "eager_launch_s": gpu.eager_launch_s(),
            "elementwise": {f"{r}x{w}": gpu.elementwise(r, w) for r, w in ((197, 192), (12608, 192), (16384, 4096))},
        }
        print({k: v for k, v in found.items() if k != "elementwise"}, flush=True)
        shapes = [*LARGE, *(tuple(s) for s in json.loads(shapes_file.read_text()))]
        found["products"] = [asdict(p) for p in measured(gpu, shapes, deadline)]
        found["kernel_bytes_per_s_again"] = gpu.kernel_bytes_per_s()
    result.write_text(json.dumps(found))
    print(len(found["products"]), "products,", round(time.monotonic() - deadline + seconds), "s")


COMPUTES = {"bf16": "fp16", "fp8-rows": "fp8", "int4": "fp16"}
"""Format -> the row of a target's rates that it computes in, where that has another name."""
GROUPS: dict[str, Callable[[Measured], bool]] = {
    "1 to 64 rows, weights of 17 to 59 million": lambda p: p.m <= 64 and p.k >= 4096,
    "256 rows and more, large": lambda p: p.m >= 256 and p.k >= 1024,
    "zoo, one row": lambda p: p.m == 1 and p.k < 1024,
    "zoo, one sample": lambda p: p.m in (128, 197),
    "zoo, 64 samples": lambda p: p.m in (8192, 12608),
}


def compare(files: Sequence[Path], target_name: str) -> None:
    """Tables of what was measured, and its ratio to the target's roofline. files: of one device."""
    machine = importlib.import_module("onnxmpq.target").load_target(target_name).roofline
    read = [json.loads(f.read_text()) for f in files]
    told = {(p["m"], p["k"], p["n"], p["format"], p["weights"]): p for found in read for p in found["products"]}
    products = [Measured(**p) for p in told.values()]
    print("| products | " + " | ".join(f for f in WEIGHT_BITS if f != "fp32") + " |")
    for name, chosen in GROUPS.items():
        cells = []
        for kind in WEIGHT_BITS:
            if kind == "fp32":
                continue
            ratios = [p.seconds / roofline_s(p, machine) for p in products if kind == p.format and chosen(p)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
            cells.append(spread)
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\n| M, K, N | " + " | ".join(WEIGHT_BITS) + " |")
    shapes = dict.fromkeys((p.m, p.k, p.n) for p in products if p.weights == "cold")
    for shape in shapes:
        times = {p.format: p.seconds for p in products if (p.m, p.k, p.n) == shape and p.weights == "cold"}
        print(f"| {shape} | " + " | ".join(f"{times[f] * 1e6:.1f}" if f in times else "-" for f in WEIGHT_BITS) + " |")


def roofline_s(p: Measured, machine: Any) -> float:
    """Seconds of a product by a target's roofline."""
    bits = p.m * p.k * READ_BITS[p.format] + p.k * p.n * WEIGHT_BITS[p.format] + p.m * p.n * WRITTEN_BITS[p.format]
    compute_s = p.m * p.k * p.n / machine.macs_per_s[COMPUTES.get(p.format, p.format)].value
    return float(max(compute_s, bits / 8 / machine.bandwidth_bytes_per_s.value) + machine.launch_s.value)


def zoo_shapes() -> list[tuple[int, int, int]]:
    """[M, K, N] of the layers of the zoo's transformers: one row, one sample and 64 samples."""
    gemms = importlib.import_module("benchmarks.gpu_gemms")
    once = {shape for name in gemms.MODELS for shape in gemms.shapes_of(name)}
    return sorted({*once, *((m * 64, k, n) for m, k, n in once if m > 1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("shapes", "measure", "compare"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--target", default="h200")
    parser.add_argument("--seconds", type=float, default=120.0)
    given = parser.parse_args()
    if given.part == "shapes":
        print(json.dumps(zoo_shapes()))
    elif given.part == "measure":
        measure(*given.files, given.seconds)
    else:
        compare(given.files, given.target)


if __name__ == "__main__":
    main()
