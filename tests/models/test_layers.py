"""Programs at the outputs of layers, against plain hooks on the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CompileConfig

from affectron import interventions
from affectron.errors import InputError
from affectron.interventions import Program, Schedule, SiteProgram, compose, schedule
from affectron.models import Reader, Site, Steering, attach, find_layers, find_sites, intervene, sweep
from affectron.models.layout import device_of
from tests.models import test_forward, test_requests
from tests.support import families
from tests.support.bench import TOLERANCE, Bench, by_request, generate, logits, make_bench
from tests.support.decoding import Change, everywhere, on, slow
from tests.support.tiny import HIDDEN, LAYERS, batch, build, last_inputs, layer_names, layer_outputs, site_names, state

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]

# Of other families the list of the layers, from their own code; of an encoder-decoder model both.
LISTS = {
    "t5": ("encoder.block", "decoder.block"),
    "bart": ("model.encoder.layers", "model.decoder.layers"),
    "bert": ("bert.encoder.layer",),
    "mixtral": ("model.layers",),
    "gpt_oss": ("model.layers",),
    "mpt": ("transformer.blocks",),
    "falcon": ("transformer.h",),
}
TIME_FIRST = {
    "fsmt": ("model.encoder.layers", "model.decoder.layers"),
    "xlnet": ("transformer.layer",),
}


def make(name: str) -> Any:
    return getattr(test_requests, name)() if name in TIME_FIRST else families.FAMILIES[name].build()


def names_of(name: str) -> list[str]:
    return [f"{layers}.{number}:output" for layers in (LISTS | TIME_FIRST)[name] for number in range(2)]


def given_to(model: Any, rows: int = 4, length: int = 7) -> dict[str, Tensor]:
    ids = batch(rows=rows, length=length)["input_ids"]
    return (
        {"input_ids": ids, "decoder_input_ids": ids[:, 2:]} if model.config.is_encoder_decoder else {"input_ids": ids}
    )


# --- programs and their definitions ---


def shift_of(name: str) -> np.ndarray:
    return np.random.default_rng(len(name) + sum(map(ord, name))).standard_normal(HIDDEN)


def shifted(*names: str) -> Program:
    """A shift in all dimensions, as of a difference of means."""
    still = np.full(HIDDEN, -np.inf)
    return Program(
        {name: SiteProgram(np.arange(HIDDEN), still == still, still != still, still, shift_of(name)) for name in names},
        "shifted",
    )


def damped(*names: str) -> Program:
    """h · max(1 - |h| / 4, 0.25) in every third dimension."""
    index = np.arange(0, HIDDEN, 3)
    one = np.ones(len(index))
    return Program({name: SiteProgram(index, one, one / 4, one / 4, -0.0 * one) for name in names}, "damped")


def shift(*names: str) -> Callable[[str, Tensor], Tensor]:
    return lambda site, h: (h.double() + torch.from_numpy(shift_of(site))).to(h.dtype) if site in names else h


def damp(*names: str) -> Callable[[str, Tensor], Tensor]:
    def change(site: str, h: Tensor) -> Tensor:
        out = h.clone()
        if site in names:
            x = h[..., ::3].double()
            out[..., ::3] = (x * (1 - x.abs() / 4).clamp(min=0.25)).to(h.dtype)
        return out

    return change


def rows_first(change: Callable[[str, Tensor], Tensor], model: Any) -> Callable[[str, Tensor], Tensor]:
    """Give ``change`` [B, T, H] where the layers return [T, B, H]."""
    if type(model).__name__.startswith(("FSMT", "XLNet")):
        return lambda site, h: change(site, h.transpose(0, 1)).transpose(0, 1)
    return change


# --- which layers there are ---


def described(layers: list[Site]) -> list[tuple[Any, ...]]:
    return [(site.name, site.neurons, site.layout, site.act, site.path, site.plain_activation) for site in layers]


@pytest.mark.parametrize("name", [*LISTS, *TIME_FIRST])
def test_the_layers_of_a_family(name: str) -> None:
    if name in LISTS and not families.available(name):
        pytest.skip("this version of transformers lacks the family")
    model = make(name)
    wanted = [(site, HIDDEN, "output", "none", "output", False) for site in names_of(name)]
    layers = find_layers(model)
    assert described(layers) == wanted
    assert all(site.module is model.get_submodule(site.name.removesuffix(":output")) for site in layers)
    assert {device_of(site).type for site in layers} == {"cpu"}
    # A reader has those of the part that it reads, and sees in which order they have the tokens.
    reader = Reader(model, "layers")
    assert [site.name for site in reader.sites] == [site[0] for site in wanted[:2]]
    assert {site.time_first for site in reader.sites} == {name in TIME_FIRST}


def test_the_layers_of_the_text_beside_those_of_a_tower() -> None:
    for make_model in (test_requests.llava, test_requests.qwen):
        names = [site.name for site in find_layers(make_model())]
        assert names == [f"model.language_model.layers.{number}:output" for number in range(2)]


def test_layers_of_a_model_that_is_compiled_in_part() -> None:
    model = build("llama")
    model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    assert [site.name for site in find_layers(torch.compile(model, backend="eager"))] == layer_names("llama")
    plain, steered = build("llama"), shifted(*layer_names("llama")[:2])
    with layer_outputs(plain, layer_names("llama"), shift(*layer_names("llama")[:2])):
        wanted = logits(plain, batch())
    before = logits(model, batch())
    for _ in range(2):
        with intervene(model, steered):
            torch.testing.assert_close(logits(model, batch()), wanted, **TOLERANCE)
        torch.testing.assert_close(logits(model, batch()), before, **TOLERANCE)
    torch._dynamo.reset()


def test_what_is_no_list_of_layers_is_refused() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = build("llama").model.layers

    for model, message in (
        (test_forward.make(test_forward.BIDIRECTIONAL["XLM"]), r"members of transformer\.ffns are MLPs alone"),
        (
            test_requests.idefics(),
            r"IdeficsModel has its MLPs in model\.vision_model\.encoder\.layers, model\.layers, ",
        ),
        (build("llama").model.layers[0].mlp, "LlamaMLP has its MLPs in no module list|has no MLP"),
        (Bare(), "Bare has no hidden_size in its config"),
    ):
        with pytest.raises(InputError, match=message):
            find_layers(model)
    single = nn.Sequential(build("llama").model.layers[0].mlp)
    with pytest.raises(InputError, match="Sequential has no list of layers"), sweep(single, [None, None]):
        pass


# --- forwards ---


@torch.no_grad()
@pytest.mark.parametrize("name", [*LISTS, *TIME_FIRST])
def test_requests_of_other_families(name: str) -> None:
    """Mixed programs, also where the first batch has as many rows as tokens; the model is as it was afterwards."""
    if name in LISTS and not families.available(name):
        pytest.skip("this version of transformers lacks the family")
    model, names = make(name), names_of(name)
    before = state(model)
    programs = [shifted(*names), None, compose(damped(names[0]), shifted(names[-1])), damped(*names)]
    first, last = names[0], names[-1]
    changes = [shift(*names), None, lambda site, h: shift(last)(site, damp(first)(site, h)), damp(*names)]
    for length in (7, 4):
        given = given_to(model, length=length)
        with layer_outputs(model, names, rows_first(by_request(changes, 4), model)):
            wanted = model(**given).logits
        plain = model(**given).logits
        with intervene(model, programs):
            found = model(**given).logits
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert ((wanted - plain).abs().flatten(1).amax(1) > 1e-2).tolist() == [True, False, True, True]
    assert state(model) == before


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_layers_and_neurons_in_one_batch(bench: Bench, side: str | None) -> None:
    names = layer_names(bench.family)
    composed, c = bench.kinds["composed"]
    programs = [compose(composed, shifted(names[1])), composed, shifted(names[2]), damped(*names), None]
    changes = [neurons_too(c, shift(names[1])), neurons_too(c), shift(names[2]), damp(*names), None]
    inputs = batch(rows=5, side=side)
    change = by_request(changes, 5)
    with last_inputs(bench.model, bench.family, change), layer_outputs(bench.model, names, change):
        wanted = logits(bench.model, inputs)
    before = state(bench.model)
    with intervene(bench.model, programs):
        torch.testing.assert_close(logits(bench.model, inputs), wanted, **TOLERANCE)
    assert state(bench.model) == before


def neurons_too(
    neurons: Callable[[str, Tensor], Tensor], layers: Callable[[str, Tensor], Tensor] = lambda site, h: h
) -> Callable[[str, Tensor], Tensor]:
    """The change of neurons at their sites, and that of layers at theirs."""
    return lambda site, h: (layers if site.endswith(":output") else neurons)(site, h)


def test_layers_that_no_program_touches_are_left_alone(bench: Bench) -> None:
    names = layer_names(bench.family)

    def swapped() -> list[bool]:
        return ["forward" in vars(bench.model.get_submodule(name.removesuffix(":output"))) for name in names]

    with intervene(bench.model, bench.kinds["zero"][0]):
        assert swapped() == [False, False, False]
    with intervene(bench.model, [None, schedule(shifted(names[1]), prompt=False)]):
        assert swapped() == [False, True, False]
    assert swapped() == [False, False, False]


def test_contexts_combine_and_leave_in_any_order(bench: Bench) -> None:
    names, inputs, before = layer_names(bench.family), batch(), state(bench.model)

    def hooked(change: Callable[[str, Tensor], Tensor]) -> Tensor:
        with layer_outputs(bench.model, names, change):
            return logits(bench.model, inputs)

    both = hooked(lambda site, h: damp(*names)(site, shift(*names[:2])(site, h)))
    left = [hooked(damp(*names)), hooked(shift(*names[:2]))]
    for leave_first in (0, 1):
        contexts = [intervene(bench.model, shifted(*names[:2])), intervene(bench.model, damped(*names))]
        for context in contexts:
            context.__enter__()
        torch.testing.assert_close(logits(bench.model, inputs), both, **TOLERANCE)
        contexts[leave_first].__exit__(None, None, None)
        torch.testing.assert_close(logits(bench.model, inputs), left[leave_first], **TOLERANCE)
        contexts[1 - leave_first].__exit__(None, None, None)
        assert state(bench.model) == before


def test_an_exception_restores_the_model(bench: Bench) -> None:
    before, names = state(bench.model), layer_names(bench.family)
    with pytest.raises(ZeroDivisionError), intervene(bench.model, shifted(*names)):
        raise ZeroDivisionError
    assert state(bench.model) == before
    bad = Program({names[0]: SiteProgram(*([HIDDEN] for _ in range(5)))}, "bad")
    with pytest.raises(InputError, match=f"touches neuron {HIDDEN} of {names[0]}, which has {HIDDEN} neurons"):
        intervene(bench.model, bad).__enter__()
    assert state(bench.model) == before


def test_neurons_are_found_while_layers_have_kernels_on_them(bench: Bench) -> None:
    """In OPT the layer itself is the block of the MLP."""
    seen: list[tuple[int, torch.Size]] = []

    def given(position: int, h: Tensor, gate: Tensor | None) -> Tensor:
        seen.append((position, h.shape))
        return h

    def kernel(*_: Any) -> Tensor:
        raise AssertionError

    sites = find_sites(bench.model)
    program, change = bench.kinds["composed"]
    with last_inputs(bench.model, bench.family, change):
        wanted = logits(bench.model, batch())
    with attach(find_layers(bench.model), kernel, given):
        assert find_sites(bench.model) == sites
        with intervene(bench.model, program):
            torch.testing.assert_close(logits(bench.model, batch()), wanted, **TOLERANCE)
            assert find_sites(bench.model) == sites
            assert [site.name for site in find_layers(bench.model)] == layer_names(bench.family)
    assert seen == [(position, torch.Size([3, 9, HIDDEN])) for position in range(LAYERS)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(checkpointing: bool) -> None:
    bench = make_bench("llama")
    names, inputs = layer_names("llama"), batch(rows=3)
    weights = [bench.model.model.layers[0].mlp.down_proj.weight, bench.model.get_input_embeddings().weight]

    def gradients() -> tuple[Tensor, ...]:
        loss = bench.model(**inputs, labels=inputs["input_ids"], use_cache=False).loss
        return torch.autograd.grad(loss, weights)

    with layer_outputs(bench.model, names, by_request([shift(names[1]), None, damp(*names)], 3)):
        wanted = gradients()
    if checkpointing:
        bench.model.gradient_checkpointing_enable({"use_reentrant": False})
        bench.model.train()  # there is no dropout
    with intervene(bench.model, [shifted(names[1]), None, damped(*names)]):
        found = gradients()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(dtype: torch.dtype) -> None:
    model, names = build("llama").to(dtype), layer_names("llama")
    with layer_outputs(model, names, neurons_too(shift(), damp(*names))):
        wanted = logits(model, batch())
    with intervene(model, damped(*names)):
        assert torch.equal(logits(model, batch()), wanted)


@torch.no_grad()
def test_a_model_whose_weights_are_offloaded() -> None:
    """accelerate keeps the weights elsewhere and brings them in before each layer's parts."""
    accelerate = pytest.importorskip("accelerate")
    plain, names = build("llama"), layer_names("llama")
    with layer_outputs(plain, names, shift(*names)):
        wanted = logits(plain, batch())
    model = accelerate.cpu_offload(build("llama"), execution_device="cpu")
    before = state(model)
    with intervene(model, shifted(*names)):
        torch.testing.assert_close(logits(model, batch()), wanted, **TOLERANCE)
    assert state(model) == before


