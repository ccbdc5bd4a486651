"""Steered decoding, token for token, against hooks on a model that computes its whole text anew for every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from affectron import interventions
from affectron.interventions import Program, Schedule, schedule
from affectron.models import find_sites, intervene
from tests.support.bench import KINDS, TOLERANCE, Bench, by_request, generate, logits
from tests.support.decoding import WRITTEN, Change, everywhere, on, slow
from tests.support.tiny import batch, build, last_inputs, site_names, state

pytestmark = pytest.mark.usefixtures("one_thread")


CACHES = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_every_kind_in_one_batch_token_for_token(bench: Bench, side: str | None) -> None:
    """Requests with each kind of program and with none, over padding sides and caches."""
    inputs = batch(rows=len(KINDS) + 1, length=12, side=side)
    changes = [bench.kinds[kind][1] for kind in KINDS]
    if side == "right":  # generate goes on after the padding, at positions of its own: the hooks do it there
        with last_inputs(bench.model, bench.family, by_request([*changes, None], len(KINDS) + 1)):
            wanted = generate(bench.model, inputs)
    else:
        wanted = slow(bench, inputs, [*map(everywhere, changes), None])
    plain = generate(bench.model, inputs)
    with intervene(bench.model, [*(bench.kinds[kind][0] for kind in KINDS), None]):
        for name, options in CACHES.items():
            written = generate(bench.model, inputs, **options)
            assert torch.equal(written, wanted), name
    assert torch.equal(wanted[-1], plain[-1])
    assert (wanted != plain).any(1).sum() >= len(KINDS) - 2


def test_requests_without_a_program_keep_every_bit() -> None:
    """SiLU at a width that torch's vectors divide: there the kernel's bits are torch's, in both precisions."""
    for dtype in (torch.float32, torch.bfloat16):
        model = build("llama", intermediate_size=128).to(dtype)
        program = interventions.zero([(site, index) for site in site_names("llama") for index in range(0, 128, 3)])
        inputs = batch(rows=4, side="left")
        with torch.no_grad():
            plain = model(**inputs).logits
            with intervene(model, [program, None, program.scaled(0.5), None]):
                steered = model(**inputs).logits
        assert torch.equal(steered[1::2], plain[1::2])
        assert (steered[::2] - plain[::2]).abs().amax((1, 2)).min() > 1e-3


def test_sampling_draws_from_the_steered_logits(llama: Bench) -> None:
    program, change = llama.kinds["dynamic"]
    inputs = batch(rows=3)
    options = {"do_sample": True, "max_new_tokens": 6, "temperature": 0.7}
    with last_inputs(llama.model, "llama", change):
        torch.manual_seed(3)
        wanted = generate(llama.model, inputs, **options)
    with intervene(llama.model, program):
        torch.manual_seed(3)
        assert torch.equal(generate(llama.model, inputs, **options), wanted)


@pytest.mark.parametrize("how", ["assistant", "prompt lookup"])
@pytest.mark.parametrize("when", ["always", "by position"])
def test_assisted_decoding_writes_what_plain_decoding_does(llama: Bench, how: str, when: str) -> None:
    """Several tokens a forward, some of them taken back: positions are counted by the cache, not by forwards."""
    program, change = llama.kinds["composed"]
    inputs = batch(rows=1, length=20)
    inputs["input_ids"][0, 10:] = inputs["input_ids"][0, :10]  # something to look up
    assistant = {"assistant_model": build("llama")} if how == "assistant" else {"prompt_lookup_num_tokens": 3}
    steered = program if when == "always" else schedule(program, prompt=False, start=2, stop=5)
    wanted = slow(llama, inputs, [everywhere(change) if when == "always" else on(change, 2, 5)])
    with intervene(llama.model, steered):
        assert torch.equal(generate(llama.model, inputs, **assistant), wanted)


