"""Samples of decoders: both phases, with the cache that the model makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.decoding import load_samples
from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import Feeds, at_step, find_recipe
from onnxmpq.feeds.overrides import override
from onnxmpq.runtimes import open_session, run, specs_of
from tests import decoders
from tests.graphs import graph

MODELS = [decoders.plain, decoders.contrib]
both = pytest.mark.parametrize("made", MODELS, ids=["plain", "contrib"])


def loaded(proto: onnx.ModelProto, source: object, **options: object) -> Feeds:
    return load_samples(proto, source, specs_of(proto), **options)


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    np.savez(tmp_path / "ids.npz", input_ids=decoders.token_rows())
    return tmp_path / "ids.npz"


@both
def test_steps_continue_what_the_model_computes_on_the_whole_sequence(made: object, ids: Path) -> None:
    """The logits of a step with a cache are those of the same token in a run on everything at once."""
    proto = made()
    feeds, session = loaded(proto, ids), open_session(proto)
    rows = decoders.token_rows()
    assert set(feeds.steps) == {"decode", "prefill"}
    for sample, (row, held) in enumerate(zip(rows, feeds.runs, strict=True)):
        inputs = feeds.batch([sample])
        [logits] = run(session, inputs, ["logits"])
        if held.step == "prefill":
            assert (held.tokens, held.before) == (len(row), 0)
            np.testing.assert_array_equal(inputs["input_ids"][0], row)
            continue
        whole = {spec.name: np.zeros([1, 2, 0, 16], np.float32) for spec in feeds.specs}
        until = row[None, : held.before + 1]
        whole |= {
            "input_ids": until,
            "attention_mask": np.ones_like(until),
            "position_ids": np.arange(until.size)[None],
        }
        [all_logits] = run(session, {spec.name: whole[spec.name] for spec in feeds.specs}, ["logits"])
        np.testing.assert_allclose(logits[0, -1], all_logits[0, -1], rtol=1e-3, atol=1e-4)


def test_every_part_that_is_held_back_has_both_phases(ids: Path) -> None:
    """Every fourth sample is held out, and every fourth of the others decides."""
    feeds = loaded(decoders.plain(), {"input_ids": decoders.token_rows(64)})
    out = feeds.take([i for i in range(64) if i % 4 == 3])
    rest = feeds.take([i for i in range(64) if i % 4 != 3])
    deciding = rest.take([i for i in range(len(rest)) if i % 4 == 3])
    for part in (feeds, out, rest, deciding):
        assert 0.3 < part.steps.count("decode") / len(part) < 0.7
    assert len({run.before for run in feeds.runs}) > 3, "caches of several lengths"


def test_the_timed_sample_is_of_the_asked_phase(ids: Path) -> None:
    feeds = loaded(decoders.plain(), ids)
    for step in ("decode", "prefill"):
        chosen = at_step(feeds, step)
        assert chosen.runs[chosen.typical].step == step
        assert f"--step {step}" in chosen.timed
    assert at_step(feeds, None).step == "decode"


def test_samples_go_through_the_model_side_by_side(ids: Path) -> None:
    proto = decoders.plain()
    feeds = loaded(proto, ids)
    alike = [i for i in range(len(feeds)) if feeds.steps[i] == "prefill"]
    assert feeds.batchable
    [together] = run(open_session(proto), feeds.batch(alike[:2]), ["logits"])
    [alone] = run(open_session(proto), feeds.batch(alike[1:2]), ["logits"])
    np.testing.assert_allclose(together[1:], alone, rtol=1e-3, atol=1e-4)


def test_without_data_ids_are_made_up_and_the_cache_is_the_models() -> None:
    feeds = loaded(decoders.contrib(), None, limit=4, recipe=override("decoder", {"max_length": 8}))
    assert feeds.synthetic and len(feeds) == 4
    assert all(values.max() < decoders.VOCABULARY for values in feeds.ragged["input_ids"])
    step = feeds.steps.index("decode")
    assert np.any(feeds.value("past_key_values.1.key", step))


def test_text_through_a_tokenizer_beside_the_model(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{i}": i for i in range(decoders.VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    path = tmp_path / "model" / "model.onnx"
    onnx.save(decoders.plain(), path)
    (tmp_path / "text.txt").write_text("\n".join(f"w{i % 40} w{i % 7} w{i % 11}" for i in range(400)))
    recipe = override("decoder", {"max_length": 16})
    feeds = load_samples(str(path), tmp_path / "text.txt", specs_of(str(path)), recipe=recipe, limit=6)
    assert len(feeds) == 6
    whole = [feeds.value("input_ids", i) for i in range(6) if feeds.steps[i] == "prefill"]
    assert {len(row) for row in whole} == {16}
    assert "recipe decoder" in feeds.source
    named = override("decoder", {"max_length": 16, "tokenizer": str(tmp_path / "model" / "tokenizer.json")})
    again = loaded(decoders.plain(), tmp_path / "text.txt", recipe=named, limit=6)
    np.testing.assert_array_equal(again.value("input_ids", 0), feeds.value("input_ids", 0))


def test_rows_streams_and_padded_arrays_of_ids(tmp_path: Path) -> None:
    rows = decoders.token_rows(4, 10)
    (tmp_path / "ids.jsonl").write_text("\n".join(str(row.tolist()) for row in rows))
    np.save(tmp_path / "ids.npy", rows)
    np.save(tmp_path / "stream.npy", rows.ravel())
    padded, mask = np.pad(rows, ((0, 0), (0, 3))), np.pad(np.ones_like(rows), ((0, 0), (0, 3)))
    np.savez(tmp_path / "padded.npz", input_ids=padded, attention_mask=mask)
    for name in ("ids.jsonl", "ids.npy", "padded.npz"):
        feeds = loaded(decoders.plain(), tmp_path / name)
        np.testing.assert_array_equal(feeds.value("input_ids", 0), rows[0])
    short = loaded(decoders.plain(), tmp_path / "stream.npy", recipe=override("decoder", {"max_length": 8}))
    np.testing.assert_array_equal(short.value("input_ids", 0), rows.ravel()[:8])
    assert len(short) == 5


def test_data_with_the_cache_is_taken_as_it_is() -> None:
    generator = np.random.default_rng(0)
    given = {f"past_key_values.{n}": generator.standard_normal((3, 2, 5, 16), np.float32) for n in decoders.CACHES}
    given |= {"input_ids": decoders.token_rows(3, 1), "attention_mask": np.ones((3, 6), np.int64)}
    feeds = loaded(decoders.contrib(), given)
    assert set(feeds.steps) == {"decode"} and feeds.runs[0].before == 5
    assert any("judged by their own values" in note for note in feeds.notes)


def test_ids_beyond_the_table_are_named(ids: Path) -> None:
    rows = decoders.token_rows()
    rows[2, 5] = decoders.VOCABULARY
    with pytest.raises(CalibrationError, match=f"sample 2: token id {decoders.VOCABULARY} .*outside 0 to 47"):
        loaded(decoders.plain(), {"input_ids": rows})


def test_inputs_that_do_not_follow_from_ids_are_named(ids: Path) -> None:
    proto = decoders.plain()
    encoder = onnx.helper.make_tensor_value_info("encoder_states", onnx.TensorProto.FLOAT, ["batch_size", None, 64])
    proto.graph.input.append(encoder)
    with pytest.raises(CalibrationError, match=r"cannot fill 'encoder_states' \[batch_size, \?, 64\].*\.npz"):
        loaded(proto, ids)


def test_caches_of_an_encoder_are_named_and_taken_where_they_are_given(ids: Path) -> None:
    proto = decoders.plain(encoder=True)
    with pytest.raises(CalibrationError, match=r"past_key_values\.0\.encoder\.key.*encoder's output.*\.npz") as found:
        loaded(proto, ids)
    assert "\n" not in str(found.value)
    generator, rows = np.random.default_rng(0), decoders.token_rows(3, 1)
    caches = {f"past_key_values.{name}": (3, 2, 5, 16) for name in decoders.CACHES}
    given = {n: generator.standard_normal(s, np.float32) for n, s in caches.items()}
    given |= {name: generator.standard_normal((3, 4, 7, 16), np.float32) for name in decoders.CROSS}
    given |= {"input_ids": rows, "attention_mask": np.ones((3, 6), np.int64), "position_ids": np.full((3, 1), 5)}
    feeds = loaded(proto, given)
    assert feeds.steps == ("decode",) * 3 and feeds.runs[0].before == 5
    assert any("6 inputs such as" in note and "4 outputs" in note for note in feeds.notes)


def test_caches_of_an_encoder_that_the_model_hands_on_are_named(ids: Path) -> None:
    """As in decoders that hold both phases."""
    proto = decoders.plain(encoder=True)
    for name in decoders.CROSS:
        present = name.replace("past_key_values", "present")
        proto.graph.node.append(onnx.helper.make_node("Identity", [name], [present]))
        shape = ["batch_size", decoders.HEADS, "encoder_sequence_length", decoders.HEAD]
        proto.graph.output.append(onnx.helper.make_tensor_value_info(present, onnx.TensorProto.FLOAT, shape))
    with pytest.raises(CalibrationError, match=r"past_key_values\.0\.encoder\.key"):
        loaded(proto, ids)


def test_a_number_for_another_input_is_a_field_of_the_recipe(ids: Path) -> None:
    proto = decoders.plain()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("keep", onnx.TensorProto.INT64, []))
    feeds = loaded(proto, ids, recipe=override("decoder", {"values": {"keep": 3}}))
    assert all(feeds.batch([i])["keep"] == 3 for i in range(len(feeds)))


def test_a_cache_whose_axis_cannot_be_told_is_named(ids: Path) -> None:
    proto = decoders.plain()
    for info in proto.graph.input:
        if info.name == "past_key_values.0.key":
            for axis, name in enumerate(("batch_size", "a", "b", "c")):
                info.type.tensor_type.shape.dim[axis].dim_param = name
    with pytest.raises(CalibrationError, match=r"past_key_values\.0\.key"):
        loaded(proto, ids)


def test_recipes_for_other_models_are_refused(tmp_path: Path, ids: Path) -> None:
    (tmp_path / "text.txt").write_text("a\nb")
    with pytest.raises(CalibrationError, match=r"past_key_values\.0\.key.*--recipe decoder"):
        loaded(decoders.plain(), tmp_path / "text.txt", recipe="bert-text")
    encoder = graph("y = Gather(table, input_ids)", "int64[N,T] input_ids", "float[N,T,4] y", "float[9,4] table")
    with pytest.raises(CalibrationError, match="decoders with a cache"):
        loaded(encoder, ids, recipe="decoder")


def test_sequences_too_short_for_a_step_are_named() -> None:
    with pytest.raises(CalibrationError, match="1 token"):
        loaded(decoders.plain(), {"input_ids": decoders.token_rows(4, 1)})


def test_the_recipe_ships() -> None:
    assert find_recipe("decoder").max_length == 128