# --- decoding ---

CACHES = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}


@pytest.mark.parametrize("side", [None, "left"])
def test_decoding_token_for_token(bench: Bench, side: str | None) -> None:
    """Programs and schedules by request, over caches, with beams of one row too."""
    names = layer_names(bench.family)
    composed, c = bench.kinds["composed"]
    both: list[tuple[Program | Schedule | None, Change | None]] = [
        (shifted(names[1]), everywhere(shift(names[1]))),
        (compose(composed, damped(*names)), everywhere(neurons_too(c, damp(*names)))),
        (schedule(shifted(*names), prompt=False), on(shift(*names), 0)),
        (schedule(shifted(names[2]), where="generated", start=2, stop=5), on(shift(names[2]), 2, 5)),
        (schedule(damped(*names), stop=0), on(damp(*names), None, 0)),
        (composed, everywhere(neurons_too(c))),
        (None, None),
    ]
    inputs = batch(rows=len(both), length=8, side=side)
    wanted = slow(bench, inputs, [change for _, change in both], names)
    with intervene(bench.model, [steered for steered, _ in both]):
        for name, options in CACHES.items():
            assert torch.equal(generate(bench.model, inputs, **options), wanted), name
        doubled = {key: value.repeat_interleave(2, 0) for key, value in inputs.items()}
        assert torch.equal(generate(bench.model, doubled), wanted.repeat_interleave(2, 0))
    plain = generate(bench.model, inputs)
    assert (wanted != plain).any(1).sum() >= 4
    assert torch.equal(wanted[-1], plain[-1])


