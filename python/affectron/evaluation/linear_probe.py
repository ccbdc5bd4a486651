"""The evaluator ``linear_probe``: ridge regression on a model's final hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affectron import models
from affectron._internal.names import LINEAR_PROBE
from affectron.corpus import Sentence
from affectron.corpus.batching import filled
from affectron.corpus.encoding import Encoded, encode
from affectron.errors import InputError
from affectron.evaluation.batched import AS_IT_IS, BatchedModel, Integers, ProgramBatch, Programs, Readout
from affectron.evaluation.labels import best_label, label_matrix
from affectron.evaluation.metrics import Question, margin
from affectron.ops.float64 import in_float64

# Ridge penalties to choose from, in units of the mean eigenvalue of the features' scatter matrix.
_PENALTIES = tuple(float(penalty) for penalty in np.logspace(2, -6, 17))


class LinearProbe:
    """A linear classifier on the mean final hidden state over the text's own tokens; for base models.

    One ridge regression for each label on targets 1 (the sentence has the label) and 0, with an intercept that is
    not penalised, in float64 and closed form. The penalty is the one of highest accuracy on dev, the larger one of
    equals. The probe is fitted on the unsteered model and then left alone: a program changes the states that it reads.
    """

    name = LINEAR_PROBE
    trains = True
    metric = staticmethod(margin)

    def __init__(self) -> None:
        self.options: dict[str, Any] = {"ridge_penalty": {}}
        self._fitted: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def fit(
        self,
        model: Any,
        tokenizer: Any,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        task: str,
        labels: Sequence[str],
    ) -> None:
        """Fit weights on ``train`` and choose the penalty on ``dev``.

        Raises:
            InputError: the model's final hidden states are not finite.
        """
        (states,) = _mean_states(model, tokenizer, train)(np.arange(len(train)), AS_IT_IS)
        (held_out,) = _mean_states(model, tokenizer, dev)(np.arange(len(dev)), AS_IT_IS)
        if not (np.isfinite(states).all() and np.isfinite(held_out).all()):
            raise InputError(f"task {task!r}: the model's final hidden states are not finite; a probe cannot be fitted")
        right = label_matrix(dev, labels)
        best = -1.0
        for penalty, weights, intercept in ridge(states, label_matrix(train, labels).astype(np.float64)):
            accuracy = float(right[np.arange(len(dev)), best_label(held_out @ weights + intercept)].mean())
            if accuracy > best:
                best = accuracy
                self._fitted[task] = (weights, intercept)
                self.options["ridge_penalty"][task] = penalty

    def differentiable(self, model: Any, tokenizer: Any, task: str, labels: Sequence[str]) -> ProbeMetric:
        """The metric of a task: the margin of a sentence's label.

        Raises:
            InputError: the task has not been fitted.
        """
        return ProbeMetric(model, tokenizer, labels, *self._of(task))

    def classifier(
        self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]
    ) -> ProbeClassifier:
        """Tokenise the sentences.

        Raises:
            InputError: the task has not been fitted.
        """
        return ProbeClassifier(_mean_states(model, tokenizer, sentences), *self._of(task))

    def _of(self, task: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if task not in self._fitted:
            raise InputError(f"task {task!r}: the probe has not been fitted")
        return self._fitted[task]


class ProbeClassifier:
    """Labels by a fitted probe; made by :meth:`LinearProbe.classifier`."""

    def __init__(self, states: Readout, weights: NDArray[np.float64], intercept: NDArray[np.float64]) -> None:
        self._states, self._weights, self._intercept = states, weights, intercept

    def __call__(self, rows: Integers, programs: Programs = AS_IT_IS) -> Integers:
        return best_label(self.scores(rows, programs))

    def scores(self, rows: Integers, programs: Programs = AS_IT_IS) -> NDArray[np.float64]:
        """float64 [P, len(rows), L]: the probe's output for each label under each program."""
        return self._states(rows, programs) @ self._weights + self._intercept