def schedules(bench: Bench) -> list[tuple[Schedule | Program, Change]]:
    (composed, c), (induce, i) = bench.kinds["composed"], bench.kinds["induce"]
    mixed = Schedule(composed, ((0, None), (1, induce), (4, composed)), "mixed")
    return [
        (schedule(composed, stop=0), on(c, None, 0)),
        (schedule(composed, prompt=False), on(c, 0)),
        (schedule(induce, prompt=False, start=3), on(i, 3)),
        (schedule(induce, prompt=False, start=1, stop=4), on(i, 1, 4)),
        (mixed, lambda site, h, n: on(c, 4)(site, on(i, 1, 4)(site, on(c, None, 0)(site, h, n), n), n)),
        (induce, everywhere(i)),
    ]


@pytest.mark.parametrize("side", [None, "left"])
def test_schedules_act_where_they_say(bench: Bench, side: str | None) -> None:
    """Each request at its own positions, whatever the cache; beams and chunked prompts too."""
    both = schedules(bench)
    inputs = batch(rows=len(both) + 1, length=12, side=side)
    wanted = slow(bench, inputs, [*(change for _, change in both), None])
    with intervene(bench.model, [*(steered for steered, _ in both), None]):
        for name, options in (CACHES | {"chunks": {"prefill_chunk_size": 5}}).items():
            if name == "chunks" and bench.family == "opt":
                continue  # counts its positions from the mask of one chunk
            assert torch.equal(generate(bench.model, inputs, **options), wanted), name
        # One beam a row is greedy: two rows for each request must both follow its schedule.
        doubled = {key: value.repeat_interleave(2, 0) for key, value in inputs.items()}
        assert torch.equal(generate(bench.model, doubled), wanted.repeat_interleave(2, 0))


def test_a_decay_halves_by_its_half_life(llama: Bench) -> None:
    induce, change = llama.kinds["induce"]
    inputs = batch(rows=1)
    fading = schedule(induce, half_life=2)

    def faded(site: str, h: Tensor, prompt: int) -> Tensor:
        step = (torch.arange(len(h)) - prompt).clamp(min=0)
        return h + 2.0 ** (-step[:, None] / 2) * (change(site, h) - h)

    wanted = slow(llama, inputs, [faded])
    with intervene(llama.model, fading):
        assert torch.equal(generate(llama.model, inputs), wanted)


def test_without_generate_all_of_a_text_is_prompt_unless_said(llama: Bench) -> None:
    program, change = llama.kinds["composed"]
    inputs = batch(rows=2)

    def by_hooks(stop: int | None) -> Tensor:
        part = on(change, None, stop)
        with last_inputs(llama.model, "llama", lambda site, h: torch.stack([part(site, one, 0) for one in h])):
            return logits(llama.model, inputs)

    whole, begun = by_hooks(None), by_hooks(4)
    with intervene(llama.model, schedule(program, stop=0)) as steering:
        torch.testing.assert_close(logits(llama.model, inputs), whole, **TOLERANCE)
        steering.prompt_length = 4
        torch.testing.assert_close(logits(llama.model, inputs), begun, **TOLERANCE)
        generate(llama.model, inputs)
        assert steering.prompt_length == 4