def test_beams_keep_to_their_request(llama: Bench) -> None:
    names, inputs = layer_names("llama"), batch(rows=2)
    alone = {key: value[:1] for key, value in inputs.items()}
    with layer_outputs(llama.model, names, shift(names[1])):
        wanted = generate(llama.model, alone, num_beams=3, use_cache=False)
    with intervene(llama.model, [shifted(names[1]), None]):
        found = generate(llama.model, inputs, num_beams=3)
    plain = generate(llama.model, inputs, num_beams=3)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], plain[1])
    assert not torch.equal(found[0], plain[0])


@torch.no_grad()
def test_an_encoder_decoder_model_generates() -> None:
    model, names = make("t5"), names_of("t5")
    model.generation_config.decoder_start_token_id = 0
    ids = batch(rows=2)["input_ids"]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    with layer_outputs(model, names, by_request([shift(*names), None], 2)):
        wanted = model.generate(ids, use_cache=False, **options)
    with intervene(model, [shifted(*names), None]):
        assert torch.equal(model.generate(ids, **options), wanted)
    assert not torch.equal(model.generate(ids, **options), wanted)


def test_a_compiled_step_serves_what_is_set_later(llama: Bench, recompiles: Callable[[], int]) -> None:
    """The way that generate takes by itself on a GPU: static cache and a step compiled as a whole."""
    names, inputs = layer_names("llama"), batch(rows=3, length=8, side="left")
    config = CompileConfig(fullgraph=True, backend="aot_eager", mode=None, dynamic=False)
    config._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": config}
    composed, c = llama.kinds["composed"]
    first = slow(llama, inputs, [everywhere(shift(*names[:2])), None, everywhere(damp(names[0]))], names)
    with intervene(llama.model, [shifted(*names[:2]), None, damped(names[0])], capacity=20) as steering:
        assert torch.equal(generate(llama.model, inputs, **options), first)
        made = recompiles()
        steering[0], steering[1] = None, compose(composed, shifted(names[1]))
        steering[2] = schedule(shifted(names[0]), prompt=False, start=1)
        written = generate(llama.model, inputs, **options)
        assert recompiles() == made >= 1
    then = slow(llama, inputs, [None, everywhere(neurons_too(c, shift(names[1]))), on(shift(names[0]), 1)], names)
    assert torch.equal(written, then)
    assert not torch.equal(first, then)


