"""Efficiency of a cluster, from the tasks of a real conversion: what is recorded once is replayed on 1 to 32 workers.

    python -m benchmarks.cluster_efficiency record MODEL CALIB tasks.json [--samples 64] [--width 32] [--effects block]
        [--without gptq ...] [--rounding | --analysis]
    python -m benchmarks.cluster_efficiency decoder FOLDER [--blocks 24] [--hidden 256] [--tokens 32] [--samples 16]
    python -m benchmarks.cluster_efficiency simulate tasks.json [--workers 1 2 4 8 16 32] [--mb-per-s 100]

`decoder` writes a decoder with random weights and tokens for it, FOLDER/decoder.onnx and tokens.npz. `record` converts
once in this process, with a made-up cost table (int8 half as long as float32), and writes down every task that a
cluster of `--width` workers would get: CPU seconds, bytes there and back, and the seconds that the client took before
it could hand the task out. `simulate` replays them: a client that makes tasks one after the other, a link of a given
speed, workers that take the next task when they are free, rounding tasks that wait for their moments, and barriers
where the client needs all results. Tasks that run the model anew each are joined for fewer workers than were recorded.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import pickle
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx
from onnx import helper

import onnxmpq
from onnxmpq.tasks import Task, done_by
from tests.tables import int8_pays

MOMENTS, ROUNDING, EFFECTS, CARRYING = "moments", "rounding", "effects", "carrying"
STAGES = {"moments": MOMENTS, "rounding": ROUNDING, "measuring": EFFECTS, "carrying": CARRYING}
"""By the first word of what a task is about."""
WALKED = (EFFECTS, CARRYING)
"""In these stages each worker runs the fp32 model once, or opens the blocks behind its changes; within blocks the
client runs the model for all of them. Each task of moments runs the model."""


@dataclass(frozen=True)
class Done:
    """before_s: of the client, since it handed out the task before. run_s: of the task. sent, returned: bytes. run:
    number of the call that this task was part of. after: number of the task of moments that it waits for, or -1.
    opens: share of what can be opened that a worker has to have open, which is not in `run_s`."""

    stage: str
    about: str
    before_s: float
    run_s: float
    sent: int
    returned: int
    run: int = 0
    after: int = -1
    opens: float = 0.0


class Stopped(Exception):
    """All that was asked for is recorded."""


class Recorder:
    """Does tasks here, one after the other, and writes down what they take. CPU seconds, as machines are shared.

    walks: CPU seconds of one run of the fp32 model over the samples, by the number of the call. shared_bytes: by stage.
    model_bytes: of them, those of the model, in the first stage.
    """

    sees_files, task_bytes = True, math.inf

    def __init__(self, width: int, stop_at: str = "", last: str = "") -> None:
        """stop_at: a stage, before which recording ends. last: one, behind which it does."""
        self.stop_at, self.last = stop_at, last
        self.width, self.done, self.walks = width, list[Done](), dict[str, float]()
        self.shared_bytes: dict[str, int] = {}
        self.model_bytes = 0
        self._known, self._fresh = set[str](), 0
        self._inside = False  # what is shared for a few tasks of many travels with these
        self.again_s = 0.0  # for figures that a conversion does not need
        self._in_tasks_s = self._mark = 0.0
        self._runs = 0

    @contextmanager
    def shared(self, key: str, value: Any, *, lasting: bool = False) -> Iterator[Any]:
        if not (lasting and key in self._known) and not self._inside:
            size = len(pickle.dumps(value))
            self._fresh += size
            self.model_bytes += size if lasting else 0
        self._known.add(key)
        yield value

    def run(self, tasks: Iterable[Task[Any]]) -> Iterator[tuple[Task[Any], Any]]:
        self._runs += 1
        number, stage, self._mark = self._runs, "", self._client_s()
        first: tuple[Task[Any], float] | None = None
        last: tuple[Task[Any], float] | None = None
        self._inside = True
        for task in tasks:
            stage = STAGES[task.about.split()[0]]
            if stage == self.stop_at:
                raise Stopped
            before_s = self._client_s() - self._mark
            start = time.process_time()
            result = task.function(*task.arguments)
            run_s = time.process_time() - start
            self._share(stage)
            sent = len(pickle.dumps(task.arguments[-2:]))
            waits = [n for n, d in enumerate(self.done) if d.stage == MOMENTS] if stage == ROUNDING else []
            after = waits[-1] if waits else -1
            returned = len(pickle.dumps(result))
            opens = self._opens(task, first[0] if first else task) if stage == CARRYING else 0.0
            self.done.append(Done(stage, task.about, before_s, run_s, sent, returned, number, after, opens))
            self._in_tasks_s += time.process_time() - start
            self._mark = self._client_s()
            yield task, result
            last, first = (task, run_s), first or (task, run_s)
        self._inside = False
        if first and last and stage != ROUNDING:
            start = time.process_time()
            self.walks[str(number)] = self._walk_s(stage, *(first if stage == CARRYING else last))
            self.again_s += time.process_time() - start
            self._in_tasks_s += time.process_time() - start
            if stage == CARRYING:  # the first one opened all
                place = next(n for n, d in enumerate(self.done) if d.run == number)
                opened = self.done[place]
                self.done[place] = replace(opened, run_s=max(opened.run_s - self.walks[str(number)], 0.0))
        if stage and stage == self.last:
            raise Stopped

    @staticmethod
    def _opens(task: Task[Any], first: Task[Any]) -> float:
        """Blocks behind the first of a task's changes, over those behind the first of all."""
        blocks = len(task.arguments[1].blocks) - 1
        own, most = (blocks - int(t.arguments[2][0][0]) for t in (task, first))
        return own / max(most, 1)

    def _client_s(self) -> float:
        return time.process_time() - self._in_tasks_s

    def _share(self, stage: str) -> None:
        self.shared_bytes[stage] = self.shared_bytes.get(stage, 0) + self._fresh
        self._fresh = 0

    @staticmethod
    def _walk_s(stage: str, task: Task[Any], run_s: float) -> float:
        """CPU seconds of what tasks do beside their own work: run the model once."""
        given = task.arguments
        start = time.process_time()
        if stage == MOMENTS:
            smallest = min(given[2], key=lambda key: key[1].groups * key[1].inputs ** 2)
            task.function(*given[:2], [smallest], given[3])
        elif stage == CARRYING:  # of a worker that has the way anew, and then of one that has opened the blocks
            given = given[0], pickle.loads(pickle.dumps(given[1])), given[2]
            task.function(*given)
            fresh_s = time.process_time() - start
            task.function(*given)
            return max(2 * fresh_s - (time.process_time() - start), 0.0)
        else:  # of a worker that comes to the last task first: a thread has a walk of its own
            thread = Thread(target=task.function, args=given)
            thread.start()
            thread.join()
            start += run_s
        return max(time.process_time() - start, 0.0)


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


