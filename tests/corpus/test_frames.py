"""Corpora from data frames, and data frames from corpora: there and back the corpus is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectron.corpus import Corpus
from tests.support.corpora import ROWS
from tests.support.errors import message

FACTS = ("hash", "order", "tasks", "labels", "segments", "splits", "counts", "sources", "task_of")


def same(first: Corpus, second: Corpus, ids: bool = True) -> None:
    for fact in FACTS:
        assert getattr(first, fact) == getattr(second, fact), fact
    if ids:
        assert list(first) == list(second)


def test_a_frame_is_read_as_records_are() -> None:
    same(Corpus.from_records(ROWS), Corpus.from_pandas(pandas.DataFrame(ROWS)))


@pytest.mark.parametrize(("split", "task"), [(None, None), ("train", None), (None, "emotion"), ("dev", "rhetoric")])
def test_there_and_back(split: str | None, task: str | None) -> None:
    rows = [{**row, "source": f"source {number % 2}"} for number, row in enumerate(ROWS)]
    view = Corpus.from_records(rows).where(split=split, task=task)
    frame = view.to_pandas()
    assert list(frame.columns) == ["id", "text", "label", "task", "split", "source"]
    assert frame.text.tolist() == [sentence.text for sentence in view]
    for again in (frame, polars.from_pandas(frame), pa.Table.from_pandas(frame), frame.convert_dtypes(),
                  frame.iloc[:, ::-1].set_index(frame.index + 7)):  # fmt: skip
        back = Corpus.from_pandas(again)
        for fact in FACTS[:1] + FACTS[2:]:
            assert getattr(back, fact) == getattr(view, fact), fact
        assert list(back) == list(view)


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9).filter(
    lambda text: text.strip()
)
names = st.sampled_from(["joy", "<b>", "1", "a b", "öl", "שלום"])


@given(
    st.lists(
        st.fixed_dictionaries(
            {"text": words, "label": st.lists(names, min_size=1, max_size=3, unique=True)},
            optional={"split": st.sampled_from(["train", "dev"]), "id": st.from_regex("[a-z]{1,4}", fullmatch=True)},
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_corpus_comes_back(rows: list[dict[str, Any]]) -> None:
    corpus = Corpus.from_records(rows)
    frame = corpus.to_pandas()
    single = all(len(row["label"]) == 1 for row in rows)
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert kinds == {
        "id": "string", "text": "string", **dict.fromkeys(("label", "task"), "string" if single else "object"),
        "split": "string",
    }  # fmt: skip
    same(corpus, Corpus.from_pandas(frame))


def test_spans_and_conversations_come_back() -> None:
    spans = [{"text": "he left, she laughed", "spans": [
        {"start": 0, "end": 7, "label": "anger", "task": "t"}, {"start": 9, "end": 20, "label": "joy", "task": "t"},
        {"start": 9, "end": 20, "label": "irony", "task": "u"},
    ]}]  # fmt: skip
    corpus = Corpus.from_records(spans, span_column="spans")
    back = Corpus.from_pandas(corpus.to_pandas(), span_column="spans")
    same(corpus, back, ids=False)
    assert [sentence.span for sentence in back] == [(0, 7), (9, 20)]
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Go away."}]
    corpus = Corpus.from_records([{"text": turns, "label": "anger"}], turns="assistant")
    same(corpus, Corpus.from_pandas(corpus.to_pandas(), text_column="messages", turns="assistant"))


@pytest.mark.parametrize(
    "labels",
    [
        pandas.Series(["joy", "love"], dtype="string"),
        pandas.Series(["joy", "love"], dtype=object),
        pandas.Categorical(["joy", "love"], ["love", "joy", "unused"]),
        pandas.Series([["joy"], ("love",)], dtype=object),
        pandas.Series([np.array(["joy"]), np.array(["love"])], dtype=object),
        pandas.Series(["joy", "love"], dtype=pandas.ArrowDtype(pa.string())),
        pandas.Series([["joy"], ["love"]], dtype=pandas.ArrowDtype(pa.list_(pa.string()))),
        np.array(["joy", "love"]),
    ],
    ids=range(8),
)
def test_labels_of_any_type_of_column(labels: Any) -> None:
    corpus = Corpus.from_pandas(pandas.DataFrame({"text": ["a", "b"], "label": labels}))
    assert [sentence.labels for sentence in corpus] == [("joy",), ("love",)]


@pytest.mark.parametrize("kind", ["int8", "uint64", "Int64", "int64[pyarrow]", object])
def test_whole_numbers_are_labels(kind: Any) -> None:
    corpus = Corpus.from_pandas(pandas.DataFrame({"text": ["a", "b"], "label": pandas.Series([0, 1], dtype=kind)}))
    assert corpus.labels == ("0", "1")


@pytest.mark.parametrize("nothing", [None, np.nan, pandas.NA, pandas.NaT])
def test_what_is_missing(nothing: Any) -> None:
    rows = {"text": ["a", "b"], "label": ["x", "y"], "split": ["train", nothing], "id": [nothing, "i"]}
    sentences = list(Corpus.from_pandas(pandas.DataFrame(rows)))
    assert [(sentence.split, sentence.id) for sentence in sentences] == [("train", "1"), (None, "i")]
    for column, expected in (("text", "a string"), ("label", "a string, a whole number or a list of them")):
        frame = pandas.DataFrame({**rows, column: pandas.Series(["a", nothing], dtype=object)})
        assert (
            message(lambda frame=frame: Corpus.from_pandas(frame)) == f"frame:2: {column} is null, expected {expected}"
        )
        skipped = Corpus.from_pandas(frame, on_bad_line="skip")
        assert (len(skipped), skipped.skipped) == (1, 1)


def test_integers_beside_a_missing_one_are_no_labels() -> None:
    frame = pandas.DataFrame({"text": ["a", "b"], "label": [1, np.nan]})
    assert "frame:1: label is the number 1.0, expected a string" in message(lambda: Corpus.from_pandas(frame))


def test_the_options_are_those_of_the_other_sources() -> None:
    frame = pandas.DataFrame(
        {"body": ["a", "b", "c"], "joy": [1, 0, 0], "fear": [True, False, True], "part": ["train", "dev", "test"]}
    )
    corpus = Corpus.from_pandas(
        frame, text_column="body", indicators=["joy", "fear"], split_column="part", task="mood", split="test"
    )
    assert [(sentence.text, sentence.labels) for sentence in corpus] == [("c", ("fear",))]
    joined = Corpus.from_pandas(pandas.DataFrame({"text": ["a"], "label": ["x;y"]}), label_separator=";")
    assert joined.labels == ("x", "y")
    two = pandas.DataFrame({"text": ["a", "b"], "mood": ["x", None], "tone": [None, "y"]})
    assert Corpus.from_pandas(two, label_column=["mood", "tone"]).tasks == {"mood": ("x",), "tone": ("y",)}


def test_what_is_no_such_frame_is_refused() -> None:
    frame = pandas.DataFrame({"text": ["a"], "label": ["x"]})
    twice = pandas.concat([frame, frame], axis=1)
    levels = pandas.concat({"one": frame}, axis=1)
    told = {
        "frame is a list, expected a data frame of pandas or polars": [{"text": "a"}],
        "frame is a value of type LazyFrame, expected a data frame of pandas or polars": polars.LazyFrame(
            {"text": ["a"]}
        ),
        "frame is a value of type Series, expected a data frame of pandas or polars": frame["text"],
        "frame has columns of 2 levels, expected columns of one name each": levels,
        "frame has the column 'text' twice, expected columns of different names": twice,
        "frame has no label column 'label'; columns found: 'text'": frame[["text"]],
        "frame holds no sentence": frame.iloc[:0],
    }
    for text, given_frame in told.items():
        assert message(lambda given_frame=given_frame: Corpus.from_pandas(given_frame)) == text
    assert message(lambda: Corpus.from_pandas(frame, split_column="part")) == (
        "frame has no split column 'part'; columns found: 'text', 'label'"
    )


def test_columns_without_a_header_are_named_by_their_numbers() -> None:
    frame = pandas.DataFrame([["a", "x", 1.5], ["b", "y", 2.5]])
    same(
        Corpus.from_pandas(frame, text_column="0", label_column="1"),
        Corpus.from_records([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]),
    )
    assert message(lambda: Corpus.from_pandas(frame.rename(columns={2: "1"}), text_column="0")) == (
        "frame has the column '1' twice, expected columns of different names"
    )
    for options in ({"text_column": 0}, {"label_column": 1}, {"label_column": ["a", None]}, {"split_column": 2.0}):
        (name,) = options
        assert message(lambda options=options: Corpus.from_pandas(frame, **options)) == (
            f"{name} is {tuple(options[name]) if isinstance(options[name], list) else options[name]}, expected the "
            "names of columns as strings"
        )


def test_a_value_without_a_name_inside_a_list_is_told() -> None:
    frame = pandas.DataFrame({"text": ["a", "b"], "label": [["x"], ["y", pandas.NA]]})
    assert message(lambda: Corpus.from_pandas(frame)) == (
        "frame:2: label holds a value of type NAType, expected strings or whole numbers"
    )


def test_later_changes_of_the_frame_do_not_show() -> None:
    labels = ["x"]
    frame = pandas.DataFrame({"text": ["a"], "label": [labels]})
    corpus = Corpus.from_pandas(frame)
    labels[0] = "changed"
    frame.loc[0, "text"] = "changed"
    assert [(sentence.text, sentence.labels) for sentence in corpus] == [("a", ("x",))]
