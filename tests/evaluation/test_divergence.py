"""The divergence against plain torch, text by text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import affectron
from affectron.corpus import Sentence
from affectron.errors import InputError
from affectron.evaluation.divergence import Divergence
from affectron.interventions import SiteProgram
from tests.support.tiny import FAMILIES, NEURONS, SITES, build, make_tokenizer

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::affectron.errors.Note")]

TEXTS = ["w3 w4 w5 w6", "w8 w9", "w7", "w11 w12 w13 w14 w15 w16 w17", " ".join(f"w{n}" for n in range(3, 45))]
SENTENCES = [Sentence(text, ("x",), None, str(number)) for number, text in enumerate(TEXTS)]


def programs(family: str, number: int) -> list[affectron.Program]:
    rng = np.random.default_rng(1)
    made = []
    for layer in range(number):
        shift = rng.normal(size=3).astype(np.float32)
        part = SiteProgram(np.array([1, 5, 40]), np.ones(3), np.zeros(3), np.full(3, -np.inf), shift)
        made.append(affectron.Program({SITES[family][0].format(layer % 3): part}, f"shift {layer}"))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_that_of_plain_forwards(family: str) -> None:
    model, tokenizer = build(family).eval(), make_tokenizer()
    tried = [None, *programs(family, 9)]
    found = Divergence(model, tokenizer, SENTENCES)(tried)
    sums, tokens = np.zeros(len(tried)), 0
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]][:32]])
        with torch.no_grad():
            plain = model(ids).logits[0, :-1].double().log_softmax(-1)
            for place, program in enumerate(tried):
                with affectron.intervene(model, [program]):
                    changed = model(ids).logits[0, :-1].double().log_softmax(-1)
                sums[place] += float((plain.exp() * (plain - changed)).sum())
        tokens += ids.shape[1] - 1
    assert found[0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(found, sums / tokens, rtol=1e-3, atol=1e-6)
    assert (found[1:] > 0).all()


def test_a_loss_that_is_no_number_is_infinite() -> None:
    model = build("llama").eval()
    every, one = np.arange(NEURONS), np.ones(NEURONS)
    part = SiteProgram(every, one, 0 * one, np.full(NEURONS, -np.inf), 3e38 * one)
    program = affectron.Program({SITES["llama"][0].format(2): part}, "huge")
    assert Divergence(model, make_tokenizer(), SENTENCES)([program]).tolist() == [np.inf]


def test_texts_without_a_token_that_another_precedes_are_refused() -> None:
    with pytest.raises(InputError, match="1 neutral texts are given, expected one with two tokens"):
        Divergence(build("llama").eval(), make_tokenizer(), [Sentence("", ("x",), None, "0")])
