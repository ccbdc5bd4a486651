"""Models with adapters of PEFT, of every kind: the sites have the plain model's names, and what is measured and steered
is what the adapted model's own forward computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from affectron import interventions
from affectron.evaluation.batched import text_loss
from affectron.models import Reader, find_sites, intervene
from affectron.screening.screen import screen
from tests.support import errors
from tests.support.corpora import CORPUS
from tests.support.families import FAMILIES, available
from tests.support.tiny import NEURONS, build, make_tokenizer, site_names, state

peft = pytest.importorskip("peft")

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::UserWarning")]

IDS = torch.tensor([[5, 9, 17, 33], [6, 60, 3, 4]])


def lora(**more: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **more})


KINDS: dict[str, Callable[[], Any]] = {
    "lora": lambda: lora(target_modules=["gate_proj", "down_proj"]),
    "dora": lambda: lora(target_modules=["up_proj", "down_proj"], use_dora=True),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": lambda: peft.LoHaConfig(r=2, target_modules=["gate_proj", "down_proj"]),
    "lokr": lambda: peft.LoKrConfig(r=2, target_modules=["gate_proj", "down_proj"]),
    "oft": lambda: peft.OFTConfig(oft_block_size=0, r=1, target_modules=["gate_proj", "up_proj"]),
    "vera": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "adaption prompt": lambda: peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM"),
    "parameters of linear layers": lambda: lora(target_parameters=["mlp.up_proj.weight"]),
    "copies of blocks": lambda: lora(modules_to_save=["mlp"]),
    "copies of last layers": lambda: lora(modules_to_save=["down_proj"]),
    "copies and low rank": lambda: lora(modules_to_save=["up_proj"], target_modules=["gate_proj", "down_proj"]),
    "tokens": lambda: lora(trainable_token_indices=[5, 6, 7]),
}


def adapted(config: Any, base: nn.Module | None = None) -> Any:
    model = peft.get_peft_model(base or build("llama"), config).eval()
    shift(model)
    return model


def shift(model: nn.Module, seed: int = 3) -> None:
    """Move what an adapter begins with from where it changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


@contextmanager
def last_inputs(model: nn.Module, change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Let ``change(site, h)`` replace what each down projection reads: of idle copies none is called."""
    handles = []
    for path, module in model.named_modules():
        for name in site_names("llama"):
            if f"{name}." in path and path.endswith(".down_proj"):
                handles.append(
                    module.register_forward_pre_hook(lambda _m, args, name=name: (change(name, args[0]), *args[1:]))
                )
    yield
    for handle in handles:
        handle.remove()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


def agrees(model: Any) -> None:
    """Statistics and a program against the adapted model's own forward and hooks."""
    tokenizer, names = make_tokenizer(bos=None), site_names("llama")
    before = state(model)
    assert [site.name for site in find_sites(model)] == names
    stats = screen(model, tokenizer, CORPUS)
    assert state(model) == before
    seen: dict[str, list[Tensor]] = {}
    with torch.no_grad(), last_inputs(model, lambda name, h: (seen.setdefault(name, []).append(h), h)[1]):
        for sentence in CORPUS:
            if "joy" in sentence.labels:
                model(**tokenizer(sentence.text, return_tensors="pt"))
    for name in names:
        h = torch.cat([part.flatten(0, -2) for part in seen[name]]).double()
        found = stats.label("joy")[name]
        assert found.count == len(h)
        np.testing.assert_allclose(found.mean, h.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.max, h.amax(0), rtol=1e-4, atol=1e-5)

    plain = logits(model)
    with last_inputs(model, lambda name, h: torch.zeros_like(h) if name == names[1] else h):
        wanted = logits(model)
    with intervene(model, interventions.zero([(names[1], i) for i in range(NEURONS)])):
        torch.testing.assert_close(logits(model), wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_seen_through(kind: str) -> None:
    model = adapted(KINDS[kind]())
    assert (logits(model) - logits(build("llama"))).abs().max() > 1e-3
    agrees(model)


@pytest.mark.parametrize("kind", ["lora", "copies of blocks", "parameters of linear layers"])
def test_the_adapter_that_is_active_counts(kind: str) -> None:
    """One of two, none, and one that is merged."""
    model = adapted(KINDS[kind]())
    first = logits(model)
    model.add_adapter("other", KINDS[kind]())
    model.set_adapter("other")
    shift(model, seed=4)
    assert (logits(model) - first).abs().max() > 1e-3
    agrees(model)
    model.set_adapter("default")
    torch.testing.assert_close(logits(model), first)
    agrees(model)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(build("llama")))
        agrees(model)
    if kind == "lora":
        model.merge_adapter()
        torch.testing.assert_close(logits(model), first, rtol=1e-4, atol=1e-4)
        agrees(model)


def test_layers_that_an_adapter_repeats_are_sites_of_their_own() -> None:
    model = adapted(lora(layer_replication=[[0, 2], [1, 3]], target_modules=["gate_proj"]))
    assert [site.name for site in find_sites(model)] == [f"model.layers.{i}.mlp" for i in range(4)]


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize("parameters", [EXPERTS, EXPERTS[:1], EXPERTS[1:]])
def test_experts_whose_parameters_are_adapted(parameters: list[str]) -> None:
    """As the model with the adapter merged into its weights, which is a plain one."""
    if not available("mixtral"):
        pytest.skip("no stacked experts")

    def model() -> Any:
        config = lora(target_parameters=parameters, lora_dropout=0.0)
        return adapted(config, FAMILIES["mixtral"].build())

    wrapped, merged = model(), model().merge_and_unload()
    names = [site.name for site in find_sites(FAMILIES["mixtral"].build())]
    assert [site.name for site in find_sites(wrapped)] == names
    plain, before = logits(wrapped), state(wrapped)
    assert (plain - logits(FAMILIES["mixtral"].build())).abs().max() > 1e-3
    torch.testing.assert_close(plain, logits(merged), rtol=1e-4, atol=1e-4)
    found, wanted = (screen(one, make_tokenizer(), CORPUS) for one in (wrapped, merged))
    for name in names:
        ours, theirs = (stats.label("joy")[name] for stats in (found, wanted))
        assert ours.count == theirs.count
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-4, atol=1e-5)
    program = interventions.amplify([(name, i) for name in names[:3] for i in range(0, 44, 2)], 5.0)
    with intervene(merged, [None, program]):
        steered = logits(merged)
    with intervene(wrapped, [None, program]):
        torch.testing.assert_close(logits(wrapped), steered, rtol=1e-4, atol=1e-4)
    assert (steered[1] - plain[1]).abs().max() > 1e-3
    assert state(wrapped) == before
    assert torch.equal(logits(wrapped), plain)


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("llama4", ["experts.gate_up_proj"]),
        ("jetmoe", ["mlp.input_linear.weight"]),
        ("dbrx", ["experts.mlp.w1"]),
    ],
)
def test_adapted_experts_that_cannot_be_followed_are_named(family: str, parameters: list[str]) -> None:
    if not available(family):
        pytest.skip(f"no {family}")
    model = peft.get_peft_model(FAMILIES[family].build(), lora(target_modules=[], target_parameters=parameters))
    message = errors.message(lambda: find_sites(model))
    assert "is a ParamWrapper around the parameters of" in message
    assert "merge the adapter" in message


