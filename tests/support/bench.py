"""Model with a program of every kind and its definition, and helpers to compare them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from affectron import interventions
from affectron.interventions import Program
from affectron.neurons import NeuronList
from tests.support.raw_activations import Raw, raw
from tests.support.tiny import LAYERS, NEURONS, build, site_names

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
# (site, h) -> changed h.
Change = Callable[[str, Tensor], Tensor]


@dataclass
class Bench:
    """Model, raw activations of its neurons, and for every kind of program the program and its definition."""

    family: str
    model: nn.Module
    tokens: Raw
    neurons: NeuronList
    kinds: dict[str, tuple[Program, Change]]


def definition(tokens: Raw, neurons: NeuronList, kind: str) -> Change:
    """Make the change that a kind of program is defined by, from the tokens themselves, for ``neurons`` alone."""

    def change(site: str, h: Tensor) -> Tensor:
        index = [i for name, i, _ in neurons if name == site]
        if not index:
            return h
        anger = torch.from_numpy(tokens.values[site][tokens.target("anger")][:, index]).double()
        metaphor = torch.from_numpy(tokens.values[site][tokens.target("metaphor")][:, index]).double()
        task = torch.from_numpy(tokens.values[site][tokens.having(tokens.tasks["emotion"])][:, index]).double()
        peak = anger.abs().amax(0)
        x = h[..., index].double()
        out = {
            "zero": lambda: torch.zeros_like(x),
            "mean": lambda: task.mean(0).expand_as(x),
            "static": lambda: x * (1 - 0.8 * anger.mean(0).abs() / peak),
            "dynamic": lambda: x * (1 - 0.8 * (x.abs() / peak).clamp(max=1)),
            "induce": lambda: x + 3 * anger.mean(0),
            "cross": lambda: x - 2 * metaphor.mean(0),
            "amplify": lambda: 4 * x,
            "composed": lambda: 2 * (x * (1 - 0.8 * (x.abs() / peak).clamp(max=1))) + 3 * anger.mean(0),
        }[kind]()
        changed = h.clone()
        changed[..., index] = out.to(h.dtype)
        return changed

    return change


KINDS = ("zero", "mean", "static", "dynamic", "induce", "cross", "amplify", "composed")


def make_bench(family: str, dtype: torch.dtype = torch.float32) -> Bench:
    names = site_names(family)
    tokens = raw(seed=7, widths=[NEURONS] * LAYERS)
    tokens.values = dict(zip(names, tokens.values.values(), strict=True))
    tokens.active = dict(zip(names, tokens.active.values(), strict=True))
    stats = tokens.stats()
    # The program leaves the middle site untouched.
    rng = np.random.default_rng(1)
    items = [
        (site, int(index), 0.0)
        for site in (names[0], names[2])
        for index in rng.choice(NEURONS, size=15, replace=False)
    ]
    neurons = NeuronList("anger", "emotion", items)
    dynamic = interventions.attenuate(neurons, stats, 0.8)
    induce = interventions.induce(neurons, stats, 3.0)
    programs = {
        "zero": interventions.zero(neurons),
        "mean": interventions.mean(neurons, stats),
        "static": interventions.attenuate(neurons, stats, 0.8, dynamic=False),
        "dynamic": dynamic,
        "induce": induce,
        "cross": interventions.cross_signal(neurons, stats, "metaphor", -2.0),
        "amplify": interventions.amplify(neurons, 4.0),
        "composed": interventions.compose(dynamic, interventions.amplify(neurons, 2.0), induce),
    }
    kinds = {kind: (programs[kind], definition(tokens, neurons, kind)) for kind in KINDS}
    return Bench(family, build(family).to(dtype), tokens, neurons, kinds)


def by_request(changes: list[Change | None], batch_rows: int) -> Change:
    """Apply each request's change to its rows. Flattened activations are given their batch dimension back first."""

    def change(site: str, h: Tensor) -> Tensor:
        rows = h.view(batch_rows, -1, h.shape[-1])
        parts = [
            part if change is None else change(site, part)
            for change, part in zip(changes, rows.split(batch_rows // len(changes)), strict=True)
        ]
        return torch.cat(parts).view(h.shape)

    return change


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).logits


def generate(model: nn.Module, inputs: dict[str, Tensor], **options) -> Tensor:
    options = {"max_new_tokens": 8, "do_sample": False, **options}
    return model.generate(**inputs, pad_token_id=0, eos_token_id=None, **options)
