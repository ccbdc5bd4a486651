"""Screening against independent hooks that copy every activation, and against sentences one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from affectron.corpus import Corpus
from affectron.errors import InputError, ScreeningInterrupted
from affectron.models import load_model
from affectron.options import ScreenSites
from affectron.screening.screen import screen, screen_folds
from affectron.stats import FIELDS, ActivationStats, SiteStats
from tests.support.corpora import CORPUS
from tests.support.errors import message
from tests.support.tiny import (
    HIDDEN,
    NEURONS,
    build,
    last_inputs,
    layer_names,
    layer_outputs,
    make_tokenizer,
    site_names,
    state,
)

# Family -> linear layer whose output is the input of the activation function (its first half if it has gate and up).
GATES = {
    "llama": "gate_proj",
    "gemma": "gate_proj",
    "phi3": "gate_up_proj",
    "gpt2": "c_fc",
    "opt": "fc1",
    "neox": "dense_h_to_4h",
}


Watched = list[tuple[tuple[str, ...], dict[str, tuple[np.ndarray, np.ndarray]]]]


@contextmanager
def watch(model: Any, family: str, tokenizer: Any, layers: bool = False) -> Iterator[Watched]:
    """Copy each sentence's labels and, by site, h and act(g) > 0 at its words, [words, neurons], from hooks; with
    ``layers`` the outputs of the layers and h > 0.

    Sentences are recognised by their tokens, independently of the batches. Batches of other tokens, which probe the
    model before the measurement, are skipped.
    """
    labels: dict[tuple[int, ...], list[tuple[str, ...]]] = {}
    for sentence in CORPUS:
        labels.setdefault(tuple(tokenizer(sentence.text)["input_ids"]), []).append(sentence.labels)
    seen: Watched = []
    batch: list[torch.Tensor] = []
    h: dict[str, torch.Tensor] = {}
    open_gate: dict[str, torch.Tensor] = {}

    def begin(_module, _args, kwargs) -> None:
        batch[:] = [kwargs["input_ids"]]

    def look(name: str, value: torch.Tensor) -> torch.Tensor:
        h[name] = value.double().view(*batch[0].shape, -1)
        if layers:
            open_gate[name] = h[name] > 0
        return value

    def end(_module, _args, _out) -> None:
        for row, ids in enumerate(batch[0].tolist()):
            length = sum(token != 0 for token in ids)  # 0 pads
            if tuple(ids[:length]) not in labels:
                return
            by_site = {
                site: (h[site][row, 1:length].numpy(), open_gate[site][row, 1:length].numpy())  # without <s>
                for site in h
            }
            seen.append((labels[tuple(ids[:length])].pop(), by_site))

    handles = [
        model.base_model.register_forward_pre_hook(begin, with_kwargs=True),
        model.base_model.register_forward_hook(end),
    ]
    for name in site_names(family):

        def hook(_module, _args, out: torch.Tensor, name: str = name) -> None:
            open_gate[name] = out.view(*batch[0].shape, -1)[..., :NEURONS] > 0

        handles.append(getattr(model.get_submodule(name), GATES[family]).register_forward_hook(hook))
    with layer_outputs(model, layer_names(family), look) if layers else last_inputs(model, family, look):
        yield seen
    for handle in handles:
        handle.remove()
    assert not any(labels.values())  # every sentence was read, once


@pytest.mark.parametrize("family", GATES)
@pytest.mark.parametrize(
    ("tokens", "active"), [("all", "gate"), ("all", "product"), ("last", "gate"), ("mean", "product")]
)
@pytest.mark.parametrize("at", ["neurons", "layers"])
def test_statistics_agree_with_hooks(family: str, tokens: str, active: str, at: str) -> None:
    """Sentences of one and of two labels, padded; of a layer's output any rule is that h is above 0."""
    model, tokenizer = build(family), make_tokenizer()
    with watch(model, family, tokenizer, at == "layers") as seen:
        stats = screen(model, tokenizer, CORPUS, tokens=tokens, active=active, batch_tokens=64, at=at)
    assert stats.sites == tuple(site_names(family) if at == "neurons" else layer_names(family))
    assert stats.provenance["padding"] > 0
    if at == "layers":
        assert (stats.kind, stats.provenance["active"]) == ("residual", "product")
        active = "product"
    for label in CORPUS.labels:
        for site in stats.sites:
            rows = []
            for labels, by_site in seen:
                if label in labels:
                    h, open_gate = by_site[site]
                    if tokens == "last":
                        h, open_gate = h[-1:], open_gate[-1:]
                    elif tokens == "mean":
                        h = h.mean(0, keepdims=True)
                    rows.append((h, open_gate if active == "gate" else h > 0))
            h, is_active = (np.concatenate(part) for part in zip(*rows, strict=True))
            # The mean of a sentence is a float32 sum with rounding; the activation of a token is an exact float32.
            largest = max(np.abs(by_site[site][0]).max() for _, by_site in seen)
            check(stats.label(label)[site], h, is_active, 4e-7 * largest if tokens == "mean" else 0.0)


