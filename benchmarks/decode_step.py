"""A decode step: fp32, onnxruntime's int8 and MatMulNBits everywhere, and onnxmpq, side by side.

    ONNXMPQ_ZOO=... python -m benchmarks.decode_step [folder]

Needs `pip install 'onnxmpq[benchmarks]'`. The sample decoder, the same in onnxruntime's own operators
(`benchmarks.contrib_decoder`), and gpt_char with a cache (`benchmarks.gpt_char_cache`).
Quality: held-out sequences, token by token, each variant with the cache that it makes itself. Latency: one thread, one
step behind half of a sequence, all variants in turn. The first row of a table is fp32. "fp32 without its weights" has
no products with weights: no scheme of weights makes a step faster than that. "fp32 as prepared" is the graph that
onnxmpq quantizes, with attention as one operator.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

import onnxmpq
from benchmarks.contrib_decoder import in_contrib_operators
from benchmarks.gpt_char_cache import with_cache
from benchmarks.zoo import arrays, zoo
from onnxmpq.cost import Effort, interleaved_s
from onnxmpq.decoding import find_decoder, load_samples
from onnxmpq.feeds import Array, Feeds, at_step
from onnxmpq.feeds.overrides import override
from onnxmpq.model import prepare
from onnxmpq.provenance import describe_runtime
from onnxmpq.runtimes import REFERENCE, Session, SessionSettings, open_session, run, specs_of
from onnxmpq.target import load_target

SAMPLES = Path(__file__).parent.parent / "samples" / "decoder"
CALIBRATION, HELD_OUT, LENGTH, BLOCK = 48, 24, 128, 32
THREADS = SessionSettings(threads=1)
NO_WEIGHTS = "fp32 without its weights"
FUSED = "fp32 as prepared"
OURS: Mapping[str, Mapping[str, object]] = {
    f"onnxmpq, fastest within {nats} nats": {"latency": "fastest", "max_divergence": nats} for nats in (0.01, 0.0005)
}


@dataclass(frozen=True)
class Subject:
    """A decoder in a file, data to calibrate it with, and held-out sequences, int64 [sequences, tokens]."""

    name: str
    model: Path
    calibration: object
    rows: NDArray[np.int64]

    def feeds(self) -> Feeds:
        return at_step(
            load_samples(str(self.model), self.calibration, specs_of(str(self.model)), limit=CALIBRATION), None
        )


@dataclass(frozen=True)
class Quality:
    """Per token: log-likelihood of the next one, KL from fp32, both in nats; share of the same top token."""

    likelihood: float
    divergence: float
    agreement: float


def subjects(folder: Path) -> list[Subject]:
    model, fused = folder / "gpt_char.onnx", folder / "contrib.onnx"
    entry = zoo().load("gpt_char")
    onnx.save(with_cache(onnx.load(entry.model)), model)
    sample = SAMPLES / "decoder.onnx"
    onnx.save(in_contrib_operators(onnx.load(sample)), fused)
    text = load_samples(str(sample), SAMPLES / "test.txt", specs_of(str(sample)), recipe=override("decoder", {}))
    whole = [np.asarray(text.value("input_ids", i)) for i in range(len(text)) if text.steps[i] == "prefill"]
    rows = np.stack([row for row in whole if len(row) == LENGTH][:HELD_OUT])
    chars = arrays(entry, "calib", CALIBRATION)["tokens"], arrays(entry, "test", HELD_OUT)["tokens"]
    return [
        Subject("samples/decoder", sample, SAMPLES / "calib.txt", rows),
        Subject("samples/decoder in onnxruntime's own operators", fused, SAMPLES / "calib.txt", rows),
        Subject("gpt_char with a cache", model, {"input_ids": chars[0]}, chars[1]),
    ]


# ---- variants ---------------------------------------------------------------------------------------------


def variants(subject: Subject, folder: Path) -> dict[str, onnx.ModelProto]:
    """fp32 first. onnxruntime's tools get the graph that its own pre-processing makes, in which a transposed weight is
    a constant."""
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415 (slow to import)

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(subject.model), str(prepared), skip_symbolic_shape=True)
    makers: dict[str, Callable[[], onnx.ModelProto]] = {
        "fp32": lambda: onnx.load(subject.model),
        "onnxruntime static int8": lambda: _static(prepared, subject.feeds(), folder),
        "onnxruntime dynamic int8": lambda: _dynamic(prepared, folder),
        "MatMulNBits 4 bits, level 0": lambda: _in_blocks(prepared, 0),
        "MatMulNBits 4 bits, level 4": lambda: _in_blocks(prepared, 4),
        "MatMulNBits 8 bits, level 4": lambda: _in_blocks(prepared, 4, bits=8),
        NO_WEIGHTS: lambda: without_products(onnx.load(prepared)),
        FUSED: lambda: prepare(subject.model, added=load_target("cpu").takes).proto,
        f"{FUSED}, without its weights": lambda: without_products(
            prepare(subject.model, added=load_target("cpu").takes).proto
        ),
        **{name: lambda o=options: _ours(subject, o) for name, options in OURS.items()},
    }
    return {name: make() for name, make in makers.items()}


def _static(prepared: Path, feeds: Feeds, folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = feeds.batches(1)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    made = folder / "static.onnx"
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    return onnx.load(made)


def _dynamic(prepared: Path, folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    made = folder / "dynamic.onnx"
    # its shape inference does not know contrib operators
    extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(str(prepared), str(made), per_channel=True, weight_type=QuantType.QInt8, extra_options=extra)
    return onnx.load(made)


def _in_blocks(prepared: Path, level: int, bits: int = 4) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer  # noqa: PLC0415

    maker = MatMulNBitsQuantizer(
        onnx.load(prepared), bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=level
    )
    maker.process()
    made: onnx.ModelProto = maker.model.model
    return made


def without_products(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with copies and slices of the input in place of what weights are multiplied with, of the same shapes:
    what is left of a step when weights cost nothing."""
    constants = {t.name: t for t in proto.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            nodes.append(node)
            continue
        (inputs, outputs), source, [result] = constants[node.input[1]].dims, node.input[0], node.output
        if inputs < outputs:
            wide = result if outputs % inputs == 0 else f"{result}/wide"
            nodes.append(onnx.helper.make_node("Concat", [source] * -(-outputs // inputs), [wide], axis=-1))
            source = wide
        if source != result:
            ends = [f"{result}/{name}" for name in ("start", "end", "axis")]
            for name, value in zip(ends, (0, outputs, -1), strict=True):
                proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
            nodes.append(onnx.helper.make_node("Slice", [source, *ends], [result]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def _ours(subject: Subject, options: Mapping[str, object]) -> onnx.ModelProto:
    result = onnxmpq.convert(
        subject.model, calibration=subject.calibration, samples=CALIBRATION, best_effort=True, **options
    )
    print("; ".join(line.in_one() for line in result.report.conclusion.lines), file=sys.stderr)
    return result.model


# ---- measurements -------------------------------------------------------------------------------------------


def decoded(session: Session, subject: Subject) -> NDArray[np.float32]:
    """Logits [sequences, tokens - 1, ids] token by token, with the cache that the session makes."""
    decoder = find_decoder(onnx.load(subject.model, load_external_data=False))
    assert decoder is not None
    specs, outputs = specs_of(str(subject.model)), ["logits", *decoder.past.values()]
    found = []
    for row in subject.rows:
        cache = {s.name: np.zeros([1, s.shape[1], 0, s.shape[3]], s.dtype) for s in specs if s.name in decoder.past}
        logits = []
        for place in range(len(row) - 1):
            known = {decoder.ids: row[None, place : place + 1], **dict.fromkeys(decoder.positions, np.array([[place]]))}
            if decoder.mask is not None:
                known[decoder.mask] = np.ones((1, place + 1), np.int64)
            step, *rest = run(session, {**known, **cache}, outputs)
            cache = dict(zip(decoder.past, rest, strict=True))
            logits.append(step[0, -1])
        found.append(np.stack(logits))
    return np.stack(found)


def quality(reference: NDArray[np.float32], logits: NDArray[np.float32], rows: NDArray[np.int64]) -> Quality:
    before, after = _log_softmax(reference), _log_softmax(logits)
    likelihood = np.take_along_axis(after, rows[:, 1:, None], axis=-1).mean()
    divergence = (np.exp(before) * (before - after)).sum(axis=-1).mean()
    return Quality(float(likelihood), float(divergence), float((before.argmax(-1) == after.argmax(-1)).mean()))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def latencies(sessions: Sequence[Session], feeds: Feeds) -> NDArray[np.float64]:
    """Seconds of a step of each session, [sessions, rounds]."""
    inputs = feeds.batch([feeds.typical])
    calls = [REFERENCE.prepared(session, inputs) for session in sessions]
    return np.array(interleaved_s(calls, Effort(seconds=6.0, runs=200, rounds=15)))


def table(subject: Subject, folder: Path) -> list[str]:
    made = variants(subject, folder)
    sessions = [open_session(proto, THREADS) for proto in made.values()]
    reference = decoded(sessions[0], subject)
    feeds = subject.feeds()
    taken = latencies(sessions, feeds)
    head = [
        "| variant | ms | of fp32's | MB | nats per token | KL to fp32 | same top token |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for (name, proto), session, seconds in zip(made.items(), sessions, taken, strict=True):
        ratio, size = float(np.median(seconds / taken[0])), proto.ByteSize() / 1e6
        cells = [name, f"{np.median(seconds) * 1e3:.3f}", f"{ratio:.2f}"]
        if name.endswith("without its weights"):
            cells += [""] * 4
        else:
            found = quality(reference, decoded(session, subject), subject.rows)
            cells += [f"{size:.2f}", f"{found.likelihood:.4f}", f"{found.divergence:.4f}", f"{found.agreement:.1%}"]
        rows.append(f"| {' | '.join(cells)} |")
    held = feeds.runs[feeds.typical]
    return [
        f"{subject.name}, a step behind {held.before} tokens, {subject.rows.shape[0]} sequences:",
        "",
        *head,
        *rows,
        "",
    ]


def main() -> None:
    logging.disable(logging.INFO)  # MatMulNBitsQuantizer tells of every node
    where = describe_runtime()
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for subject in subjects(folder):
            print("\n".join(table(subject, folder)), flush=True)


if __name__ == "__main__":
    main()