def test_a_compiled_forward_notices_every_context(recompiles: Callable[[], int]) -> None:
    model, names, inputs = build("llama"), layer_names("llama"), batch(rows=2, length=7)
    step = torch.compile(model, fullgraph=True, backend="aot_eager")

    def hooked(change: Callable[[str, Tensor], Tensor]) -> Tensor:
        with layer_outputs(model, names, change):
            return logits(model, inputs)

    with torch.no_grad():
        plain = logits(model, inputs)
        torch.testing.assert_close(step(**inputs, use_cache=False).logits, plain, **TOLERANCE)
        for program, change in ((shifted(names[1]), shift(names[1])), (damped(names[1]), damp(names[1]))):
            wanted = hooked(by_request([change, None], 2))
            with intervene(model, [program, None]):
                torch.testing.assert_close(step(**inputs, use_cache=False).logits, wanted, **TOLERANCE)
            torch.testing.assert_close(step(**inputs, use_cache=False).logits, plain, **TOLERANCE)
            assert recompiles() == 2


# --- sweeps ---


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_sweep_repeats_from_the_first_layer_that_is_touched(bench: Bench, first: int) -> None:
    names, sites, inputs = layer_names(bench.family), site_names(bench.family), batch(rows=3, length=7)
    zero = interventions.zero([(sites[2], index) for index in range(0, 43, 2)])
    programs = [shifted(names[first]), None, zero, damped(*names[first:])]
    wanted = []
    for program in programs:
        with intervene(bench.model, program) if program is not None else intervene(bench.model, [None]):
            wanted.append(logits(bench.model, inputs))
    rows: list[int] = []

    def counted(site: str, h: Tensor) -> Tensor:
        rows.append(len(h.reshape(-1, 7, HIDDEN)))
        return h

    with sweep(bench.model, programs), layer_outputs(bench.model, names, counted):
        found = bench.model(**inputs, use_cache=False).logits
    torch.testing.assert_close(found, torch.cat(wanted), **TOLERANCE)
    assert rows == [3] * first + [12] * (LAYERS - first)


