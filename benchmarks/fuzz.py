"""Files from others, mutated: readers take or refuse them with an error of `onnxmpq.errors` (docs/untrusted.md).

    python -m benchmarks.fuzz [TARGET ...] [--seconds 300] [--seed 0] [--keep folder]

Each execution runs in a worker process that may take MEMORY bytes. A finding is any other exception, MemoryError too, a
worker that died, or an execution of more than HANG_S seconds. Findings at the same place count once; their inputs are
kept. `benchmarks.fuzz_guided` mutates with the help of atheris, where that is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import unittest.mock
import warnings
import wave
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from benchmarks.mutate import (
    Mutator,
    archive_changed,
    bytes_changed,
    json_changed,
    model_changed,
    npy_changed,
    toml_changed,
)
from onnxmpq.cache import Cache, content_hash
from onnxmpq.commands import inspect
from onnxmpq.cost import Effort, Profile
from onnxmpq.cost.exchange import describe, read_table
from onnxmpq.cost.table import CostTable, Transition
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import OnnxmpqError, UsageError
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.recipes import find_recipe
from onnxmpq.feeds.types import InputSpec
from onnxmpq.files import Archive, data_folder, serialize
from onnxmpq.menu import candidates, observed_tensors
from onnxmpq.model import Model, prepare
from onnxmpq.pipeline import convert
from onnxmpq.plan import Plan, PlannedRegion, read_plan
from onnxmpq.provenance import describe_runtime
from onnxmpq.ranges import Calibration, Observation, observe, read_calibration
from onnxmpq.ranges.histogram import Histogram
from onnxmpq.replay import apply
from onnxmpq.request.config import read_config
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.runtimes import CPU
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity.effects import Frame
from onnxmpq.target.load import load_target, read_target
from onnxmpq.weights import Compensated, pack

MEMORY, HANG_S = 4 * 2**30, 20
Reader = Callable[[Archive], Any]
SPECS = (InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8)),)
PICTURES = (InputSpec("x", np.dtype(np.float32), ("N", 3, "H", "W")),)
SOUND = (InputSpec("x", np.dtype(np.float32), ("N", "T")),)
TOKENS = tuple(InputSpec(n, np.dtype(np.int64), ("N", "T")) for n in ("input_ids", "attention_mask", "token_type_ids"))


@dataclass(frozen=True)
class Target:
    """A reader: files that it takes, how they are mutated, and the call. read: gets the path of a mutated file."""

    suffix: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutator
    read: Callable[[Path], object]


# ---- what is read


def model(body: str, inputs: str, outputs: str, weights: str = "", more: str = "", opset: int = 21) -> onnx.ModelProto:
    """From ONNX text; weights become random initializers. more: local functions, of domain "local"."""
    imports = f'["" : {opset}, "local" : 1]'
    proto = onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: {imports}> g ({inputs}) => ({outputs}) <{weights}> {{ {body} }} {more}"
    )
    generator, made = np.random.default_rng(0), {t for n in proto.graph.node for t in n.output}
    for info in [v for v in proto.graph.value_info if v.name not in made]:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        values = generator.standard_normal(shape).astype(np.float32) / 4
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
        proto.graph.value_info.remove(info)
    return proto


@cache
def small() -> onnx.ModelProto:
    """Conv, Relu, pooling, Gemm."""
    return model(
        """c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w, b)
           r = Relu (c)
           p = GlobalAveragePool (r)
           f = Flatten (p)
           y = Gemm <transB = 1> (f, v, d)""",
        "float[N, 3, 8, 8] x",
        "float[N, 5] y",
        "float[8, 3, 3, 3] w, float[8] b, float[5, 8] v, float[5] d",
    )


def models() -> list[bytes]:
    """Layers, subgraphs, local functions, quantized nodes, constants computed from constants, an old opset."""
    branches = model(
        """m = ReduceMean <keepdims = 0> (x)
           z = Constant <value = float {0.0}> ()
           c = Greater (m, z)
           y = If (c) <
             then_branch = a () => (float[N, 4] t) { t = MatMul (x, w) },
             else_branch = b () => (float[N, 4] e) { h = MatMul (x, w)
                                                      e = Relu (h) }>""",
        "float[N, 4] x",
        "float[N, 4] y",
        "float[4, 4] w",
    )
    loop = model(
        """n = Constant <value = int64 {3}> ()
           k = Constant <value = bool {1}> ()
           y = Loop (n, k, x) <body = l (int64 i, bool c, float[N, 4] s) => (bool d, float[N, 4] o)
             { d = Identity (c)
               o = MatMul (s, w) }>""",
        "float[N, 4] x",
        "float[N, 4] y",
        "float[4, 4] w",
    )
    functions = model(
        "h = local.outer (x, w)\n y = Relu (h)",
        "float[N, 4] x",
        "float[N, 4] y",
        "float[4, 4] w",
        """<domain: "local", opset_import: ["" : 21, "local" : 1]> outer (a, b) => (c) { c = local.inner (a, b) }
           <domain: "local", opset_import: ["" : 21]> inner (a, b) => (c) { d = MatMul (a, b)
                                                                            c = Add (d, a) }""",
    )
    quantized = model(
        """s = Constant <value = float {0.1}> ()
           z = Constant <value = uint8 {128}> ()
           q = QuantizeLinear (x, s, z)
           d = DequantizeLinear (q, s, z)
           y = MatMul (d, w)""",
        "float[N, 4] x",
        "float[N, 4] y",
        "float[4, 4] w",
    )
    computed = model(
        """s = Shape (x)
           i = Constant <value = int64[1] {0}> ()
           n = Gather (s, i)
           l = Constant <value = int64[1] {-1}> ()
           t = Concat <axis = 0> (n, l)
           r = Reshape (x, t)
           u = Transpose <perm = [1, 0]> (w)
           m = MatMul (r, u)
           a = Constant <value_floats = [1.0, 2.0]> ()
           k = Expand (a, e)
           e = Constant <value = int64[2] {3, 2}> ()
           j = ReduceSum <keepdims = 0> (k)
           y = Mul (m, j)""",
        "float[N, 2, 8] x",
        "float[N, 4] y",
        "float[4, 16] w",
    )
    old = model(
        """b = BatchNormalization (x, s, o, m, v)
           y = Upsample <mode = "nearest"> (b, u)""",
        "float[N, 2, 4, 4] x",
        "float[N, 2, 8, 8] y",
        "float[2] s, float[2] o, float[2] m, float[2] v, float[4] u",
        opset=9,
    )
    recurrent = model(
        "r, h, c = LSTM <hidden_size = 4> (x, w, u, b)\n y = Squeeze (h)",
        "float[T, 1, 3] x",
        "float[1, 4] y",
        "float[1, 16, 3] w, float[1, 16, 4] u, float[1, 32] b",
    )
    return [serialize(m) for m in (small(), branches, loop, functions, quantized, computed, old, recurrent)]


@cache
def prepared() -> Model:
    return prepare(small())


@cache
def plan() -> Plan:
    """int8 for every layer of `small`, and one weight stored in the plan."""
    found, device = prepared(), load_target("cpu")
    menu = candidates(found, device, DIALECTS[device.dialect])
    feeds = load_feeds({"x": np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32)}, SPECS)
    seen = observe(found, feeds, observed_tensors(found, menu))
    rows = tuple(PlannedRegion(r.name, r.op_type, "int8" if r.layer else "fp32") for r in found.regions)
    layer = next(r for r in found.layers)
    place, spec = layer.layer.weights[0], SCHEMES["int8"].weight  # type: ignore[union-attr]
    weight = quantize_weight(found.matrix(place), spec, method="nearest")  # type: ignore[arg-type]
    return Plan(
        {"name": "small", "sha256": found.source_sha256, "bytes": found.source_bytes},
        "cpu",
        device.dialect,
        {"latency": "fastest"},
        rows,
        {t: seen.estimate(t, "minmax") for t in seen.histograms},
        runtime=describe_runtime(),
        deploy_cpu="vnni",
        weights={place.key: pack(weight)},
    )


def costs() -> CostTable:
    rows = {r.name: {"fp32": 1e-3, "int8": 5e-4} for r in prepared().regions}
    edges = {"x\tConv_0": Transition(quantize_s=1e-6)}
    return CostTable(rows, edges=edges, base_s=1e-6, meta=describe(prepared(), "cpu", CPU, 1))


@cache
def expected() -> dict[str, str]:
    return describe(prepared(), "cpu", CPU, 1)


def calibration() -> bytes:
    feeds = load_feeds({"x": np.random.default_rng(0).standard_normal((4, 3, 8, 8), np.float32)}, SPECS)
    samples = {"source": "fuzz", "recipe": None, "count": 4, "sha256": "", "made_up": False}
    seen = observe(prepared(), feeds, ["x", prepared().regions[0].outputs[0]])
    made = Calibration({"name": "small", "sha256": prepared().source_sha256}, "cpu", samples, describe_runtime(), seen)
    with tempfile.TemporaryDirectory() as folder:
        made.write(Path(folder) / "c.npz")
        return (Path(folder) / "c.npz").read_bytes()


@cache
def kept() -> dict[str, tuple[bytes, Reader]]:
    """What a conversion of `small` leaves in its cache, and how it reads each entry, by key."""
    readers: dict[str, Reader] = {}
    get = Cache.get

    def noted(self: Cache, key: str, read: Reader) -> Any:
        readers[key] = read
        return get(self, key, read)

    with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.object(Cache, "get", noted):
        samples = {"x": np.random.default_rng(0).standard_normal((40, 3, 8, 8), np.float32)}
        effort = Effort(seconds=0.01, runs=1, rounds=1)
        options: dict[str, Any] = {"cache": folder, "effort": effort, "guard": False, "latency": "fastest"}
        with contextlib.suppress(OnnxmpqError):  # a plan that is no faster
            convert(small(), calibration=samples, schemes=["int8", "w4a8"], **options)
        return {path.stem: (path.read_bytes(), readers[path.stem]) for path in Path(folder).rglob("*.npz")}


def npz() -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=np.ones((4, 3, 8, 8), np.float32))
        found.append(buffer.getvalue())
    return found


def npy() -> list[bytes]:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((4, 3, 8, 8), np.float32))
    return [buffer.getvalue()]


def pictures() -> list[bytes]:
    from PIL import Image  # noqa: PLC0415 (as in the package: only pictures need it)

    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    found = []
    for kind in ("png", "jpeg", "bmp", "gif", "tiff", "ppm", "webp"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def sounds() -> list[bytes]:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(range(256)) * 300)
    return [buffer.getvalue()]


def rows() -> list[bytes]:
    one = json.dumps({"x": np.ones((3, 8, 8)).tolist()})
    return [f"{one}\n{one}\n".encode(), json.dumps(np.zeros((3, 8, 8)).tolist()).encode()]


def _files(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(data_folder(folder).glob("*.toml"))]


def _apply(path: Path) -> None:
    apply(small(), read_plan(path))


def _predict(path: Path) -> None:
    table = read_table(path, expected())
    table.predict_s(prepared(), {r.name: SCHEMES["int8"] for r in prepared().layers})


def _ranges(path: Path) -> None:
    found = read_calibration(path)
    found.require(prepared(), "small")
    found.params()


def _entry(path: Path) -> None:
    """A mutated cache entry, where its key says; what its reader takes has to be good for something."""
    content, entries = path.read_bytes(), kept()
    named = re.search(rb'"key": "([0-9a-f]{64})"', content)
    key = named[1].decode() if named and named[1].decode() in entries else next(iter(entries))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / key[:2] / f"{key}.npz"
        place.parent.mkdir()
        place.write_bytes(content)
        found = Cache(Path(folder)).get(key, entries[key][1])
    if found is None:
        raise UsageError("computed again")
    _used(found)


def _used(found: object) -> None:
    match found:
        case Histogram():
            Observation({"x": found}, {"x": ()}).estimate("x", "entropy")
        case QuantizedWeight():
            found.dequantize()
        case Compensated():
            _used(tuple(found.weights.values()))
        case Frame():
            found.divergence.per_sample(found.reference, found.reference)
        case Profile():
            found.scaled(1e-3)
        case tuple():
            for part in found:
                _used(part)
    content_hash(found) if isinstance(found, np.ndarray) else repr(found)


def _target(path: Path) -> None:
    name = re.search(rb'name"? = "([\w-]{1,40})"', path.read_bytes())  # a target has the name of its file
    named = path.with_name(f"{name[1].decode() if name else 'x'}.toml")
    os.replace(path, named)
    read_target(named)


def _recipe(path: Path) -> None:
    find_recipe(str(path))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.png").write_bytes(pictures()[0])
        load_feeds(folder, PICTURES, recipe=str(path))


TARGETS: dict[str, Target] = {
    "model": Target(".onnx", models, model_changed, inspect),
    "plan": Target(".json", lambda: [plan().to_json().encode()], json_changed, _apply),
    "target": Target(".toml", lambda: _files("cost_models"), toml_changed, _target),
    "recipe": Target(".toml", lambda: _files("calibration"), toml_changed, _recipe),
    "config": Target(
        ".toml",
        lambda: [
            b'latency = "60%"\nsamples = 12\nseed = 3\nexclude = ["a*"]\ncache = false\noutput-kind = {y = "logits"}\n'
        ],
        toml_changed,
        read_config,
    ),
    "npz": Target(".npz", npz, archive_changed, lambda path: load_feeds(path, SPECS)),
    "npy": Target(".npy", npy, npy_changed, lambda path: load_feeds(path, SPECS)),
    "costs": Target(".json", lambda: [costs().to_json().encode()], json_changed, _predict),
    "calibration": Target(".npz", lambda: [calibration()], archive_changed, _ranges),
    "cache": Target(".npz", lambda: [content for content, _ in kept().values()], archive_changed, _entry),
    "picture": Target(".png", pictures, bytes_changed, lambda p: load_feeds(p, PICTURES, recipe="imagenet")),
    "sound": Target(".wav", sounds, bytes_changed, lambda p: load_feeds(p, SOUND, recipe="audio-16k")),
    "rows": Target(".jsonl", rows, bytes_changed, lambda path: load_feeds(path, SPECS)),
    "tokens": Target(
        ".csv", lambda: [b"1,2,3\n4,5\n"], bytes_changed, lambda path: load_feeds(path, TOKENS, recipe="bert-text")
    ),
}


# ---- executions


@dataclass(frozen=True)
class Finding:
    """place: exception and the deepest line of the package. count: how often."""

    place: str
    content: bytes
    detail: str
    count: int = 1


def mutant(target: Target, seeds: list[bytes], number: int, seed: int) -> bytes:
    """The mutated file of one execution; the same for the same numbers."""
    chance = random.Random(f"{seed} {number}")
    content = chance.choice(seeds)
    for _ in range(chance.choice((1, 1, 2))):
        with contextlib.suppress(Exception):  # a second change of what no parser takes any more
            content = target.mutate(content, chance)
    return content


def execute(target: Target, content: bytes, folder: Path) -> Finding | None:
    """Read a file of this content. Only an error of `onnxmpq.errors`, in one line, may be raised."""
    path = folder / f"input{target.suffix}"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            target.read(path)
    except OnnxmpqError as error:
        if "\n" in str(error).strip() or type(error) is OnnxmpqError:
            return Finding(f"{type(error).__name__} of several lines", content, str(error))
    except Exception as error:
        return Finding(f"{type(error).__name__} {_deepest(error)}", content, traceback.format_exc())
    return None


def _deepest(error: Exception) -> str:
    own = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}onnxmpq{os.sep}" in f.filename]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside the package"


def run_short(name: str, count: int, folder: Path, seed: int = 0) -> list[Finding]:
    """The first `count` executions of a target, in this process."""
    target, seeds = TARGETS[name], TARGETS[name].seeds()
    found = (execute(target, mutant(target, seeds, number, seed), folder) for number in range(count))
    return [f for f in found if f is not None]


# ---- workers


def _work(name: str, seed: int, start: int, folder: Path, state: Any, findings: Any, guided: bool) -> None:
    """Execute until the parent ends this process. state: executions, time at which the present one began."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for the life of the process)
    os.dup2(sys.stderr.fileno(), 2)
    target, seeds = TARGETS[name], TARGETS[name].seeds()

    def once(content: bytes) -> None:
        (folder / "current").write_bytes(content)
        state[1] = time.monotonic()
        found = execute(target, content, folder)
        state[0] += 1
        if found is not None:
            findings.put(found)

    if guided:
        _guide(target, seeds, seed + start, folder, once)
    number = start
    while True:
        once(mutant(target, seeds, number, seed))
        number += 1


