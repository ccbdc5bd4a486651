"""A compacted model against the zero-masked one, in memory and from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import affectron
from affectron import interventions
from affectron.models import compact, find_sites, intervene, load_model
from tests.support import families
from tests.support.bench import generate, logits
from tests.support.errors import message
from tests.support.tiny import FAMILIES, NEURONS, batch, build, make_tokenizer, site_names

pytestmark = pytest.mark.usefixtures("one_thread")


def uneven(family: str) -> list[tuple[str, int]]:
    """21, 10 and 13 neurons of the three sites: 33 are left in the widest."""
    generator = torch.Generator().manual_seed(4)
    return [
        (site, int(index))
        for site, count in zip(site_names(family), (21, 10, 13), strict=True)
        for index in torch.randperm(NEURONS, generator=generator)[:count]
    ]


def with_biases(family: str) -> nn.Module:
    model = build(family)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_zero_masked_model_also_from_a_folder(family: str, tmp_path: Path) -> None:
    model, inputs = with_biases(family), batch(rows=3, side="left")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with intervene(model, interventions.zero(uneven(family))):
        wanted, written = logits(model, inputs), generate(model, inputs)
    smaller = compact(model, uneven(family))
    torch.testing.assert_close(logits(smaller, inputs), wanted, rtol=2e-5, atol=2e-5)
    assert torch.equal(generate(smaller, inputs), written)
    assert (logits(model, inputs) - wanted).abs().max() > 1e-2
    assert {site.neurons for site in find_sites(smaller)} == {NEURONS - 10}
    assert smaller.num_parameters() < model.num_parameters()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert {site.neurons for site in find_sites(model)} == {NEURONS}
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in smaller.parameters()}

    smaller.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    loaded, _ = load_model(tmp_path)
    assert torch.equal(logits(loaded, inputs), logits(smaller, inputs))
    # What is left can be compacted again.
    again = compact(loaded, [(site, 0) for site in site_names(family)])
    assert {site.neurons for site in find_sites(again)} == {NEURONS - 11}


def test_it_keeps_dtype_ties_and_modes() -> None:
    model = build("llama").to(torch.bfloat16)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    smaller = affectron.compact(model, uneven("llama"))
    assert smaller.lm_head.weight.data_ptr() == smaller.model.embed_tokens.weight.data_ptr()
    assert {parameter.dtype for parameter in smaller.parameters()} == {torch.bfloat16}
    assert not smaller.training
    assert all(parameter.requires_grad for parameter in smaller.parameters())


def test_a_model_that_trained_on() -> None:
    """Neurons that fill up a site stay 0 in value: their down weights get no gradient through h = 0."""
    smaller = compact(build("llama"), uneven("llama"))
    inputs = batch()
    smaller(**inputs, labels=inputs["input_ids"]).loss.backward()
    down = smaller.get_submodule(site_names("llama")[0]).down_proj.weight
    assert torch.equal(down.grad[:, NEURONS - 21 :], torch.zeros_like(down.grad[:, NEURONS - 21 :]))


def test_refuses() -> None:
    model, first = build("llama"), site_names("llama")[0]
    assert "touches site 'model.layers.9.mlp'" in message(lambda: compact(model, [("model.layers.9.mlp", 1)]))
    assert f"touches neuron {NEURONS}" in message(lambda: compact(model, [(first, NEURONS)]))
    everything = [(site, index) for site in site_names("llama") for index in range(NEURONS)]
    assert f"all {NEURONS} of every site" in message(lambda: compact(model, everything))
    layer = model.model.layers[1].mlp
    layer.up_proj.register_parameter("lora", nn.Parameter(torch.zeros(1)))
    assert "Linear that holds more than a plain weight and a bias" in message(lambda: compact(model, [(first, 1)]))
    other = build("llama")
    for name in ("gate_proj", "up_proj"):
        setattr(other.model.layers[1].mlp, name, nn.Linear(24, 11))
    other.model.layers[1].mlp.down_proj = nn.Linear(11, 24)
    assert f"has 11 neurons, expected the {NEURONS}" in message(lambda: compact(other, [(first, 1)]))
    whole = build("llama")
    with intervene(whole, interventions.zero([(first, 1)])), pytest.raises(RuntimeError, match="is attached"):
        compact(whole, [(first, 1)])


@pytest.mark.parametrize("name", [name for name in ("mixtral", "gpt_oss") if families.available(name)])
def test_refuses_experts(name: str) -> None:
    family = families.FAMILIES[name]
    assert "is one of several experts" in message(lambda: compact(family.build(), [(family.names[0], 1)]))


@pytest.mark.filterwarnings("ignore:.*not fused")
def test_refuses_what_is_known_by_its_last_layer_only() -> None:
    model, first = build("llama"), site_names("llama")[0]
    model.model.layers[0].mlp.act_fn = nn.ELU()
    assert f"{first} is of layout other on the path fallback" in message(lambda: compact(model, [(first, 1)]))