# --- refusals ---


def test_programs_at_other_layers_need_another_context(llama: Bench) -> None:
    names = layer_names("llama")

    def set_to(steering: Steering, program: Any) -> None:
        steering[0] = program

    with intervene(llama.model, [shifted(names[1]), None], capacity=4) as steering:
        steering[1] = compose(damped(names[1]), llama.kinds["zero"][0])
        held = list(steering)
        for program in (shifted(*names[1:]), schedule(damped(names[2]), prompt=False)):
            with pytest.raises(
                InputError, match=f"touches '{names[2]}', as no program did when the context was opened"
            ):
                set_to(steering, program)
        assert list(steering) == held
        with pytest.raises(InputError, match="touches site 'lm_head', which the model does not have"):
            set_to(steering, interventions.zero([("lm_head", 0)]))
    wanted = (
        rf"touches site 'model.layers.3:output', .* does not have \(it has 6: {site_names('llama')[0]} to {names[2]}\)"
    )
    with pytest.raises(InputError, match=wanted):
        intervene(llama.model, shifted("model.layers.3:output")).__enter__()


def test_a_layer_that_returns_no_hidden_states_is_refused(llama: Bench) -> None:
    model, name = build("llama"), layer_names("llama")[0]
    compute = model.model.layers[0].forward
    model.model.layers[0].forward = lambda *args, **named: {"hidden": compute(*args, **named)}
    with (
        intervene(model, shifted(name)),
        pytest.raises(RuntimeError, match=f"{name} is a dict, expected hidden states"),
    ):
        logits(model, batch())