def record(asked: argparse.Namespace) -> None:
    last = (CARRYING if asked.effects == "block" else EFFECTS) if asked.analysis else ""
    recorder = Recorder(asked.width, EFFECTS if asked.rounding else "", last)
    with tempfile.TemporaryDirectory() as folder, done_by(recorder), suppress(Stopped):
        costs, start = int8_pays(asked.model, Path(folder)), time.process_time()
        onnxmpq.convert(
            asked.model,
            cost_table=costs,
            latency="60%",
            calibration=asked.calibration,
            recipe=asked.recipe,
            samples=asked.samples,
            effects=asked.effects,
            without=tuple(asked.without),
            cache=False,
            guard=False,
            best_effort=True,
        )
    whole_s = time.process_time() - start - recorder.again_s
    found = {
        "model": asked.model.name,
        "whole_s": whole_s,
        "walks": recorder.walks,
        "shared": recorder.shared_bytes,
        "model_bytes": recorder.model_bytes,
        "tasks": [asdict(d) for d in recorder.done],
    }
    asked.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Simulated:
    """makespan_s: of the stage. limit: what no number of workers can beat, and why."""

    makespan_s: float
    limit: str


def simulated(
    numbers: Sequence[int],
    tasks: Sequence[Done],
    workers: int,
    walk_s: float,
    shared: int,
    rate: float,
    opening_s: float = 0.0,
) -> Simulated:
    """One stage, the tasks of these numbers: the client hands out, sends and receives on one link; each worker walks
    for itself and fetches the shared value first, from the client or a worker that has it (a tree: log2 of the
    workers). walk_s: of each worker, beside what one machine takes. opening_s: of all that can be opened, once."""
    ready = shared / rate * (max((workers - 1).bit_length(), 0) + 1)
    free = [(ready + walk_s, 0.0)] * workers  # when, and what share it has opened
    opened_s = 0.0
    clock = link = 0.0
    held: list[float] = []
    finished: dict[int, float] = {}
    for number in numbers:
        task = tasks[number]
        if len(held) >= workers + max(1, workers // 4):  # as many as the client has out at once
            clock = max(clock, heapq.heappop(held))
        clock = max(clock, finished.get(task.after, 0.0)) + task.before_s
        link = max(link, clock) + task.sent / rate
        since, opened = heapq.heappop(free)
        more_s = opening_s * max(task.opens - opened, 0.0)
        opened_s += more_s
        finished[number] = max(since, link) + more_s + task.run_s + task.returned / rate
        heapq.heappush(free, (finished[number], max(opened, task.opens)))
        heapq.heappush(held, finished[number])
    mine = [tasks[number] for number in numbers]
    work_s = sum(t.run_s for t in mine)
    bounds = {
        "client": sum(t.before_s for t in mine),
        "link": sum(t.sent + t.returned for t in mine) / rate + ready,
        "longest task": max(t.run_s for t in mine),
        "work": work_s / workers,
        "opening" if opened_s else "walks": walk_s + (work_s + opened_s) / workers,
    }
    return Simulated(max(finished.values()), max(bounds, key=lambda name: bounds[name]))


def joined(tasks: Sequence[Done], workers: int, walks: Mapping[str, float]) -> list[Done]:
    """The same tasks, those that run the model anew each (moments) joined to as many as this number of workers gets."""
    found: list[Done] = []
    place: dict[int, int] = {}
    piece: dict[tuple[int, int], int] = {}
    for number, task in enumerate(tasks):
        if task.stage == MOMENTS:
            same = [n for n, t in enumerate(tasks) if t.run == task.run]
            at = (task.run, same.index(number) * min(workers, len(same)) // len(same))
            if at in piece:
                whole = found[piece[at]]
                found[piece[at]] = replace(
                    whole,
                    before_s=whole.before_s + task.before_s,
                    run_s=whole.run_s + max(task.run_s - walks[str(task.run)], 0.0),
                    sent=whole.sent + task.sent,
                    returned=whole.returned + task.returned,
                )
                place[number] = piece[at]
                continue
            piece[at] = len(found)
        place[number] = len(found)
        found.append(replace(task, after=place.get(task.after, -1)))
    return found


BOTH = f"{ROUNDING} with {MOMENTS}"
PARTS = {MOMENTS: BOTH, ROUNDING: BOTH}
"""Stages that go on at the same time in a conversion; each is also simulated by itself."""


def handed_out(tasks: Sequence[Done]) -> dict[str, list[int]]:
    """Numbers of the tasks of each stage, moments before the rounding that waits for them."""
    found: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        found.setdefault(PARTS.get(task.stage, task.stage), []).append(number)

    def order(number: int) -> tuple[int, bool, int]:
        task = tasks[number]
        chunk = tasks[task.after].run if task.after >= 0 else task.run
        return chunk, task.after >= 0, number

    return {stage: sorted(numbers, key=order) for stage, numbers in found.items()}


def simulate(file: Path, counts: Sequence[int], rate: float, *, there: bool) -> None:
    """there: the workers have the model already, from a stage that was left out."""
    found = json.loads(file.read_text(encoding="utf-8"))
    if there:
        found["shared"][next(iter(found["shared"]))] -= found["model_bytes"]
    recorded = [Done(**row) for row in found["tasks"]]
    walks: dict[str, float] = found["walks"]
    alone = joined(recorded, 1, walks)
    opening = {t.run: walks[str(t.run)] for t in alone if t.stage == CARRYING}  # once on one machine
    in_tasks = sum(t.run_s + t.before_s for t in alone) + sum(opening.values())
    again = sum(t.run_s for t in recorded) - sum(t.run_s for t in alone)
    rest_s = max(found["whole_s"] - again - in_tasks, 0.0)
    print(f"{found['model']}: {found['whole_s'] - again:.1f} s of CPU, {in_tasks:.1f} s in tasks and between them")
    print("| stage | tasks | work s | " + " | ".join(f"{n} workers" for n in counts) + " |")
    print("|---|---|---|" + "---|" * len(counts))
    totals = dict.fromkeys(counts, rest_s)
    for stage, numbers in handed_out(alone).items():
        rows = [stage, *(part for part, whole in PARTS.items() if whole == stage and part in {t.stage for t in alone})]
        for row in rows:
            mine = [alone[n] for n in numbers if row in (stage, alone[n].stage)]
            work_s, cells = sum(t.run_s + (t.before_s if stage == EFFECTS else 0.0) for t in mine), []
            work_s += sum(opening.get(run, 0.0) for run in {t.run for t in mine})
            for count in counts:
                made = _stage(found, joined(recorded, count, walks), stage, row, count, rate)
                totals[count] += made.makespan_s if row == stage else 0.0
                cells.append(f"{work_s / count / made.makespan_s:.2f} ({made.limit})")
            tasks = sum(row in (stage, recorded[n].stage) for n in handed_out(recorded)[stage])
            print(f"| {row} | {tasks} | {work_s:.1f} | " + " | ".join(cells) + " |")
    print(f"| all, with {rest_s:.0f} s on the client | | | " + " | ".join(f"{totals[n]:.0f} s" for n in counts) + " |")


def _stage(
    found: Mapping[str, Any], tasks: Sequence[Done], stage: str, row: str, workers: int, rate: float
) -> Simulated:
    """A stage, or one of its parts with all that it waits for already there. found: as recorded."""
    numbers = [n for n in handed_out(tasks)[stage] if row in (stage, tasks[n].stage)]
    if row != stage:
        tasks = [replace(task, after=-1) for task in tasks]
    if stage == EFFECTS and workers == 1:  # who walks for itself
        tasks = [replace(task, before_s=0.0, run_s=task.before_s + task.run_s) for task in tasks]
    walk_s = sum(found["walks"][str(run)] for run in {tasks[n].run for n in numbers}) if stage in WALKED else 0.0
    shared = sum(b for s, b in found["shared"].items() if PARTS.get(s, s) == stage and row in (stage, s))
    if stage == CARRYING:
        return simulated(numbers, tasks, workers, 0.0, shared, rate, walk_s)
    walk_s *= 1.0 - 1.0 / workers  # one walk is in the tasks, where workers take turns along the graph
    return simulated(numbers, tasks, workers, walk_s, shared, rate)


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
    one.add_argument("--effects", default="auto")
    one.add_argument("--without", nargs="*", default=[], help="techniques that are left out")
    one.add_argument("--rounding", action="store_true", help="stop after the first rounding")
    one.add_argument("--analysis", action="store_true", help="stop after the effects")
    made = commands.add_parser("decoder")
    made.add_argument("folder", type=Path)
    made.add_argument("--blocks", type=int, default=24)
    made.add_argument("--hidden", type=int, default=256)
    made.add_argument("--tokens", type=int, default=32, help="of a sample")
    made.add_argument("--samples", type=int, default=16)
    other = commands.add_parser("simulate")
    other.add_argument("tasks", type=Path)
    other.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    other.add_argument("--there", action="store_true", help="workers have the model already")
    other.add_argument("--mb-per-s", type=float, default=100.0, help="of each link; 100 is a gigabit network")
    asked = parser.parse_args()
    if asked.command == "record":
        record(asked)
    elif asked.command == "decoder":
        decoder(asked.folder, asked.blocks, asked.hidden, asked.tokens, samples=asked.samples)
    else:
        simulate(asked.tasks, asked.workers, asked.mb_per_s * 1e6, there=asked.there)


if __name__ == "__main__":
    main()