class ProbeMetric:
    """The margin by which a fitted probe prefers a sentence's label, not defined for a sentence of all labels;
    :class:`affectron.evaluation.metrics.Metric`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        labels: Sequence[str],
        weights: NDArray[np.float64],
        intercept: NDArray[np.float64],
    ) -> None:
        self._model, self._tokenizer, self._labels = model, tokenizer, labels
        self._body = _body(model)
        self._weights, self._intercept = torch.from_numpy(weights), torch.from_numpy(intercept)

    def questions(self, sentences: Sequence[Sentence]) -> list[Question]:
        """Tokenise sentences."""
        labels = set(self._labels)
        return [
            Question(
                row.sentence,
                (row.input_ids,),
                (row.counted,),
                row.truncated,
                _averaged(row),
                not labels <= set(row.sentence.labels),
            )
            for row in encode(self._tokenizer, sentences, max_length=models.max_length(self._model))
        ]

    def __call__(self, batch: ProgramBatch, questions: Sequence[Question]) -> Tensor:
        """The margin of each of n questions, float64 [n]."""
        means = _mean_hidden(self._body, batch, [question.content for question in questions])[0]
        scores = means @ self._weights.to(means.device) + self._intercept.to(means.device)
        truth = label_matrix([question.sentence for question in questions], self._labels)
        return margin(scores, torch.from_numpy(truth).to(scores.device))


def ridge(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> Iterator[tuple[float, NDArray[np.float64], NDArray[np.float64]]]:
    """Ridge regressions of y [n, L] on x [n, H], largest penalty first: (penalty, weights [H, L], intercept [L]).

    Each minimises |y - x w - b|² + p |w|², p the penalty times the mean eigenvalue of the centred x'x (Hoerl and
    Kennard 1970), so that the grid does not depend on the scale of x. One eigendecomposition serves all.
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0.0)
    projected = vectors.T @ (centred.T @ (y - y_mean))
    # The mean is 0 if no feature varies: the weights are then 0 at any penalty.
    unit = float(values.mean()) or 1.0
    for penalty in _PENALTIES:
        weights = vectors @ (projected / (values + penalty * unit)[:, None])
        yield penalty, weights, y_mean - x_mean @ weights


def _mean_states(model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> Readout:
    """``states(rows, programs)``: float64 [P, len(rows), H], the mean final hidden state over each text's own tokens.

    The mean is over all tokens if the tokenizer knows none of the text.
    """
    encoded = encode(tokenizer, sentences, max_length=models.max_length(model))
    batched = BatchedModel(model)
    body = _body(model)

    def states(rows: Integers, programs: Programs) -> NDArray[np.float64]:
        selected = [encoded[row] for row in rows.tolist()]
        parts: list[tuple[slice, Integers, NDArray[np.float64]]] = []

        def read(batch: ProgramBatch) -> None:
            averaged = [_averaged(selected[row]) for row in batch.rows]
            parts.append((batch.programs, batch.rows, _mean_hidden(body, batch, averaged).cpu().numpy()))

        batched.run([row.input_ids for row in selected], programs, read, text=[row.counted for row in selected])
        means = np.zeros((len(programs), len(selected), parts[0][2].shape[-1] if parts else 0))
        for of_programs, of_rows, part in parts:
            means[of_programs, of_rows] = part
        return means

    return states


def _averaged(row: Encoded) -> list[bool]:
    """The tokens whose states are averaged: the text's own, or all if the tokenizer knows none of the text."""
    return row.counted if any(row.counted) else [True] * len(row.counted)


def _body(model: Any) -> nn.Module:
    """The part of a model that gives the final hidden states."""
    if models.parallel.is_fully_sharded(model):
        raise InputError(
            f"{type(model).__name__} is fully sharded, so that a probe cannot read its final hidden states"
        )
    return models.body(model)


def _mean_hidden(body: Any, batch: ProgramBatch, averaged: Sequence[Sequence[bool]]) -> Tensor:
    """The mean final hidden state over the ``averaged`` tokens of each of B rows, float64 [P, B, H]."""
    mask = filled(averaged, batch.ids.shape[1])
    hidden = getattr(batch.forward(body), "last_hidden_state", None)
    if hidden is None:
        raise InputError(f"{type(body).__name__} does not give the final hidden states that a probe reads")
    hidden = in_float64(hidden).view(-1, *mask.shape, hidden.shape[-1])
    weights = torch.from_numpy(mask / np.maximum(mask.sum(1, keepdims=True), 1)).to(hidden.device)
    return torch.einsum("bt,pbth->pbh", weights, hidden)
