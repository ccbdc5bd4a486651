"""Interrupted, damaged and resumed screenings: they give the same bytes, or an error of one line."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from affectron import Corpus, screen
from affectron.errors import Incomplete, InputError, ScreeningInterrupted
from affectron.stats import ActivationStats
from tests.support.errors import message
from tests.support.tiny import build, make_tokenizer
from tests.support.workers import measure, start, write_sentences

pytestmark = pytest.mark.usefixtures("one_thread")

# Number of kills at random points.
KILLS = int(os.environ.get("AFFECTRON_KILLS", "6"))
SHARDS = 4
OFTEN = 1e-9  # minutes: a checkpoint after every batch


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", 120)


@pytest.fixture
def corpus(sentences: Path) -> Corpus:
    return Corpus.from_file(sentences)


def saved(stats: ActivationStats, folder: Path) -> bytes:
    stats.save(folder / "saved.safetensors")
    return (folder / "saved.safetensors").read_bytes()


def run(corpus: Corpus, folder: Path | None, model: Any = None, tokenizer: Any = None, **options: Any):
    options = {"batch_tokens": 64, "shards": SHARDS, "checkpoint": folder, **options}
    return screen(model or build("llama"), tokenizer or make_tokenizer(), corpus, **options)


@contextmanager
def at_forward(model: Any, number: int, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` within forward ``number``, counted from 1."""
    calls = iter(range(-1, 10**6))  # two forwards probe the model before the first batch
    handle = model.model.layers[1].register_forward_pre_hook(lambda *_: act() if next(calls) == number else None)
    try:
        yield
    finally:
        handle.remove()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(corpus: Corpus, folder: Path, model: Any, number: int = 9, **options: Any) -> str:
    with at_forward(model, number, terminate), pytest.raises(ScreeningInterrupted) as error:
        run(corpus, folder, model, **options)
    return str(error.value)


@pytest.mark.parametrize("tokens", ["all", "last", "mean"])
@pytest.mark.parametrize("when", [1, 9, 17])
def test_a_resumed_run_gives_the_same_bytes(corpus: Corpus, tmp_path: Path, tokens: str, when: int) -> None:
    whole = saved(run(corpus, None, tokens=tokens), tmp_path)
    folder, model = tmp_path / "shards", build("llama")
    line = interrupt(corpus, folder, model, when, tokens=tokens)
    assert f"kept in {folder}" in line
    events: list[dict[str, Any]] = []
    assert saved(run(corpus, folder, model, tokens=tokens, resume=True, log=events.append), tmp_path) == whole
    kept = int(line.split("after ")[1].split(" of")[0])
    assert events[-1]["sentences"] == len(corpus) - kept > 0  # no kept sentence is measured again


def test_observations_that_are_not_finite_are_kept_exactly(corpus: Corpus, tmp_path: Path) -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = float("nan")  # w6: some tokens, not all
    whole = run(corpus, None, model)
    nonfinite = whole.nonfinite[whole.sites[0]]
    assert nonfinite.any()
    assert (nonfinite < whole.count[whole.sites[0]][:, None]).all()
    folder = tmp_path / "shards"
    interrupt(corpus, folder, model)
    assert saved(run(corpus, folder, model, resume=True), tmp_path) == saved(whole, tmp_path)


def test_a_finished_run_resumes_without_a_forward(corpus: Corpus, tmp_path: Path) -> None:
    model = build("llama")
    whole = saved(run(corpus, tmp_path / "shards", model), tmp_path)

    def never() -> None:
        raise AssertionError

    with at_forward(model, 1, never):
        assert saved(run(corpus, tmp_path / "shards", model, resume=True), tmp_path) == whole


def test_the_signals_mean_again_what_they_did(corpus: Corpus, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    interrupt(corpus, tmp_path / "shards", build("llama"))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def other_weights() -> Any:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    return model


def shuffled(path: Path, to: Path) -> Corpus:
    lines = path.read_text().splitlines()
    to.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    return Corpus.from_file(to)


def edited(path: Path, to: Path) -> Corpus:
    lines = path.read_text().splitlines()
    last = {**json.loads(lines[-1]), "text": "w1 w2"}
    to.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    return Corpus.from_file(to)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("weights", lambda path, to: {"model": other_weights()}),
        ("model_hash", lambda path, to: {"model": build("llama", rms_norm_eps=1e-5)}),
        ("dtype", lambda path, to: {"model": build("llama").to(torch.bfloat16)}),
        ("tokenizer", lambda path, to: {"tokenizer": make_tokenizer(words=59)}),
        ("corpus", lambda path, to: {"corpus": edited(path, to)}),
        ("corpus_order", lambda path, to: {"corpus": shuffled(path, to)}),
        ("corpus", lambda path, to: {"corpus": Corpus.from_file(path, task="emotion")}),
        ("tokens", lambda path, to: {"tokens": "last"}),
        ("active", lambda path, to: {"active": "product"}),
        ("template", lambda path, to: {"template": "{bos}{text}"}),
        ("count_special", lambda path, to: {"count_special": True}),
        ("batch_tokens", lambda path, to: {"batch_tokens": 65}),
        ("shards", lambda path, to: {"shards": 5}),
    ],
)
def test_what_changed_since_is_named(sentences: Path, corpus: Corpus, tmp_path: Path, field: str, change) -> None:
    folder = tmp_path / "shards"
    interrupt(corpus, folder, build("llama"))
    before = {file: file.read_bytes() for file in folder.iterdir()}
    options = {"corpus": corpus, **change(sentences, tmp_path / "changed.jsonl")}
    assert f"cannot resume from {folder}: {field} was " in message(
        lambda: run(options.pop("corpus"), folder, resume=True, **options)
    )
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_an_interrupted_run_is_not_overwritten(corpus: Corpus, tmp_path: Path) -> None:
    interrupt(corpus, tmp_path / "shards", build("llama"))
    assert "keeps the shards of an interrupted screening" in message(lambda: run(corpus, tmp_path / "shards"))


