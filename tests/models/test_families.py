"""The search of structures, the statistics and every kind of program on many families of models, each against hooks.

support/families.py describes the families from their own code; the package knows none of them by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import affectron
from affectron import interventions
from affectron.models import find_sites, intervene
from affectron.neurons import NeuronList
from affectron.screening.screen import screen
from tests.support.families import (
    FAMILIES,
    HIDDEN,
    LABELS,
    LAYERS,
    NEURONS,
    Family,
    available,
    corpus,
    inputs,
    watched,
)
from tests.support.raw_activations import PROVENANCE, site_stats
from tests.support.tiny import make_tokenizer

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> Family:
    if not available(request.param):
        pytest.skip(f"transformers {transformers.__version__} has no such {request.param}")
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family: Family) -> Any:
    return family.build()


def text_sites(family: Family) -> list[str]:
    """Those that read the text: of an encoder and a decoder, the encoder's."""
    return family.names[: family.layers] if family.head == "ForConditionalGeneration" else family.names


def test_what_is_found_is_what_the_code_of_the_model_says(family: Family, model: Any) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sites = find_sites(model)
    if family.stacked:  # some have dense and shared MLPs beside their experts
        sites = [site for site in sites if site.expert is not None]
    assert [site.name for site in sites] == family.names
    for site in sites:
        # transformers 4 has torch's SiLU where 5 has a SiLUActivation.
        assert site.act.removesuffix("Activation") == family.act.removesuffix("Activation")
        assert (site.layout, site.neurons, site.path) == (family.layout, family.neurons, family.path)
    assert len([one for one in told if "not fused" in str(one.message)]) == (family.path == "fallback")
    assert not [one for one in told if "neither measured" in str(one.message)]


