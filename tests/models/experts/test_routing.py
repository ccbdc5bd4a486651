"""Experts that are modules in a list know which tokens they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import affectron
from affectron import interventions
from affectron.models import find_sites, intervene
from affectron.screening.screen import screen
from tests.support.families import (
    FAMILIES,
    HIDDEN,
    LABELS,
    NEURONS,
    Mixture,
    corpus,
    inputs,
)
from tests.support.tiny import build, make_tokenizer, state

pytestmark = [pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("tokens", ["all", "mean"])
def test_experts_in_a_list_know_their_tokens(flat: bool, tokens: str) -> None:
    """Against one sentence at a time, where all that an expert reads is that sentence's."""
    torch.manual_seed(3)
    model = build("llama", num_hidden_layers=2)
    config = transformers.LlamaConfig(hidden_size=HIDDEN, intermediate_size=NEURONS, num_attention_heads=4)
    for layer in model.model.layers:
        layer.mlp = Mixture([type(layer.mlp)(config) for _ in range(4)], flat).eval()
    sites, before = find_sites(model), state(model)
    assert [site.name for site in sites] == [f"model.layers.{i}.mlp.experts.{e}" for i in range(2) for e in range(4)]
    assert {site.path for site in sites} == {"fused"}
    sentences, tokenizer = corpus(), make_tokenizer(bos=None)
    stats = screen(model, tokenizer, sentences, tokens=tokens)
    assert state(model) == before

    read: dict[tuple[str, str], list[Tensor]] = {}
    current: list[affectron.Sentence] = []

    def keep(name: str, h: Tensor) -> None:
        for label in current[0].labels:
            read.setdefault((name, label), []).append(h.double())

    handles = [
        site.module.get_submodule("down_proj").register_forward_pre_hook(
            lambda _module, args, name=site.name: keep(name, args[0]) if len(args[0]) else None
        )
        for site in sites
    ]
    for sentence in sentences:
        current[:] = [sentence]
        with torch.no_grad():
            model(**tokenizer(sentence.text, return_tensors="pt"))
    for handle in handles:
        handle.remove()
    for site in sites:
        for label in LABELS:
            parts = read.get((site.name, label), [])
            found = stats.label(label)[site.name]
            wanted = [part.mean(0, keepdim=True) for part in parts] if tokens == "mean" else parts
            assert found.count == sum(map(len, wanted))
            if wanted:
                np.testing.assert_allclose(found.mean, torch.cat(wanted).mean(0), rtol=1e-4, atol=1e-5)

    given = inputs(FAMILIES["mistral"])
    program = interventions.amplify([(site.name, i) for site in sites[:6] for i in range(NEURONS)], 5.0)
    with torch.no_grad():
        plain = model(**given).logits
        with intervene(model, program):
            all_steered = model(**given).logits
        with intervene(model, [None, program, None]):
            one_steered = model(**given).logits
    torch.testing.assert_close(one_steered[1], all_steered[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one_steered[[0, 2]], plain[[0, 2]], rtol=1e-4, atol=1e-4)
    assert (all_steered[1] - plain[1]).abs().max() > 1e-3
