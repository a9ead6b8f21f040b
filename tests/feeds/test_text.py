from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import load_feeds
from tests.feeds.specs import BERT, spec

WORDS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "the": 3, "cat": 4, "sat": 5}
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [WORDS[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")},
    },
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
}


def test_rows_of_ids_are_padded_to_the_longest(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('[1, 5]\n{"input_ids": [1, 6, 7, 8]}\n')
    feeds = load_feeds(tmp_path / "c.jsonl", BERT, recipe="bert-text")
    assert feeds.arrays["input_ids"].tolist() == [[1, 5, 0, 0], [1, 6, 7, 8]]
    assert feeds.arrays["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert not feeds.arrays["token_type_ids"].any()
    assert feeds.notes == ("1 of 2 samples were padded to 4 tokens with id 0",)


def test_samples_of_their_own_lengths(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("[1, 5]\n[1, 6, 7, 8, 9]\n[2]\n")
    mine = own_recipe(tmp_path, 'lengths = "own"', 'mask = "mask"')
    specs = [spec(name, "N", "T", dtype="int64") for name in ("tokens", "mask")]
    runs = list(load_feeds(tmp_path / "c.jsonl", specs, recipe=mine).batches(4))
    assert [run["tokens"].tolist() for run in runs] == [[[1, 5]], [[1, 6, 7, 8]], [[2]]]
    assert all(run["mask"].shape == run["tokens"].shape and run["mask"].all() for run in runs)
    fixed = load_feeds(tmp_path / "c.jsonl", [spec("tokens", "N", 3, dtype="int64")], recipe=mine)
    assert fixed.arrays["tokens"].tolist() == [[1, 5, 0], [1, 6, 7], [2, 0, 0]]


def test_length_of_the_model_decides(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("1,2\n1,2,3,4,5\n")
    specs = [spec("input_ids", "N", 3, dtype="int32"), spec("attention_mask", "N", 3)]
    feeds = load_feeds(tmp_path / "c.csv", specs, recipe="bert-text")
    assert feeds.arrays["input_ids"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert feeds.arrays["input_ids"].dtype == np.int32
    assert feeds.arrays["attention_mask"].dtype == np.float32
    assert feeds.notes[0] == "1 of 2 samples were cut to 3 tokens"


def own_recipe(folder: Path, extra: str = "", inputs: str = "") -> str:
    text = f'kind = "text"\ndescription = "d"\nmax_length = 4\n{extra}\n[inputs]\nids = "tokens"\n{inputs}\n'
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_ids_outside_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("[1, 2]\n[1, 65]\n")
    tokens = [spec("tokens", "N", "T", dtype="int64")]
    assert len(load_feeds(tmp_path / "c.jsonl", tokens, recipe=own_recipe(tmp_path))) == 2
    with pytest.raises(CalibrationError, match=r"line 2: token id 65 is outside 0 to 64"):
        load_feeds(tmp_path / "c.jsonl", tokens, recipe=own_recipe(tmp_path, "vocabulary = 65"))
    (tmp_path / "c.jsonl").write_text("[-1]")
    with pytest.raises(CalibrationError, match="token id -1 is outside 0"):
        load_feeds(tmp_path / "c.jsonl", tokens, recipe=own_recipe(tmp_path))


def test_fixed_batch(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("[1]\n[2]\n[3]\n")
    tokens = [spec("tokens", 2, "T", dtype="int64")]
    feeds = load_feeds(tmp_path / "c.jsonl", tokens, recipe=own_recipe(tmp_path))
    assert feeds.arrays["tokens"].tolist() == [[[1], [2]]]
    assert feeds.notes == ("the last 1 of 3 lines were dropped (the model takes 2 at once)",)


def test_inputs_that_the_recipe_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("[1]")
    with pytest.raises(
        CalibrationError, match=r"fills input_ids, .*, but the model's inputs are tokens; copy the recipe"
    ):
        load_feeds(tmp_path / "c.jsonl", [spec("tokens", "N", "T", dtype="int64")], recipe="bert-text")
    with pytest.raises(CalibrationError, match=r"takes \[N, 1, T\]"):
        load_feeds(tmp_path / "c.jsonl", [spec("input_ids", "N", 1, "T", dtype="int64")], recipe="bert-text")


@pytest.mark.parametrize("text", ['["a"]', "5", '{"ids": [1]}', "[1.5]", "[]"])
def test_lines_without_ids(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(CalibrationError, match="line 1 holds no token ids"):
        load_feeds(tmp_path / "c.jsonl", BERT, recipe="bert-text")


def test_no_lines(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("\n  \n")
    for source in (tmp_path, tmp_path / "c.txt"):
        with pytest.raises(CalibrationError, match="holds no text"):
            load_feeds(source, BERT, recipe="bert-text")


def test_text_through_a_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (tmp_path / "c.txt").write_text("The cat\n\nthe cat sat\n")
    feeds = load_feeds(tmp_path / "c.txt", BERT, recipe="bert-text")
    assert feeds.arrays["input_ids"].tolist() == [[1, 3, 4, 2, 0], [1, 3, 4, 5, 2]]
    tokens = [spec("tokens", "N", "T", dtype="int64")]
    cut = load_feeds(tmp_path, tokens, recipe=own_recipe(tmp_path, 'tokenizer = "tokenizer.json"'))
    assert cut.arrays["tokens"].tolist() == [[1, 3, 4, 2], [1, 3, 4, 2]]
    assert cut.notes == ("1 of 2 samples were cut to 4 tokens",)


def test_missing_or_damaged_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "c.txt").write_text("the cat\n")
    with pytest.raises(CalibrationError, match=r"there is no tokenizer at .*tokenizer\.json or .*c\.json"):
        load_feeds(tmp_path / "c.txt", BERT, recipe="bert-text")
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(CalibrationError, match=r"c\.json cannot be read as a tokenizer"):
        load_feeds(tmp_path / "c.txt", BERT, recipe="bert-text")


def test_without_tokenizers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "c.txt").write_text("the cat\n")
    with pytest.raises(CalibrationError, match=r"pip install 'onnxmpq\[text\]'"):
        load_feeds(tmp_path / "c.txt", BERT, recipe="bert-text")
