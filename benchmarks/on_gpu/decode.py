"""Steered decoding against plain decoding, end to end.

First one step of a model of full depth with a static cache, captured in a CUDA graph. Then ``generate`` as transformers
runs it with a static cache, which compiles its step with CUDA graphs: of fewer layers, because each layer is compiled.
A program amplifies 1 % of the neurons of every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from transformers import StaticCache

import affectron
from affectron import ops
from affectron.models.steering import Steering
from affectron.ops import backend_for
from on_gpu.llama import llama, program
from on_gpu.record import Row, rows_of
from on_gpu.scale import Scale
from on_gpu.timing import Captured, Clock, Contender, compete

STEP_BATCHES, GENERATE_BATCHES = (1, 8, 32), (1, 8)
PROMPT, GENERATE_ROUNDS = 16, 10
PLAIN = "plain"


def works(scale: Scale, clock: Clock) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    model = cache(partial(llama, scale))
    for batch in STEP_BATCHES:
        yield f"captured step, batch {batch}", lambda batch=batch: _step(scale, clock, model(), batch)
    model.cache_clear()
    both = cache(lambda: [llama(scale, scale.generate_layers) for _ in range(2)])
    for batch in GENERATE_BATCHES:
        yield f"generate, batch {batch}", lambda batch=batch: _generate(scale, clock, *both(), batch)


@contextmanager
def _steering(backend: str, model: Any, programs: list[affectron.Program]) -> Iterator[Steering]:
    with ops.use_backend(backend), affectron.intervene(model, programs) as steering:
        yield steering


@torch.no_grad()
def _step(scale: Scale, clock: Clock, model: Any, batch: int) -> list[Row]:
    """One token of each request. Every position of the cache is attended to, wherever the step writes."""
    layers = scale.llama["num_hidden_layers"]
    kept = StaticCache(config=model.config, max_cache_len=scale.cache)
    ids = torch.zeros(batch, 1, dtype=torch.long, device=scale.device)
    mask = torch.ones(batch, 1, 1, scale.cache, dtype=torch.bool, device=scale.device)

    def step() -> None:
        model(input_ids=ids, attention_mask=mask, position_ids=ids, past_key_values=kept, use_cache=True)

    @contextmanager
    def from_the_start() -> Iterator[None]:
        kept.reset()  # each step goes on from the one before
        yield

    def contender(name: str, backend: str, run: Callable[[], Any], goals: dict[str, float | None]) -> Contender:
        return Contender(name, backend, run, goals, tokens=batch, context=from_the_start)

    contenders = [contender(PLAIN, "torch", Captured(scale, step), {})]
    mixes = {"one program": [program(scale, layers, 0)]}
    if batch > 1:
        mixes["a program for each row"] = [program(scale, layers, request) for request in range(batch)]
    for mix, programs in mixes.items():
        for backend in scale.backends:
            run = Captured(scale, step, partial(_steering, backend, model, programs))
            contenders.append(contender(f"steered {backend}: {mix}", backend, run, {PLAIN: 1.0}))
    work = f"captured step of {layers} layers, batch {batch}, cache {scale.cache}"
    return rows_of(work, contenders, compete(clock, contenders, scale.rounds, cold=False))


def _generate(scale: Scale, clock: Clock, plain: Any, steered: Any, batch: int) -> list[Row]:
    """Two models of the same shape, so that neither's step is compiled for the other."""
    torch._dynamo.reset()  # each batch is compiled for its own shape
    layers, tokens = scale.generate_layers, batch * scale.written
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, scale.llama["vocab_size"], (batch, PROMPT), generator=generator).to(scale.device)

    def generate(model: Any) -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=scale.written,
            min_new_tokens=scale.written,
            do_sample=False,
            pad_token_id=0,
            cache_implementation="static",
        )

    programs = [program(scale, layers, request) for request in range(batch)]
    backend = backend_for("glu_steer", scale.device)[0]
    with affectron.intervene(steered, programs):
        contenders = [
            Contender(PLAIN, "torch", partial(generate, plain), tokens=tokens),
            Contender(f"steered {backend}", backend, partial(generate, steered), {PLAIN: 1.0}, tokens=tokens),
        ]
        rounds = min(GENERATE_ROUNDS, scale.rounds)
        for model in (plain, steered):  # compiled in the first call; graphs are captured in the next ones
            for _ in range(2):
                generate(model)
        times = compete(clock, contenders, rounds, cold=False)
    work = f"generate, {layers} layers, batch {batch}, {scale.written} tokens, static cache"
    return rows_of(work, contenders, times)
