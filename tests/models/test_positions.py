"""Programs limited to the text's own tokens, to the rest of the prompt or to generated tokens: against hooks that
change h at exactly those positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from affectron import interventions
from affectron.errors import InputError
from affectron.interventions import Program, Schedule, schedule
from affectron.models import find_sites, intervene, sweep
from tests.support.bench import TOLERANCE, Bench, generate, logits
from tests.support.decoding import Change, slow
from tests.support.families import FAMILIES as MORE
from tests.support.tiny import batch, build, last_inputs, site_names

pytestmark = pytest.mark.usefixtures("one_thread")

CACHES = {
    "dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False},
    "chunks": {"prefill_chunk_size": 5},
}  # fmt: skip


def own_tokens(inputs: dict[str, Tensor], seed: int = 3) -> Tensor:
    """A mask with gaps, of other tokens in each row; none at the padding, and none from the last but one on."""
    shown = inputs["attention_mask"][:, :-2].bool()
    return shown & (torch.rand(shown.shape, generator=torch.Generator().manual_seed(seed)) < 0.5)


def where_of(own: Tensor, where: str, length: int, prompt: int) -> Tensor:
    """bool [R, length]: the tokens at a position, by definition; ``own`` is narrower than the prompt."""
    given = (torch.arange(length) < prompt).expand(len(own), length)
    text = torch.zeros(len(own), length, dtype=torch.bool)
    text[:, : own.shape[1]] = own[:, :length]
    return {"text": text & given, "prompt": given & ~text, "generated": ~given}[where]


def at(change: Callable[[str, Tensor], Tensor], own: Tensor, where: str) -> Change:
    """Restrict ``change`` to a position of one request with the mask ``own`` [T]."""

    def part(site: str, h: Tensor, prompt: int) -> Tensor:
        return torch.where(where_of(own[None], where, len(h), prompt)[0, :, None], change(site, h), h)

    return part


def mixed(bench: Bench) -> tuple[list[Program | Schedule | None], list[tuple[str, str] | None]]:
    """Requests at every position, one everywhere and one that is left alone; (kind, position) of each."""
    kinds = [("composed", "text"), ("composed", "prompt"), ("induce", "generated"), ("zero", "text"), None]
    programs = [None if kind is None else schedule(bench.kinds[kind[0]][0], where=kind[1]) for kind in kinds]
    return programs, kinds


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_a_forward_is_steered_at_the_tokens_that_the_mask_tells(bench: Bench, side: str | None) -> None:
    programs, kinds = mixed(bench)
    inputs = batch(rows=5, length=12, side=side)
    own = own_tokens(inputs)
    changes = [
        (lambda s, h, n: h) if k is None else at(bench.kinds[k[0]][1], own[r], k[1]) for r, k in enumerate(kinds)
    ]

    def change(site: str, h: Tensor) -> Tensor:
        rows = zip(changes, h.view(5, -1, h.shape[-1]), strict=True)
        return torch.stack([part(site, row, 12) for part, row in rows]).view(h.shape)

    plain = logits(bench.model, inputs)
    with last_inputs(bench.model, bench.family, change):
        wanted = logits(bench.model, inputs)
    with intervene(bench.model, programs) as steering:
        steering.text = own
        assert torch.equal(steering.text, own)
        found = logits(bench.model, inputs)
    torch.testing.assert_close(found, wanted, **TOLERANCE)
    shown = inputs["attention_mask"].bool()
    moved = [bool((wanted[row] - plain[row]).abs()[shown[row]].max() > 1e-3) for row in range(5)]
    assert moved == [True, True, False, True, False]


@pytest.mark.parametrize("side", [None, "left"])
def test_decoding_token_for_token(bench: Bench, side: str | None) -> None:
    """The mask goes by position: with any cache, in pieces of a prompt, and for several rows of a request."""
    programs, kinds = mixed(bench)
    inputs = batch(rows=5, length=12, side=side)
    own = own_tokens(inputs)
    changes = [None if k is None else at(bench.kinds[k[0]][1], own[r], k[1]) for r, k in enumerate(kinds)]
    wanted, plain = slow(bench, inputs, changes), generate(bench.model, inputs)
    assert (wanted != plain).any(1).sum() >= 3
    with intervene(bench.model, programs) as steering:
        steering.text = own
        for name, options in CACHES.items():
            if (name, bench.family) == ("chunks", "opt"):
                continue  # counts its positions from the mask of one chunk
            assert torch.equal(generate(bench.model, inputs, **options), wanted), name
        doubled = {key: value.repeat_interleave(2, 0) for key, value in inputs.items()}
        assert torch.equal(generate(bench.model, doubled), wanted.repeat_interleave(2, 0))
        steering.text = own.repeat_interleave(2, 0)
        assert torch.equal(generate(bench.model, doubled), wanted.repeat_interleave(2, 0))


def test_a_generated_token_is_never_the_text_s(llama: Bench) -> None:
    """Also where the mask goes on."""
    program, change = llama.kinds["composed"]
    inputs = batch(rows=2)
    wanted = slow(llama, inputs, [at(change, torch.ones(9, dtype=torch.bool), "text")] * 2)
    plain = generate(llama.model, inputs)
    with intervene(llama.model, schedule(program, where="text")) as steering:
        steering.text = torch.ones(2, 30, dtype=torch.bool)
        assert torch.equal(generate(llama.model, inputs), wanted)
        steering[0] = schedule(program, where="prompt")
        assert torch.equal(generate(llama.model, inputs), plain)


def test_positions_together_are_all_of_them(bench: Bench) -> None:
    """Zero at the text and zero at the rest of the prompt, in either order, is zero at all; with the third position it
    is so in generation, too."""
    program, _ = bench.kinds["zero"]
    inputs = batch(rows=3, length=11, side="left")
    own = own_tokens(inputs)
    with intervene(bench.model, program):
        wanted, written = logits(bench.model, inputs), generate(bench.model, inputs)
    for order in (("text", "prompt", "generated"), ("prompt", "generated", "text")):
        with ExitStack() as stack:
            for where in order:
                stack.enter_context(intervene(bench.model, schedule(program, where=where))).text = own
            torch.testing.assert_close(logits(bench.model, inputs), wanted, **TOLERANCE)
            assert torch.equal(generate(bench.model, inputs), written)


@pytest.mark.parametrize("first", [0, 2], ids=["all layers", "the last layer"])
def test_rows_of_a_sweep(bench: Bench, first: int) -> None:
    """The mask has the rows of the model's batch; every program sees it."""
    site = site_names(bench.family)[first]
    inputs = batch(rows=3, length=7)
    own = own_tokens(inputs)
    zero = interventions.zero([(site, index) for index in range(0, 43, 2)])
    programs = [schedule(zero, where="text"), None, schedule(zero, where="prompt"), zero]

    def zeroed(wanted: Tensor) -> Tensor:
        def change(name: str, h: Tensor) -> Tensor:
            kept = h.reshape(3, 7, -1).clone()
            if name == site:
                kept[..., ::2] = torch.where(wanted[..., None], 0.0, kept[..., ::2])
            return kept.view(h.shape)

        with last_inputs(bench.model, bench.family, change):
            return logits(bench.model, inputs)

    text = where_of(own, "text", 7, 7)
    wanted = [zeroed(text), zeroed(text & False), zeroed(~text), zeroed(text | True)]
    with sweep(bench.model, programs) as steering, torch.no_grad():
        steering.text = own
        found = bench.model(**inputs, use_cache=False).logits
    torch.testing.assert_close(found, torch.cat(wanted), **TOLERANCE)
    with sweep(bench.model, [None, None]) as steering:
        assert steering is None


