"""The evaluator ``linear_probe``: ridge regression on a model's final hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from affectron import models
from affectron._internal.names import LINEAR_PROBE
from affectron.corpus import Sentence
from affectron.corpus.batching import counted_tokens
from affectron.corpus.encoding import encode
from affectron.errors import InputError
from affectron.evaluation.batched import AS_IT_IS, BatchedModel, Integers, ProgramBatch, Programs, Readout
from affectron.evaluation.labels import best_label, label_matrix

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

    def classifier(
        self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]
    ) -> ProbeClassifier:
        """Tokenise the sentences.

        Raises:
            InputError: the task has not been fitted.
        """
        if task not in self._fitted:
            raise InputError(f"task {task!r}: the probe has not been fitted")
        return ProbeClassifier(_mean_states(model, tokenizer, sentences), *self._fitted[task])


class ProbeClassifier:
    """Labels by a fitted probe; made by :meth:`LinearProbe.classifier`."""

    def __init__(self, states: Readout, weights: NDArray[np.float64], intercept: NDArray[np.float64]) -> None:
        self._states, self._weights, self._intercept = states, weights, intercept

    def __call__(self, rows: Integers, programs: Programs = AS_IT_IS) -> Integers:
        return best_label(self._states(rows, programs) @ self._weights + self._intercept)


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
    text = [row.counted for row in encoded]
    for row in encoded:
        if not any(row.counted):
            row.counted = [True] * len(row.counted)
    batched = BatchedModel(model)
    body = getattr(models.unwrapped(model), "base_model", model)

    def states(rows: Integers, programs: Programs) -> NDArray[np.float64]:
        selected = [encoded[row] for row in rows.tolist()]
        means = np.zeros((len(programs), len(selected), model.get_input_embeddings().weight.shape[1]))

        def read(batch: ProgramBatch) -> None:
            counted = counted_tokens([selected[row] for row in batch.rows], batch.ids.shape[1])
            hidden = batch.forward(body).last_hidden_state
            weights = torch.from_numpy(counted / np.maximum(counted.sum(1, keepdims=True), 1)).to(hidden.device)
            hidden = hidden.double().view(-1, *counted.shape, hidden.shape[-1])
            means[batch.programs, batch.rows] = torch.einsum("bt,pbth->pbh", weights, hidden).cpu().numpy()

        batched.run([row.input_ids for row in selected], programs, read, text=[text[row] for row in rows.tolist()])
        return means

    return states
