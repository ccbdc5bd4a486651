"""Asking a model under many programs against the straightforward loop: one program after the other, one label after the
other, the whole prompt each time and every logit.

Real sentences and a real model of 3 million parameters, from the folder of shared models; skipped without it. All
contenders sort the sentences by length and batch them alike, and give the same answers.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import affectron
from affectron.evaluation.label_likelihood import LabelLikelihood
from affectron.models import find_sites, intervene

SHARED = Path(os.environ.get("AFFECTRON_SHARED", Path(__file__).resolve().parents[2] / "shared"))
LOOP, LABELS, SWEEP = "program by program, label by label", "program by program", "all at once"
SENTENCES, PROGRAMS, BATCH = 16, 6, 16
INSTRUCTION = "Read the text below with care and say which of the emotions it has, in one word and no more. "
# What the prompt begins with, and the first of the six sites that the programs touch.
WORKS = {"all sites": ("", 0), "top third": ("", 4), "all sites, long prompt": (INSTRUCTION, 0)}

pytestmark = pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="shared models are absent")


@cache
def loaded() -> tuple[Any, Any, Any]:
    model, tokenizer = affectron.load_model(SHARED / "models" / "emorhet-3m", dtype="float32")
    corpus = affectron.Corpus.from_file(SHARED / "data" / "core" / "data.jsonl", split="test", task="emotion")
    return model, tokenizer, corpus


def programs(lowest: int) -> list[affectron.Program]:
    """Random neurons of the upper sites, amplified: what a sweep and its controls are like."""
    rng = np.random.default_rng(0)
    sites = find_sites(loaded()[0])[lowest:]
    return [
        affectron.amplify([(site.name, int(i)) for site in sites for i in rng.permutation(site.neurons)[:20]], 3.0)
        for _ in range(PROGRAMS)
    ]


@torch.no_grad()
def loop(prompt: str, chosen: list[affectron.Program]) -> np.ndarray:
    model, tokenizer, corpus = loaded()
    texts = sorted([one.text for one in corpus][:SENTENCES], key=len)
    scores = np.zeros((len(chosen), len(texts), len(corpus.labels)))
    for p, program in enumerate(chosen):
        with intervene(model, program):
            for k, label in enumerate(corpus.labels):
                asked = prompt.replace("{bos}", tokenizer.bos_token)
                filled = [f"{asked.replace('{text}', text)} {label}" for text in texts]
                for start in range(0, len(filled), BATCH):
                    ids = tokenizer(filled[start : start + BATCH], add_special_tokens=False)["input_ids"]
                    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)
                    likelihood = model(input_ids=padded, use_cache=False).logits.log_softmax(-1)
                    for row, one in enumerate(ids):
                        scores[p, start + row, k] = likelihood[row, len(one) - 2, one[-1]]
    return scores


@pytest.mark.parametrize("contender", [LOOP, LABELS, SWEEP])
@pytest.mark.parametrize("work", WORKS)
def test_evaluation(contend: Any, work: str, contender: str) -> None:
    model, tokenizer, corpus = loaded()
    instruction, lowest = WORKS[work]
    prompt, chosen = f"{{bos}}{instruction}{{text}}\nEmotion:", programs(lowest)
    sentences = sorted(list(corpus)[:SENTENCES], key=lambda one: len(one.text))
    reader = LabelLikelihood({"emotion": prompt}).classifier(model, tokenizer, sentences, "emotion", corpus.labels)
    rows = np.arange(SENTENCES)

    def one_by_one() -> np.ndarray:
        found = []
        for program in chosen:
            with intervene(model, program):
                found.append(reader.scores(rows)[0])
        return np.array(found)

    function = {
        LOOP: lambda: loop(prompt, chosen),
        LABELS: one_by_one,
        SWEEP: lambda: reader.scores(rows, chosen),
    }[contender]
    if contender == SWEEP:
        expected, found = loop(prompt, chosen), reader.scores(rows, chosen)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        assert np.array_equal(found.argmax(-1), expected.argmax(-1))
    contend(f"evaluate, {work}", contender, function, rounds=2, goals={LOOP: 0.25} if contender == SWEEP else {})
