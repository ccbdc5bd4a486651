"""Written texts against transformers' own generate, one prompt and one program at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import affectron
from affectron import generation
from affectron.errors import InputError
from affectron.interventions import SiteProgram
from tests.support.tiny import SITES, build, make_tokenizer

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::affectron.errors.Note")]

TOKENIZER = make_tokenizer()
PROMPTS = [[1, 7, 9], [1, 12], [1, 30, 31], [1, 5], [1, 6, 7, 8, 9]]


def shifted(family: str, seed: int) -> affectron.Program:
    rng = np.random.default_rng(seed)
    index = np.sort(rng.permutation(43)[:5])
    part = SiteProgram(index, np.ones(5), np.zeros(5), np.full(5, -np.inf), rng.normal(size=5) * 20)
    return affectron.Program({SITES[family][0].format(1): part}, f"shift {seed}")


def alone(model: Any, prompt: list[int], program: affectron.Program | None, new: int) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.no_grad(), affectron.intervene(model, [program]):
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0
        )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_text_is_that_of_its_prompt_and_program(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(family).eval()
    programs = [shifted(family, 1), None, shifted(family, 2)]
    expected = [[alone(model, prompt, program, 6) for prompt in PROMPTS] for program in programs]
    assert len({str(of_program) for of_program in expected}) == 3
    for most in (1, 2, 4, 128):  # programs and prompts in several batches, or all in one
        monkeypatch.setattr(generation, "_TEXTS_ON_CPU", most)
        done: list[int] = []
        texts = generation.write(
            model, TOKENIZER, PROMPTS, programs, max_new_tokens=6, seeds=range(5), advance=done.append
        )
        assert texts == expected
        assert sum(done) == 15


def test_samples_depend_on_seed_and_prompt_and_not_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama").eval()
    programs = [None, shifted("llama", 1), None]

    def texts(seeds: list[int], prompts: list[list[int]] = PROMPTS) -> list[list[list[int]]]:
        return generation.write(model, TOKENIZER, prompts, programs, max_new_tokens=8, temperature=1.0, seeds=seeds)

    first = texts([3, 4, 5, 6, 7])
    assert first[0] == first[2] != first[1]
    assert texts([3, 4, 5, 6, 8])[0][:4] == first[0][:4]
    assert texts([3, 4, 5, 6, 8])[0][4] != first[0][4]
    monkeypatch.setattr(generation, "_TEXTS_ON_CPU", 3)
    assert texts([3, 4, 5, 6, 7]) == first
    assert texts([7, 3], [PROMPTS[4], PROMPTS[0]])[1] == [first[1][4], first[1][0]]


def test_a_sample_follows_the_softmax() -> None:
    """Of 4,000 seeds: the usual first tokens occur as often as the model's probabilities say, within 4 deviations."""
    model = build("llama").eval()
    with torch.no_grad():
        p = (model(torch.tensor([PROMPTS[0]])).logits[0, -1].double() / 2).softmax(-1)
    seeds = range(4000)
    (texts,) = generation.write(
        model, TOKENIZER, [PROMPTS[0]] * 4000, [None], max_new_tokens=1, temperature=2.0, seeds=seeds
    )
    seen = torch.bincount(torch.tensor([text[0] for text in texts]), minlength=len(p)) / 4000
    usual = p > 0.005
    assert int(usual.sum()) > 10
    assert bool(((seen - p).abs() <= 4 * (p * (1 - p) / 4000).sqrt())[usual].all())


def test_continuations_of_one_prompt_are_the_same_texts() -> None:
    model = build("llama").eval()
    programs = [None, shifted("llama", 2)]
    ids = generation.prompt_ids(model, TOKENIZER, "w3 w4")
    written = generation.write(model, TOKENIZER, [ids], programs, max_new_tokens=5, temperature=1.0, seeds=[9])
    found = generation.continuations(model, TOKENIZER, "w3 w4", programs, max_new_tokens=5, temperature=1.0, seed=9)
    assert found.texts == generation.decoded(TOKENIZER, [of_program[0] for of_program in written])


def test_a_prompt_beyond_the_model_is_refused() -> None:
    with pytest.raises(InputError, match="prompt has 61 tokens and max_new_tokens is 5, but the model reads 64"):
        generation.write(build("gpt2"), TOKENIZER, [[1] * 61], [None], max_new_tokens=5, seeds=[0])
