"""screen and intervene on a model that lies on the GPU, against the same on the CPU."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import affectron
from affectron import ops
from affectron.interventions import Program, SiteProgram
from tests.support.tiny import build, make_tokenizer, site_names

LABELS = ("anger", "fear", "joy")


def program(family: str, scale: float) -> Program:
    """Every seventh neuron of each site scaled, damped and shifted."""
    index = np.arange(0, 40, 7)
    same = np.ones(len(index))
    site = SiteProgram(index, scale * same, 0.1 * same, -np.inf * same, 0.5 * same)
    return Program(dict.fromkeys(site_names(family), site), "test")


@pytest.fixture(scope="module")
def corpus() -> affectron.Corpus:
    rng = random.Random(0)
    return affectron.Corpus.from_records(
        {"text": " ".join(f"w{rng.randrange(60)}" for _ in range(rng.randint(3, 30))), "label": rng.choice(LABELS)}
        for _ in range(60)
    )


@pytest.mark.parametrize("tokens", ["all", "last", "mean"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_screen_as_on_the_cpu(backend, corpus, family, tokens):
    tokenizer = make_tokenizer()
    on_cpu = build(family)
    on_gpu = build(family).cuda()
    with ops.use_backend("native"):
        expected = affectron.screen(on_cpu, tokenizer, corpus, tokens=tokens, batch_tokens=256)
    result = affectron.screen(on_gpu, tokenizer, corpus, tokens=tokens, batch_tokens=256)
    assert result.sites == expected.sites
    for label in LABELS:
        for site in result.sites:
            of_gpu, of_cpu = result.label(label)[site], expected.label(label)[site]
            assert of_gpu.count == of_cpu.count
            # Products of the two devices differ in their last bits: a gate within them of zero may flip.
            assert abs(of_gpu.active - of_cpu.active).max() <= 2
            for name in ("mean", "min", "max", "var"):
                a, b = (torch.as_tensor(getattr(s, name)) for s in (of_gpu, of_cpu))
                torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3, check_dtype=False)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_intervene_as_on_the_cpu(backend, family):
    models = {"cpu": build(family), "cuda": build(family).cuda()}
    ids = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    logits = {}
    for device, model in models.items():
        with torch.no_grad(), ops.use_backend("native" if device == "cpu" else backend):
            plain = model(ids.to(device)).logits
            with affectron.intervene(model, [program(family, 0.0), None, program(family, 2.0)]):
                logits[device] = model(ids.to(device)).logits
        # The request without a program keeps its logits; the steered ones do not.
        torch.testing.assert_close(logits[device][1], plain[1], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits[device][0], plain[0], atol=1e-3)
    torch.testing.assert_close(logits["cuda"].cpu(), logits["cpu"], rtol=2e-3, atol=2e-3)