# --- other models ---


@contextmanager
def silenced(modules: list[nn.Module], wanted: Tensor) -> Iterator[None]:
    """Let a module return 0 for the tokens ``wanted`` [B, T]."""

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        hidden = torch.where(wanted.view(*hidden.shape[:-1], 1), 0.0, hidden)
        return (hidden, *rest) if rest else hidden

    handles = [module.register_forward_hook(change) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
@pytest.mark.parametrize("where", ["text", "prompt"])
def test_experts_are_steered_at_the_tokens_that_are_routed_to_them(name: str, where: str) -> None:
    """With every neuron masked the block returns 0."""
    model = MORE[name].build()
    sites = find_sites(model)
    inputs = batch(rows=2, length=9)
    own = own_tokens(inputs)
    zero = interventions.zero([(site.name, index) for site in sites for index in range(site.neurons)])
    with silenced([layer.mlp for layer in model.model.layers], where_of(own, where, 9, 9)):
        wanted = model(**inputs).logits
    with intervene(model, [schedule(zero, where=where), None]) as steering:
        steering.text = own
        found = model(**inputs).logits
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], model(**inputs).logits[1], rtol=1e-4, atol=1e-4)
    assert (found[0] - model(**inputs).logits[0]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("where", ["text", "prompt", "generated"])
def test_the_text_of_an_encoder_decoder_model_is_the_encoder_s(where: str) -> None:
    model = MORE["t5_gated"].build()
    sites = find_sites(model)
    zero = interventions.zero([(site.name, index) for site in sites for index in range(site.neurons)])
    ids, decoded = batch(rows=2, length=9)["input_ids"], batch(rows=2, length=6, seed=1)["input_ids"]
    own = own_tokens(batch(rows=2, length=9))
    read = where_of(own, where, 9, 9)
    given = (torch.arange(6) < 4).expand(2, 6)  # of the decoder's tokens
    written = {"text": torch.zeros(2, 6).bool(), "prompt": given, "generated": ~given}[where]
    encoder, decoder = ([s.module for s in sites if part in s.name] for part in ("encoder", "decoder"))
    with silenced(encoder, read), silenced(decoder, written):
        wanted = model(input_ids=ids, decoder_input_ids=decoded).logits
    with intervene(model, schedule(zero, where=where)) as steering:
        steering.prompt_length, steering.text = 4, own
        found = model(input_ids=ids, decoder_input_ids=decoded).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, model(input_ids=ids, decoder_input_ids=decoded).logits, atol=1e-2)


