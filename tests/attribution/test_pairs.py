"""Attributions within contrastive pairs against autograd on a text at a time."""

from __future__ import annotations

import copy
import warnings
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm, ttest_1samp
from torch import Tensor, nn

from affectron import select
from affectron.attribution import pairs, recompute
from affectron.attribution.pairs import attribute_pairs
from affectron.corpus.pairs import Pair
from affectron.errors import Note
from affectron.scores import score
from tests.attribution.oracle import TOKENIZER, Watch, same_bits, watching_family, watching_tiny
from tests.support.errors import message
from tests.support.families import FAMILIES, available
from tests.support.tiny import build, state

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]

TEMPLATE = "{bos}w1 {text} w2"
ANSWERS = [("w50", "w51"), ("w50 w51", "w52"), ("w52 w53", "w54 w55 w56"), ("w50 w51 w52", "w50 w51 w53")]


def make_pairs(count: int = 11) -> list[Pair]:
    rng = np.random.default_rng(4)
    pairs = []
    for number in range(count):
        words = rng.integers(0, 48, (2, rng.integers(1, 8)))
        text, other = (" ".join(f"w{word}" for word in row) for row in words)
        pairs.append(Pair("ab"[number % 2], text, other, *ANSWERS[number % len(ANSWERS)]))
    return pairs


PAIRS = make_pairs()