def check(stats: SiteStats, h: np.ndarray, active: np.ndarray, rounding: float) -> None:
    """Check that counts are exact, mean and standard deviation within 1e-6, and minimum and maximum exact in float32.

    ``rounding`` is that of the observations themselves.
    """
    assert stats.count == len(h)
    assert np.array_equal(stats.active, active.sum(0))
    assert not stats.nonfinite.any()
    np.testing.assert_allclose(stats.mean, h.mean(0), rtol=1e-6, atol=1e-6 * h.std(0).max() + rounding)
    np.testing.assert_allclose(np.sqrt(stats.var), h.std(0), rtol=1e-6, atol=1e-12 + rounding)
    np.testing.assert_allclose(stats.min, h.min(0), rtol=2e-7, atol=rounding)
    np.testing.assert_allclose(stats.max, h.max(0), rtol=2e-7, atol=rounding)


@torch.no_grad()
@pytest.mark.parametrize("family", GATES)
def test_a_batch_computes_what_single_sentences_do(family: str) -> None:
    """Padding and the missing attention mask change no activation beyond the rounding of matrix products."""
    model, tokenizer = build(family), make_tokenizer()
    with watch(model, family, tokenizer) as batched:
        screen(model, tokenizer, CORPUS, batch_tokens=64)
    with watch(model, family, tokenizer) as single:
        for sentence in CORPUS:
            model.base_model(input_ids=torch.tensor([tokenizer(sentence.text)["input_ids"]]))

    def keyed(seen: Watched, site: str) -> list[np.ndarray]:
        return sorted((by_site[site][0] for _, by_site in seen), key=lambda h: (len(h), round(float(h.sum()), 3)))

    for site in site_names(family):
        for a, b in zip(keyed(batched, site), keyed(single, site), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_a_sentence_mean_is_active_where_the_mean_of_the_gate_is() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    stats = screen(model, tokenizer, CORPUS, tokens="mean", active="gate", batch_tokens=64)
    gates: list[torch.Tensor] = []
    mlp = model.model.layers[1].mlp
    handle = mlp.gate_proj.register_forward_hook(
        lambda _m, _a, out: gates.append(torch.nn.functional.silu(out.double()))
    )
    with torch.no_grad():
        for sentence in CORPUS:
            if "joy" in sentence.labels:
                model(input_ids=torch.tensor([tokenizer(sentence.text)["input_ids"]]))
    handle.remove()
    means = torch.stack([gate[0, 1:].mean(0) for gate in gates])
    assert np.array_equal(stats.label("joy")["model.layers.1.mlp"].active, (means > 0).sum(0).numpy())


def test_rest_and_total_count_each_token_once() -> None:
    stats = screen(build("llama"), make_tokenizer(), CORPUS)
    words = dict.fromkeys(CORPUS.segments, 0)
    for sentence in CORPUS:
        words[sentence.labels] += len(sentence.text.split())
    site = stats.sites[0]
    assert stats.task_total("emotion")[site].count == sum(n for labels, n in words.items() if labels != ("irony",))
    assert stats.rest("anger")[site].count == sum(
        n for labels, n in words.items() if "anger" not in labels and labels != ("irony",)
    )


def test_templates_and_special_tokens_count_only_on_request() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    words = sum(len(sentence.text.split()) for sentence in CORPUS if "joy" in sentence.labels)
    sentences = sum("joy" in sentence.labels for sentence in CORPUS)

    def count(**options) -> int:
        return screen(model, tokenizer, CORPUS, **options).label("joy")["model.layers.0.mlp"].count

    assert count() == words
    assert count(count_special=True) == words + sentences
    assert count(template="{bos} w1 w2 {text} w3") == words
    assert count(template="{bos} w1 w2 {text} w3", count_special=True) == words + sentences


def test_batching_changes_no_count_and_moments_only_by_rounding() -> None:
    model, tokenizer = build("phi3"), make_tokenizer()
    small, large = (screen(model, tokenizer, CORPUS, batch_tokens=n) for n in (1, 100_000))
    for label in CORPUS.labels:
        for site in small.sites:
            a, b = small.label(label)[site], large.label(label)[site]
            assert a.count == b.count
            assert np.array_equal(a.active, b.active)
            np.testing.assert_allclose(a.mean, b.mean, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(a.var, b.var, rtol=1e-5, atol=1e-7)


def test_the_same_bits_come_out_again() -> None:
    model, tokenizer = build("gpt2"), make_tokenizer()
    first, again = (screen(model, tokenizer, CORPUS, batch_tokens=64) for _ in range(2))
    for site in first.sites:
        for label in CORPUS.labels:
            for name in ("active", "mean", "m2", "min", "max"):
                a, b = (getattr(stats.label(label)[site], name) for stats in (first, again))
                assert np.array_equal(a, b), name


def test_splits_merge_to_the_whole() -> None:
    model, tokenizer = build("neox"), make_tokenizer()
    train, dev = (screen(model, tokenizer, CORPUS.where(split=split)) for split in ("train", "dev"))
    assert train.provenance["split"] == "train"
    merged, whole = dev.merge(train), screen(model, tokenizer, CORPUS)
    for label in CORPUS.labels:
        for site in whole.sites:
            a, b = merged.label(label)[site], whole.label(label)[site]
            assert a.count == b.count
            assert np.array_equal(a.active, b.active)
            np.testing.assert_allclose(a.mean, b.mean, rtol=1e-5, atol=1e-7)


def test_provenance_says_what_was_read() -> None:
    tokenizer = make_tokenizer()
    stats = screen(build("llama"), tokenizer, CORPUS, batch_tokens=64)
    provenance = stats.provenance
    assert provenance["sentences"] == len(CORPUS) == 40
    assert provenance["tokens_read"] == sum(len(tokenizer(sentence.text)["input_ids"]) for sentence in CORPUS)
    assert 0 < provenance["padding"] < 0.5
    assert provenance["truncated"] == 0
    assert provenance["corpus"] == [CORPUS.hash]
    assert (provenance["tokens"], provenance["active"], provenance["dtype"]) == ("all", "gate", "float32")


def test_sentences_longer_than_the_model_are_cut_and_counted() -> None:
    corpus = Corpus.from_records([{"text": "w1 " * 100, "label": "a"}, {"text": "w2", "label": "b"}])
    stats = screen(build("gpt2"), make_tokenizer(), corpus)  # 64 positions
    assert stats.provenance["truncated"] == 1
    assert stats.label("a")["transformer.h.0.mlp"].count == 63  # <s> takes one


def test_nan_in_a_model_is_counted_and_spoils_no_other_neuron() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    clean = screen(model, tokenizer, CORPUS)
    last = model.model.layers[-1].mlp
    with torch.no_grad():
        last.up_proj.weight[5] = torch.full((HIDDEN,), float("nan"))
    share = f"({1 / (3 * NEURONS):.2g})"
    with pytest.warns(
        UserWarning, match=f"{re.escape(share)} are NaN or .*, at 1 of 3 sites, the first model.layers.2"
    ):
        stats = screen(model, tokenizer, CORPUS)
    assert stats.nonfinite_share == pytest.approx(1 / (3 * NEURONS), rel=1e-12)
    for label in CORPUS.labels:
        after, before = (s.label(label)["model.layers.2.mlp"] for s in (stats, clean))
        assert after.nonfinite[5] == after.count
        assert after.nonfinite.sum() == after.count
        others = np.arange(NEURONS) != 5
        assert np.array_equal(after.mean[others], before.mean[others])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tokens", ["all", "last", "mean"])
def test_a_site_without_a_finite_activation_is_refused_by_name(value: float, tokens: str, tmp_path: Path) -> None:
    """The next layer, which reads its output, is not finite either."""
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(value)
    line = message(lambda: screen(model, make_tokenizer(), CORPUS, tokens=tokens))
    assert line.startswith("model.layers.1.mlp: all ")
    assert "activations are NaN or infinite, as at 2 of 3 sites" in line
    for resume in (False, True):  # the second run reads kept statistics, which are refused too
        again = message(
            lambda resume=resume: screen(
                model, make_tokenizer(), CORPUS, tokens=tokens, checkpoint=tmp_path / "shards", resume=resume
            )
        )
        assert again == line
    assert message(lambda: screen_folds(model, make_tokenizer(), CORPUS, 2, ScreenSites(tokens=tokens))) == line


def test_numbers_that_are_not_finite_are_said_once_of_all_folds() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[5] = float("nan")
    with pytest.warns(UserWarning, match="NaN or infinite") as warned:
        folds = screen_folds(model, make_tokenizer(), CORPUS, 3)
    assert len(warned) == 1
    bad = sum(int(fold.nonfinite[site].sum()) for fold in folds for site in fold.sites)
    assert str(warned[0].message).startswith(f"{bad:,} of ")


def test_statistics_merged_with_others_that_are_not_finite_count_both() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    halves = CORPUS.folds(2)
    clean = screen(model, tokenizer, halves[0])
    arrays = {site: {name: getattr(clean, name)[site] for name in FIELDS} for site in clean.sites}
    site = clean.sites[1]
    arrays[site] = {**arrays[site], "nonfinite": np.broadcast_to(clean.count[site][:, None], clean.mean[site].shape)}
    merged = clean.merge(ActivationStats(clean.tasks, clean.segments, arrays, clean.provenance))
    assert np.array_equal(merged.nonfinite[site], arrays[site]["nonfinite"])
    assert np.array_equal(merged.mean[site], clean.mean[site], equal_nan=True)
    assert merged.nonfinite_share == pytest.approx(1 / 6)


def test_the_model_is_left_as_it_was_and_dropout_is_off_meanwhile() -> None:
    tokenizer = make_tokenizer()
    model = build("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    quiet = screen(model, tokenizer, CORPUS)
    model.train()
    model.transformer.h[1].eval()
    before, modes = state(model), [module.training for module in model.modules()]
    stats = screen(model, tokenizer, CORPUS)
    assert state(model) == before
    assert [module.training for module in model.modules()] == modes
    site = stats.sites[2]
    assert np.array_equal(stats.label("joy")[site].mean, quiet.label("joy")[site].mean)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_ctrl_c_says_how_far_it_got_and_restores_the_model() -> None:
    model = build("llama")
    calls = []

    def interrupt(_module: object, args: tuple[torch.Tensor]) -> None:
        calls.extend([None] * (len(args[0]) == 1))  # a batch of several sentences is a probe
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = model.model.layers[1].register_forward_pre_hook(interrupt)
    before = state(model)
    with pytest.raises(ScreeningInterrupted, match=r"interrupted after 3 of 40 sentences \(\d+ tokens\)") as raised:
        screen(model, make_tokenizer(), CORPUS, batch_tokens=1)  # a sentence a batch
    assert "\n" not in str(raised.value)
    assert state(model) == before
    handle.remove()


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"tokens": "first"}, "tokens is 'first', expected one of all, last, mean"),
        ({"active": "up"}, "active is 'up', expected one of gate, product"),
        ({"batch_tokens": 0}, "batch_tokens is 0, expected an integer of at least 1"),
        ({"template": "Say: "}, r"prompt without \{text\}: template is 'Say: '"),
    ],
)
def test_bad_options_are_named(options: dict, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        screen(build("llama"), make_tokenizer(), CORPUS, **options)


def test_a_model_without_a_known_mlp_is_refused() -> None:
    with pytest.raises(InputError, match="Linear has no MLP that can be found"):
        screen(torch.nn.Linear(3, 3), make_tokenizer(), CORPUS)


def test_a_real_model_and_corpus(shared: Path) -> None:
    model, tokenizer = load_model(shared / "models" / "stories260K", dtype="float32")
    corpus = Corpus.from_file(shared / "data" / "core" / "data.jsonl", split="dev", task="rhetoric")
    stats = screen(model, tokenizer, corpus)
    tokens = dict.fromkeys(corpus.labels, 0)
    for sentence in corpus:
        mask = tokenizer(sentence.text, return_special_tokens_mask=True)["special_tokens_mask"]
        for label in sentence.labels:
            tokens[label] += len(mask) - sum(mask)
    assert {label: stats.label(label)[stats.sites[0]].count for label in corpus.labels} == tokens
    assert len(stats.sites) == model.config.num_hidden_layers
