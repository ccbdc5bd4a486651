"""Screening a Llama with random weights against its plain forwards on the same batches.

Each is timed on two corpora. What is compared is the time of the tokens that the larger one has more: what a screening
does once, such as copying the statistics from the device, is in neither's. All tokenise the corpus, within that time.
The base model is held against without a mask of the padding, as screening runs it: with one, attention takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import affectron
from affectron.corpus.batching import batches
from on_gpu.contenders import serving
from on_gpu.llama import BASE, WITH_HEAD, corpus, forward, llama, tokenizer
from on_gpu.record import Row, memory_rows, rows_of
from on_gpu.scale import LABELS, Scale
from on_gpu.timing import Clock, Contender, Times, compete

MASKED = f"{BASE}, padding masked"


def works(scale: Scale, clock: Clock) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "screen", partial(_screen, scale, clock)


def _screen(scale: Scale, clock: Clock) -> list[Row]:
    model, tokens = llama(scale), tokenizer(scale)
    corpora = [corpus(scale, sentences) for sentences in scale.sentences]

    def read(sentences: affectron.Corpus) -> Iterator[Any]:
        return batches(sentences, tokens, batch_tokens=scale.batch_tokens)

    def screen(sentences: affectron.Corpus) -> None:
        affectron.screen(model, tokens, sentences, batch_tokens=scale.batch_tokens)

    ways: dict[str, Callable[[affectron.Corpus], None]] = {
        WITH_HEAD: lambda sentences: forward(model, read(sentences)),
        MASKED: lambda sentences: forward(model.model, read(sentences)),
        BASE: lambda sentences: forward(model.model, read(sentences), masked=False),
    }
    slopes = [Contender(name, "torch", partial(way, corpora[0])) for name, way in ways.items()]
    for backend in scale.backends:
        ways[f"screen {backend}"] = screen
        goals: dict[str, float | None] = {WITH_HEAD: 1.0, BASE: 1 / 0.98}
        run, context = partial(screen, corpora[0]), partial(serving, backend, {})
        slopes.append(Contender(f"screen {backend}", backend, run, goals, context=context))
    sizes = [sum(int(batch.attention_mask.sum()) for batch in read(sentences)) for sentences in corpora]
    whole = [
        replace(one, name=f"{one.name}: {size} tokens", run=partial(ways[one.name], sentences), goals={}, tokens=size)
        for one in slopes
        for sentences, size in zip(corpora, sizes, strict=True)
    ]
    times = compete(clock, whole, scale.screen_rounds, cold=False)
    layers = scale.llama["num_hidden_layers"]
    work = f"Llama of {layers} layers, {scale.batch_tokens} tokens a batch"
    rows = rows_of(work, whole, times)
    more = sizes[1] - sizes[0]
    rows += rows_of(f"{work}, {more} tokens more", [replace(one, tokens=more) for one in slopes], _slopes(whole, times))

    # Memory is compared with the model included: that is what has to fit.
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = layers * (8 * LABELS + 40 * LABELS * scale.neurons)
    _, _, base, *screens = whole[1::2]
    against = weights + times.peaks.get(base.name, 0)
    for one in screens:
        rows += memory_rows(one, work, times, 1.01, against, "base model (buffers apart)", held=weights - buffers)
    return rows


def _slopes(whole: list[Contender], times: Times) -> Times:
    """Of each way, what the larger corpus takes longer than the smaller in the same round."""
    found = Times()
    for small, large in zip(whole[::2], whole[1::2], strict=True):
        name = small.name.rsplit(":", 1)[0]
        if failed := times.failed.get(small.name) or times.failed.get(large.name):
            found.failed[name] = failed
        else:
            pairs = zip(times.rounds[small.name], times.rounds[large.name], strict=True)
            found.rounds[name] = [b - a for a, b in pairs]
    return found
