"""Steering against an independent way to do it: hooks on the last linear layer that apply each definition by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from affectron import interventions
from affectron.errors import InputError
from affectron.models import find_sites, intervene
from tests.support.bench import KINDS, TOLERANCE, Bench, Change, by_request, generate, logits, make_bench
from tests.support.tiny import NEURONS, batch, build, last_inputs, site_names, state


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_agrees_with_its_definition(bench: Bench, kind: str) -> None:
    program, change = bench.kinds[kind]
    read: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}

    def keep(site: str, h: Tensor) -> Tensor:
        expected[site] = change(site, h)
        return expected[site]

    plain = logits(bench.model, batch())
    with last_inputs(bench.model, bench.family, keep):
        wanted = logits(bench.model, batch())
    with (
        intervene(bench.model, program),
        last_inputs(bench.model, bench.family, lambda site, h: read.setdefault(site, h)),
    ):
        steered = logits(bench.model, batch())
    for site in site_names(bench.family):
        torch.testing.assert_close(read[site], expected[site], **TOLERANCE)
    torch.testing.assert_close(steered, wanted, **TOLERANCE)
    assert (steered - plain).abs().max() > 1e-2


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_a_mixed_batch_gives_each_request_its_program(bench: Bench, side: str | None) -> None:
    (dynamic, dynamic_change), (induce, induce_change) = bench.kinds["dynamic"], bench.kinds["induce"]
    inputs = batch(rows=4, side=side)
    with last_inputs(bench.model, bench.family, by_request([dynamic_change, None, induce_change, dynamic_change], 4)):
        wanted = logits(bench.model, inputs)
    with intervene(bench.model, [dynamic, None, induce, dynamic]):
        steered = logits(bench.model, inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(steered[real], wanted[real], **TOLERANCE)


def test_programs_may_touch_different_sites(bench: Bench) -> None:
    """Then a program takes another place in each site's table, and one site has fewer programs than another."""
    names = site_names(bench.family)
    touched = [[(names[1], 3)], [(names[0], 5), (names[1], 7)], [(names[2], 1), (names[0], 5)]]
    inputs = batch(rows=3)

    def zeroing(neurons: list[tuple[str, int]]) -> Change:
        def change(site: str, h: Tensor) -> Tensor:
            h = h.clone()
            h[..., [index for name, index in neurons if name == site]] = 0
            return h

        return change

    with last_inputs(bench.model, bench.family, by_request([zeroing(neurons) for neurons in touched], 3)):
        wanted = logits(bench.model, inputs)
    with intervene(bench.model, [interventions.zero(neurons) for neurons in touched]):
        torch.testing.assert_close(logits(bench.model, inputs), wanted, **TOLERANCE)


def test_a_request_without_program_is_not_touched(bench: Bench) -> None:
    (a, _), (b, _) = bench.kinds["zero"], bench.kinds["amplify"]
    inputs = batch(rows=3)
    plain = logits(bench.model, inputs)
    with intervene(bench.model, [a, None, b]):
        steered = logits(bench.model, inputs)
    with intervene(bench.model, [b, None, a]):
        swapped = logits(bench.model, inputs)
    # To the bit whatever its neighbours do; against the eager activation up to that function's last bit.
    assert torch.equal(steered[1], swapped[1])
    torch.testing.assert_close(steered[1], plain[1], rtol=1e-5, atol=1e-5)
    assert (steered[0] - plain[0]).abs().max() > 1e-2
    assert (steered[2] - plain[2]).abs().max() > 1e-2


@pytest.mark.parametrize("side", [None, "left"])
def test_cached_decoding_is_token_for_token_the_same(bench: Bench, side: str | None) -> None:
    programs = [bench.kinds["composed"], None, bench.kinds["cross"]]
    inputs = batch(rows=3, side=side)
    with last_inputs(bench.model, bench.family, by_request([p and p[1] for p in programs], 3)):
        wanted = generate(bench.model, inputs)
    with intervene(bench.model, [p and p[0] for p in programs]):
        cached = generate(bench.model, inputs)
        recomputed = generate(bench.model, inputs, use_cache=False)
    plain = generate(bench.model, inputs)
    assert torch.equal(cached, wanted)
    assert torch.equal(recomputed, wanted)
    assert torch.equal(cached[1], plain[1])
    assert not torch.equal(cached, plain)


def test_beams_keep_to_their_request(bench: Bench) -> None:
    programs = [bench.kinds["induce"], None]
    inputs = batch(rows=2, side="left")
    options = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 6}
    with last_inputs(bench.model, bench.family, by_request([p and p[1] for p in programs], 4)):
        wanted = generate(bench.model, inputs, **options)
    with intervene(bench.model, [p and p[0] for p in programs]):
        steered = generate(bench.model, inputs, **options)
    plain = generate(bench.model, inputs, **options)
    assert torch.equal(steered, wanted)
    assert torch.equal(steered[2:], plain[2:])
    assert not torch.equal(steered[:2], plain[:2])


