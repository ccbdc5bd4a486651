"""Choice of a program's strength: the strongest one within a budget of what it does to neutral text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from affectron._internal.arguments import checked_arguments
from affectron._internal.checks import Each, Positive, check
from affectron._internal.warning import warn
from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError, Note
from affectron.evaluation.batched import output_layer
from affectron.evaluation.divergence import Divergence
from affectron.experiments.results import BetaChoice, Dose
from affectron.interventions import Program
from affectron.models import evaluating
from affectron.options import Evaluate

#: Strengths that are tried first, in one sweep.
_FIRST = (0.25, 1.0, 4.0)
#: Further sweeps at most, each with a strength for each budget that no tried one is close to.
_SWEEPS = 6
#: A strength is close if its rise is from this share of the budget to the whole.
_CLOSE = 0.9
# Share of the budget that a new strength aims at, between the two.
_AIM = 0.95
# Largest factor between a strength and one that is derived from it.
_STEP = 64.0
# A smaller rise is rounding: a program that reaches no more at this strength does nothing.
_NOTHING, _ENOUGH = 1e-6, 1e4
# A program whose rise grows by less than this factor over a step of the search has reached its largest.
_GROWS = 1.01
#: Sentences that are neutral text at most.
_SENTENCES = 32


class Measure(Protocol):
    """Measure of programs on neutral text: float64 [P], in nats a token; :class:`Divergence` is one."""

    def __call__(self, programs: Sequence[Program]) -> NDArray[Any]: ...


@checked_arguments
def choose_beta(
    model: Any,
    tokenizer: Any,
    sentences: Sequence[Sentence],
    make: Callable[[float], Program],
    *,
    budget: float = 0.3,
) -> BetaChoice:
    """Choose the strongest beta under which the loss of a token rises by at most ``budget``.

    The rise is that expected over text which the unsteered model would write: the divergence of its next token from
    that under the program, over the tokens of neutral text
    (:class:`affectron.evaluation.divergence.Divergence`). The strength is the largest for which it and every smaller
    one that was tried stay within the budget. A note says so if no strength that was tried is beyond.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        sentences: neutral text (:func:`neutral_text`). Programs act at every token.
        make: the program of a strength above 0, such as ``lambda beta: contrast(neurons, stats, beta)``.
        budget: largest rise, in nats a token.

    Raises:
        InputError: the budget is not above 0, the model is no causal language model, the sentences have no token that
            another precedes, or the smallest strength that was tried is beyond the budget.
    """
    check("budget", budget, Positive())
    output_layer(model)
    with torch.no_grad(), evaluating(model):
        curve = dose_curve(Divergence(model, tokenizer, sentences), make, [budget])
    choice = BetaChoice(strongest(curve, budget).beta, float(budget), tuple(curve))
    if not choice.bounded:
        warn(f"no beta up to {choice.beta:.3g}, the largest that was tried, is beyond the budget", Note)
    return choice


def neutral_text(
    corpus: Corpus, label: str, task: str, *, split: str = Evaluate.dev, neutral: str | None = None
) -> list[Sentence]:
    """The neutral text of a label, at most 32 sentences: evenly spaced ones of the split.

    Args:
        corpus: labelled sentences.
        label: the label that is steered to.
        task: its task.
        split: the split.
        neutral: the label whose sentences are neutral; the task's sentences without ``label`` when None.

    Raises:
        InputError: an unknown split, task or label, or no such sentence.
    """
    if neutral is None:
        found = [sentence for sentence in corpus.where(split=split, task=task) if label not in sentence.labels]
    else:
        part = corpus.where(split=split)
        part.require([neutral])
        found = [sentence for sentence in part if neutral in sentence.labels]
    if not found:
        raise InputError(f"every sentence of task {task!r} in split {split!r} has label {label!r}, expected others too")
    number = min(len(found), _SENTENCES)
    return [found[position * len(found) // number] for position in range(number)]


def strongest(curve: Sequence[Dose], budget: float) -> Dose:
    """The largest strength of an ascending curve that is within the budget, as all smaller ones are.

    Raises:
        InputError: none is.
    """
    beyond = next((place for place, dose in enumerate(curve) if not dose.within(budget)), len(curve))
    if not beyond:
        raise InputError(
            f"budget is {budget:g} nats a token, and beta {curve[0].beta:.3g}, the smallest that was tried, is beyond "
            "it; expected a larger budget"
        )
    return curve[beyond - 1]


def dose_curve(measure: Measure, make: Callable[[float], Program], budgets: Sequence[float]) -> list[Dose]:
    """Try strengths, in a few sweeps, until one is close below each budget; ascending.

    The rise of a small shift grows as the square of its strength; between strengths that were tried it is interpolated
    on logarithmic scales.

    Args:
        measure: the rise under programs.
        make: the program of a strength above 0.
        budgets: rises, in nats a token.

    Raises:
        InputError: a budget is not a number above 0, or as ``make``.
    """
    check("budgets", list(budgets), Each(Positive(), least=1))
    tried: dict[float, float] = {}
    wanted: Sequence[float] = _FIRST
    for _ in range(1 + _SWEEPS):
        tried.update(zip(wanted, measure([make(beta) for beta in wanted]).tolist(), strict=True))
        curve = sorted(tried.items())
        aims = {_next(curve, budget) for budget in budgets}
        # Rounded as a name shows it, and as a user writes it again.
        wanted = sorted({float(f"{aim:.3g}") for aim in aims if aim is not None} - tried.keys())
        if not wanted:
            break
    return [Dose(beta, rise if math.isfinite(rise) else None) for beta, rise in sorted(tried.items())]


def _next(curve: Sequence[tuple[float, float]], budget: float) -> float | None:
    """The strength to try next for a budget; None where the strongest within it is close, or the program can no more.

    ``curve`` has (strength, rise), ascending.
    """
    beyond = next((place for place, (_, rise) in enumerate(curve) if rise > budget), len(curve))
    if not beyond:
        beta, rise = curve[0]
        return beta * max(math.sqrt(_AIM * budget / rise), 1 / _STEP)
    (low, at_low), (high, at_high) = curve[beyond - 1], curve[min(beyond, len(curve) - 1)]
    if at_low >= _CLOSE * budget:
        return None
    if beyond == len(curve):
        idle, full = at_low < _NOTHING, at_low < _GROWS * curve[-2][1]
        if (idle and low > _ENOUGH) or (full and not idle):
            return None
        return low * (min(math.sqrt(_AIM * budget / at_low), _STEP) if at_low else _STEP)
    if at_low > 0 and math.isfinite(at_high):
        part = math.log(_AIM * budget / at_low) / math.log(at_high / at_low)
        return float(low * (high / low) ** min(max(part, 0.05), 0.95))
    return math.sqrt(low * high)
