"""Result of the cards: what each selected neuron reacts to, and which tokens it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from affectron._internal.artifacts import SAME_MODEL
from affectron._internal.checks import OneOf
from affectron._internal.display import Shown
from affectron._internal.names import TOKEN_RULES
from affectron.errors import InputError
from affectron.evaluation.verdicts import Count
from affectron.experiments.results.findings import Findings

#: Levels of the quantiles of a :class:`Spread`.
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class CardsOptions(Shown):
    """Options of the cards.

    Attributes:
        split: the split whose sentences were read; None for all.
        tokens, active: the rules of the activations, as those of the screening.
        count: neurons of a label that have a card at most, best first.
        texts: texts of the largest activation of each neuron, and as many of the smallest.
        window: tokens of a text that are shown at most, around the largest or smallest activation.
        vocabulary: tokens that are promoted, and as many that are suppressed.
    """

    split: str | None
    tokens: Annotated[str, OneOf(TOKEN_RULES)]
    active: str
    count: Count
    texts: Count
    window: Count
    vocabulary: Count


@dataclass(frozen=True)
class Excerpt(Shown):
    """A text around the token of a neuron's largest or smallest activation in it.

    Attributes:
        labels: the labels of the whole text, of any task.
        tokens: pieces of the text, a counted token each; joined, they are the excerpt as it stands in the text. A token
            that goes on with a character of the token before is empty.
        activations: h of the neuron at each of these tokens, in four digits; None where it is not finite.
        extreme: the position among ``tokens`` of the largest or smallest activation.
        cut: whether the text goes on before the excerpt, and after it.
    """

    labels: tuple[str, ...]
    tokens: tuple[str, ...]
    activations: tuple[float | None, ...]
    extreme: Count
    cut: tuple[bool, bool]

    def __post_init__(self) -> None:
        if not self.extreme < len(self.tokens) == len(self.activations):
            raise InputError(
                f"activations has {len(self.activations)} values and extreme is {self.extreme}, expected a value for "
                f"each of {len(self.tokens)} tokens and one of their positions"
            )


@dataclass(frozen=True)
class Spread(Shown):
    """Distribution of the mean activation over ``sentences`` sentences: its quantiles at ``LEVELS``, interpolated."""

    sentences: Count
    quantiles: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Moments(Shown):
    """Attribution over ``sentences`` sentences, in units of the metric; ``std`` is of one sentence, with divisor n."""

    sentences: Count
    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class VocabularyToken(Shown):
    """A token, and what one unit of the neuron's output direction adds to its logit."""

    token: str
    logit: float


@dataclass(frozen=True)
class NeuronCard(Shown):
    """One neuron.

    Attributes:
        site, index: the neuron.
        labels: the labels that it is selected for and has a card for.
        top, bottom: texts of the largest and of the smallest activation, most extreme first.
        activation: label -> distribution over the label's sentences, of every label of the tasks of ``labels``.
        attribution: label -> the same of its attribution; None without attributions.
        promoted, suppressed: the tokens whose logits its output direction raises and lowers most, strongest first: what
            one unit of h adds to the residual stream, through the final norm and the lm_head
            (:func:`affectron.experiments.vocabulary.vocabulary_effects`). None where the model has no such path.
    """

    site: str
    index: Count
    labels: tuple[str, ...]
    top: tuple[Excerpt, ...]
    bottom: tuple[Excerpt, ...]
    activation: dict[str, Spread]
    attribution: dict[str, Moments] | None
    promoted: tuple[VocabularyToken, ...] | None
    suppressed: tuple[VocabularyToken, ...] | None

    def _joined(self, other: NeuronCard) -> NeuronCard:
        """This card, with the labels that another of the same neuron has."""
        attribution = {**(other.attribution or {}), **(self.attribution or {})}
        return replace(
            self,
            labels=tuple(dict.fromkeys((*other.labels, *self.labels))),
            activation={**other.activation, **self.activation},
            attribution=attribution or None,
        )


@dataclass(frozen=True)
class _Row:
    """A neuron under a label of its tasks, with the quantiles of its activation; ``selected`` for that label or not."""

    site: str
    index: Count
    label: str
    selected: bool
    sentences: Count
    q05: float
    q25: float
    q50: float
    q75: float
    q95: float
    attribution: Moments | None


@dataclass(frozen=True)
class Cards(Findings):
    """Result of :func:`affectron.describe`: a card for each selected neuron, in the order of sites and indices."""

    kind: ClassVar[str] = "cards"
    _row: ClassVar[type[Any]] = _Row

    options: CardsOptions
    neurons: tuple[NeuronCard, ...]

    def beside(self, others: Cards) -> Cards:
        """These cards and ``others``, so that one file has the cards of several neuron sets.

        ``others`` are left out unless they are known to be collected with the same options, from the same model and the
        same corpus.
        """
        mine, theirs = ([cards.provenance.get(key) for key in ("corpus", *SAME_MODEL)] for cards in (self, others))
        if None in mine or mine != theirs or self.options != others.options:
            return self
        joined = {(card.site, card.index): card for card in others.neurons}
        for card in self.neurons:
            other = joined.get((card.site, card.index))
            joined[card.site, card.index] = card if other is None else card._joined(other)
        return replace(self, neurons=tuple(joined[neuron] for neuron in sorted(joined)))

    def _rows(self) -> Iterator[_Row]:
        for card in self.neurons:
            for label, spread in card.activation.items():
                attribution = (card.attribution or {}).get(label)
                yield _Row(
                    card.site, card.index, label, label in card.labels, spread.sentences, *spread.quantiles, attribution
                )