def test_gradients_flow_through_a_steered_model(bench: Bench) -> None:
    program, change = bench.kinds["dynamic"]
    weight = next(p for p in find_sites(bench.model)[0].module.parameters() if p.dim() == 2)
    inputs = batch(rows=2)

    def gradient() -> Tensor:
        loss = bench.model(**inputs, labels=inputs["input_ids"]).loss
        return torch.autograd.grad(loss, weight)[0]

    with last_inputs(bench.model, bench.family, change):
        wanted = gradient()
    with intervene(bench.model, program):
        torch.testing.assert_close(gradient(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_batch_that_programs_do_not_divide_is_refused(family: str) -> None:
    bench = make_bench(family)
    zero = bench.kinds["zero"][0]
    # 4 rows of 9 tokens flatten to 36, which 3 divides: only the batch itself can tell.
    with intervene(bench.model, [zero, None, zero]):
        with pytest.raises(ValueError, match="a batch of 4 rows cannot be shared out to 3 programs"):
            logits(bench.model, batch(rows=4))
        logits(bench.model, batch(rows=6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_h_then_the_result(dtype: torch.dtype) -> None:
    bench = make_bench("llama", dtype)
    program, change = bench.kinds["dynamic"]
    first = site_names("llama")[0]
    read: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    with last_inputs(bench.model, "llama", lambda site, h: plain.setdefault(site, h)):
        logits(bench.model, batch())
    with (
        intervene(bench.model, program),
        last_inputs(bench.model, "llama", lambda site, h: read.setdefault(site, h)),
    ):
        logits(bench.model, batch())
    # One unit in the last place: the definition is evaluated in fp64, the op in fp32.
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(read[first], change(first, plain[first]), rtol=unit, atol=1e-7)


def test_any_sequence_of_batch_shapes_is_served() -> None:
    bench = make_bench("llama")
    (zero, zero_change), (induce, induce_change) = bench.kinds["zero"], bench.kinds["induce"]
    lengths = [*range(1, 70), 1, 2, 3]
    with last_inputs(bench.model, "llama", by_request([zero_change, induce_change], 2)):
        wanted = [logits(bench.model, batch(rows=2, length=length)) for length in lengths]
    with intervene(bench.model, [zero, induce]):
        for length, expected in zip(lengths, wanted, strict=True):
            torch.testing.assert_close(logits(bench.model, batch(rows=2, length=length)), expected, **TOLERANCE)


def test_everything_is_restored(bench: Bench) -> None:
    before, plain = state(bench.model), logits(bench.model, batch())
    with intervene(bench.model, [bench.kinds["zero"][0], None, None]):
        assert state(bench.model) != before
    assert state(bench.model) == before
    with intervene(bench.model, [None, None, None]):
        torch.testing.assert_close(logits(bench.model, batch()), plain, rtol=1e-5, atol=1e-5)
    with pytest.raises(KeyboardInterrupt), intervene(bench.model, bench.kinds["zero"][0]):
        raise KeyboardInterrupt
    assert state(bench.model) == before
    assert torch.equal(logits(bench.model, batch()), plain)


def test_contexts_combine_and_leave_in_any_order(bench: Bench) -> None:
    (amplify, amplify_change), (induce, induce_change) = bench.kinds["amplify"], bench.kinds["induce"]
    before, plain = state(bench.model), logits(bench.model, batch())

    def both(site: str, h: Tensor) -> Tensor:
        return induce_change(site, amplify_change(site, h))

    wanted = []
    for change in (both, induce_change, amplify_change):
        with last_inputs(bench.model, bench.family, change):
            wanted.append(logits(bench.model, batch()))
    for first_leaves in (True, False):
        first, second = intervene(bench.model, amplify), intervene(bench.model, [induce] * 3)
        first.__enter__()
        second.__enter__()
        torch.testing.assert_close(logits(bench.model, batch()), wanted[0], **TOLERANCE)
        (first if first_leaves else second).__exit__(None, None, None)
        torch.testing.assert_close(logits(bench.model, batch()), wanted[1 if first_leaves else 2], **TOLERANCE)
        (second if first_leaves else first).__exit__(None, None, None)
        assert state(bench.model) == before
    assert torch.equal(logits(bench.model, batch()), plain)


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        (lambda site: [], "program is an empty sequence"),
        (lambda site: interventions.zero([("model.layers.9.mlp", 1)]), r"'zero neurons' touches site 'model.layers.9"),
        (
            lambda site: [None, interventions.zero([(site, 1), (site, NEURONS)])],
            f"neuron {NEURONS} of .* has {NEURONS} neurons",
        ),
    ],
)
def test_bad_programs_are_refused_before_the_model_changes(programs, message: str) -> None:
    model = build("llama")
    before = state(model)
    with pytest.raises(InputError, match=message), intervene(model, programs(site_names("llama")[2])):
        pytest.fail("the body must not run")
    assert state(model) == before
