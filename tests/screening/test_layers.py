"""Statistics of the outputs of layers: measured like those of neurons, and taken for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import affectron
from affectron import interventions
from affectron.models import intervene
from affectron.options import ScreenSites
from affectron.screening.screen import screen, screen_folds
from affectron.stats import FIELDS, ActivationStats
from tests.models import test_forward
from tests.support.corpora import CORPUS
from tests.support.errors import message
from tests.support.tiny import build, layer_names, layer_outputs, make_tokenizer, state


def test_a_sentence_alone_in_float64_has_the_same_means() -> None:
    model, tokenizer, names = build("gpt2"), make_tokenizer(), layer_names("gpt2")
    stats = screen(model, tokenizer, CORPUS, batch_tokens=64, at="layers")
    wide = build("gpt2").double()
    read: dict[str, dict[str, list[Tensor]]] = {label: {name: [] for name in names} for label in CORPUS.labels}
    for sentence in CORPUS:

        def keep(site: str, h: Tensor, labels: tuple[str, ...] = sentence.labels) -> Tensor:
            for label in labels:
                read[label][site].append(h[0, 1:])  # without <s>
            return h

        with torch.no_grad(), layer_outputs(wide, names, keep):
            wide(torch.tensor([tokenizer(sentence.text)["input_ids"]]))
    for label, by_site in read.items():
        for site, parts in by_site.items():
            h = torch.cat(parts).numpy()
            assert stats.label(label)[site].count == len(h)
            np.testing.assert_allclose(stats.label(label)[site].mean, h.mean(0), atol=1e-6 * np.abs(h).max())


@pytest.mark.parametrize("name", ["M2M100", "Switch", "FSMT", "XLNet"])
def test_padding_does_not_matter(name: str) -> None:
    """Also where time comes first. Of an encoder-decoder model the encoder is screened."""
    model = test_forward.make((test_forward.MASKED | test_forward.TIME_FIRST)[name])
    alone, padded = (screen(model, make_tokenizer(), CORPUS, batch_tokens=n, at="layers") for n in (1, 64))
    assert all(site.endswith(":output") and "decoder" not in site for site in alone.sites)
    for site in alone.sites:
        one, other = (stats.label("joy")[site] for stats in (alone, padded))
        assert one.count == other.count
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-4, atol=1e-4 * np.abs(one.mean).max())


def test_shards_folds_and_files_are_those_of_neurons(tmp_path: Path) -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    before, kept = state(model), tmp_path / "shards"
    options = {"at": "layers", "tokens": "mean", "shards": 3}
    stats = screen(model, tokenizer, CORPUS, **options)
    again = screen(model, tokenizer, CORPUS, **options, checkpoint=kept)
    stats.save(tmp_path / "stats.safetensors")
    for other in (again, ActivationStats.load(tmp_path / "stats.safetensors")):
        assert other.provenance == stats.provenance
        for site in stats.sites:
            assert all(np.array_equal(getattr(other, name)[site], getattr(stats, name)[site]) for name in FIELDS)
    line = message(lambda: screen(model, tokenizer, CORPUS, tokens="mean", shards=3, checkpoint=kept, resume=True))
    assert line == f"cannot resume from {kept}: active was 'product' and is 'gate' now"
    folds = screen_folds(model, tokenizer, CORPUS, 4, ScreenSites(at="layers", tokens="mean"))
    pooled = ActivationStats.pooled(folds)
    assert pooled.kind == "residual"
    for site in stats.sites:
        np.testing.assert_allclose(pooled.mean[site], stats.mean[site], rtol=1e-5, atol=1e-6)
    assert state(model) == before


def test_what_is_measured_is_what_the_program_adds() -> None:
    """Under the difference of means, the mean of the output goes up by that difference."""
    model, tokenizer, site = build("llama"), make_tokenizer(), layer_names("llama")[1]
    stats = screen(model, tokenizer, CORPUS, at="layers")
    program = affectron.residual(stats, site, "joy", 2.0)
    with intervene(model, program):
        steered = screen(model, tokenizer, CORPUS, at="layers")
    difference = 2 * (stats.label("joy")[site].mean - stats.rest("joy")[site].mean)
    change = steered.label("anger")[site].mean - stats.label("anger")[site].mean
    np.testing.assert_allclose(change, difference, atol=1e-5 * np.abs(difference).max())
    first, _, last = stats.sites
    assert np.array_equal(steered.mean[first], stats.mean[first])
    assert not np.allclose(steered.mean[last], stats.mean[last], atol=1e-3)


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any, ActivationStats, ActivationStats]:
    """Model, tokenizer, and the statistics of its neurons and of its layers."""
    model, tokenizer = build("llama"), make_tokenizer()
    return model, tokenizer, *(screen(model, tokenizer, CORPUS, at=at) for at in ("neurons", "layers"))


EMOTION = CORPUS.where(task="emotion")
REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "select": (lambda model, tokenizer, stats, neurons: affectron.select(stats), "hold the outputs of layers"),
    "score": (
        lambda model, tokenizer, stats, neurons: affectron.score(stats, "hedges_g", "emotion"),
        "hold the outputs of layers",
    ),
    "contrast": (
        lambda model, tokenizer, stats, neurons: interventions.contrast(neurons["joy"], stats),
        "contrast needs activations, and these statistics hold the outputs of layers",
    ),
    "induce": (
        lambda model, tokenizer, stats, neurons: interventions.induce(neurons["joy"], stats),
        "induce needs activations, and these",
    ),
    "cross_signal": (
        lambda model, tokenizer, stats, neurons: interventions.cross_signal(neurons["joy"], stats, "anger", 1.0),
        "cross-signal needs activations, and these",
    ),
    "mean": (
        lambda model, tokenizer, stats, neurons: interventions.mean(neurons["joy"], stats),
        "mean needs activations, and these",
    ),
    "attenuate": (
        lambda model, tokenizer, stats, neurons: interventions.attenuate(neurons["joy"], stats, 1.0),
        "attenuate needs activations, and these",
    ),
    "attribute": (
        lambda model, tokenizer, stats, neurons: affectron.attribute(
            model, tokenizer, EMOTION, baseline="mean", stats=stats, prompts={"emotion": "{text}"}
        ),
        "hold the outputs of layers",
    ),
    "validate": (
        lambda model, tokenizer, stats, neurons: affectron.validate(
            model, tokenizer, EMOTION, neurons, stats, prompts={"emotion": "{text}"},
            dev="train", test="dev", allow_overlap=True,
        ),
        "hold the outputs of layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_about_neurons_refuses_statistics_of_layers(name: str, both: Any) -> None:
    model, tokenizer, of_neurons, of_layers = both
    call, expected = REFUSED[name]
    neurons = affectron.select(of_neurons, "emotion", top=0.1)
    assert expected in message(lambda: call(model, tokenizer, of_layers, neurons))


def test_other_kinds_do_not_mix(both: Any) -> None:
    _, _, of_neurons, of_layers = both
    line = message(lambda: of_neurons.merge(of_layers))
    assert line == "cannot merge statistics: kind is None in one and 'residual' in the other"
    line = message(lambda: affectron.residual(of_neurons, layer_names("llama")[0], "joy"))
    assert line == "residual needs the outputs of layers, and these statistics hold activations"
    assert message(lambda: ScreenSites(at="heads")) == "at is 'heads', expected one of neurons, layers"
