"""Prefetching: reading and tokenising run ahead in a thread while the model computes; no process is forked."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from affectron import Corpus, screen
from affectron._internal.prefetch import prefetch
from tests.support.tiny import build, make_tokenizer
from tests.support.workers import measure, start, succeed, write_sentences


def test_items_are_made_while_the_consumer_is_busy() -> None:
    made = [threading.Event() for _ in range(9)]

    def source() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    with prefetch(source(), 3) as items:
        for number in items:
            # Three items wait in the queue; the thread holds a fourth.
            assert made[min(number + 4, 8)].wait(10)
            assert not any(event.is_set() for event in made[number + 6 :])
        assert number == 8


def test_a_failure_comes_in_its_place() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    with prefetch(source(), 5) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="two"):
            next(items)


def test_the_thread_ends_with_the_block() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    before = threading.active_count()
    with prefetch(endless(), 2) as items:
        assert next(items) == 0
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


@pytest.mark.usefixtures("one_thread")
def test_a_screening_tokenises_in_a_thread_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, threads = build("llama"), make_tokenizer(), {"tokenizer": set(), "model": set()}
    kind = type(tokenizer)
    call = kind.__call__

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(args[0], list):  # sentences come in lists; single words probe the special tokens
            threads["tokenizer"].add(threading.current_thread().name)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", watched)
    model.model.register_forward_pre_hook(lambda *_: threads["model"].add(threading.current_thread().name))
    corpus = Corpus.from_file(write_sentences(tmp_path / "corpus.jsonl", 60))
    events: list[dict[str, Any]] = []
    screen(model, tokenizer, corpus, batch_tokens=64, checkpoint=tmp_path / "shards", log=events.append)
    assert threads == {"tokenizer": {"affectron-prefetch"}, "model": {threading.current_thread().name}}
    checkpoint, summary = events
    assert (checkpoint["event"], summary["event"]) == ("checkpoint", "summary")
    assert checkpoint["bytes"] == (tmp_path / "shards" / "shard-00000.safetensors").stat().st_size
    assert checkpoint["took"] == pytest.approx(summary["checkpoint_seconds"], abs=1e-3)
    assert (summary["sentences"], summary["checkpoints"], summary["rank"]) == (60, 1, 0)
    lengths = [len(tokenizer(sentence.text)["input_ids"]) for sentence in corpus]
    assert summary["tokens"] == sum(lengths)
    assert summary["tokens_per_second"] == pytest.approx(sum(lengths) / summary["seconds"], rel=0.05)
    assert 0 < summary["padding"] < 0.5
    assert 0 <= summary["waiting"] < 1
    assert 1 << 26 < summary["memory_bytes"] <= summary["memory_peak_bytes"]
    assert summary["device_peak_bytes"] == (torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0)


def measure_without_a_fork(corpus: Path, output: Path, folder: Path) -> None:
    forks: list[int] = []
    os.register_at_fork(before=lambda: forks.append(1))
    measure(corpus, output, checkpoint=folder, shards=2)
    assert not forks


def test_a_screening_forks_no_process(tmp_path: Path) -> None:
    corpus = write_sentences(tmp_path / "corpus.jsonl", 60)
    succeed([start(measure_without_a_fork, corpus, tmp_path / "out.safetensors", tmp_path / "shards")])
