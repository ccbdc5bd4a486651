"""Threads of one process: each measures and steers its own model; use of another thread's model is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from affectron import screen
from affectron.models import attach, find_sites
from affectron.ops import glu
from tests.support.corpora import CORPUS
from tests.support.tiny import batch, build, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1, thread_name_prefix="other") as pool:
        return pool.submit(function).result()


def nothing(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    return torch.zeros_like(glu(gate, up, act))


def test_two_screens_in_two_threads_do_not_meet() -> None:
    def run(seed: int) -> Any:
        return screen(build("llama", seed=seed), make_tokenizer(), CORPUS, batch_tokens=64)

    alone = [run(seed) for seed in (0, 1)]
    begin = threading.Barrier(2)

    def together(seed: int) -> Any:
        begin.wait()
        return run(seed)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(together, (0, 1)))
    for expected, stats in zip(alone, both, strict=True):
        for site in expected.sites:
            assert np.array_equal(expected.mean[site], stats.mean[site])
            assert np.array_equal(expected.active[site], stats.active[site])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_forward_in_another_thread_is_refused_while_a_context_is_open(family: str) -> None:
    model, inputs = build(family), batch()
    before = model(**inputs).logits

    def forward() -> Tensor:
        with torch.no_grad():
            return model(**inputs).logits

    with attach(find_sites(model), nothing):
        masked = model(**inputs).logits
        with pytest.raises(
            RuntimeError, match="thread 'other_0' runs a model that thread 'MainThread' measures or steers"
        ):
            in_thread(forward)
        assert torch.equal(model(**inputs).logits, masked)
    assert not torch.equal(masked, before)
    assert torch.equal(in_thread(forward), before)


@torch.no_grad()
def test_another_thread_may_open_the_context() -> None:
    """A thread that streams text does so: the context belongs to the thread that runs the model."""
    model, inputs = build("llama"), batch()

    def steered() -> Tensor:
        with torch.no_grad(), attach(find_sites(model), nothing):
            return model(**inputs).logits

    assert torch.equal(in_thread(steered), steered())


def test_a_model_that_one_thread_measures_is_not_screened_by_another() -> None:
    model = build("llama")
    with attach(find_sites(model), nothing), pytest.raises(RuntimeError, match="'MainThread' measures or steers"):
        in_thread(lambda: screen(model, make_tokenizer(), CORPUS))
