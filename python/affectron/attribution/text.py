"""The metric ``text``: the mean log-likelihood of a sentence's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from affectron.corpus import Sentence
from affectron.corpus.batching import filled
from affectron.corpus.encoding import encode
from affectron.evaluation.batched import ProgramBatch, output_layer, token_losses
from affectron.evaluation.metrics import Question
from affectron.models import max_length


class TextMetric:
    """The mean log-likelihood of the text's own tokens, in nats, each after those before it; not defined
    without such a token.

    :class:`affectron.evaluation.metrics.Metric`. A sentence is encoded as for screening.

    Raises:
        InputError: the model is no causal language model.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        output_layer(model)
        self._model, self._tokenizer = model, tokenizer

    def questions(self, sentences: Sequence[Sentence]) -> list[Question]:
        """Tokenise sentences."""
        return [
            Question(row.sentence, (row.input_ids,), (row.counted,), row.truncated, defined=any(row.counted[1:]))
            for row in encode(self._tokenizer, sentences, max_length=max_length(self._model))
        ]

    def __call__(self, batch: ProgramBatch, questions: Sequence[Question]) -> Tensor:
        """The mean log-likelihood of each of n texts, float32 [n]."""
        losses = token_losses(self._model, batch)[0]
        counted = filled([question.text[0] for question in questions], batch.ids.shape[1])[:, 1:]
        weights = torch.from_numpy(counted).to(losses)
        return -(losses * weights).sum(1) / weights.sum(1).clamp(min=1)