PROMPTS: dict[str, Callable[[], Any]] = {
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "P_TUNING": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=8),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "MULTITASK_PROMPT_TUNING": lambda: peft.MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, num_tasks=2
    ),
}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_learned_prompt_is_refused(kind: str, compiled: bool) -> None:
    """The model inside would read the text, or count its positions, without it."""
    model = peft.get_peft_model(build("llama"), PROMPTS[kind]()).eval()
    wrapped = torch.compile(model, backend="eager") if compiled else model
    told = f"adapter 'default' ({kind}) is a learned prompt, expected one that changes weights"
    assert told in errors.message(lambda: screen(wrapped, make_tokenizer(), CORPUS))
    assert told in errors.message(lambda: text_loss(wrapped, make_tokenizer(), list(CORPUS)))
    assert Reader(model.get_base_model()).causal


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_a_program_steers_a_model_with_a_learned_prompt(kind: str) -> None:
    model = adapted(PROMPTS[kind]())
    name = site_names("llama")[1]
    with last_inputs(model, lambda site, h: torch.zeros_like(h) if site == name else h):
        wanted = logits(model)
    with intervene(model, interventions.zero([(name, i) for i in range(NEURONS)])):
        torch.testing.assert_close(logits(model), wanted, rtol=1e-5, atol=1e-5)


def test_an_adapter_that_the_model_inside_computes_without_is_refused() -> None:
    """As a mixture of adapters is whose shares PEFT's own forward computes."""

    class Scaled(nn.Module):
        def __init__(self, base: Any) -> None:
            super().__init__()
            self.base, self.config, self.active_adapters, self.peft_config = base, base.config, [], {}
            self.device, self.can_generate = base.device, base.can_generate
            self.get_input_embeddings = base.get_input_embeddings

        def get_base_model(self) -> Any:
            return self.base

        def forward(self, input_ids: Tensor, **more: Any) -> Any:
            return self.base(inputs_embeds=1.5 * self.base.get_input_embeddings()(input_ids), **more)

    message = errors.message(lambda: Reader(Scaled(build("gpt2"))))
    assert message.startswith("Scaled computes transformer.h.0.mlp otherwise than the model in it")
