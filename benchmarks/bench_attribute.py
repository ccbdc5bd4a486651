"""Attribution against the plain forwards of the batches that it reads, and against the hooks that it replaces.

The Llama of bench_screen.py; each sentence is asked for its label, one of ten words. The contenders are those of
on_gpu/attribute.py, and the hooks give the same means. The JSON file has the peak memory of each beside its time: the
most bytes that torch holds during a call beyond those held before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bench_screen import DTYPES, corpus, llama, tokenizer
from on_gpu.attribute import HOOKS, PROMPTS, by_hooks, questions
from on_gpu.llama import BASE, WITH_HEAD, forward

import affectron
from affectron.attribution.batching import QuestionBatch

ATTRIBUTE, RECOMPUTED = "attribute", "attribute, recomputed"
SENTENCES = {"bf16": 48, "fp32": 96}
BATCH_TOKENS = 2048


def peak(function: Callable[[], Any]) -> int:
    """The most bytes that torch holds during a call beyond those held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = profile.profiler.kineto_results.events()
    changes = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]")
    return int(torch.tensor([size for _, size in changes]).cumsum(0).max())


@pytest.mark.parametrize("contender", [WITH_HEAD, BASE, HOOKS, ATTRIBUTE, RECOMPUTED])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attribute(benchmark: Any, contend: Any, dtype: str, contender: str) -> None:
    model, sentences = llama(dtype), corpus(SENTENCES[dtype])
    labels = torch.tensor(tokenizer().convert_tokens_to_ids(list(sentences.labels)))

    def read() -> Iterator[QuestionBatch]:
        return questions(model, tokenizer(), sentences, BATCH_TOKENS)

    def attribute(recompute: bool | None = None) -> affectron.ActivationStats:
        options: dict[str, Any] = {"prompts": PROMPTS, "batch_tokens": BATCH_TOKENS, "recompute": recompute}
        return affectron.attribute(model, tokenizer(), sentences, **options)

    function: Callable[[], Any] = {
        WITH_HEAD: lambda: forward(model, read()),
        BASE: lambda: forward(model.model, read()),
        HOOKS: lambda: by_hooks(model, read(), labels),
        ATTRIBUTE: attribute,
        RECOMPUTED: lambda: attribute(recompute=True),
    }[contender]
    if (dtype, contender) == ("fp32", ATTRIBUTE):
        found = torch.stack([torch.from_numpy(mean) for mean in attribute().mean.values()]).float()
        torch.testing.assert_close(found, by_hooks(model, read(), labels), rtol=1e-3, atol=1e-6 * float(found.max()))
    goals = {ATTRIBUTE: {WITH_HEAD: 2.2, HOOKS: 1.05}, RECOMPUTED: {WITH_HEAD: 3.2}}.get(contender, {})
    benchmark.extra_info["peak_bytes"] = peak(function)
    contend(f"attribute {dtype}", contender, function, rounds=3, goals=goals)
