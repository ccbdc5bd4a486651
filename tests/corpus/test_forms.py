"""Corpora beyond a sentence a line: datasets, conversations, spans, several label columns, texts longer than the model
reads; and the tokenizers that they are read with. The oracle is a tokenizer asked for one piece at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from affectron.corpus import Corpus, Message
from affectron.corpus.batching import batches
from affectron.corpus.encoding import encode
from affectron.screening.screen import screen
from tests.support.errors import message
from tests.support.tiny import build, make_tokenizer

CHAT = "{% for m in messages %}<{{ m.role }}> {{ m.content | trim }} <end> {% endfor %}"


ROWS = [
    {"text": "w1 w2 w3 w4", "emotion": "anger", "device": None, "split": "train"},
    {"text": "w5 w6", "emotion": ["joy", "anger"], "device": "metaphor", "split": "dev"},
    {"text": "w7", "emotion": None, "device": "sarcasm", "split": "train"},
]


SPANS = [
    {
        "id": "a",
        "text": "w1 w2 w3 w4 w5",
        "spans": [
            {"start": 0, "end": 5, "label": "anger"},
            {"start": 4, "end": 11, "label": "joy"},
            {"start": 0, "end": 5, "label": "irony"},
        ],
    },
    {"id": "b", "text": "w9 w8", "spans": [{"start": 3, "end": 5, "label": "joy"}]},
]


TURNS = [
    {"role": "user", "content": "w1 w2"},
    {"role": "assistant", "content": " w2 w3 "},
    {"role": "user", "content": "w2"},
    {"role": "assistant", "content": "w4 w2 w5"},
]


def chat_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "<user>", "<assistant>", "<end>", *(f"w{i}" for i in range(50))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", chat_template=CHAT)


def counted(corpus: Corpus, tokenizer: Any, **options: Any) -> list[tuple[str, list[str]]]:
    """Each sentence's id and the tokens of it that count."""
    encoded = encode(tokenizer, list(corpus), **options)
    words = tokenizer.convert_ids_to_tokens
    return [
        (row.sentence.id, [words(id) for id, counts in zip(row.input_ids, row.counted, strict=True) if counts])
        for row in encoded
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "records", "dataset"])
def test_each_of_several_label_columns_is_a_task(tmp_path: Path, suffix: str) -> None:
    columns = {"label_column": ("emotion", "device")}
    path = tmp_path / f"c.{suffix}"
    if suffix == "records":
        corpus = Corpus.from_records(ROWS, **columns)
    elif suffix == "dataset":
        datasets = pytest.importorskip("datasets")
        rows = [
            {**row, "emotion": row["emotion"] if isinstance(row["emotion"], list) else [row["emotion"]]} for row in ROWS
        ]
        rows = [{**row, "emotion": [label for label in row["emotion"] if label]} for row in rows]
        corpus = Corpus.from_dataset(datasets.Dataset.from_list(rows), **columns)
    else:
        if suffix == "jsonl":
            path.write_text("\n".join(map(json.dumps, ROWS)))
        elif suffix == "csv":
            path.write_text(
                "text,emotion,device,split\nw1 w2 w3 w4,anger,,train\nw5 w6,joy|anger,metaphor,dev\nw7,,sarcasm,train\n"
            )
        else:
            pa = pytest.importorskip("pyarrow")
            import pyarrow.parquet as pq

            lists = [e if isinstance(e, list) else [e] if e else None for e in (row["emotion"] for row in ROWS)]
            table = {"text": [r["text"] for r in ROWS], "emotion": lists, "device": [r["device"] for r in ROWS]}
            pq.write_table(pa.table({**table, "split": [r["split"] for r in ROWS]}), path)
        corpus = Corpus.from_file(path, **columns)
    assert corpus.tasks == {"device": ("metaphor", "sarcasm"), "emotion": ("anger", "joy")}
    assert [sentence.labels for sentence in corpus] == [("anger",), ("metaphor", "anger", "joy"), ("sarcasm",)]
    assert corpus.splits == ("dev", "train")
    assert corpus.hash == Corpus.from_records(ROWS, **columns).hash


def test_a_row_without_any_of_the_labels_is_bad() -> None:
    rows = [{"text": "w1", "emotion": None, "device": ""}]
    line = message(lambda: Corpus.from_records(rows, label_column=["emotion", "device"]))
    assert line == "records:1: emotion, device are empty"
    assert "label_column is an empty sequence" in message(lambda: Corpus.from_records(rows, label_column=[]))


