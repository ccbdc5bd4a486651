"""The blind exam of selectors and verdicts, on models whose causal neurons are known: ``python -m tools.calibrate``.

Each selector and each verdict sees a model and its sentences alone, and is scored by who is causal. The results stand
in docs/calibration.md.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from affectron import attribute, screen, select, validate
from affectron.corpus import Corpus
from affectron.experiments.results import TaskResult
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import METHODS
from affectron.selection import select_by
from affectron.stats import ACTIVATION, ATTRIBUTION, ActivationStats
from tools.calibration_page import (
    ANOTHER,
    CAUSAL,
    DECOYS,
    PAGE,
    RANDOM,
    RATE,
    SHUFFLED,
    Found,
    Outcome,
    Verdicts,
    page,
)
from tools.planted import CONSTRUCTIONS, LABELS, PROMPTS, TASK, Planted, plant

#: Models of each construction, and the seed of all draws.
MODELS, SEED = 20, 0


@dataclass(frozen=True)
class Measured:
    """Input of the selectors: statistics of the train split, over tokens and over sentences, and attributions."""

    tokens: ActivationStats
    sentences: ActivationStats
    attributions: ActivationStats


def examine(construction: str, number: int) -> Outcome:
    """Draw a model of a construction and score every selector and verdict on it."""
    rng = np.random.default_rng([SEED, list(CONSTRUCTIONS).index(construction), number])
    planted = plant(CONSTRUCTIONS[construction], rng)
    shuffled = _shuffled(planted.corpus, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of neurons that have no score
        measured, of_shuffled = _measure(planted, planted.corpus), _measure(planted, shuffled)
        found = {name: _found(planted, neurons) for name, neurons in _selections(planted, measured).items()}
        claimed = {name: sum(map(len, neurons.values())) for name, neurons in _discoveries(of_shuffled).items()}
        kinds = _kinds(planted, rng)
        tested = _validate(planted, planted.corpus, measured.tokens, kinds, number)
        under_shuffled = dict(zip(SHUFFLED, (kinds[RANDOM], kinds[CAUSAL]), strict=True))
        tested |= _validate(planted, shuffled, of_shuffled.tokens, under_shuffled, number)
    return Outcome(
        construction,
        accuracy=tested[CAUSAL].baseline["test"].accuracy,
        causal=sum(map(len, planted.causal.values())),
        found=found,
        claimed=claimed,
        verdicts=_count(tested),
    )


def _measure(planted: Planted, corpus: Corpus) -> Measured:
    train = corpus.where(split="train")
    return Measured(
        screen(planted.model, planted.tokenizer, train),
        screen(planted.model, planted.tokenizer, train, tokens="mean"),
        attribute(planted.model, planted.tokenizer, train, prompts=PROMPTS),
    )


def _selections(planted: Planted, measured: Measured) -> dict[str, NeuronSet]:
    """The neurons of every selector: as many for each label as are causal, or those at a false discovery rate."""
    count = len(planted.causal[LABELS[0]])
    stats = {ACTIVATION: measured.tokens, ATTRIBUTION: measured.attributions}
    chosen = {f"default of {kind}s": select(of_kind, TASK, count=count) for kind, of_kind in stats.items()}
    chosen |= {name: select_by(stats, name, TASK, count=count) for name in METHODS}
    return chosen | _discoveries(measured)


def _discoveries(measured: Measured) -> dict[str, NeuronSet]:
    """The neurons that are more active under the label, or do more for it, at a false discovery rate over sentences."""
    observed = {ACTIVATION: measured.sentences, ATTRIBUTION: measured.attributions}
    return {
        f"fdr={RATE} of {kind}s": select(stats, TASK, top=1.0, sign="positive", fdr=RATE)
        for kind, stats in observed.items()
    }


def _found(planted: Planted, neurons: NeuronSet) -> Found:
    """Score a selection, over all labels."""

    def common(others: Mapping[str, NeuronList]) -> int:
        places = {label: {neuron[:2] for neuron in others[label]} for label in LABELS}
        return sum(neuron[:2] in places[label] for label in LABELS for neuron in neurons[label])

    return Found(sum(map(len, neurons.values())), common(planted.causal), common(planted.decoys))


def _kinds(planted: Planted, rng: np.random.Generator) -> dict[str, Mapping[str, NeuronList]]:
    """The kinds of neurons that are tested as a label's; those of the first kind alone are causal."""
    neighbour = dict(zip(LABELS, [*LABELS[1:], LABELS[0]], strict=True))
    return {
        CAUSAL: planted.causal,
        DECOYS: planted.decoys,
        ANOTHER: {label: NeuronList(label, TASK, planted.causal[neighbour[label]]) for label in LABELS},
        RANDOM: {label: _random(planted, label, rng) for label in LABELS},
    }


def _random(planted: Planted, label: str, rng: np.random.Generator) -> NeuronList:
    """Random neurons, as many at each site as the label's causal ones, and none of these."""
    drawn = [
        (site, int(index), 0.0)
        for site, causal in planted.causal[label].by_site().items()
        for index in rng.choice(np.setdiff1d(np.arange(planted.widths[site]), causal), len(causal), replace=False)
    ]
    return NeuronList(label, TASK, drawn)


def _validate(
    planted: Planted,
    corpus: Corpus,
    stats: ActivationStats,
    kinds: Mapping[str, Mapping[str, NeuronList]],
    seed: int,
) -> dict[str, TaskResult]:
    """Test each kind of neurons as those of the labels."""
    return {
        kind: validate(
            planted.model,
            planted.tokenizer,
            corpus,
            NeuronSet(lists.values(), planted.widths),
            stats,
            prompts=PROMPTS,
            seed=seed,
        ).tasks[TASK]
        for kind, lists in kinds.items()
    }


def _count(tested: Mapping[str, TaskResult]) -> Verdicts:
    """Count the labels with each verdict, by kind and mask."""
    return Counter(
        (kind, name, str(mask.verdict))
        for kind, task in tested.items()
        for result in task.results.values()
        for name, mask in result.masks.items()
    )


def _shuffled(corpus: Corpus, rng: np.random.Generator) -> Corpus:
    """The sentences with the labels of each split permuted."""

    def records() -> Iterator[dict[str, str | None]]:
        for split in corpus.splits:
            sentences = list(corpus.where(split=split))
            for sentence, place in zip(sentences, rng.permutation(len(sentences)), strict=True):
                (label,) = sentences[place].labels
                yield {"text": sentence.text, "label": label, "task": TASK, "split": split}

    return Corpus.from_records(list(records()))


def examine_all(models: int) -> list[Outcome]:
    """Examine ``models`` models of each construction, in as many processes as there are CPUs."""
    constructions, numbers = zip(*product(CONSTRUCTIONS, range(models)), strict=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, torch.set_num_threads, (1,)) as pool:
        return list(pool.map(examine, constructions, numbers))


if __name__ == "__main__":
    PAGE.write_text(page(examine_all(MODELS), SEED), encoding="utf-8")
    print(f"docs/{PAGE.name} is written")
