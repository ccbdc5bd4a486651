"""Batches, against one sentence encoded at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from affectron.corpus import Corpus
from affectron.corpus.batching import Batch, batches
from tests.support.errors import message
from tests.support.tokens import BPE, PROMPT, TEXTS, byte_level, encode_one, own_by_bytes, spelled, word_piece

CORPUS = st.lists(
    st.tuples(TEXTS.filter(lambda text: not text.isspace()), st.sampled_from([("x",), ("y",), ("x", "y")])),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("template", ["{text}", PROMPT])
@given(rows=CORPUS, budget=st.integers(1, 120), pool=st.integers(1, 40), count_special=st.booleans())
@settings(deadline=None)
def test_batches_hold_every_sentence_once_within_the_budget(
    template: str, rows: list[tuple[str, tuple[str, ...]]], budget: int, pool: int, count_special: bool
) -> None:
    corpus = Corpus.from_records([{"text": text, "label": labels} for text, labels in rows])
    options = {"batch_tokens": budget, "pool": pool, "template": template, "count_special": count_special}
    streamed = list(batches(corpus, BPE, **options))

    # The order: pool by pool, longest first, equal lengths as in the corpus.
    alone = [encode_one(BPE, text, template, count_special) for text, _ in rows]
    order = []
    for first in range(0, len(rows), pool):
        positions = range(first, min(first + pool, len(rows)))
        order += sorted(positions, key=lambda position: (-len(alone[position].input_ids), position))
    assert [int(sentence.id) - 1 for batch in streamed for sentence in batch.sentences] == order

    for batch in streamed:
        count, width = batch.input_ids.shape
        lengths = [len(alone[int(sentence.id) - 1].input_ids) for sentence in batch.sentences]
        assert width == max(lengths)
        assert count * width <= budget or count == 1
        for row, (sentence, length) in enumerate(zip(batch.sentences, lengths, strict=True)):
            expected = alone[int(sentence.id) - 1]
            assert batch.input_ids[row, :length].tolist() == expected.input_ids
            assert batch.counted[row, :length].tolist() == expected.counted
            assert not batch.counted[row, length:].any()
            assert batch.attention_mask[row].tolist() == [1] * length + [0] * (width - length)
            assert corpus.segments[batch.segments[row]] == sentence.labels == rows[int(sentence.id) - 1][1]
        assert batch.truncated == 0

    # No batch ends before its budget or its pool does.
    seen = 0
    for batch in streamed:
        seen += len(batch.sentences)
        if seen % pool and seen < len(rows):
            assert (len(batch.sentences) + 1) * batch.input_ids.shape[1] > budget


def test_the_arrays_are_of_the_types_that_models_take() -> None:
    (batch,) = batches(Corpus.from_records([{"text": "a b", "label": "x"}, {"text": "c", "label": "y"}]), BPE)
    assert isinstance(batch, Batch)
    kinds = [batch.input_ids.dtype, batch.attention_mask.dtype, batch.segments.dtype, batch.counted.dtype]
    assert kinds == [np.int64, np.int64, np.int64, np.bool_]


def test_what_pads_is_a_token_of_every_model() -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # beyond the embedding of a model that was not resized
    known = len(BPE)
    (batch,) = batches(
        Corpus.from_records([{"text": "a", "label": "x"}, {"text": "a long one", "label": "x"}]), tokenizer
    )
    assert (batch.attention_mask == 0).any()
    assert batch.input_ids.max() < known


def test_truncated_sentences_are_counted_in_their_batch() -> None:
    texts = ["xxxxxxxx", "xx", "xxxxxxx", "x"]
    corpus = Corpus.from_records([{"text": text, "label": "x"} for text in texts])
    streamed = list(batches(corpus, BPE, max_length=6, batch_tokens=12))
    assert [(len(batch.sentences), batch.truncated) for batch in streamed] == [(2, 2), (2, 0)]
    assert streamed[0].input_ids.shape == (2, 6)


def test_a_text_without_a_known_character_is_one_pad() -> None:
    bare = word_piece()
    bare.backend_tokenizer.post_processor = None
    (batch,) = batches(Corpus.from_records([{"text": "\x01", "label": "x"}]), bare)
    assert batch.input_ids.shape == (1, 1)
    assert not batch.attention_mask.any()
    assert not batch.counted.any()


def test_bad_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n')
    corpus = Corpus.from_file(path)
    path.unlink()
    expected = "expected an integer of at least 1, below 2^32"
    assert message(lambda: batches(corpus, BPE, batch_tokens=0)) == f"batch_tokens is 0, {expected}"
    assert message(lambda: batches(corpus, BPE, pool=-1)) == f"pool is -1, {expected}"
    assert message(lambda: batches(corpus, BPE, max_length=0)) == f"max_length is 0, {expected}"
    assert message(lambda: batches(corpus, BPE, template="text")) == "prompt without {text}: template is 'text'"
    unread = batches(corpus, BPE)
    assert message(lambda: next(unread)) == f"cannot read {path}: No such file or directory"


def test_a_real_tokenizer_and_corpus(shared: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(shared / "models" / "emorhet-3m")
    corpus = Corpus.from_file(shared / "data" / "core" / "data.jsonl", split="dev")
    seen = 0
    for batch in batches(corpus, tokenizer, template="{bos}{text}\nEmotion:", batch_tokens=4096):
        assert batch.input_ids.size <= 4096
        for row, sentence in enumerate(batch.sentences):
            length = int(batch.attention_mask[row].sum())
            tokens = tokenizer.convert_ids_to_tokens(batch.input_ids[row, :length].tolist())
            bos = str(tokenizer.bos_token)
            assert spelled(tokens) == f"{bos}{sentence.text}\nEmotion:".encode()
            assert batch.counted[row, :length].tolist() == own_by_bytes(tokens, bos, sentence.text)
        seen += len(batch.sentences)
    assert seen == len(corpus)
