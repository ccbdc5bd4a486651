"""Quantiles of absolute activations against numpy, over all tokens that hooks see."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError
from affectron.screening.quantiles import magnitude_quantiles
from tests.support.families import FAMILIES, Family, available, watched
from tests.support.tiny import make_tokenizer

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]

TOKENIZER = make_tokenizer()


def make_corpus() -> Corpus:
    rng = np.random.default_rng(4)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 60, rng.integers(1, 13))) for _ in range(41)]
    return Corpus.from_records([{"text": text, "label": "ab"[place % 2]} for place, text in enumerate(texts)])


CORPUS = make_corpus()


def seen(model: Any, family: Family, sentences: list[Sentence], first: int = 1) -> dict[str, list[np.ndarray]]:
    """Site -> |h| of each counted token [F]; the first ``first`` tokens of a text do not count."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)

    def keep(site: str, h: Tensor, gate: Tensor | None, tokens: Tensor | None) -> Tensor:
        rows = h.reshape(-1, h.shape[-1]).abs().numpy()
        places = range(len(rows)) if tokens is None else tokens.tolist()
        found[site] += [row for place, row in zip(places, rows, strict=True) if place >= first]
        return h

    with torch.no_grad(), watched(model, family, keep):
        for sentence in sentences:
            model(input_ids=torch.tensor([TOKENIZER(sentence.text)["input_ids"]]))
    return found


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.93, 0.99, 1.0])
@pytest.mark.parametrize("name", ["granite", "phi", "bert", "mixtral"])
def test_quantiles_are_those_of_all_tokens(name: str, quantile: float) -> None:
    if not available(name):
        pytest.skip("not in this version of transformers")
    family = FAMILIES[name]
    model = family.build()
    found = magnitude_quantiles(model, TOKENIZER, CORPUS, quantile, batch_tokens=37)
    expected = seen(model, family, list(CORPUS))
    assert set(expected) == set(found) == set(family.names)
    for site, values in found.items():
        assert values.dtype == np.float32
        wanted = np.quantile(np.array(expected[site], dtype=np.float64), quantile, axis=0)
        np.testing.assert_allclose(values, wanted, rtol=2e-5, atol=1e-6)


def test_some_sentences_and_their_special_tokens() -> None:
    family = FAMILIES["granite"]
    model, some = family.build(), [sentence for sentence in CORPUS if "a" in sentence.labels]
    found = magnitude_quantiles(model, TOKENIZER, CORPUS, 0.9, sentences=some, count_special=True)
    for site, values in seen(model, family, some, first=0).items():
        wanted = np.quantile(np.array(values, dtype=np.float64), 0.9, axis=0)
        np.testing.assert_allclose(found[site], wanted, rtol=2e-5, atol=1e-6)


def test_tokens_that_are_not_finite_do_not_count() -> None:
    family = FAMILIES["granite"]
    model = family.build()
    site = family.names[-1]
    mlp = model.get_submodule(site)
    with torch.no_grad():
        mlp.up_proj.weight[3] = torch.nan
        mlp.up_proj.weight[5] *= 1e37
        mlp.gate_proj.weight[5] *= 20  # their product is above the largest float32 at some tokens
    expected = np.array(seen(model, family, list(CORPUS))[site], dtype=np.float64)
    finite = expected[:, 5][np.isfinite(expected[:, 5])]
    assert 0 < len(finite) < len(expected)
    found = magnitude_quantiles(model, TOKENIZER, CORPUS, 0.9, batch_tokens=37)[site]
    assert found[3] == 0
    assert found[5] == pytest.approx(np.quantile(finite, 0.9), rel=2e-5)
    others = np.delete(np.arange(len(found)), [3, 5])
    np.testing.assert_allclose(found[others], np.quantile(expected[:, others], 0.9, axis=0), rtol=2e-5, atol=1e-6)


def test_an_expert_without_tokens_has_zeros() -> None:
    if not available("mixtral"):
        pytest.skip("not in this version of transformers")
    family = FAMILIES["mixtral"]
    model = family.build()
    one = [next(sentence for sentence in CORPUS if len(sentence.text.split()) == 1)]
    expected = seen(model, family, one)
    found = magnitude_quantiles(model, TOKENIZER, CORPUS, sentences=one)
    unreached = [site for site in family.names if not expected[site]]
    assert unreached
    for site in family.names:
        assert found[site].any() == (site not in unreached)


def test_what_does_not_fit_is_refused() -> None:
    model = FAMILIES["granite"].build()
    tokens = sum(len(sentence.text.split()) for sentence in CORPUS)
    kept = int(np.ceil(tokens * 0.01)) + 2
    needed = 4 * kept * 2 * 43
    with pytest.raises(InputError) as caught:
        magnitude_quantiles(model, TOKENIZER, CORPUS, memory=needed - 1)
    assert str(caught.value) == (
        f"the 0.99 quantile over {tokens} tokens needs {needed:,} bytes, expected at most {needed - 1:,}; "
        "read fewer sentences"
    )
    magnitude_quantiles(model, TOKENIZER, CORPUS, memory=needed)
    with pytest.raises(InputError, match="quantile is 1.5, expected a number in"):
        magnitude_quantiles(model, TOKENIZER, CORPUS, 1.5)