def _guide(target: Target, seeds: list[bytes], seed: int, folder: Path, once: Callable[[bytes], None]) -> None:
    import atheris  # noqa: PLC0415 (only `fuzz_guided` needs it)

    def change(content: bytes, largest: int, number: int) -> bytes:
        chance = random.Random(number)
        with contextlib.suppress(Exception):
            return target.mutate(content if chance.random() < 0.8 else chance.choice(seeds), chance)[:largest]
        return chance.choice(seeds)[:largest]

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, content in enumerate(seeds):
        (corpus / str(number)).write_bytes(content)
    options = [f"-seed={seed % 2**31 + 1}", "-max_len=1000000", "-rss_limit_mb=0", "-timeout=1000", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once, custom_mutator=change)
    atheris.Fuzz()


def fuzz(name: str, seconds: float, seed: int, keep: Path, guided: bool) -> tuple[int, dict[str, Finding]]:
    """Executions within that time, and findings by place."""
    context = multiprocessing.get_context("fork")
    end, done, found = time.monotonic() + seconds, 0, dict[str, Finding]()
    with tempfile.TemporaryDirectory() as given:
        folder, queue = Path(given), context.Queue()

        def note(finding: Finding) -> None:
            known = found.get(finding.place)
            found[finding.place] = replace(known, count=known.count + 1) if known else finding
            if known is None:
                keep.mkdir(parents=True, exist_ok=True)
                stem = f"{name}-{len(found)}"
                (keep / f"{stem}{TARGETS[name].suffix}").write_bytes(finding.content)
                (keep / f"{stem}.txt").write_text(f"{finding.place}\n{finding.detail}", errors="replace")
                print(f"{name}: {finding.place}", flush=True)

        while time.monotonic() < end:
            state = context.Array("d", [0.0, time.monotonic()])
            arguments = (name, seed, done, folder, state, queue, guided)
            worker = context.Process(target=_work, args=arguments, daemon=True)
            worker.start()
            hung = False
            while worker.is_alive() and time.monotonic() < end and not hung:
                worker.join(0.2)
                while not queue.empty():
                    note(queue.get())
                hung = state[0] > 0 and time.monotonic() - state[1] > HANG_S
            died = not worker.is_alive()
            if not died:
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
            time.sleep(0.1)
            while not queue.empty():
                note(queue.get())
            done += int(state[0]) + 1
            if hung or died:
                what = "hang" if hung else f"death {worker.exitcode}"
                content = (folder / "current").read_bytes()
                note(Finding(f"{what} {hash(content) if hung else ''}", content, what))
    return done, found


def main(*, guided: bool = False) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("findings"), help="folder for inputs of findings")
    asked = parser.parse_args()
    print(f"{'guided by atheris' if guided else 'without guidance'}, {asked.seconds:g} s each")
    for name in asked.targets or TARGETS:
        started = time.monotonic()
        done, found = fuzz(name, asked.seconds, asked.seed, asked.keep, guided)
        print(f"{name}: {done} executions in {time.monotonic() - started:.0f} s, {len(found)} findings", flush=True)
        for finding in found.values():
            print(f"    {finding.count} x {finding.place}", flush=True)


if __name__ == "__main__":
    main()
