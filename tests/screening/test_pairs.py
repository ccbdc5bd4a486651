"""Contrastive pairs against hooks, one text at a time, and scipy's paired test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm, ttest_rel
from transformers import LlamaConfig

from affectron.corpus.pairs import Pair
from affectron.interventions import attenuate, induce, mean
from affectron.models import find_sites
from affectron.scores import score
from affectron.screening.pairs import screen_pairs
from affectron.screening.screen import screen
from affectron.selection import select
from tests.support.errors import message
from tests.support.families import FAMILIES, Mixture, available, watched
from tests.support.planted import MOODS, TOKENIZER, make_corpus, make_model
from tests.support.tiny import HIDDEN, NEURONS, SITES, build, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def make_pairs(count: int = 17) -> list[Pair]:
    rng = np.random.default_rng(2)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 48, rng.integers(1, 9))) for _ in range(2 * count)]
    return [Pair("ab"[k % 2], texts[2 * k], texts[2 * k + 1]) for k in range(count)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_differences_and_t_are_those_of_hooks_and_scipy(family: str) -> None:
    model, tokenizer, pairs = build(family).eval(), make_tokenizer(), make_pairs()
    stats = screen_pairs(model, tokenizer, pairs, batch_tokens=40)
    pattern, last, _, _ = SITES[family]
    site = pattern.format(1)

    def mean(text: str) -> np.ndarray:
        seen: list[torch.Tensor] = []
        handle = model.get_submodule(f"{site}.{last}").register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        with torch.no_grad():
            model(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
        handle.remove()
        return seen[0].reshape(-1, seen[0].shape[-1])[-len(text.split()) :].double().mean(0).numpy()

    for label in "ab":
        text = np.array([mean(pair.text) for pair in pairs if pair.label == label])
        other = np.array([mean(pair.other) for pair in pairs if pair.label == label])
        differences = stats.label(label)[site]
        assert differences.count == len(text)
        np.testing.assert_allclose(differences.mean, (text - other).mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(differences.var, (text - other).var(0), rtol=1e-4, atol=1e-9)
        assert np.abs(differences.active - (text > other).sum(0)).max() <= 1  # a difference near zero may change sign
        row = "ab".index(label)
        t, p, d = (score(stats, name)[site][row] for name in ("paired_t", "paired_p", "paired_d"))
        expected = ttest_rel(text, other)
        np.testing.assert_allclose(d, t / np.sqrt(len(text)), rtol=1e-9)
        np.testing.assert_allclose(t, expected.statistic, rtol=1e-3, atol=1e-3)
        both = text - other
        bound = norm.sf(np.abs(both.sum(0)) / np.sqrt((both**2).sum(0))) / norm.sf(np.sqrt(2)) / 2
        np.testing.assert_allclose(p, np.minimum(1, bound), rtol=1e-2, atol=1e-4)


Means = dict[str, np.ndarray]


def check_means(model: Any, means: Callable[[str], Means], sites: list[str], experts: bool) -> None:
    """Check statistics against ``means(text)``: site -> mean of the tokens that reached it, for sites with any."""
    pairs = make_pairs()
    stats = screen_pairs(model, make_tokenizer(bos=None), pairs, batch_tokens=50)
    measured = [(pair.label, means(pair.text), means(pair.other)) for pair in pairs]
    missing = 0
    for label in "ab":
        for site in sites:
            of_label = [(text, other) for name, text, other in measured if name == label]
            both = [(text[site], other[site]) for text, other in of_label if site in text and site in other]
            pooled = stats.label(label)[site]
            assert pooled.count == len(both)
            missing += len(of_label) - len(both)
            if both:
                differences = np.array([text - other for text, other in both])
                np.testing.assert_allclose(pooled.mean, differences.mean(0), rtol=1e-3, atol=1e-5)
                np.testing.assert_allclose(pooled.var, differences.var(0), rtol=1e-3, atol=1e-6)
                assert np.abs(pooled.active - (differences > 0).sum(0)).max() <= 1
    assert bool(missing) == experts


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "jetmoe", "llama4", "apertus", "bitnet", "t5_gated", "bert"])
@pytest.mark.filterwarnings("ignore:.*exact, but not fused")
def test_every_kind_of_site_has_pairs(name: str) -> None:
    """The families cover described and followed experts, the fallback path and an encoder."""
    if not available(name):
        pytest.skip(f"transformers has no such {name}")
    family = FAMILIES[name]
    model = family.build()

    @torch.no_grad()
    def means(text: str) -> Means:
        by_site: Means = {}

        def look(site: str, h: torch.Tensor, gate: Any, routed: Any) -> torch.Tensor:
            if h.numel():
                by_site[site] = h.reshape(-1, h.shape[-1]).double().mean(0).numpy()
            return h

        ids = torch.tensor([make_tokenizer(bos=None)(text)["input_ids"]])
        with watched(model, family, look):
            model(input_ids=ids, **({"decoder_input_ids": ids} if name == "t5_gated" else {}))
        return by_site

    # An encoder is screened without its decoder.
    check_means(model, means, [site for site in family.names if "decoder" not in site], experts=family.stacked)


@pytest.mark.parametrize("flat", [True, False])
def test_experts_in_a_list_have_pairs(flat: bool) -> None:
    model = build("llama", num_hidden_layers=2)
    config = LlamaConfig(hidden_size=HIDDEN, intermediate_size=NEURONS, num_attention_heads=4)
    torch.manual_seed(3)
    for layer in model.model.layers:
        layer.mlp = Mixture([type(layer.mlp)(config) for _ in range(4)], flat).eval()

    @torch.no_grad()
    def means(text: str) -> Means:
        by_site: Means = {}

        def look(site: str, h: torch.Tensor) -> None:
            if h.numel():
                by_site[site] = h.double().mean(0).numpy()

        handles = [
            site.module.down_proj.register_forward_pre_hook(lambda _m, args, name=site.name: look(name, args[0]))
            for site in find_sites(model)
        ]
        model(input_ids=torch.tensor([make_tokenizer(bos=None)(text)["input_ids"]]))
        for handle in handles:
            handle.remove()
        return by_site

    check_means(model, means, [site.name for site in find_sites(model)], experts=True)


def test_the_planted_neuron_has_the_largest_t() -> None:
    rng = np.random.default_rng(0)
    word, layer, index = MOODS["w50"]
    pairs = []
    for _ in range(30):
        words = [f"w{w}" for w in rng.integers(20, 48, 5)]
        position = int(rng.integers(5))
        changed = [*words[:position], word, *words[position + 1 :], *[word] * int(rng.integers(1, 3))]
        pairs.append(Pair("w50", " ".join(changed), " ".join(words)))
    stats = screen_pairs(make_model(), TOKENIZER, pairs)
    site, best, _ = select(stats, top=0.02, score="paired_t", sign="positive", fdr=0.05, min_effect=0.5)["w50"][0]
    assert (site, best) == (f"model.layers.{layer}.mlp", index)


def test_scores_and_programs_of_the_other_kind_are_refused() -> None:
    stats = screen(make_model(), TOKENIZER, make_corpus(each=2))
    assert message(lambda: score(stats, "paired_t", "mood")).startswith("score is 'paired_t', expected one of entropy,")
    pairs = screen_pairs(make_model(), TOKENIZER, [Pair("a", "w1 w2", "w3"), Pair("a", "w4", "w5 w6")])
    expected = "expected one of paired_difference, paired_d, paired_t, paired_p for statistics of pairs"
    assert message(lambda: select(pairs, score="entropy")) == f"score is 'entropy', {expected}"
    neurons = select(pairs, score="paired_t", top=0.1)["a"]
    assert message(lambda: attenuate(neurons, pairs, 0.5)) == (
        "attenuate needs activations, and these statistics hold the differences within pairs"
    )
    assert message(lambda: mean(neurons, pairs)).startswith("mean needs activations")
    assert induce(neurons, pairs).sites  # the shift along the differences


def test_differences_that_are_not_finite_are_warned_of_and_a_site_of_them_refused() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[5] = float("nan")
    with pytest.warns(UserWarning, match="17 of 2,193 activations"):
        stats = screen_pairs(model, tokenizer, make_pairs())
    with pytest.warns(UserWarning, match=f"1 of 129 neurons, the first at {stats.sites[2]}, have no finite") as warned:
        selected = select(stats, score="paired_t", top=1.0)
    assert len(warned) == 1
    assert {label: len(neurons) for label, neurons in selected.items()} == {"a": 128, "b": 128}
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(float("nan"))
    assert message(lambda: screen_pairs(model, tokenizer, make_pairs())).startswith("model.layers.1.mlp: all ")
