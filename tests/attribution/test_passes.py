"""Attributions that are interrupted and resumed, of folds, and merged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from affectron import ActivationStats, Corpus, attribute, screen
from affectron.attribution.attribute import attribute_folds
from affectron.errors import ScreeningInterrupted
from affectron.options import Ask, Attribute
from tests.attribution.oracle import PROMPTS, TOKENIZER, make_corpus, same_bits
from tests.support.errors import message
from tests.support.tiny import build

pytestmark = pytest.mark.usefixtures("one_thread")

CORPUS = make_corpus(40)
SHARDS = 3


def run(model: Any, folder: Path | None, corpus: Corpus = CORPUS, **options: Any) -> ActivationStats:
    options = {"prompts": PROMPTS, "batch_tokens": 64, "shards": SHARDS, "checkpoint": folder, **options}
    return attribute(model, TOKENIZER, corpus, **options)


@contextmanager
def stopped(model: Any, forward: int) -> Iterator[None]:
    """Stop the process within a forward, as counted from 1."""
    calls = iter(range(-1, 10**6))  # two forwards probe the model before the first batch
    handle = model.model.layers[1].register_forward_pre_hook(
        lambda *_: os.kill(os.getpid(), signal.SIGTERM) if next(calls) == forward else None
    )
    with pytest.raises(ScreeningInterrupted, match=r"attributing.* was interrupted after \d+ of"):
        yield
    handle.remove()


@pytest.mark.parametrize(
    ("forward", "options"),
    [
        (2, {}),
        (7, {}),
        (14, {}),
        (14, {"calibrate": "train"}),
        (1, {"metric": "text", "prompts": None}),
        (4, {"metric": "text", "prompts": None}),
    ],
)
def test_a_resumed_attribution_gives_the_same_bits(tmp_path: Path, forward: int, options: dict[str, Any]) -> None:
    model, folder = build("llama"), tmp_path / "shards"
    whole = run(model, None, **options)
    with stopped(model, forward):
        run(model, folder, **options)
    events: list[dict[str, Any]] = []
    found = run(model, folder, resume=True, log=events.append, **options)
    same_bits(found, whole)
    assert found.provenance == whole.provenance
    if not options:  # each task has a folder of its own
        assert sorted(part.name for part in folder.iterdir() if part.is_dir()) == ["task-00", "task-01"]


def test_the_tasks_that_are_kept_are_not_read_again(tmp_path: Path) -> None:
    model, folder = build("llama"), tmp_path / "shards"
    whole = run(model, folder)
    handle = model.model.layers[1].mlp.down_proj.register_full_backward_pre_hook(lambda *_: pytest.fail("a backward"))
    same_bits(run(model, folder, resume=True), whole)
    handle.remove()


def other_baseline(model: Any) -> dict[str, Any]:
    return {"baseline": "mean", "stats": screen(model, TOKENIZER, CORPUS)}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("positions", lambda _: {"positions": "text"}),
        ("baseline", other_baseline),
        ("prompts.kind", lambda _: {"prompts": {**PROMPTS, "kind": "{bos}w2 {text} w2 w3"}}),
        ("evaluator", lambda _: {"evaluator": "linear_probe", "prompts": None}),
        ("calibrate", lambda _: {"calibrate": "train"}),
        ("batch_tokens", lambda _: {"batch_tokens": 65}),
        ("shards", lambda _: {"shards": 4}),
        ("corpus_order", lambda _: {"corpus": make_corpus(39)}),
    ],
)
def test_what_changed_since_is_named(tmp_path: Path, field: str, change: Any) -> None:
    model, folder = build("llama"), tmp_path / "shards"
    with stopped(model, 9):
        run(model, folder)
    options = {"corpus": CORPUS, **change(model)}
    line = message(lambda: run(model, folder, options.pop("corpus"), resume=True, **options))
    assert f": {field} was " in line


def test_another_baseline_of_the_same_kind_is_named(tmp_path: Path) -> None:
    """Statistics of other texts of the same model."""
    model, folder = build("llama"), tmp_path / "shards"
    first, other = (screen(model, TOKENIZER, fold) for fold in CORPUS.folds(2))
    with stopped(model, 9):
        run(model, folder, baseline="mean", stats=first)
    line = message(lambda: run(model, folder, baseline="mean", stats=other, resume=True))
    assert ": baseline_means was " in line


def test_folds_pooled_are_the_whole() -> None:
    model = build("llama")
    options = Attribute(batch_tokens=1, shards=None)
    folds = attribute_folds(model, TOKENIZER, CORPUS, 3, options, Ask(prompts=PROMPTS))
    assert [fold.provenance["fold"] for fold in folds] == [[number, 3] for number in range(3)]
    whole = attribute(model, TOKENIZER, CORPUS, prompts=PROMPTS, batch_tokens=1)
    pooled = reduce(ActivationStats.merge, folds)
    for label in CORPUS.labels:
        for site in whole.sites:
            one, other = pooled.label(label)[site], whole.label(label)[site]
            assert one.count == other.count
            spread = np.sqrt(other.var)
            assert (np.abs(one.mean - other.mean) <= 1e-6 * np.maximum(spread, np.abs(other.mean))).all()
            np.testing.assert_allclose(one.m2, other.m2, rtol=2e-6)
            assert np.array_equal(one.min, other.min)
            assert np.array_equal(one.max, other.max)


def test_folds_of_a_checkpoint_have_a_folder_each(tmp_path: Path) -> None:
    options = Attribute(batch_tokens=64, checkpoint=tmp_path / "shards", shards=1)
    model = build("llama")
    folds = attribute_folds(model, TOKENIZER, CORPUS, 2, options, Ask(prompts=PROMPTS))
    assert sorted(str(path.relative_to(tmp_path / "shards")) for path in tmp_path.rglob("task-*")) == [
        f"{fold:02}/task-{task:02}" for fold in range(2) for task in range(2)
    ]
    again = attribute_folds(
        model, TOKENIZER, CORPUS, 2, Attribute(**{**vars(options), "resume": True}), Ask(prompts=PROMPTS)
    )
    for one, other in zip(folds, again, strict=True):
        same_bits(one, other)


def test_attributions_of_two_corpora_merge(tmp_path: Path) -> None:
    model = build("gpt2")
    parts = [attribute(model, TOKENIZER, fold, prompts=PROMPTS, batch_tokens=1) for fold in CORPUS.folds(2)]
    whole = attribute(model, TOKENIZER, CORPUS, prompts=PROMPTS, batch_tokens=1)
    parts[0].save(tmp_path / "part")
    merged = ActivationStats.load(tmp_path / "part").merge(parts[1])
    assert (merged.kind, whole.kind) == ("attribution", "attribution")
    for site in whole.sites:
        one, other = merged.label("w50")[site], whole.label("w50")[site]
        assert (np.abs(one.mean - other.mean) <= 1e-6 * np.maximum(np.sqrt(other.var), np.abs(other.mean))).all()


def test_folds_have_the_offsets_of_the_whole() -> None:
    options, ask = Attribute(batch_tokens=64), Ask(prompts=PROMPTS, calibrate="train")
    folds = attribute_folds(build("llama"), TOKENIZER, CORPUS, 3, options, ask)
    whole = run(build("llama"), None, calibrate="train")
    assert [fold.provenance["offsets"] for fold in folds] == [whole.provenance["offsets"]] * 3


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("metric", {"metric": "text", "prompts": None}),
        ("positions", {"positions": "text"}),
        ("prompts", {"prompts": {**PROMPTS, "kind": "{bos}w2 {text} w2 w3"}}),
        ("evaluator", {"evaluator": "linear_probe", "prompts": None}),
        ("calibrate", {"calibrate": "content_free"}),
        ("baseline", {"baseline": "mean"}),
    ],
)
def test_attributions_of_another_kind_do_not_merge(field: str, options: dict[str, Any]) -> None:
    model = build("llama")
    first, second = CORPUS.folds(2)
    if options.get("baseline") == "mean":
        options = {**options, "stats": screen(model, TOKENIZER, CORPUS)}
    one, other = run(model, None, first), run(model, None, second, **options)
    assert field in message(lambda: one.merge(other))


def test_attributions_and_activations_do_not_merge() -> None:
    model = build("llama")
    first, second = CORPUS.folds(2)
    assert "kind" in message(lambda: run(model, None, first).merge(screen(model, TOKENIZER, second)))


def test_means_of_other_texts_do_not_merge() -> None:
    """They are other baselines."""
    model = build("llama")
    first, second = CORPUS.folds(2)
    parts = [run(model, None, fold, baseline="mean", stats=screen(model, TOKENIZER, fold)) for fold in (first, second)]
    assert "baseline_means" in message(lambda: parts[0].merge(parts[1]))


def test_the_log_names_each_event(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run(build("llama"), None, log=log)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    summaries = [event for event in events if event["event"] == "summary"]
    assert sum(event["sentences"] for event in summaries) == sum(len(CORPUS.where(task=task)) for task in CORPUS.tasks)