class Plain:
    """The attribution of a pair, and the sum of its terms' absolute values: by site fp64 [F]."""

    def __init__(self, model: Any, watching: Any, dtype: torch.dtype = torch.float64) -> None:
        self.model = copy.deepcopy(model).to(dtype).eval()
        self.watch: Watch = watching(self.model)

    def forward(self, text: str, answer: str) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The mean log-likelihood of an answer; by site h [T, F] with 0 where no token is routed, and the same before
        it was spread out."""
        ids = TOKENIZER(TEMPLATE.format(bos="<s>", text=text) + " " + answer, add_special_tokens=False)["input_ids"]
        length = len(answer.split())
        whole: dict[str, Tensor] = {}

        def change(site: str, h: Tensor, tokens: Tensor | None) -> Tensor:
            h = h.reshape(-1, h.shape[-1]) if tokens is not None else h
            flat = h.reshape(-1, h.shape[-1])
            places = torch.arange(len(ids) - 1) if tokens is None else tokens
            dense = flat.new_zeros(len(ids) - 1, flat.shape[1]).index_copy(0, places, flat)
            dense.retain_grad()
            whole[site] = dense
            return dense[places].reshape(h.shape)

        with self.watch(change):
            logits = self.model(input_ids=torch.tensor([ids[:-1]])).logits.double()[0, -length:]
        return logits.log_softmax(-1)[torch.arange(length), torch.tensor(ids[-length:])].mean(), whole, whole

    def __call__(self, pair: Pair, baseline: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for sign, answer in ((1, pair.answer), (-1, pair.other_answer)):
            assert answer is not None
            with torch.no_grad():
                _, others, _ = self.quiet(pair.other, answer)
            value, own, _ = self.forward(pair.text, answer)
            (sign * value).backward()
            for site, h in own.items():
                b = others[site] if baseline == "other" and site in others else torch.zeros_like(h)
                terms = ((h - b).detach().double() * h.grad.double()).numpy()
                before = found.get(site, (0.0, 0.0))
                found[site] = (before[0] + terms.sum(0), before[1] + np.abs(terms).sum(0))
        return found

    def quiet(self, text: str, answer: str) -> tuple[Tensor, dict[str, Tensor], None]:
        with torch.enable_grad():
            value, whole, _ = self.forward(text, answer)
        return value, {site: h.detach() for site, h in whole.items()}, None


def check(
    stats: Any,
    plain: Plain,
    baseline: str,
    pairs: list[Pair] = PAIRS,
    sites: list[str] | None = None,
    tolerance: float = 1e-5,
) -> None:
    truths = [plain(pair, baseline) for pair in pairs]
    for label in "ab":
        own = [truth for truth, pair in zip(truths, pairs, strict=True) if pair.label == label]
        for site in sites or stats.sites:
            found = stats.label(label)[site]
            nothing = (np.zeros(stats.widths[site]),) * 2
            value = np.stack([truth.get(site, nothing)[0] for truth in own])
            bound = tolerance * max(truth.get(site, nothing)[1].max() for truth in own) + 1e-12
            assert found.count == len(own)
            np.testing.assert_allclose(found.mean, value.mean(0), rtol=0, atol=bound)
            np.testing.assert_allclose(np.sqrt(found.var), value.std(0), rtol=0, atol=bound)
            np.testing.assert_allclose(found.min, value.min(0), rtol=0, atol=bound)
            np.testing.assert_allclose(found.max, value.max(0), rtol=0, atol=bound)


@pytest.mark.parametrize("baseline", ["other", "zero"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_attributions_of_pairs_are_those_of_autograd(family: str, baseline: str) -> None:
    model = build(family)
    before = state(model)
    stats = attribute_pairs(model, TOKENIZER, PAIRS, baseline=baseline, template=TEMPLATE, batch_tokens=90)
    assert state(model) == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    check(stats, Plain(model, watching_tiny(family)), baseline)
    same_bits(attribute_pairs(model, TOKENIZER, PAIRS, baseline=baseline, template=TEMPLATE, batch_tokens=90), stats)
    assert (stats.kind, stats.of_pairs, stats.provenance["baseline"]) == ("attribution", True, baseline)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "apertus"])
def test_every_kind_of_site_has_attributions_of_pairs(name: str) -> None:
    """A token that is not routed to an expert in the other text has no activation there: its baseline is 0."""
    if not available(name):
        pytest.skip(f"transformers has no such {name}")
    family = FAMILIES[name]
    model = family.build()
    stats = attribute_pairs(model, TOKENIZER, PAIRS[:5], template=TEMPLATE, batch_tokens=90)
    plain = Plain(model, watching_family(family), torch.float32)
    sites = [site for site in stats.sites if site in family.names]
    assert sites == family.names
    check(stats, plain, "other", PAIRS[:5], sites)


def test_the_size_of_batches_changes_rounding_alone() -> None:
    model = build("llama")
    one, many = (attribute_pairs(model, TOKENIZER, PAIRS, template=TEMPLATE, batch_tokens=n) for n in (1, 10_000))
    for site in one.sites:
        largest = np.abs(one.mean[site]).max()
        np.testing.assert_allclose(one.mean[site], many.mean[site], rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_that_are_computed_again_give_the_same_bits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(family)
    first = attribute_pairs(model, TOKENIZER, PAIRS, template=TEMPLATE)
    before = state(model)
    monkeypatch.setattr(recompute, "free_bytes", lambda _device: 1 << 14)
    with pytest.warns(Note, match=r"a batch of \d+ tokens keeps more than .* each layer is computed again"):
        again = attribute_pairs(model, TOKENIZER, PAIRS, template=TEMPLATE)
    same_bits(again, first)
    assert state(model) == before


@pytest.mark.parametrize(("free", "least", "most"), [(1 << 40, 12, 12), (1 << 14, 1, 2)])
def test_the_differences_of_all_layers_are_held_only_where_memory_suffices(
    monkeypatch: pytest.MonkeyPatch, free: int, least: int, most: int
) -> None:
    made: list[weakref.ref[Tensor]] = []
    held: list[int] = []
    apply = pairs._Products.apply

    def counted(h: Tensor, difference: Tensor, *rest: Tensor) -> Tensor:
        made.append(weakref.ref(difference))
        held.append(sum(one() is not None for one in made))
        return apply(h, difference, *rest)

    monkeypatch.setattr(pairs._Products, "apply", counted)
    monkeypatch.setattr(recompute, "free_bytes", lambda _device: free)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        attribute_pairs(build("llama", num_hidden_layers=12), TOKENIZER, PAIRS[:1], template=TEMPLATE)
    assert least <= max(held) <= most


def test_small_gradients_of_a_model_in_float16_do_not_vanish() -> None:
    """Without a scale they are near the smallest float16."""
    model = build("llama").to(torch.float16)
    with torch.no_grad():
        model.lm_head.weight *= 2.0**-14
    stats = attribute_pairs(model, TOKENIZER, PAIRS, template=TEMPLATE)
    check(stats, Plain(model, watching_tiny("llama")), "other", tolerance=8 * torch.finfo(torch.float16).eps)


def test_layers_that_have_no_gradient_are_refused() -> None:
    """The gradient would pass them by, and those before them."""
    quantization = pytest.importorskip("torchao.quantization")
    model = build("llama")
    kind = quantization.Int8DynamicActivationInt8WeightConfig()
    quantization.quantize_(model, kind, lambda module, name: "layers.1.mlp" in name and isinstance(module, nn.Linear))
    line = message(lambda: attribute_pairs(model, TOKENIZER, PAIRS, template=TEMPLATE))
    assert line == "LlamaForCausalLM: torch cannot differentiate what model.layers.1.mlp reads"


def test_pairs_are_scored_by_their_differences() -> None:
    model = build("llama")
    stats = attribute_pairs(model, TOKENIZER, PAIRS, template=TEMPLATE)
    plain, site = Plain(model, watching_tiny("llama")), stats.sites[1]
    own = np.stack([plain(pair, "other")[site][0] for pair in PAIRS if pair.label == "a"])
    expected = ttest_1samp(own, 0)
    np.testing.assert_allclose(score(stats, "paired_t")[site][0], expected.statistic, rtol=1e-3, atol=1e-3)
    bound = np.minimum(1, norm.sf(np.abs(own.sum(0)) / np.sqrt((own**2).sum(0))) / norm.sf(np.sqrt(2)) / 2)
    np.testing.assert_allclose(score(stats, "paired_p")[site][0], bound, rtol=1e-2, atol=1e-4)
    assert all(len(neurons) for _, neurons in select(stats, top=0.05).items())
    assert "expected one of paired_difference" in message(lambda: select(stats, score="attribution"))


def test_pairs_that_cannot_be_attributed_are_named() -> None:
    model, good = build("llama"), PAIRS[0]

    def refused(*pairs: Pair, **options: Any) -> str:
        return message(lambda: attribute_pairs(model, TOKENIZER, pairs, **options))

    assert refused() == "pairs is empty, expected at least one"
    for field in ("answer", "other_answer"):
        assert refused(good, replace(good, **{field: None})).startswith("pair 2: ")
        assert field in refused(good, replace(good, **{field: None}))
    longer = Pair("a", "w1 w2 w3", "w4 w5", "w6", "w7")
    line = refused(good, longer)
    assert line.startswith("pair 2: text 'w1 w2 w3' and other 'w4 w5' have 4 and 3 tokens")
    assert refused(good, baseline="mean") == "baseline is 'mean', expected one of other, zero"
    assert "template" in refused(good, template="w1")
    bert = FAMILIES["bert"].build()
    assert message(lambda: attribute_pairs(bert, TOKENIZER, [good])).startswith("model is a BertForMaskedLM, expected")
