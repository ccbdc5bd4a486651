"""The position of a schedule in a text: states, generate inside generate, prompts that a cache or an
adapter lengthens. Against hooks on a model that computes its whole text anew for every token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, LogitsProcessor

from affectron import interventions
from affectron.errors import InputError
from affectron.interventions import Program, Schedule, schedule
from affectron.models import find_sites, intervene
from tests.support.tiny import HIDDEN, NEURONS, VOCABULARY, batch, build

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]

_HYBRID = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": NEURONS,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def rwkv() -> Any:
    return made("Rwkv", vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=NEURONS, num_hidden_layers=2)


# What these models are given between two steps: a list of states; attention after layers that keep theirs to
# themselves; states and keys in one cache; a cache of keys whose first layer stays empty.
STATES: dict[str, Callable[[], Any]] = {
    "rwkv": rwkv,
    "recurrent_gemma": lambda: made("RecurrentGemma", **_HYBRID, lru_width=32, attention_window_size=8, head_dim=8),
    "bamba": lambda: made(
        "Bamba", **_HYBRID, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1
    ),
    "lfm2": lambda: made("Lfm2", **_HYBRID, layer_types=["conv", "full_attention", "conv"]),
}


def made(name: str, **config: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.generation_config.eos_token_id = None
    return model


@contextmanager
def hooked(model: nn.Module, prompt: int, start: int = 0) -> Iterator[None]:
    """Multiply every second neuron by 5 from generated token ``start`` on, with hooks."""

    def change(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        h = args[0].clone()
        h[:, prompt + start :, ::2] *= 5
        return (h,)

    lasts = [site.module.get_submodule(site.structure.last) for site in find_sites(model)]
    handles = [last.register_forward_pre_hook(change) for last in lasts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def steering(model: nn.Module) -> Program:
    return interventions.amplify([(site.name, i) for site in find_sites(model) for i in range(0, site.neurons, 2)], 5.0)


@torch.no_grad()
def slow(model: Any, ids: Tensor, start: int = 0, written: int = 6) -> Tensor:
    """Greedy decoding without a cache, steered from generated token ``start`` on."""
    with hooked(model, ids.shape[1], start):
        for _ in range(written):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids


def write(model: Any, ids: Tensor, **options: Any) -> Tensor:
    options = {"max_new_tokens": 6, "attention_mask": torch.ones_like(ids), **options}
    return model.generate(ids, do_sample=False, pad_token_id=0, eos_token_id=None, **options)


def tokens(rows: int = 2, length: int = 7) -> Tensor:
    return batch(rows=rows, length=length)["input_ids"]


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("start", [0, 2])
def test_generated_tokens_are_steered_with_a_state(name: str, start: int) -> None:
    model = STATES[name]()
    # transformers' RWKV mixes up the rows of a batch when it is given their states.
    ids = tokens(1 if name == "rwkv" else 2)
    wanted, plain = slow(model, ids, start=start), write(model, ids)
    by_position = schedule(steering(model), prompt=False, start=start)
    assert not torch.equal(wanted, plain)
    with intervene(model, [by_position] * len(ids)):
        for _ in range(2):  # nothing is left of the run before
            assert torch.equal(write(model, ids), wanted)
        assert torch.equal(write(model, ids, use_cache=False), wanted)
    with intervene(model, schedule(steering(model), stop=0)):
        assert not torch.equal(write(model, ids), wanted)


def test_a_cache_whose_first_layer_stays_empty_tells_its_length() -> None:
    config = {**_HYBRID, "num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"] * 2}
    model = made("MiniMax", **{**config, "num_hidden_layers": 4, "head_dim": 8, "intermediate_size": 44})
    ids = tokens()
    experts = [site for site in find_sites(model) if ".experts" in site.name]
    program = interventions.zero([(site.name, i) for site in experts for i in range(site.neurons)])
    with intervene(model, [schedule(program, prompt=False)] * 2):
        cached, whole = write(model, ids), write(model, ids, use_cache=False)
    assert torch.equal(cached, whole)
    assert not torch.equal(cached, write(model, ids))


def test_rows_that_a_model_mixes_up_are_refused() -> None:
    model = rwkv()
    with (
        intervene(model, [schedule(steering(model), prompt=False)] * 2),
        pytest.raises(InputError, match="reads 4 rows that are not the tokens of the requests' texts"),
    ):
        write(model, tokens())


@torch.no_grad()
def test_a_state_in_a_loop_of_ones_own() -> None:
    """It does not tell its length: refused, unless the caller tells or nothing depends on it."""
    model, ids = rwkv(), tokens(1)
    wanted = slow(model, ids, written=3)[:, 7:]
    body = model.rwkv

    def decode(**given: Any) -> Tensor:
        out, written = body(ids, use_cache=True), []
        for step in range(3):
            written.append(model.head(out.last_hidden_state[:, -1:]).argmax(-1))
            named = {name: value + step for name, value in given.items()}
            out = body(written[-1], state=out.state, use_cache=True, **named)
        return torch.cat(written, 1)

    with intervene(model, schedule(steering(model), prompt=False)) as steered:
        decode()  # all of it is prompt
        steered.prompt_length = 7
        with pytest.raises(InputError, match="a schedule is set, and the list that the model is called with does not"):
            decode()
        assert torch.equal(decode(cache_position=torch.tensor([7])), wanted)
        steered[0] = steering(model)
        decode()
        steered[0], steered.text = schedule(steering(model), where="text"), torch.ones(1, 7, dtype=torch.bool)
        with pytest.raises(InputError, match="a schedule is set, and the list that the model is called with does not"):
            decode()
        steered[0] = schedule(steering(model), prompt=False)
        state = body(ids, use_cache=True).state
        with pytest.raises(InputError, match="generate without a state"):
            write(model, ids, state=state)
        assert torch.equal(write(model, ids)[:, 7:10], wanted)


# --- generate inside generate ---


@pytest.mark.parametrize("how", ["early exit", "itself", "prompt lookup"])
@pytest.mark.parametrize("start", [0, 2])
def test_drafts_of_the_model_itself_change_nothing(how: str, start: int) -> None:
    model = build("llama")
    ids = tokens(1, 12)
    ids[0, 6:] = ids[0, :6]  # something to look up
    options = {
        "early exit": {"assistant_early_exit": 1},
        "itself": {"assistant_model": model},
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
    }[how]
    wanted, plain = slow(model, ids, start=start), write(model, ids)
    assert not torch.equal(wanted, plain)
    with intervene(model, schedule(steering(model), prompt=False, start=start)) as steered:
        assert torch.equal(write(model, ids, **options), wanted)
        assert steered.prompt_length is None


def test_drafts_are_steered_as_the_text_is() -> None:
    """The model drafts for itself with all of its layers: every draft is taken, as it is without steering."""
    model, ids = build("llama"), tokens(1)
    drafting = {"assistant_confidence_threshold": 0.0, "num_assistant_tokens": 3}
    model.generation_config.update(**drafting, num_assistant_tokens_schedule="constant")
    lengths: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    write(model, ids, assistant_model=model, max_new_tokens=12)
    plain, lengths[:] = list(lengths), []
    with intervene(model, schedule(steering(model), prompt=False, start=2)):
        write(model, ids, assistant_model=model, max_new_tokens=12)
    handle.remove()
    assert lengths == plain


class Asking(LogitsProcessor):
    """Writes another text with the model between two tokens, and keeps it."""

    def __init__(self, model: Any, ids: Tensor) -> None:
        self.model, self.ids, self.answers = model, ids, []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.answers.append(write(self.model, self.ids, max_new_tokens=3))
        return scores


@pytest.mark.parametrize("name", ["llama", "rwkv"])
def test_another_text_written_meanwhile_has_its_own_prompt(name: str) -> None:
    model = build("llama") if name == "llama" else rwkv()
    ids, other = tokens(1), tokens(1, 4)
    wanted, answer = slow(model, ids), slow(model, other, written=3)
    with intervene(model, schedule(steering(model), prompt=False)) as steered:
        asking = Asking(model, other)
        assert torch.equal(write(model, ids, logits_processor=[asking]), wanted)
        assert len(asking.answers) == 6
        assert all(torch.equal(found, answer) for found in asking.answers)
        with pytest.raises(ZeroDivisionError):
            write(model, ids, logits_processor=[lambda ids, scores: 1 / 0])
        assert steered.prompt_length is None
        assert torch.equal(write(model, ids), wanted)


# --- prompts and caches ---


@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False])
def test_a_prompt_that_goes_on_from_a_cache(whole: bool) -> None:
    """All of the text is given, or only what the cache does not hold and a mask for all."""
    model, ids = build("llama"), tokens(2, 9)
    wanted = slow(model, ids)
    cache = model(ids[:, :5], use_cache=True, past_key_values=DynamicCache(config=model.config)).past_key_values
    given = ids if whole else ids[:, 5:]
    with intervene(model, [schedule(steering(model), prompt=False)] * 2):
        written = write(model, given, past_key_values=cache, attention_mask=torch.ones_like(ids))
    assert torch.equal(written[:, -6:], wanted[:, -6:])


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 3},
        {"cache_implementation": "dynamic"},
        {"inputs_embeds": True},
    ],
)
@pytest.mark.parametrize("family", ["sliding", "full"])
def test_windows_chunks_and_embeddings(options: dict[str, Any], family: str) -> None:
    """A sliding window forgets tokens; their number goes on."""
    config = {**_HYBRID, "head_dim": 8}
    kind = {"sliding_window": 4} if family == "sliding" else {"sliding_window": None}
    model = made("Mistral", **config, **kind)
    ids = tokens(2, 9)
    wanted = slow(model, ids, start=1)
    options = dict(options)
    if options.pop("inputs_embeds", False):
        options["inputs_embeds"] = model.get_input_embeddings()(ids)
    assert not torch.equal(wanted, write(model, ids))
    with intervene(model, [schedule(steering(model), prompt=False, start=1)] * 2):
        assert torch.equal(write(model, ids, **options)[:, -6:], wanted[:, -6:])


@torch.no_grad()
def test_a_cache_that_is_not_given_by_name() -> None:
    model, ids = build("llama"), tokens(2)
    body = model.model
    with intervene(model, [schedule(steering(model), prompt=False)] * 2) as steered:
        steered.prompt_length = 7
        cache = DynamicCache(config=model.config)
        body(ids, None, None, cache)
        found = body(ids[:, :1], None, None, cache)[0]
    plain = DynamicCache(config=model.config)
    body(ids, past_key_values=plain)
    with hooked(model, 0):
        wanted = body(ids[:, :1], past_key_values=plain)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_of_an_adapter_are_prompt(kind: str) -> None:
    peft = pytest.importorskip("peft")
    config = {"prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig}[kind]
    torch.manual_seed(1)
    model = peft.get_peft_model(build("llama"), config(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    inner, ids = model.get_base_model(), tokens(2)
    by_position = schedule(steering(inner), prompt=False, start=1)
    written = {}
    for opened in (model, inner):
        with intervene(opened, [by_position] * 2):
            written[opened] = write_with(model, ids)
    assert torch.equal(written[model], written[inner])
    plain = write_with(model, ids)
    wanted = ids
    # Prefix tuning puts its tokens into the cache, so that the text itself begins at 0.
    for _ in range(6):
        with hooked(inner, 7 + 3 * (kind == "prompt"), 1):
            found = model(input_ids=wanted, attention_mask=torch.ones_like(wanted)).logits
        wanted = torch.cat([wanted, found[:, -1:].argmax(-1)], 1)
    assert torch.equal(written[model][:, -6:], wanted[:, -6:])
    assert not torch.equal(plain[:, -6:], wanted[:, -6:])


@torch.no_grad()
def test_what_a_model_puts_before_the_text_is_prompt() -> None:
    """Whisper's own generate begins with tokens for the task, two here."""
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY, d_model=HIDDEN, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=NEURONS, decoder_ffn_dim=NEURONS, num_mel_bins=8,
        max_source_positions=10, max_target_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    model.generation_config.no_timestamps_token_id = 5
    sites = [site for site in find_sites(model) if "decoder" in site.name]
    sound, wanted = torch.randn(2, 8, 20), torch.tensor([[1, 5]] * 2)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    for _ in range(6):
        with hooked(model.model.decoder, 2):
            found = model(input_features=sound, decoder_input_ids=wanted, use_cache=False).logits
        wanted = torch.cat([wanted, found[:, -1:].argmax(-1)], 1)
    program = interventions.amplify([(s.name, i) for s in sites for i in range(0, s.neurons, 2)], 5.0)
    plain = model.generate(input_features=sound, **options)
    with intervene(model, [schedule(program, prompt=False)] * 2):
        written = model.generate(input_features=sound, **options)
    assert torch.equal(written[:, -6:], wanted[:, -6:])
    assert not torch.equal(plain[:, -6:], wanted[:, -6:])


def test_guidance_by_a_text_with_other_positions_is_refused() -> None:
    model, ids = build("llama"), tokens(1)
    with intervene(model, schedule(steering(model), prompt=False)) as steered:
        with pytest.raises(InputError, match=r"guidance_scale is 1.5 and a schedule is set"):
            write(model, ids, guidance_scale=1.5)
        with pytest.raises(InputError, match=r"guidance_scale is 1.5 and a schedule is set"):
            model.generate(ids, transformers.GenerationConfig(guidance_scale=1.5, max_new_tokens=1))
        steered[0] = steering(model)
        guided = write(model, ids, guidance_scale=1.5)
    assert not torch.equal(guided, write(model, ids, guidance_scale=1.5))


def write_with(model: Any, ids: Tensor) -> Tensor:
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip


def test_a_schedule_without_a_prompt_begins_after_the_first_token() -> None:
    model = build("llama")
    wanted = slow(model, torch.tensor([[1]]))
    mixed = Schedule(None, ((0, steering(model)),), "mixed")
    with intervene(model, mixed):
        assert torch.equal(model.generate(max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None), wanted)
