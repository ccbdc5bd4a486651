"""Cards of neurons: the texts that each reacts to, what it does under each label, and the tokens that it writes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from affectron import options
from affectron._internal.arguments import checked_arguments
from affectron._internal.names import TOKEN_RULES
from affectron._internal.options import documented
from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.experiments.activity import Activations, Neuron, collect, distinct
from affectron.experiments.results import LEVELS, Cards, CardsOptions, Moments, NeuronCard, Spread
from affectron.experiments.vocabulary import vocabulary_effects
from affectron.models.provenance import check_made_with, made_with
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import Describe, Read
from affectron.stats import ATTRIBUTION, ActivationStats, SiteStats

_Distribution = TypeVar("_Distribution", Spread, Moments)


@checked_arguments
@documented(Describe, Read)
def describe(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    neurons: NeuronSet,
    *,
    attributions: ActivationStats | None = None,
    cards: int = Describe.cards,
    texts: int = Describe.texts,
    window: int = Describe.window,
    vocabulary: int = Describe.vocabulary,
    tokens: str = Read.tokens,
    active: str = Read.active,
    template: str = Read.template,
    count_special: bool = Read.count_special,
    batch_tokens: int = Read.batch_tokens,
    progress: bool = False,
) -> Cards:
    """Describe each label's first neurons in one pass over a corpus. It may have been screened: a card tests nothing.

    A warning says where the activations are read in another way than those that selected the neurons.

    Args:
        model, tokenizer: those that the neurons were found in.
        corpus: labelled sentences; narrow it to a split with ``corpus.where(split="dev")``.
        neurons: neurons of any labels.
        attributions: of every neuron (:func:`affectron.attribute`); without them the cards have no attribution.
        {options}
        progress: show a bar on stderr.

    Returns:
        A card for each neuron, in the order of sites and indices. Its activation is that under each label of the task
        that ``corpus`` has.

    Raises:
        InputError: an option out of its range, neurons or attributions of another model, statistics that are no
            attributions, a neuron that is in an expert or does not read the text, or an unusable corpus or template.
    """
    Describe(cards, texts, window, vocabulary)
    made = made_with(model, tokenizer)
    check_made_with(made, "neurons", neurons.provenance)
    if attributions is not None:
        check_made_with(made, "attributions", attributions.provenance)
    chosen = first(neurons, cards)
    read = Read(tokens, active, template, count_special, batch_tokens).values()
    _warn_of_others(read, neurons.provenance)
    with collect(
        model, tokenizer, corpus, chosen, shown=chosen, texts=texts, window=window, **read, progress=progress
    ) as activations:
        return make_cards(
            model, tokenizer, activations, chosen, corpus, Describe(cards, texts, window, vocabulary), attributions
        )


def _warn_of_others(read: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Warn where the neurons were selected by activations that were read in another way."""
    if provenance.get("tokens") not in TOKEN_RULES:  # attributions and pairs are not of such activations
        return
    others = [
        f"{name} is {read[name]!r} and was {provenance[name]!r}"
        for name in ("tokens", "template", "count_special")
        if provenance.get(name, read[name]) != read[name]
    ]
    if others:
        warnings.warn(f"the cards show other activations than selected the neurons: {', '.join(others)}", stacklevel=4)


def first(neurons: NeuronSet, count: int) -> NeuronSet:
    """The first neurons of each label, at most ``count``."""
    lists = [members[:count] for members in neurons.values()]
    return NeuronSet(lists, neurons.widths, neurons.provenance, neurons.screened)


def make_cards(
    model: Any,
    tokenizer: Any,
    activations: Activations,
    neurons: NeuronSet,
    corpus: Corpus,
    describe: options.Describe,
    attributions: ActivationStats | None = None,
) -> Cards:
    """Make the cards of neurons from a pass that collected their activity and excerpts, as for :func:`describe`.

    Raises:
        InputError: statistics that are no attributions, or lack a neuron.
    """
    if attributions is not None:
        if attributions.kind != ATTRIBUTION:
            raise InputError(f"attributions are statistics of {attributions.kind}s, expected of attributions")
        neurons.check(attributions.widths)
    labels: dict[Neuron, list[NeuronList]] = {neuron: [] for neuron in distinct(neurons)}
    for members in neurons.values():
        for site, index, _ in members:
            labels[site, index].append(members)
    by_site: dict[str, list[int]] = {}
    for site, index in labels:
        by_site.setdefault(site, []).append(index)
    written = vocabulary_effects(
        model, tokenizer, {site: np.array(index) for site, index in by_site.items()}, describe.vocabulary
    )
    column = {neuron: position for position, neuron in enumerate(activations.neurons)}
    under = {label: np.array([label in one.labels for one in activations.sentences]) for label in corpus.labels}
    attributed = {label: attributions.label(label) for label in attributions.labels} if attributions is not None else {}

    def card(neuron: Neuron, lists: Sequence[NeuronList]) -> NeuronCard:
        tasks = dict.fromkeys(members.task for members in lists)
        means = activations.mean[:, column[neuron]]
        top, bottom = activations.excerpts[neuron]
        promoted, suppressed = written.get(neuron, (None, None))
        return NeuronCard(
            site=neuron[0],
            index=neuron[1],
            labels=tuple(members.label for members in lists),
            top=top,
            bottom=bottom,
            activation=_known(
                {label: _spread(means[under[label]]) for task in tasks for label in corpus.tasks.get(task, ())}
            ),
            attribution=None if attributions is None else _known(
                {
                    label: _moments(attributed[label][neuron[0]], neuron[1])
                    for task in tasks for label in attributions.tasks.get(task, ())
                }
            ),
            promoted=promoted,
            suppressed=suppressed,
        )  # fmt: skip

    recorded = CardsOptions(
        corpus.split, activations.tokens, activations.active, describe.cards, describe.texts, describe.window,
        describe.vocabulary,
    )  # fmt: skip
    provenance = {**neurons.provenance, "corpus": [corpus.hash], "corpus_name": corpus.name, "split": corpus.split}
    return Cards(provenance, recorded, tuple(card(neuron, lists) for neuron, lists in labels.items()))


def _spread(means: NDArray[np.float32]) -> Spread | None:
    """The distribution of the mean activation over sentences; None where it is finite in none."""
    finite = means[np.isfinite(means)].astype(np.float64)
    return Spread(len(finite), tuple(np.quantile(finite, LEVELS).tolist())) if len(finite) else None


def _moments(of_site: SiteStats, index: int) -> Moments | None:
    """The distribution of a neuron's attribution over sentences; None where none was observed."""
    sentences = int(of_site.observed[index])
    if not sentences:
        return None
    lowest, highest = float(of_site.min[index]), float(of_site.max[index])
    return Moments(sentences, float(of_site.mean[index]), float(np.sqrt(of_site.var[index])), lowest, highest)


def _known(by_label: Mapping[str, _Distribution | None]) -> dict[str, _Distribution]:
    return {label: one for label, one in by_label.items() if one is not None}
