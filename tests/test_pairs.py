"""Contrastive pairs against hooks, one text at a time, and scipy's paired test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from affectron.errors import InputError
from affectron.pairs import Pair, paired_t, read_pairs, screen_pairs
from affectron.screening import screen
from tests.errors import message
from tests.models.tiny import SITES, build, make_tokenizer
from tests.planted import MOODS, TOKENIZER, make_corpus, make_model

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
        mine = np.array([mean(pair.text) for pair in pairs if pair.label == label])
        other = np.array([mean(pair.other) for pair in pairs if pair.label == label])
        found = stats.label(label)[site]
        assert found.count == len(mine)
        np.testing.assert_allclose(found.mean, (mine - other).mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.var, (mine - other).var(0), rtol=1e-4, atol=1e-9)
        assert np.abs(found.active - (mine > other).sum(0)).max() <= 1  # but for a difference of nothing
        t, p = paired_t(stats, label)[site]
        expected = ttest_rel(mine, other)
        np.testing.assert_allclose(t, expected.statistic, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(p, expected.pvalue, rtol=1e-2, atol=1e-4)


def test_the_planted_neuron_has_the_largest_t() -> None:
    rng = np.random.default_rng(0)
    word, layer, index = MOODS["w50"]
    pairs = []
    for _ in range(30):
        words = [f"w{w}" for w in rng.integers(20, 48, 5)]
        place = int(rng.integers(5))
        changed = [*words[:place], word, *words[place + 1 :], *[word] * int(rng.integers(1, 3))]
        pairs.append(Pair("w50", " ".join(changed), " ".join(words)))
    stats = screen_pairs(make_model(), TOKENIZER, pairs)
    t = {site: values[0] for site, values in paired_t(stats, "w50").items()}
    best = max(t, key=lambda site: np.nanmax(t[site]))
    assert (best, int(np.nanargmax(t[best]))) == (f"model.layers.{layer}.mlp", index)


def test_pairs_that_cannot_be_used_are_named() -> None:
    assert message(lambda: read_pairs([])) == "pairs is empty, expected at least one"
    records = [{"label": "a", "text": "b", "other": "c"}, {"label": "a", "text": " ", "other": "c"}]
    assert message(lambda: read_pairs(records)) == "pair 2: text is ' ', expected text"
    assert read_pairs(records[:1]) == [Pair("a", "b", "c")]
    stats = screen(make_model(), TOKENIZER, make_corpus(each=2))
    with pytest.raises(InputError, match="tokens is 'all', expected statistics of pairs"):
        paired_t(stats, "w50")