def test_generate_tells_every_context_its_prompt(llama: Bench) -> None:
    (composed, c), (induce, i) = llama.kinds["composed"], llama.kinds["induce"]
    inputs, before = batch(rows=2), state(llama.model)

    def both(site: str, h: Tensor, prompt: int) -> Tensor:
        return on(i, 2)(site, on(c, 0)(site, h, prompt), prompt)

    for first_leaves in (True, False):
        first = intervene(llama.model, schedule(composed, prompt=False))
        second = intervene(llama.model, schedule(induce, prompt=False, start=2))
        first.__enter__()
        second.__enter__()
        assert torch.equal(generate(llama.model, inputs), slow(llama, inputs, [both] * 2))
        (first if first_leaves else second).__exit__(None, None, None)
        found = generate(llama.model, inputs)
        (second if first_leaves else first).__exit__(None, None, None)
        assert torch.equal(found, slow(llama, inputs, [on(i, 2) if first_leaves else on(c, 0)] * 2))
        assert state(llama.model) == before


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_with_and_without_checkpointing(bench: Bench, checkpointing: bool) -> None:
    """Mixed programs and a schedule, against hooks; the weights of the first site and of the embedding."""
    both = [*schedules(bench)[:3], (None, None)]
    inputs = batch(rows=4, length=9)
    weights = [next(p for p in find_sites(bench.model)[0].module.parameters() if p.dim() == 2)]
    weights.append(bench.model.get_input_embeddings().weight)

    def change(site: str, h: Tensor) -> Tensor:
        each = h.view(4, -1, h.shape[-1])
        return torch.stack(
            [h if own is None else own(site, h, 5) for (_, own), h in zip(both, each, strict=True)]
        ).view(h.shape)

    def gradients() -> tuple[Tensor, ...]:
        loss = bench.model(**inputs, labels=inputs["input_ids"], use_cache=False).loss
        return torch.autograd.grad(loss, weights)

    with last_inputs(bench.model, bench.family, change):
        wanted = gradients()
    try:
        if checkpointing:
            bench.model.gradient_checkpointing_enable({"use_reentrant": False})
            bench.model.train()  # transformers checkpoints nothing otherwise; without dropout nothing else differs
            for module in bench.model.modules():
                own = vars(module)
                own.update({name: 0.0 for name in ("p", "dropout", "attention_dropout", "layerdrop") if name in own})
        with intervene(bench.model, [program for program, _ in both]) as steering:
            steering.prompt_length = 5
            found = gradients()
    finally:
        bench.model.gradient_checkpointing_disable()
        bench.model.eval()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prompt", [None, 3])
def test_schedules_in_an_encoder_decoder_model(prompt: int | None) -> None:
    """All that the encoder reads is prompt; generated tokens are counted from the decoder's own prompt, a start token
    and what the caller gives."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=97, d_model=24, d_ff=43, d_kv=6, num_layers=2, num_heads=4, feed_forward_proj="gated-silu",
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    sites = find_sites(model)
    assert sum("encoder" in site.name for site in sites) == 2
    strong = interventions.amplify([(site.name, i) for site in sites for i in range(0, 43, 3)], 20.0)
    zero = interventions.zero([(site.name, i) for site in sites for i in range(43)])
    mixed = Schedule(strong, ((0, None), (2, zero)), "mixed")
    programs = [strong, schedule(strong, prompt=False), schedule(zero, stop=0), mixed, None]

    def scaled(start: int | None, stop: int | None, factor: Tensor) -> Change:
        return on(lambda site, h: h * factor, start, stop)

    sparse = torch.ones(43)
    sparse[::3] = 20
    none = torch.zeros(43)
    changes = [
        scaled(None, None, sparse),
        scaled(0, None, sparse),
        scaled(None, 0, none),
        lambda site, h, n: scaled(2, None, none)(site, scaled(None, 0, sparse)(site, h, n), n),
        lambda site, h, n: h,
    ]
    ids = torch.randint(3, 97, (5, 9))
    given = {} if prompt is None else {"decoder_input_ids": torch.randint(3, 97, (5, prompt))}
    start = torch.cat([torch.zeros(5, 1, dtype=torch.long), *given.values()], 1)

    def hook(site: Any) -> Callable[..., tuple[Tensor]]:
        def change(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            h = args[0]
            own = h.shape[1] if "encoder" in site.name else start.shape[1]  # what is prompt
            return (torch.stack([part(site.name, one, own) for part, one in zip(changes, h, strict=True)]),)

        return change

    handles = [site.module.wo.register_forward_pre_hook(hook(site)) for site in sites]
    wanted = start
    with torch.no_grad():
        for _ in range(WRITTEN):
            found = model(input_ids=ids, decoder_input_ids=wanted, use_cache=False).logits
            wanted = torch.cat([wanted, found[:, -1:].argmax(-1)], 1)
    for handle in handles:
        handle.remove()
    options = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "do_sample": False, "eos_token_id": None, **given}
    plain = model.generate(ids, **options)
    with intervene(model, programs):
        for cache in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
            assert torch.equal(model.generate(ids, **options, **cache), wanted), cache
    assert (wanted != plain).any(1).tolist() == [True, True, True, True, False]
