"""The committed decoder is what `samples/README.md` says, and still knows the standard library."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmpq.decoding import find_decoder, load_samples
from onnxmpq.runtimes import open_session, run, specs_of

FOLDER = Path(__file__).parents[1] / "samples" / "decoder"
MODEL = str(FOLDER / "decoder.onnx")
LIKELIHOOD = -2.6  # nats per token that the script gave: -2.52


def test_graph_is_what_the_readme_says() -> None:
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    found = find_decoder(model)
    assert found is not None and len(found.pairs) == 6
    tables = [t.name for t in model.graph.initializer if list(t.dims) == [1024, 192]]
    assert tables == ["embedding"]
    readers = Counter(node.op_type for node in model.graph.node if "embedding" in node.input)
    assert readers == {"Gather": 1, "Transpose": 1}, "one tensor for both ends"
    [info] = [i for i in model.graph.input if i.name == "past_key_values.0.key"]
    sizes = [d.dim_value or d.dim_param for d in info.type.tensor_type.shape.dim]
    assert sizes == ["batch_size", 2, "past_sequence_length", 32]


def test_the_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


def likelihood(logits: NDArray[np.float32], ids: NDArray[np.int64]) -> float:
    """Mean log-likelihood in nats of each next token. logits: [1, tokens, ids]; ids: [tokens]."""
    scores = logits[0, :-1].astype(np.float64)
    top = scores.max(axis=-1, keepdims=True)
    normalised = scores - top - np.log(np.exp(scores - top).sum(axis=-1, keepdims=True))
    return float(normalised[np.arange(len(ids) - 1), ids[1:]].mean())


def test_it_predicts_text_that_it_never_saw() -> None:
    pytest.importorskip("tokenizers")
    feeds = load_samples(MODEL, FOLDER / "test.txt", specs_of(MODEL), limit=24)
    session = open_session(MODEL)
    found = [
        likelihood(run(session, feeds.batch([i]), ["logits"])[0], np.asarray(feeds.value("input_ids", i), np.int64))
        for i in range(len(feeds))
        if feeds.steps[i] == "prefill"
    ]
    assert len(found) > 8
    assert np.mean(found) > LIKELIHOOD


def test_calibration_and_test_are_different_text() -> None:
    one, other = ((FOLDER / f"{name}.txt").read_text(encoding="utf-8") for name in ("calib", "test"))
    assert one.isascii() and other.isascii()
    blocks = [one[i : i + 200] for i in range(0, len(one), 1000)]
    assert not any(block in other for block in blocks)
