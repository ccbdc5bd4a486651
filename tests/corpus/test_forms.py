"""Corpora beyond a sentence a line: datasets, conversations, spans, several label columns, texts longer than the model
reads; and the tokenizers that they are read with. The oracle is a tokenizer asked for one piece at a time."""

from __future__ import annotations

import json
import sys
from collections import Counter
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
    found = encode(tokenizer, list(corpus), **options)
    words = tokenizer.convert_ids_to_tokens
    return [
        (one.sentence.id, [words(i) for i, own in zip(one.input_ids, one.counted, strict=True) if own]) for one in found
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
        rows = [{**row, "emotion": [one for one in row["emotion"] if one]} for row in rows]
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
    assert [one.labels for one in corpus] == [("anger",), ("metaphor", "anger", "joy"), ("sarcasm",)]
    assert corpus.splits == ("dev", "train")
    assert corpus.hash == Corpus.from_records(ROWS, **columns).hash


def test_a_row_without_any_of_the_labels_is_bad() -> None:
    rows = [{"text": "w1", "emotion": None, "device": ""}]
    line = message(lambda: Corpus.from_records(rows, label_column=["emotion", "device"]))
    assert line == "records:1: emotion, device are empty"
    assert "label_column is an empty sequence" in message(lambda: Corpus.from_records(rows, label_column=[]))


def test_only_a_span_s_tokens_count_for_its_label() -> None:
    corpus = Corpus.from_records(SPANS, span_column="spans")
    assert [(one.id, one.span, one.labels) for one in corpus] == [
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
        ("w1", "spans is of type str, expected a list of objects"),
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
    (one,) = corpus
    assert one.messages is not None
    assert [m for m in one.messages if m.counts] == [
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
    assert "text is of type str, expected a list of objects" in message(
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
    found = encode(tokenizer, list(corpus), template, max_length=limit, long_texts="windows")
    assert all(len(one.input_ids) <= limit for one in found)
    assert [one.continues for one in found].count(False) == 2
    words = [tokenizer.convert_ids_to_tokens(one.input_ids) for one in found]
    once = [
        word
        for one, own in zip(words, found, strict=True)
        if own.sentence.id == "1"
        for word, mine in zip(one, own.counted, strict=True)
        if mine
    ]
    assert once == text.split()
    for one in words:  # what stands around the text is in every window
        assert one[: 1 + (template != "{text}")] == ["<s>", *([] if template == "{text}" else ["w50"])]
    whole = " ".join(words[0])
    assert " ".join(text.split()[:length]) in whole
    (batch, *_) = batches(
        corpus, tokenizer, max_length=limit, template=template, long_texts="windows", batch_tokens=8192
    )
    assert batch.continuing == len(found) - 2


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
        found = stats.label(label)[site]
        assert found.count == len(rows)
        np.testing.assert_allclose(found.mean, rows.double().mean(0), rtol=1e-5, atol=1e-6)


def test_datasets_by_object_folder_and_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["calm", "anger"])}
    )
    parts = {
        split: datasets.Dataset.from_dict(
            {"text": [f"w{i} w{i + 1}" for i in range(n)], "label": [i % 2 for i in range(n)]}, features
        )
        for split, n in (("train", 6), ("test", 3))
    }
    whole = datasets.DatasetDict(parts)
    whole.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "files").mkdir()
    for split, part in parts.items():
        part.to_parquet(str(tmp_path / "files" / f"{split}.parquet"))
    seen = [
        Corpus.from_dataset(whole),
        Corpus.from_dataset({split: part.to_iterable_dataset() for split, part in parts.items()}),
        Corpus.from_dataset(tmp_path / "saved"),
        Corpus.from_dataset(tmp_path / "files"),
    ]
    for corpus in seen:
        assert corpus.labels == ("anger", "calm")
        assert corpus.splits == ("test", "train")
        assert len(corpus) == len(list(corpus)) == 9
        assert Counter(one.labels for one in corpus.where(split="train")) == {("calm",): 3, ("anger",): 3}
    assert len({corpus.hash for corpus in seen}) == 1
    assert [corpus.name for corpus in seen] == ["dataset", "dataset", "saved", "files"]
    assert Corpus.from_dataset(parts["test"], task="mood").tasks == {"mood": ("anger", "calm")}
    assert message(lambda: Corpus.from_dataset(tmp_path / "absent")).startswith(f"{tmp_path / 'absent'} does not exist")


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


def test_a_folder_of_several_configurations_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "someone" / "sentences"
    folder.mkdir(parents=True)
    for config, n in (("short", 4), ("long", 7)):
        for split in ("train", "test"):
            rows = [{"text": f"w{i} w{i + 1}", "label": ["calm", "anger"][i % 2]} for i in range(n)]
            (folder / f"{config}-{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}-{split}.jsonl\n" for split in ("train", "test"))
        for name in ("short", "long")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    monkeypatch.chdir(tmp_path)
    loaded: list[Any] = []
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: (loaded.append(load(*args, **kwargs)), loaded[-1])[1]
    )
    corpus = Corpus.from_dataset("someone/sentences", config="long")
    assert isinstance(loaded[0], datasets.IterableDatasetDict)
    assert corpus.name == "sentences"
    assert corpus.splits == ("test", "train")
    assert [one.text for one in corpus.where(split="test")] == [f"w{i} w{i + 1}" for i in range(7)]
    assert len(Corpus.from_dataset("someone/sentences", config="short")) == len(list(corpus)) - 6
    assert "cannot load the dataset sentences: " in message(lambda: Corpus.from_dataset("someone/sentences"))


def test_only_a_name_of_the_hub_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[str] = []

    def load(name: str, config: str | None, streaming: bool) -> Any:
        asked.append(name)
        if "absent" in name:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist")
        return datasets.Dataset.from_list([{"text": "w1", "label": "calm"}]).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    hint = "; a dataset of the Hugging Face Hub is hf://datasets/OWNER/NAME"
    for name in ("someone/sentences", "sentences", "csv", tmp_path / "sentences"):
        assert message(lambda name=name: Corpus.from_dataset(name)) == f"{name} does not exist{hint}"
    assert message(lambda: Corpus.from_dataset("file")) == f"file is not a folder{hint}"
    assert asked == []
    corpus = Corpus.from_dataset("hf://datasets/someone/sentences")
    assert (corpus.name, corpus.labels) == ("sentences", ("calm",))
    line = message(lambda: Corpus.from_dataset("hf://datasets/someone/absent"))
    assert line == "cannot load the dataset absent: Dataset 'someone/absent' doesn't exist"
    assert asked == ["someone/sentences", "someone/absent"]
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert message(lambda: Corpus.from_dataset("sentences")) == f"sentences does not exist{hint}"
    assert message(lambda: Corpus.from_dataset(tmp_path)).startswith("reading a dataset needs datasets")