@pytest.mark.parametrize("tokens", ["all", "mean"])
def test_statistics_agree_with_hooks(family: Family, model: Any, tokens: str) -> None:
    sentences, tokenizer = corpus(), make_tokenizer()
    labels = {tuple(tokenizer(one.text)["input_ids"]): one.labels for one in sentences}
    seen: dict[str, dict[str, list[tuple[Tensor, Tensor]]]] = {}
    batch: list[Tensor] = []

    def look(site: str, h: Tensor, gate: Tensor | None, routed: Tensor | None) -> Tensor:
        ids = batch[0]
        rows, active = h.reshape(-1, h.shape[-1]), ((h if gate is None else gate) > 0).reshape(-1, h.shape[-1])
        places = torch.arange(ids.numel()) if routed is None else routed
        for row, tokens_of_row in enumerate(ids.tolist()):
            real = [token for token in tokens_of_row if token]
            own = (places // ids.shape[1] == row) & (places % ids.shape[1] > 0) & (places % ids.shape[1] < len(real))
            if own.any():
                for label in labels[tuple(real)]:
                    seen.setdefault(site, {}).setdefault(label, []).append((rows[own], active[own]))
        return h

    def begin(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        batch[:] = [kwargs["input_ids"]]

    body = model.get_encoder() if family.head == "ForConditionalGeneration" else model.base_model
    handle = body.register_forward_pre_hook(begin, with_kwargs=True)
    with watched(model, family, look):
        for rows in affectron.corpus.batching.batches(sentences, tokenizer, batch_tokens=40):
            extra = {} if model.can_generate() else {"attention_mask": torch.from_numpy(rows.attention_mask)}
            if family.head == "ForConditionalGeneration":
                extra = {"attention_mask": torch.from_numpy(rows.attention_mask)}
            with torch.no_grad():
                body(input_ids=torch.from_numpy(rows.input_ids), **extra)
    handle.remove()
    stats = screen(model, tokenizer, sentences, tokens=tokens, batch_tokens=40)
    sites = [site for site in stats.sites if not family.stacked or site in family.names]
    assert sites == text_sites(family)
    for site in sites:
        for label in LABELS:
            parts = seen.get(site, {}).get(label, [])
            found = stats.label(label)[site]
            if not parts:
                assert found.count == 0
                continue
            if tokens == "mean":
                h = np.stack([part.double().mean(0).numpy() for part, _ in parts])
                assert found.count == len(h)
                np.testing.assert_allclose(found.mean, h.mean(0), rtol=1e-4, atol=1e-5)
                continue
            h = torch.cat([part for part, _ in parts]).numpy()
            active = torch.cat([on for _, on in parts]).numpy()
            expected = site_stats(h, active)
            assert found.count == expected.count
            # A gate within rounding of zero may fall on either side.
            assert np.abs(found.active - expected.active).sum() <= 1e-3 * active.size + 1
            np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(found.min, expected.min, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.max, expected.max, rtol=1e-4, atol=1e-5)


Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
#: Each kind by its definition, of h, the label's mean and peak, and the mean of all labels.
KINDS: dict[str, Form] = {
    "zero": lambda h, mean, peak, task: torch.zeros_like(h),
    "mean": lambda h, mean, peak, task: task.expand_as(h),
    "static": lambda h, mean, peak, task: h * (1 - 0.8 * mean.abs() / peak),
    "dynamic": lambda h, mean, peak, task: h * (1 - 0.8 * (h.abs() / peak).clamp(max=1)),
    "induce": lambda h, mean, peak, task: h + 3 * mean,
    "cross": lambda h, mean, peak, task: h - 2 * mean,
    "amplify": lambda h, mean, peak, task: 4 * h,
}


def test_every_kind_of_program_agrees_with_its_definition(family: Family, model: Any) -> None:
    """Two requests of three have the program, the last has none."""
    rng = np.random.default_rng(0)
    values = {site: rng.standard_normal((30, family.neurons)).astype(np.float32) for site in family.names}
    arrays = {}
    for site, h in values.items():
        taken = {key: np.asarray(value)[None] for key, value in vars(site_stats(h)).items()}
        arrays[site] = {**taken, "count": np.array([len(h)])}
    stats = affectron.ActivationStats({"label": ("anger",)}, [("anger",)], arrays, PROVENANCE)
    index = {site: sorted(rng.choice(family.neurons, 9, replace=False).tolist()) for site in family.names[::2]}
    neurons = NeuronList("anger", "label", [(site, i, 0.0) for site, each in index.items() for i in each])
    programs = {
        "zero": interventions.zero(neurons),
        "mean": interventions.mean(neurons, stats),
        "static": interventions.attenuate(neurons, stats, 0.8, dynamic=False),
        "dynamic": interventions.attenuate(neurons, stats, 0.8),
        "induce": interventions.induce(neurons, stats, 3.0),
        "cross": interventions.cross_signal(neurons, stats, "anger", -2.0),
        "amplify": interventions.amplify(neurons, 4.0),
    }
    given = inputs(family)
    length = given["input_ids"].shape[1]
    with torch.no_grad():
        plain = model(**given).logits
        for kind, form in KINDS.items():

            def change(site: str, h: Tensor, gate: Any, routed: Tensor | None, form: Form = form) -> Tensor:
                if site not in index:
                    return h
                raw = torch.from_numpy(values[site][:, index[site]]).double()
                out = h.clone()
                steered = form(h[..., index[site]].double(), raw.mean(0), raw.abs().amax(0), raw.mean(0))
                rows = torch.arange(h.numel() // h.shape[-1]) if routed is None else routed
                mine = (rows // length < 2).reshape(*h.shape[:-1], 1)
                out[..., index[site]] = torch.where(mine, steered.to(h.dtype), h[..., index[site]])
                return out

            with watched(model, family, change):
                wanted = model(**given).logits
            with intervene(model, [programs[kind], programs[kind], None]):
                steered = model(**given).logits
            torch.testing.assert_close(steered, wanted, rtol=2e-4, atol=2e-4)
            assert (steered[:2] - plain[:2]).abs().max() > 1e-3
            torch.testing.assert_close(steered[2], plain[2], rtol=2e-4, atol=2e-4)
        assert torch.equal(model(**given).logits, plain)


@torch.no_grad()
def test_schedules_hold_at_their_positions(family: Family, model: Any) -> None:
    """Of an expert's rows those of the right tokens, in one request of three."""
    if family.head != "ForCausalLM":
        pytest.skip("a schedule goes by the text that is written on")
    given = inputs(family)
    length = given["input_ids"].shape[1]
    neurons = range(0, family.neurons, 2)

    def change(site: str, h: Tensor, gate: Any, routed: Tensor | None) -> Tensor:
        rows = torch.arange(h.numel() // h.shape[-1]) if routed is None else routed
        mine = ((rows // length == 1) & (rows % length >= 4)).reshape(*h.shape[:-1], 1)
        out = h.clone()
        out[..., neurons] = torch.where(mine, 3 * h[..., neurons], h[..., neurons])
        return out

    with watched(model, family, change):
        wanted = model(**given).logits
    program = interventions.amplify([(site, i) for site in family.names for i in neurons], 3.0)
    plain = model(**given).logits
    with intervene(model, [None, interventions.schedule(program, prompt=False), None]) as steering:
        steering.prompt_length = 4
        found = model(**given).logits
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(found[1, :4], plain[1, :4], rtol=2e-4, atol=2e-4)
    assert (found[1, 4:] - plain[1, 4:]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.usefixtures("one_thread")
def test_a_vision_model_is_steered_too() -> None:
    """Its neurons have no text to be measured on, but a program is a program."""
    config = transformers.ViTConfig(
        hidden_size=HIDDEN,
        intermediate_size=NEURONS,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        image_size=8,
        patch_size=4,
    )
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    sites = find_sites(model)
    assert [(site.layout, site.act, site.path, site.neurons) for site in sites] == [("plain", "gelu", "fused", 43)] * 2
    pixels = torch.randn(2, 3, 8, 8)
    last = sites[0].module.get_submodule(sites[0].structure.last)
    plain = model(pixels).logits

    def double(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = args[0].clone()
        h[..., 7] *= 50
        return (h,)

    handle = last.register_forward_pre_hook(double)
    wanted = model(pixels).logits
    handle.remove()
    with intervene(model, interventions.amplify([(sites[0].name, 7)], 50.0)):
        torch.testing.assert_close(model(pixels).logits, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(wanted, plain)
