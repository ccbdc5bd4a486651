"""The divergence of a model under programs from the model as it is, on plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affectron import models
from affectron.corpus import Sentence
from affectron.corpus.batching import filled
from affectron.corpus.encoding import encode
from affectron.errors import InputError
from affectron.evaluation.batched import (
    AS_IT_IS,
    BatchedModel,
    ProgramBatch,
    Programs,
    default_batch_tokens,
    most_tokens,
)

#: Tokens of a text that are read at most: a mean over many texts needs no more, and memory is bounded.
_TOKENS = 32


class Divergence:
    """Mean Kullback-Leibler divergence of the next token, in nats: D(p || q) = Σ p (ln p - ln q), p the model as it is,
    q the model under a program.

    It is the rise of the loss of a token under the program, expected over texts that the model as it is would write. It
    is never negative, and grows about as the square of a small shift. The rise on given text may be negative: a program
    can move the model towards the text's register.

    A text is encoded as for screening, its first 32 tokens are read, and the divergence is taken before each of the
    text's own tokens.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        sentences: the texts.

    Raises:
        InputError: no text has a token that another precedes.
    """

    def __init__(self, model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> None:
        encoded = encode(tokenizer, sentences, max_length=models.max_length(model))
        cut = [(row.input_ids[:_TOKENS], row.counted[:_TOKENS]) for row in encoded]
        self._rows = [(ids, counted) for ids, counted in cut if any(counted[1:])]
        if not self._rows:
            raise InputError(f"{len(sentences)} neutral texts are given, expected one with two tokens or more")
        self._model = model
        self._batched = BatchedModel(model, most_tokens(model, default_batch_tokens(model)))
        self._plain: dict[int, Tensor] = {}  # row -> ln p [tokens, V]
        self._run(AS_IT_IS, self._keep)

    def __call__(self, programs: Programs) -> NDArray[np.float64]:
        """float64 [P]: the divergence under each program; inf where it is not finite."""
        sums = np.zeros(len(programs))

        def add(batch: ProgramBatch, likelihoods: Sequence[Sequence[Tensor]]) -> None:
            for program, of_rows in zip(range(batch.programs.start, batch.programs.stop), likelihoods, strict=True):
                for row, changed in zip(batch.rows.tolist(), of_rows, strict=True):
                    plain = self._plain[row]
                    sums[program] += float((plain.exp() * (plain - changed)).sum())

        self._run(programs, add)
        mean: NDArray[np.float64] = sums / sum(map(len, self._plain.values()))
        return np.where(np.isfinite(mean), np.maximum(mean, 0.0), np.inf)

    def _keep(self, batch: ProgramBatch, likelihoods: Sequence[Sequence[Tensor]]) -> None:
        self._plain.update(zip(batch.rows.tolist(), likelihoods[0], strict=True))

    def _run(self, programs: Programs, read: Any) -> None:
        """Call ``read`` with each batch and the ln p [tokens, V] of each program and row."""

        def likelihoods(batch: ProgramBatch) -> None:
            logits = batch.forward(self._model).logits[:, :-1]
            logits = logits.view(-1, len(batch.ids), *logits.shape[1:])
            table = filled([self._rows[row][1] for row in batch.rows], batch.ids.shape[1])[:, 1:]
            counted = torch.from_numpy(table.astype(np.bool_)).to(logits.device)
            read(
                batch,
                [
                    [torch.log_softmax(of_row[mask].float(), -1) for of_row, mask in zip(rows, counted, strict=True)]
                    for rows in logits
                ],
            )

        ids, text = [ids for ids, _ in self._rows], [counted for _, counted in self._rows]
        self._batched.run(ids, programs, likelihoods, text=text)
