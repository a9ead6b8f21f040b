"""The real task graph of a conversion on 1 to 32 simulated workers.

    python -m benchmarks.cluster_efficiency record MODEL CALIB tasks.json [--samples 64] [--width 32]
    python -m benchmarks.cluster_efficiency decoder FOLDER [--blocks 24] [--hidden 256]
    python -m benchmarks.cluster_efficiency simulate tasks.json [--workers 1 2 4 8 16 32] [--mb-per-s 100]

`decoder` writes a decoder with random weights and tokens for it, FOLDER/decoder.onnx and tokens.npz. `record` converts
once in this process, with a made-up cost table (int8 half as long as float32), and writes down every task that a
cluster would get: CPU seconds, bytes there and back, and the seconds that the client took before it could hand the task
out. `simulate` replays them: a client that makes tasks one after the other, a link of a given speed, workers that take
the next task when they are free, and barriers where the client needs all results.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pickle
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx
from onnx import helper

import onnxmpq
from onnxmpq.tasks import Task, done_by
from tests.tables import int8_pays


@dataclass(frozen=True)
class Done:
    """before_s: of the client, since the task before. run_s: of the task. sent, returned: bytes."""

    stage: str
    about: str
    before_s: float
    run_s: float
    sent: int
    returned: int


class Recorder:
    """Does tasks here, one after the other, and writes down what they take. CPU seconds, as machines are shared."""

    sees_files = True

    def __init__(self, width: int) -> None:
        self.width, self.done, self.walks = width, list[Done](), dict[str, float]()
        self.shared_bytes: dict[str, int] = {}

    @contextmanager
    def shared(self, key: str, value: Any, *, lasting: bool = False) -> Iterator[Any]:
        self.shared_bytes[f"effects {len(self.shared_bytes)}"] = len(pickle.dumps(value))
        yield value

    def run(self, tasks: Iterable[Task[Any]]) -> Iterator[tuple[Task[Any], Any]]:
        last, before, stage = None, time.process_time(), ""
        for task in tasks:
            handed_out = time.process_time()
            result = task.function(*task.arguments)
            run_s = time.process_time() - handed_out
            stage = task.about.split(" at ")[0].split(" layer ")[0]
            if stage.startswith("measuring"):
                stage = f"effects {len(self.shared_bytes) - 1}"
            sent = len(pickle.dumps(task.arguments[1:] or task.arguments))
            self.done.append(Done(stage, task.about, handed_out - before, run_s, sent, len(pickle.dumps(result))))
            yield task, result
            last, before = (task, run_s), time.process_time()
        if last is not None and stage.startswith("effects"):
            self.walks[stage] = self._walk_s(*last)

    @staticmethod
    def _walk_s(task: Task[Any], run_s: float) -> float:
        """What a worker takes that comes to the last task first: a thread has a walk of its own."""
        start = time.process_time()
        thread = Thread(target=task.function, args=task.arguments)
        thread.start()
        thread.join()
        return max(time.process_time() - start - run_s, 0.0)


def decoder(folder: Path, blocks: int, hidden: int, tokens: int = 32, words: int = 512, samples: int = 16) -> None:
    """Attention of one head, causal, and an MLP four times as wide in each block; float32 weights N(0, 1/K)."""
    random = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {"table": random.standard_normal((words, hidden)).astype(np.float32)}
    nodes, at = [helper.make_node("Gather", ["table", "tokens"], ["h"], "embedding")], "h"

    def node(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def layer(source: str, name: str, fan_in: int, fan_out: int) -> str:
        constants[f"{name}.w"] = (random.standard_normal((fan_in, fan_out)) / fan_in**0.5).astype(np.float32)
        return node("MatMul", [source, f"{name}.w"], name)

    def normed(source: str, name: str) -> str:
        constants[f"{name}.g"] = np.ones(hidden, np.float32)
        return node("LayerNormalization", [source, f"{name}.g"], name, axis=-1)

    constants["mask"] = np.triu(np.full((tokens, tokens), -1e4, np.float32), 1)
    constants["root"] = np.array(hidden**-0.5, np.float32)
    for number in range(blocks):
        b = f"b{number}."
        source = normed(at, b + "norm1")
        q, k, v = (layer(source, b + part, hidden, hidden) for part in "qkv")
        scores = node("MatMul", [q, node("Transpose", [k], b + "kt", perm=[0, 2, 1])], b + "scores")
        masked = node("Add", [node("Mul", [scores, "root"], b + "scaled"), "mask"], b + "masked")
        mixed = node("MatMul", [node("Softmax", [masked], b + "softmax", axis=-1), v], b + "mixed")
        at = node("Add", [at, layer(mixed, b + "o", hidden, hidden)], b + "sum1")
        wide = layer(normed(at, b + "norm2"), b + "up", hidden, 4 * hidden)
        silu = node("Mul", [wide, node("Sigmoid", [wide], b + "sigmoid")], b + "silu")
        at = node("Add", [at, layer(silu, b + "down", 4 * hidden, hidden)], b + "sum2")
    layer(normed(at, "norm"), "logits", hidden, words)
    made = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["N", tokens])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", tokens, words])],
        [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "decoder.onnx")
    np.savez(folder / "tokens.npz", tokens=random.integers(0, words, (samples, tokens)))


def record(model: Path, calibration: str, output: Path, samples: int, width: int, recipe: str | None) -> None:
    recorder = Recorder(width)
    with tempfile.TemporaryDirectory() as folder, done_by(recorder):
        start = time.process_time()
        onnxmpq.convert(
            model,
            cost_table=int8_pays(model, Path(folder)),
            latency="60%",
            calibration=calibration,
            recipe=recipe,
            samples=samples,
            cache=False,
            guard=False,
            best_effort=True,
        )
        whole_s = time.process_time() - start
    found = {
        "model": model.name,
        "whole_s": whole_s,
        "walks": recorder.walks,
        "shared": recorder.shared_bytes,
        "tasks": [asdict(d) for d in recorder.done],
    }
    output.write_text(json.dumps(found, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Simulated:
    """makespan_s: of the stage. limit: what no number of workers can beat, and why."""

    makespan_s: float
    limit: str


def simulated(tasks: Sequence[Done], workers: int, walk_s: float, shared: int, rate: float) -> Simulated:
    """One stage: the client hands out, sends and receives on one link; each worker walks for itself and fetches the
    shared value first, from the client or a worker that has it (a tree: log2 of the workers)."""
    rounds = max((workers - 1).bit_length(), 0) + 1
    ready = shared / rate * rounds
    free = [(ready + (walk_s / 2 if workers > 1 else 0.0), number) for number in range(workers)]
    heapq.heapify(free)
    clock = link = end = 0.0
    held: list[float] = []
    for task in tasks:
        if len(held) >= workers + max(1, workers // 4):  # as many as the client has out at once
            clock = max(clock, heapq.heappop(held))
        clock += task.before_s
        link = max(link, clock) + task.sent / rate
        at, number = heapq.heappop(free)
        finished = max(at, link) + task.run_s + task.returned / rate
        heapq.heappush(free, (finished, number))
        heapq.heappush(held, finished)
        end = max(end, finished)
    bounds = {
        "client": sum(t.before_s for t in tasks),
        "link": sum(t.sent + t.returned for t in tasks) / rate + ready,
        "longest task": max(t.run_s for t in tasks),
        "work": sum(t.run_s for t in tasks) / workers,
        "walks": walk_s / 2 + sum(t.run_s for t in tasks) / workers if workers > 1 else 0.0,
    }
    return Simulated(end, max(bounds, key=lambda name: bounds[name]))


def simulate(file: Path, counts: Sequence[int], rate: float) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    tasks = [Done(**row) for row in found["tasks"]]
    in_tasks = sum(t.run_s + t.before_s for t in tasks)
    rest_s = max(found["whole_s"] - in_tasks - sum(found["walks"].values()), 0.0)
    print(f"{found['model']}: {found['whole_s']:.1f} s of CPU, {in_tasks:.1f} s in {len(tasks)} tasks and between them")
    print("| stage | tasks | work s | " + " | ".join(f"{n} workers" for n in counts) + " |")
    print("|---|---|---|" + "---|" * len(counts))
    totals = dict.fromkeys(counts, rest_s)
    for stage in dict.fromkeys(t.stage for t in tasks):
        mine = [t for t in tasks if t.stage == stage]
        work_s, cells = sum(t.run_s for t in mine), []
        for count in counts:
            walk, shared = found["walks"].get(stage, 0.0), found["shared"].get(stage, 0)
            made = simulated(mine, count, walk, shared, rate)
            totals[count] += made.makespan_s
            cells.append(f"{work_s / count / made.makespan_s:.2f} ({made.limit})")
        print(f"| {stage} | {len(mine)} | {work_s:.1f} | " + " | ".join(cells) + " |")
    print(f"| all, with {rest_s:.0f} s on the client | | | " + " | ".join(f"{totals[n]:.0f} s" for n in counts) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    one = commands.add_parser("record")
    one.add_argument("model", type=Path)
    one.add_argument("calibration")
    one.add_argument("output", type=Path)
    one.add_argument("--recipe")
    one.add_argument("--samples", type=int, default=64)
    one.add_argument("--width", type=int, default=32)
    made = commands.add_parser("decoder")
    made.add_argument("folder", type=Path)
    made.add_argument("--blocks", type=int, default=24)
    made.add_argument("--hidden", type=int, default=256)
    other = commands.add_parser("simulate")
    other.add_argument("tasks", type=Path)
    other.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    other.add_argument("--mb-per-s", type=float, default=100.0, help="of each link; 100 is a gigabit network")
    asked = parser.parse_args()
    if asked.command == "record":
        record(asked.model, asked.calibration, asked.output, asked.samples, asked.width, asked.recipe)
    elif asked.command == "decoder":
        decoder(asked.folder, asked.blocks, asked.hidden)
    else:
        simulate(asked.tasks, asked.workers, asked.mb_per_s * 1e6)


if __name__ == "__main__":
    main()
