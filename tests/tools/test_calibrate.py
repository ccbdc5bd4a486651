"""The blind exam: its models are what the page says, and a small form of it keeps its bounds."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tools.calibrate import SEED, examine
from tools.calibration_page import CAUSAL, KINDS, PAGE, SHUFFLED, Outcome, alarms, page, taken, total
from tools.planted import CONSTRUCTIONS, LABELS, PROMPTS, TASK, Planted, plant
from torch import Tensor

from affectron.evaluation.verdicts import NO_EFFECT, SPECIFIC
from affectron.experiments.results import MASKS
from tests.support.tiny import last_inputs

pytestmark = pytest.mark.usefixtures("one_thread")


class Read:
    """Inputs of a model's sentences of one length, their labels, and the logits under a change of some neurons."""

    def __init__(self, planted: Planted) -> None:
        assert PROMPTS == {TASK: "{bos}{text}"}
        sentences = [sentence for sentence in planted.corpus if len(sentence.text.split()) == 9]
        self.ids = torch.tensor([planted.tokenizer(sentence.text)["input_ids"] for sentence in sentences])
        self.label = np.array([sentence.labels[0] for sentence in sentences])
        self.model = planted.model
        self.h: dict[str, Tensor] = {}

    def logits(self, off: object = ()) -> Tensor:
        """[n, vocabulary] after the last word, with the neurons (site, index, score) set to zero."""

        def change(site: str, h: Tensor) -> Tensor:
            self.h[site] = h
            index = [place[1] for place in off if place[0] == site]
            return h.index_fill(-1, torch.tensor(index, dtype=torch.long), 0.0) if index else h

        with torch.no_grad(), last_inputs(self.model, "llama", change):
            return self.model(input_ids=self.ids).logits[:, -1]


@pytest.fixture(scope="module", params=CONSTRUCTIONS)
def planted(request: pytest.FixtureRequest) -> Planted:
    return plant(CONSTRUCTIONS[request.param], np.random.default_rng(3))


def test_causal_neurons_carry_the_answer_and_decoys_nothing(planted: Planted) -> None:
    read = Read(planted)
    before = read.logits()
    for label in LABELS:
        assert len(planted.causal[label]) == len(planted.decoys[label])
        assert torch.equal(read.logits(planted.decoys[label]), before)
        change = read.logits(planted.causal[label]) - before
        answer = planted.tokenizer.convert_tokens_to_ids(label)
        own = read.label == label
        others = [planted.tokenizer.convert_tokens_to_ids(other) for other in LABELS if other != label]
        assert change[own, answer].mean() < -1
        assert change[own][:, others].abs().mean() < 0.1
        # Redundant: no neuron does half of it alone.
        for neuron in planted.causal[label]:
            assert (read.logits([neuron]) - before)[own, answer].mean() > 0.5 * change[own, answer].mean()


def test_the_law_of_activity(planted: Planted, request: pytest.FixtureRequest) -> None:
    read = Read(planted)
    read.logits()
    construction = request.node.callspec.params["planted"]
    for k, label in enumerate(LABELS):
        first = int(planted.tokenizer.convert_tokens_to_ids("w4")) + 3 * k
        trigger = (read.ids >= first) & (read.ids < first + 3)
        correlation = []
        for neurons in (planted.causal[label], planted.decoys[label]):
            h = torch.stack([read.h[site][..., index] for site, index, _ in neurons])
            at, elsewhere = h[:, trigger], h[:, ~trigger]
            assert at.mean() > 1.4  # silu(2) = 1.76, less three deviations of the mean of 12 words and neurons, 0.12
            if construction == "rare":
                assert elsewhere.abs().max() < 0.12  # silu(-5 + 4·0.2) · (1 + 4·0.2): 4 deviations of gate and up
            else:
                assert (elsewhere > 0).float().mean() > 0.98
                assert elsewhere.mean() < 0.5 * at.mean()
            own = read.label == label
            correlation.append(np.mean([np.corrcoef(of_one.mean(1), own)[0, 1] for of_one in h]))
        assert min(correlation) > 0.4
        assert abs(correlation[0] - correlation[1]) < 0.1


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = [examine(construction, number) for construction in CONSTRUCTIONS for number in range(2)]
    torch.set_num_threads(threads)
    return found


def test_attributions_tell_causal_neurons_from_decoys_and_activity_does_not(outcomes: list[Outcome]) -> None:
    by_attribution = [name for name in outcomes[0].found if "attribution" in name]
    assert len(by_attribution) == 4
    compared = 0
    for construction in CONSTRUCTIONS:
        of_one = [outcome for outcome in outcomes if outcome.construction == construction]
        planted = sum(outcome.causal for outcome in of_one)
        for name in of_one[0].found:
            found = taken(of_one, name)
            if name in by_attribution:
                assert found.decoys == 0
                assert found.causal >= 0.8 * planted
            elif found.causal + found.decoys >= 0.5 * planted:
                compared += 1
                assert 0.3 < found.decoys / (found.causal + found.decoys) < 0.7
    assert compared >= 4
    assert sum(outcome.claimed["fdr=0.05 of activations"] > 0 for outcome in outcomes) <= 1


def test_verdicts(outcomes: list[Outcome]) -> None:
    counts = total(outcomes)
    labels = len(outcomes) * len(LABELS)
    for mask in MASKS:
        assert sum(counts[kind, mask, SPECIFIC] for kind in KINDS if kind != CAUSAL) <= 0.05 * labels
        assert all(alarms(outcomes, kind, mask) <= 1 for kind in SHUFFLED)
        assert counts[CAUSAL, mask, NO_EFFECT] == 0
    assert counts[CAUSAL, "zero", SPECIFIC] >= 0.7 * labels


def test_the_page_is_what_the_command_writes(outcomes: list[Outcome]) -> None:
    def outline(text: str) -> list[str]:
        """The page up to its reading, without numbers; of a row of a table its first two cells."""
        lines = re.sub(r"\d[\d.]*", "#", text.partition("## Reading")[0]).splitlines()
        return ["|".join(line.split("|")[:3]) if line.startswith("|") else line for line in lines]

    assert outline(PAGE.read_text(encoding="utf-8")) == outline(page(outcomes, SEED))