@pytest.mark.parametrize("damage", ["torn", "bit", "removed", "emptied"])
def test_a_damaged_shard_is_measured_anew(corpus: Corpus, tmp_path: Path, damage: str) -> None:
    folder, model = tmp_path / "shards", build("llama")
    whole = saved(run(corpus, folder, model), tmp_path)
    file = folder / "shard-00002.safetensors"
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
        assert saved(run(corpus, folder, model, resume=True), tmp_path) == whole
        return
    damaged = {"torn": content[:-99], "bit": content[:-50] + bytes([content[-50] ^ 4]) + content[-49:], "emptied": b""}
    file.write_bytes(damaged[damage])
    with pytest.warns(RuntimeWarning, match="shard 2 is measured anew"):
        assert saved(run(corpus, folder, model, resume=True), tmp_path) == whole


def test_a_shard_of_another_run_or_place_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    folder, other, model = tmp_path / "shards", tmp_path / "other", build("llama")
    run(corpus, folder, model)
    run(corpus, other, model, tokens="last")
    shard = folder / "shard-00001.safetensors"
    for foreign in (other / "shard-00001.safetensors", folder / "shard-00002.safetensors"):
        shutil.copy(foreign, shard)
        line = message(lambda: run(corpus, folder, model, resume=True))
        assert f"{shard} belongs to another run or shard" in line


@pytest.mark.parametrize("record", [b"", b"{}", b'{"format": "affectron.shards", "version": 1}'])
def test_a_damaged_record_of_the_run_is_refused(corpus: Corpus, tmp_path: Path, record: bytes) -> None:
    run(corpus, tmp_path / "shards")
    (tmp_path / "shards" / "run.json").write_bytes(record)
    assert str(tmp_path / "shards") in message(lambda: run(corpus, tmp_path / "shards", resume=True))


@pytest.mark.parametrize("smallest", [True, False])
def test_a_full_disk_is_told_and_loses_nothing(corpus: Corpus, tmp_path: Path, smallest: bool) -> None:
    """A write beyond the limit fails as on a full disk: the very first one, or one after two shards are kept."""
    folder, model = tmp_path / "shards", build("llama")
    whole = saved(run(corpus, None, model), tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    try:
        with (
            at_forward(model, 1 if smallest else 12, fill),
            pytest.raises(InputError, match="cannot write .*too large"),
        ):
            run(corpus, folder, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder.exists() != smallest
    assert not list(tmp_path.rglob("*.tmp"))
    assert saved(run(corpus, folder, model, resume=True), tmp_path) == whole


def test_one_bad_shard_does_not_waste_the_others(corpus: Corpus, tmp_path: Path) -> None:
    folder, model = tmp_path / "shards", build("llama")
    whole = saved(run(corpus, None, model), tmp_path)

    def fail() -> None:
        raise MemoryError("no memory\nleft")

    with at_forward(model, 7, fail), pytest.raises(Incomplete) as error:
        run(corpus, folder, model, checkpoint_minutes=OFTEN)
    line = str(error.value)
    assert f"3 of 4 shards are measured and kept in {folder}" in line
    assert "shard 1 (sentences 31 to 60): MemoryError: no memory left" in line
    assert saved(run(corpus, folder, model, resume=True), tmp_path) == whole


def test_a_corpus_that_changes_meanwhile_is_noticed(sentences: Path, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    shutil.copy(sentences, path)
    model, corpus = build("llama"), Corpus.from_file(path)
    with at_forward(model, 3, lambda: os.utime(path)), pytest.raises(InputError, match="was changed after it was"):
        run(corpus, tmp_path / "shards", model)


def test_a_folder_that_another_process_writes_to_is_refused(sentences: Path, corpus: Corpus, tmp_path: Path) -> None:
    output, folder = tmp_path / "out.safetensors", tmp_path / "shards"
    other = start(measure, sentences, output, shards=SHARDS, checkpoint=folder, checkpoint_minutes=OFTEN)
    while not list(folder.glob("shard-*")):  # it has begun, and the rest takes far longer than the refusal
        assert other.is_alive()
    os.kill(other.pid, signal.SIGSTOP)
    line = message(lambda: run(corpus, folder, resume=True))
    assert line.startswith(f"{folder} is in use by process {other.pid} on ")
    other.kill()
    other.join()
    run(corpus, folder, resume=True)  # its lock ended with it
    assert not (folder / ".lock").exists()


def test_sigkill_at_random_points_changes_nothing(sentences: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "out.safetensors", tmp_path / "shards"
    options = {"shards": SHARDS, "checkpoint": folder, "checkpoint_minutes": OFTEN, "resume": True}
    start(measure, sentences, output, **options).join()  # the first start includes the server's imports
    begin = time.perf_counter()
    shutil.rmtree(folder)
    start(measure, sentences, output, **options).join()
    longest, whole = time.perf_counter() - begin, output.read_bytes()
    shutil.rmtree(folder)
    output.unlink()
    rng = random.Random(5)
    killed = ended = 0
    while killed < KILLS:
        worker = start(measure, sentences, output, **options)
        worker.join(rng.uniform(0, longest))
        worker.kill()
        worker.join()
        killed += worker.exitcode == -signal.SIGKILL
        if worker.exitcode == 0:
            ended += 1
            assert output.read_bytes() == whole
            output.unlink()
            shutil.rmtree(folder)
    last = start(measure, sentences, output, **options)
    last.join()
    assert last.exitcode == 0
    assert output.read_bytes() == whole
