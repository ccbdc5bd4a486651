"""Overlap of screened and tested texts, by the text alone and through every way of making statistics."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectron._internal import overlap
from affectron.corpus import Corpus, Sentence
from affectron.corpus.pairs import Pair
from affectron.evaluation.exam import Exam
from affectron.experiments.ablations import ablate
from affectron.experiments.activity import collect
from affectron.experiments.candidates import examine
from affectron.experiments.cross_signal import cross_signal_matrix
from affectron.experiments.induction import induction
from affectron.experiments.methods import compare_methods
from affectron.experiments.results import Candidates
from affectron.experiments.stability import keep_stable, stability
from affectron.neurons import NeuronSet
from affectron.options import Select
from affectron.screening.pairs import screen_pairs
from affectron.screening.screen import screen, screen_folds
from affectron.selection import select
from affectron.stats import ActivationStats
from tests.support.errors import message
from tests.support.planted import PROMPTS, TOKENIZER, make_corpus, make_model
from tests.support.tiny import build, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL, CORPUS = make_model(), make_corpus()
TEXTS = {split: [sentence.text for sentence in CORPUS.where(split=split)] for split in CORPUS.splits}
hashes = st.lists(st.integers(0, 2**64 - 1), max_size=30)


def sorted_texts(numbers: list[int]) -> overlap.Texts:
    return np.array(sorted(set(numbers)), dtype=np.uint64)


@given(st.lists(hashes, max_size=5), hashes)
def test_records_unite_as_sets_do(records: list[list[int]], asked: list[int]) -> None:
    union = overlap.union(map(sorted_texts, records))
    assert union is not None
    assert union.tolist() == sorted(set().union(*records))
    assert overlap.union([*map(sorted_texts, records), None]) is None
    inside = overlap.are_among(np.array(asked, dtype=np.uint64), union)
    assert inside.tolist() == [number in set(union.tolist()) for number in asked]
    assert overlap.decode(overlap.encode(union), "screened").tolist() == union.tolist()


def test_a_text_is_itself_in_every_form_and_spacing() -> None:
    written = "Caf\u00e9  au lait,\nplease "
    for other in (unicodedata.normalize("NFD", written), "Caf\u00e9 au lait, please", f"\t{written}\r\n"):
        assert overlap.text_hash(other) == overlap.text_hash(written)
    for other in ("caf\u00e9 au lait, please", "Cafe au lait, please", "Caf\u00e9 au lait, please!"):
        assert overlap.text_hash(other) != overlap.text_hash(written)


@given(st.lists(st.sampled_from(["a", " a", "b", "a b", "a  b\n", "c"])))
def test_repeats_are_the_texts_that_came_before(texts: list[str]) -> None:
    plain = [" ".join(text.split()) for text in texts]
    assert overlap.repeats(texts) == sum(text in plain[:place] for place, text in enumerate(plain))


@pytest.mark.parametrize("text", ["AAAA", "not base64", None, 3, overlap.encode(np.array([2, 1], np.uint64))])
def test_what_is_no_record_is_refused(text: object) -> None:
    line = message(lambda: overlap.decode(text, "screened"))
    assert line.startswith("screened is ")
    assert line.endswith("expected base64 of ascending 64-bit numbers")


def test_the_first_screened_sentence_is_named_and_each_counts_once() -> None:
    tested = [Sentence(f"text {i}", ("a",), "test", f"n{i}") for i in (1, 2, 3, 2)]
    records = {"neurons": overlap.hashed(["text 3", "text  2 ", "other"])}
    assert message(lambda: overlap.compare(tested, records, False)) == (
        "2 of the 3 tested sentences were screened, the first sentence 'n2' of split 'test', 'text 2': neurons are "
        "tested on other sentences than they were found on; test another split, or state it with --allow-overlap "
        "(allow_overlap=True)"
    )
    with pytest.warns(UserWarning, match="2 of the 3 tested sentences were screened"):
        assert overlap.compare(tested, records, True)["screened"] == 2
    assert overlap.compare(tested[:1], records, False)["screened"] == 0


def test_every_way_of_measuring_keeps_the_texts(tmp_path: Path) -> None:
    train = CORPUS.where(split="train")
    expected = overlap.hashed(TEXTS["train"]).tolist()
    whole = screen(MODEL, TOKENIZER, train, shards=3)
    folds = screen_folds(MODEL, TOKENIZER, train, 4)
    halves = [screen(MODEL, TOKENIZER, fold) for fold in train.folds(2)]
    kept = screen(MODEL, TOKENIZER, train, shards=3, checkpoint=tmp_path / "shards")
    whole.save(tmp_path / "s.safetensors")
    for stats in (
        whole, kept, ActivationStats.pooled(folds), halves[0].merge(halves[1]),
        ActivationStats.load(tmp_path / "s.safetensors"),
    ):  # fmt: skip
        assert stats.screened is not None
        assert stats.screened.tolist() == expected
    assert sum(len(half.screened) for half in halves if half.screened is not None) == len(expected)
    neurons = select(whole, top=0.05, filter_rate=None)
    stable = keep_stable(
        neurons, stability(folds, selection=Select(top=0.05, filter_rate=None), resamples=3, splits=1), 0.5
    )
    for selected in (neurons, stable):
        selected.save(tmp_path / "n.json")
        loaded = NeuronSet.load(tmp_path / "n.json")
        assert loaded == selected
        assert loaded.screened is not None
        assert loaded.screened.tolist() == expected
    neurons.screened = None
    assert neurons != NeuronSet.load(tmp_path / "n.json")


def test_texts_with_spans_and_in_windows_and_both_of_a_pair_are_kept() -> None:
    model, tokenizer = build("gpt2"), make_tokenizer()
    long = " ".join(["w1"] * 100)  # more than the 64 positions of the model
    spans = Corpus.from_records(
        [
            {"text": "w1 w2 w3", "spans": [{"start": 0, "end": 2, "label": "a"}, {"start": 3, "end": 5, "label": "b"}]},
            {"text": long, "spans": [{"start": 0, "end": 2, "label": "a"}]},
        ],
        span_column="spans",
    )
    stats = screen(model, tokenizer, spans, long_texts="windows")
    assert stats.screened is not None
    assert stats.screened.tolist() == overlap.hashed(["w1 w2 w3", long]).tolist()
    paired = screen_pairs(build("llama"), tokenizer, [Pair("a", "w1 w2", "w3 w2"), Pair("b", "w3 w2", "w4")])
    assert paired.screened is not None
    assert paired.screened.tolist() == overlap.hashed(["w1 w2", "w3 w2", "w4"]).tolist()


def test_every_experiment_refuses_the_sentences_it_was_selected_on() -> None:
    stats = screen(MODEL, TOKENIZER, CORPUS.where(split="test"))
    neurons = select(stats, top=0.05, filter_rate=None)
    exam = Exam(MODEL, TOKENIZER, CORPUS, prompts=PROMPTS)
    for call in (
        lambda: ablate(exam, neurons, stats),
        lambda: compare_methods(exam, neurons, stats),
        lambda: induction(exam, neurons, stats),
        lambda: cross_signal_matrix(exam, neurons, stats, "tone", "mood"),
    ):
        assert "tested sentences were screened, the first sentence " in message(call)
    allowed = Exam(MODEL, TOKENIZER, CORPUS, prompts=PROMPTS, allow_overlap=True)
    with pytest.warns(UserWarning, match="60 of the 120 tested sentences were screened"):
        findings = induction(allowed, neurons, stats, [1.0], random_sets=0)
    assert findings["provenance"]["tested"]["screened"] == 60
    # The masks are made of the statistics, so that these count even if the neurons are of other sentences.
    others = NeuronSet(neurons.values(), neurons.widths, neurons.provenance, overlap.hashed(["w0"]))
    assert "60 of the 120" in message(lambda: induction(exam, others, stats))


def test_candidates_refuse_or_state_what_was_screened() -> None:
    stats = screen(MODEL, TOKENIZER, CORPUS.where(split="dev"))
    neurons, dev = select(stats, top=0.05, filter_rate=None), CORPUS.where(split="dev")

    def examined(corpus: Corpus) -> Candidates:
        with collect(MODEL, TOKENIZER, corpus, neurons) as collected:
            if corpus is dev:
                line = "60 of the 60 tested sentences were screened"
                assert line in message(lambda: examine(collected, neurons, stats, dev))
            return examine(collected, neurons, stats, corpus, permutations=5, allow_overlap=corpus is dev)

    with pytest.warns(UserWarning, match="60 of the 60 tested sentences were screened"):
        stated = examined(dev)
    assert stated["provenance"]["tested"]["screened"] == 60
    clean = examined(CORPUS.where(split="test"))
    assert clean["provenance"]["tested"] == {
        "sentences": 60, "screened": 0, "texts": overlap.encode(overlap.hashed(TEXTS["test"])),
    }  # fmt: skip


def repeating(*splits: str) -> Corpus:
    """The corpus, with the first sentence of mood in dev once more in each of ``splits``."""
    records = [
        {"text": one.text, "label": label, "task": CORPUS.task_of[label], "split": split}
        for split in CORPUS.splits
        for one in CORPUS.where(split=split)
        for label in one.labels
    ]
    again = next(record for record in records if (record["split"], record["task"]) == ("dev", "mood"))
    return Corpus.from_records([*records, *({**again, "split": split} for split in splits)])


def test_tested_sentences_of_one_text_are_told_and_counted() -> None:
    stats = screen(MODEL, TOKENIZER, CORPUS.where(split="train"))
    neurons = select(stats, top=0.05, filter_rate=None)
    for splits, number in (((), 0), (("dev",), 1), (("test",), 1), (("dev", "test", "test"), 3)):
        exam = Exam(MODEL, TOKENIZER, repeating(*splits), prompts=PROMPTS)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            findings = induction(exam, neurons, stats, [1.0], random_sets=0, task="mood")
        assert findings.provenance["tested"]["repeated"] == number
        sentences = 72 + number
        expected = [f"task 'mood': {number} of the {sentences} sentences of splits 'dev' and 'test' have the text of"]
        assert [str(one.message)[: len(expected[0])] for one in told] == (expected if number else [])


@pytest.mark.parametrize("tokens", ["mean", "last"])
def test_a_false_discovery_rate_over_sentences_of_one_text_is_told(tokens: str) -> None:
    for splits, number in (((), 0), (("train",) * 3, 3)):
        stats = screen(MODEL, TOKENIZER, repeating(*splits).where(task="mood"), tokens=tokens)
        assert stats.screened is not None
        texts = len(stats.screened)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            select(stats, top=1.0)  # no claim of a rate
            assert not told
            select(stats, top=1.0, fdr=0.05)
        line = f"task 'mood': its {texts + number} sentences have {texts} texts; fdr counts each"
        assert [str(one.message)[: len(line)] for one in told] == ([line] if number else [])