def test_only_a_span_s_tokens_count_for_its_label() -> None:
    corpus = Corpus.from_records(SPANS, span_column="spans")
    assert [(sentence.id, sentence.span, sentence.labels) for sentence in corpus] == [
        ("a#1", (0, 5), ("anger", "irony")),
        ("a#2", (4, 11), ("joy",)),
        ("b#1", (3, 5), ("joy",)),
    ]
    expected = [("a#1", ["w1", "w2"]), ("a#2", ["w2", "w3", "w4"]), ("b#1", ["w8"])]
    for tokenizer in (make_tokenizer(), make_tokenizer(bos=False)):
        assert counted(corpus, tokenizer) == expected
        assert counted(corpus, tokenizer, template="w30 {text} w31") == expected
    moved = [{**SPANS[0], "spans": [{"start": 0, "end": 6, "label": "anger"}]}]
    other = [{**SPANS[0], "spans": [{"start": 0, "end": 5, "label": "anger"}]}]
    hashes = {Corpus.from_records(rows, span_column="spans").hash for rows in (moved, other)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ("w1", "spans is a value of type str, expected a list of objects"),
        ([], "spans is an empty list"),
        ([[0, 1]], "spans holds a list, expected objects with start, end and label"),
        ([{"start": 3, "end": 3, "label": "x"}], "spans holds a span from 3 to 3, expected 0 <= start < end <= 5"),
        ([{"start": 0, "end": 6, "label": "x"}], "spans holds a span from 0 to 6, expected 0 <= start < end <= 5"),
        ([{"start": "0", "end": 1, "label": "x"}], "spans holds a span from 0 to 1"),
        ([{"start": 0, "end": 1}], "spans is null, expected a string, a whole number or a list of them"),
    ],
)
def test_a_bad_span_is_named(spans: Any, reason: str) -> None:
    line = message(lambda: Corpus.from_records([{"text": "w1 w2", "spans": spans}], span_column="spans"))
    assert line.startswith(f"records:1: {reason}")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ("user", ["w1", "w2", "w2"]),
        ("assistant", ["w2", "w3", "w4", "w2", "w5"]),
        ("last", ["w4", "w2", "w5"]),
        ("all", ["w1", "w2", "w2", "w3", "w2", "w4", "w2", "w5"]),
    ],
)
def test_the_turns_that_are_asked_for_count(turns: str, expected: list[str]) -> None:
    """Words that come in several turns are counted in the right ones; the template's own never are."""
    corpus = Corpus.from_records([{"text": TURNS, "label": "anger"}], turns=turns)
    (sentence,) = corpus
    assert sentence.messages is not None
    assert [m for m in sentence.messages if m.counts] == [
        Message(t["role"], t["content"], True)
        for k, t in enumerate(TURNS)
        if turns in ("all", t["role"]) or (turns == "last" and k == 3)
    ]
    assert counted(corpus, chat_tokenizer()) == [("1", expected)]


def test_conversations_that_cannot_be_read_are_named() -> None:
    rows = [{"text": TURNS, "label": "anger"}]
    assert "text has no turn of 'tool'; roles there: 'user', 'assistant'" in message(
        lambda: Corpus.from_records(rows, turns="tool")
    )
    assert "text is a value of type str, expected a list of objects" in message(
        lambda: Corpus.from_records([{"text": "w1", "label": "a"}], turns="all")
    )
    corpus = Corpus.from_records(rows, turns="all")
    assert "the tokenizer has no chat template" in message(lambda: counted(corpus, make_tokenizer()))
    assert "the corpus has conversations; expected '{text}'" in message(
        lambda: counted(corpus, chat_tokenizer(), template="w1 {text}")
    )


@pytest.mark.parametrize("length", [3, 4, 7, 20, 53, 90])
@pytest.mark.parametrize("template", ["{text}", "w50 {text} w51 w52"])
def test_windows_count_every_token_once(length: int, template: str) -> None:
    text = " ".join(f"w{i % 45}" for i in range(53))
    corpus = Corpus.from_records([{"text": text, "label": "x"}, {"text": "w1", "label": "x"}])
    tokenizer = make_tokenizer()
    limit = length + (1 if template == "{text}" else 4)
    encoded = encode(tokenizer, list(corpus), template, max_length=limit, long_texts="windows")
    assert all(len(window.input_ids) <= limit for window in encoded)
    assert [window.continues for window in encoded].count(False) == 2
    words = [tokenizer.convert_ids_to_tokens(window.input_ids) for window in encoded]
    once = [
        word
        for words_of_window, window in zip(words, encoded, strict=True)
        if window.sentence.id == "1"
        for word, counts in zip(words_of_window, window.counted, strict=True)
        if counts
    ]
    assert once == text.split()
    for words_of_window in words:  # each window has what stands around the text
        assert words_of_window[: 1 + (template != "{text}")] == ["<s>", *([] if template == "{text}" else ["w50"])]
    whole = " ".join(words[0])
    assert " ".join(text.split()[:length]) in whole
    (batch, *_) = batches(
        corpus, tokenizer, max_length=limit, template=template, long_texts="windows", batch_tokens=8192
    )
    assert batch.continuing == len(encoded) - 2