def test_a_compiled_step_serves_every_mask_of_a_shape(llama: Bench) -> None:
    torch._dynamo.reset()
    counters.clear()
    (composed, change), (zero, zeroed) = llama.kinds["composed"], llama.kinds["zero"]
    inputs = batch(rows=2, length=7)
    step = torch.compile(llama.model, fullgraph=True, backend="aot_eager")
    with intervene(llama.model, [schedule(composed, where="text"), None], capacity=3) as steering:
        places: set[int] = set()
        for seed in range(3):
            own = own_tokens(inputs, seed)
            steering.text = own
            places.add(steering.text.data_ptr())
            if seed == 2:
                steering[0], steering[1] = schedule(zero, where="prompt"), schedule(composed, where="text")
            with torch.no_grad():
                found = step(**inputs, use_cache=False).logits
            changes = [at(change, own[0], "text"), lambda site, h, n: h]
            if seed == 2:
                changes = [at(zeroed, own[0], "prompt"), at(change, own[1], "text")]

            def both(site: str, h: Tensor, changes: list[Change] = changes) -> Tensor:
                return torch.stack([own_change(site, row, 7) for own_change, row in zip(changes, h, strict=True)])

            model = build("llama")
            with last_inputs(model, "llama", both):
                torch.testing.assert_close(found, logits(model, inputs), **TOLERANCE)
        assert counters["stats"]["unique_graphs"] == len(places) == 1
    torch._dynamo.reset()


# --- what is refused ---


def test_without_a_mask_the_forward_is_refused(llama: Bench) -> None:
    program, _ = llama.kinds["zero"]
    inputs = batch(rows=2)
    message = "a program treats the text's own tokens otherwise than .*: expected steering.text to be set"
    for where in ("text", "prompt"):
        with intervene(llama.model, [None, schedule(program, where=where)]) as steering:
            with pytest.raises(InputError, match=message):
                logits(llama.model, inputs)
            with pytest.raises(InputError, match=message):
                generate(llama.model, inputs)
            steering.text = torch.zeros(2, 4, dtype=torch.bool)
            logits(llama.model, inputs)
            steering.text = None
            with pytest.raises(InputError, match=message):
                logits(llama.model, inputs)
            steering[1] = program
            logits(llama.model, inputs)
        with sweep(llama.model, [schedule(program, where=where)]), pytest.raises(InputError, match=message):
            logits(llama.model, inputs)
    with intervene(llama.model, [None, schedule(program, where="generated")]) as steering:
        assert steering.text is None
        generate(llama.model, inputs)


def test_masks_that_cannot_be(llama: Bench) -> None:
    program, _ = llama.kinds["zero"]
    inputs = batch(rows=4)
    with intervene(llama.model, schedule(program, where="text")) as steering:
        for mask in (torch.ones(4, 9), torch.ones(9, dtype=torch.bool)):
            with pytest.raises(InputError, match=r"text is torch\..* \[.*9\], expected torch.bool \[rows, tokens\]"):
                steering.text = mask
        for rows in (0, 3, 8):
            steering.text = torch.ones(rows, 9, dtype=torch.bool)
            with pytest.raises(InputError, match=f"steering.text has {rows} rows and the batch 4: expected a multiple"):
                logits(llama.model, inputs)
        steering.text = torch.zeros(1, 0, dtype=torch.bool)  # no token is the text's
        torch.testing.assert_close(logits(llama.model, inputs), logits(build("llama"), inputs), **TOLERANCE)


def test_guidance_by_a_text_with_other_positions_is_refused(llama: Bench) -> None:
    program, _ = llama.kinds["zero"]
    with intervene(llama.model, schedule(program, where="text")) as steering:
        steering.text = torch.ones(2, 4, dtype=torch.bool)
        with pytest.raises(InputError, match="guidance_scale is 1.5 and a schedule is set"):
            generate(llama.model, batch(rows=2), guidance_scale=1.5)
