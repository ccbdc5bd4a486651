"""Programs that change between the steps of decoding: the tokens are those of hooks, and nothing is compiled again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from transformers import CompileConfig, StaticCache

from affectron import interventions
from affectron.errors import InputError
from affectron.interventions import Program, Schedule, schedule
from affectron.models import intervene
from tests.support.bench import TOLERANCE, Bench, generate, logits, make_bench
from tests.support.decoding import WRITTEN, Change, everywhere, on, slow
from tests.support.tiny import batch, build, last_inputs, site_names

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def decode(model: nn.Module, inputs: dict[str, Tensor], step: Callable[..., Tensor], before: Callable[[int], None]):
    """Greedy decoding with a static cache: ``step(ids, mask, position, cache)`` gives the next token; ``before(k)`` is
    called before the k-th."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows, prompt = ids.shape
    cache = StaticCache(config=model.config, max_cache_len=prompt + WRITTEN)
    whole = torch.cat([mask, torch.ones(rows, WRITTEN, dtype=mask.dtype)], 1)
    position = (whole.cumsum(-1) - 1).clamp(min=0)
    written, now, start = [ids], ids, 0
    for k in range(WRITTEN):
        before(k)
        end = start + now.shape[1]
        run = model if k == 0 else step
        found = run(
            input_ids=now,
            attention_mask=whole[:, :end],
            position_ids=position[:, start:end],
            past_key_values=cache,
            use_cache=True,
        ).logits
        now, start = found[:, -1:].argmax(-1), end
        written.append(now)
    return torch.cat(written, 1)


@pytest.mark.parametrize("compiled", [False, True])
def test_programs_change_while_decoding_goes_on(llama: Bench, recompiles: Callable[[], int], compiled: bool) -> None:
    """Added, removed and exchanged, with other strengths, other neurons and a schedule: the tokens are those of hooks
    that change at the same step, and nothing is compiled again."""
    (composed, c), (induce, i), (zero, z) = (llama.kinds[kind] for kind in ("composed", "induce", "zero"))
    other = interventions.amplify([(site_names("llama")[1], 5)], 30.0)  # a site that no other program touches

    def amplified(site: str, h: Tensor, prompt: int) -> Tensor:
        h = h.clone()
        if site == site_names("llama")[1]:
            h[..., 5] *= 30
        return h

    inputs = batch(rows=3, length=7, side="left")
    # (program, its definition) of each request from step k on.
    script: dict[int, list[tuple[Program | Schedule | None, Change | None]]] = {
        0: [(composed, everywhere(c)), (None, None), (induce, everywhere(i))],
        2: [(composed, everywhere(c)), (zero, everywhere(z)), (None, None)],
        4: [(other, amplified), (zero, everywhere(z)), (zero, everywhere(z))],
        5: [(None, None), (schedule(induce, prompt=False, start=6), on(i, 6)), (composed, everywhere(c))],
    }

    def at(step: int) -> list[tuple[Program | Schedule | None, Change | None]]:
        return script[max(k for k in script if k <= step)]

    # A cache keeps what was computed under the programs of the time: the oracle changes position by position.
    def timed(request: int) -> Change:
        def change(site: str, h: Tensor, prompt: int) -> Tensor:
            out = h.clone()
            for t in range(len(h)):
                own = at(max(0, t - prompt + 1))[request][1]
                if own is not None:
                    out[t] = own(site, h, prompt)[t]
            return out

        return change

    wanted = slow(llama, inputs, [timed(request) for request in range(3)])
    with intervene(llama.model, [program for program, _ in script[0]], capacity=16) as steering:
        steering.prompt_length = 7

        def before(k: int) -> None:
            for request, (program, _) in enumerate(at(k)):
                if steering[request] is not program:
                    steering[request] = program

        step = (
            torch.compile(llama.model, fullgraph=True, backend="aot_eager", dynamic=True) if compiled else llama.model
        )
        assert torch.equal(decode(llama.model, inputs, step, before), wanted)
        made = recompiles()
        steering[0], steering[1], steering[2] = script[0][0][0], None, schedule(induce, half_life=3)
        again = decode(llama.model, inputs, step, lambda k: None)
        assert not torch.equal(again[2], wanted[2])
        assert recompiles() == made == int(compiled)
        assert list(steering[:2]) == [composed, None]
        assert len(steering) == 3