@pytest.mark.usefixtures("one_thread")
def test_screening_in_windows_sees_every_token() -> None:
    model, tokenizer = build("gpt2"), make_tokenizer()  # reads 64 tokens
    texts = [" ".join(f"w{i % 59}" for i in range(n)) for n in (200, 30)]
    corpus = Corpus.from_records([{"text": text, "label": "x"} for text in texts])
    stats = screen(model, tokenizer, corpus, long_texts="windows")
    assert stats.label("x")[stats.sites[0]].count == 230
    assert stats.provenance["sentences"] == 2
    assert screen(model, tokenizer, corpus).label("x")[stats.sites[0]].count == 63 + 30
    assert "expected tokens 'all'" in message(
        lambda: screen(model, tokenizer, corpus, tokens="last", long_texts="windows")
    )
    assert "long_texts is 'x'" in message(lambda: screen(model, tokenizer, corpus, long_texts="x"))


@pytest.mark.usefixtures("one_thread")
def test_screening_spans_is_screening_their_tokens() -> None:
    """A label's statistics are those of its spans' tokens, each read in its whole text."""
    model, tokenizer = build("llama"), make_tokenizer()
    stats = screen(model, tokenizer, Corpus.from_records(SPANS, span_column="spans"))
    site = stats.sites[1]
    h: list[torch.Tensor] = []
    handle = model.get_submodule(site).down_proj.register_forward_pre_hook(lambda _m, args: h.append(args[0][0]))
    with torch.no_grad():
        for row in SPANS:
            model(**tokenizer(row["text"], return_tensors="pt"))
    handle.remove()
    wanted = {"anger": h[0][1:3], "irony": h[0][1:3], "joy": torch.cat([h[0][2:5], h[1][2:3]])}
    for label, rows in wanted.items():
        moments = stats.label(label)[site]
        assert moments.count == len(rows)
        np.testing.assert_allclose(moments.mean, rows.double().mean(0), rtol=1e-5, atol=1e-6)


def slow(tmp_path: Path) -> Any:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]))
    kind = getattr(transformers, "BertTokenizerLegacy", transformers.BertTokenizer)  # its name from 5 on
    return kind(str(path))


def test_a_slow_tokenizer_serves_where_no_offsets_are_needed(tmp_path: Path) -> None:
    tokenizer = slow(tmp_path)
    assert not tokenizer.is_fast
    corpus = Corpus.from_records([{"text": "w1 w2 w3", "label": "x"}])
    assert counted(corpus, tokenizer) == [("1", ["w1", "w2", "w3"])]
    spans = Corpus.from_records(SPANS, span_column="spans")
    assert "the corpus has spans, but" in message(lambda: counted(spans, tokenizer))


def test_a_sentencepiece_tokenizer_finds_spans(tmp_path: Path) -> None:
    """Its tokens take the blank before a word along; offsets are those of the text all the same."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    from transformers import LlamaTokenizer

    words = [f"{a}{b}" for a in ("spam", "egg", "ham", "toast") for b in ("ling", "let", "s", "ed", "ing")]
    rng = np.random.default_rng(0)
    (tmp_path / "text").write_text("\n".join(" ".join(rng.choice(words, 8)) for _ in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=60,
        model_type="bpe",
        pad_id=3,
        minloglevel=2,
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    tokenizer = LlamaTokenizer.from_pretrained(str(tmp_path))
    text = "spamling eggs toasted hamlet"
    start = text.index("toasted")
    row = {"text": text, "spans": [{"start": start, "end": start + len("toasted"), "label": "x"}]}
    ((_, pieces),) = counted(Corpus.from_records([row], span_column="spans"), tokenizer)
    assert "".join(pieces).replace("▁", "") == "toasted"


def test_a_tokenizer_that_does_not_fit_is_refused() -> None:
    model, corpus = build("llama"), Corpus.from_records([{"text": "w1 w2", "label": "x"}])
    line = message(lambda: screen(model, make_tokenizer(words=200), corpus))
    assert line == "the tokenizer does not fit the model: its token 'w199' is number 202, the model knows 97"
    padded = make_tokenizer(words=94)
    padded.add_special_tokens({"pad_token": "<padding>"})  # 97 tokens and one for padding
    assert len(padded) == 98
    screen(model, padded, corpus)
