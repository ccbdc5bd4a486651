"""Evaluators: the protocols of objects that read labels from a model, and the choice of an evaluator by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from affectron.corpus import Sentence
from affectron.evaluation.batched import AS_IT_IS, Integers, Programs
from affectron.evaluation.label_likelihood import LabelLikelihood
from affectron.evaluation.linear_probe import LinearProbe
from affectron.options import Ask


class Classifier(Protocol):
    """A model's labels of sentences: ``classifier(rows, programs)`` is int64 [P, len(rows)], under each of P programs.

    ``rows`` are positions in the list of sentences that the classifier was made for. A label is its position in the
    list of labels, or -1 where the model gives no score that is a number.
    """

    def __call__(self, rows: Integers, programs: Programs = AS_IT_IS) -> Integers: ...


class Evaluator(Protocol):
    """A way to read a label of a task from a model.

    Attributes:
        name: its name in results.
        trains: whether :meth:`fit` learns from sentences; if not it is never called.
        options: JSON of what the evaluator used or chose; saved with the result.
    """

    name: str
    trains: bool
    options: dict[str, Any]

    def fit(
        self,
        model: Any,
        tokenizer: Any,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        task: str,
        labels: Sequence[str],
    ) -> None:
        """Learn to read a task's labels from the unsteered model."""

    def classifier(
        self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]
    ) -> Classifier:
        """Prepare sentences for a classifier, which is called any number of times and with any selection of them."""


def make_evaluator(ask: Ask) -> Evaluator:
    """The evaluator that ``ask`` names, or the one that it holds."""
    if not isinstance(ask.evaluator, str):
        given: Evaluator = ask.evaluator
        return given
    return LabelLikelihood(ask.prompts, ask.calibrate) if ask.evaluator == LabelLikelihood.name else LinearProbe()