def test_generate_compiles_its_step_once(llama: Bench, recompiles: Callable[[], int]) -> None:
    """The way that generate takes by itself on a GPU: static cache and a step compiled as a whole."""
    (composed, _), (induce, i) = llama.kinds["composed"], llama.kinds["induce"]
    inputs = batch(rows=2, side="left")
    config = CompileConfig(fullgraph=True, backend="aot_eager", mode=None, dynamic=False)
    config._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": config}
    with intervene(llama.model, [composed, None], capacity=20) as steering:
        generate(llama.model, inputs, **options)
        made = recompiles()
        for strength in (0.25, 0.5, 1.0):
            steering[1] = induce.scaled(strength)
            steering[0] = schedule(composed.scaled(strength), half_life=4)
            generate(llama.model, inputs, **options)
        steering[0], steering[1] = schedule(induce, prompt=False, start=2), None
        written = generate(llama.model, inputs, **options)
        assert recompiles() == made >= 1
    assert torch.equal(written, slow(llama, inputs, [on(i, 2), None]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_step_serves_the_contexts_that_come_after(family: str, recompiles: Callable[[], int]) -> None:
    """Left and entered again with other programs, as many: nothing is compiled, and nothing old is computed."""
    bench = make_bench(family)
    composed, zero, induce = (bench.kinds[kind][0] for kind in ("composed", "zero", "induce"))
    inputs = batch(rows=2, length=7)
    step = torch.compile(bench.model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for programs in ([composed, None], [zero, composed], [None, induce]):
            with intervene(bench.model, programs, capacity=4):
                found = step(**inputs, use_cache=False).logits
                torch.testing.assert_close(found, logits(bench.model, inputs), **TOLERANCE)
            assert recompiles() == 1
        plain = step(**inputs, use_cache=False).logits
    torch.testing.assert_close(plain, logits(bench.model, inputs), **TOLERANCE)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_the_step_that_inductor_makes(recompiles: Callable[[], int]) -> None:
    bench = make_bench("llama")
    (composed, _), (induce, i) = bench.kinds["composed"], bench.kinds["induce"]
    inputs = batch(rows=2, length=7)
    with intervene(bench.model, [composed, composed]) as steering:
        step = torch.compile(bench.model, fullgraph=True, dynamic=True)
        decode(bench.model, inputs, step, lambda k: None)
        steering[0], steering[1] = induce, None
        written = decode(bench.model, inputs, step, lambda k: None)
        assert recompiles() == 1
    assert torch.equal(written, slow(bench, inputs, [everywhere(i), None]))


def test_places_are_used_again_and_their_number_is_kept(llama: Bench) -> None:
    names = site_names("llama")
    programs = [interventions.zero([(names[1], index)]) for index in range(6)]
    inputs = batch(rows=2)
    with intervene(llama.model, [programs[0], None], capacity=2) as steering:
        for a, b in pairwise(programs):
            steering[0], steering[1] = a, a
            steering[1] = b
            with torch.no_grad():
                found = llama.model(**inputs).logits
            for row, program in enumerate((a, b)):
                index = int(program.sites[names[1]].index[0])

                def zeroed(site: str, h: Tensor, index: int = index) -> Tensor:
                    h = h.clone()
                    if site == names[1]:
                        h[..., index] = 0
                    return h

                model = build("llama")
                with torch.no_grad(), last_inputs(model, "llama", zeroed):
                    torch.testing.assert_close(found[row], model(**inputs).logits[row], rtol=1e-5, atol=1e-5)
        before = list(steering)
        with pytest.raises(InputError, match="capacity is 2, expected at least 14"):
            steering[0] = schedule(programs[0], half_life=8)
        with pytest.raises(InputError, match="touches site 'model.layers.9.mlp', which the model does not have"):
            steering[0] = interventions.zero([("model.layers.9.mlp", 1)])
        with pytest.raises(IndexError):
            steering[2] = None
        assert list(steering) == before
    with (
        pytest.raises(InputError, match="capacity is 1, expected at least 2"),
        intervene(llama.model, programs[:2], capacity=1),
    ):
        pytest.fail("the body must not run")
