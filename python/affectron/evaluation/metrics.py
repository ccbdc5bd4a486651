"""Numbers of a sentence: how well a model answers with its label, or how likely it finds the text.

A metric computes them so that they can be differentiated: it prepares sentences as rows of tokens, and reads them from
a forward over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from affectron.corpus import Sentence
from affectron.evaluation.batched import ProgramBatch


@dataclass(frozen=True, slots=True)
class Question:
    """A sentence as rows of tokens.

    Attributes:
        sentence: the sentence.
        ids: the token ids of each row.
        text: for each row, which of its tokens are the text's own.
        truncated: whether tokens of the text were cut off.
        content: what the metric that made it reads beside the rows.
        defined: whether the metric has a value there.
    """

    sentence: Sentence
    ids: tuple[list[int], ...]
    text: tuple[list[bool], ...]
    truncated: bool
    content: Any = None
    defined: bool = True

    @property
    def width(self) -> int:
        """Tokens of its longest row."""
        return max(map(len, self.ids))


class Metric(Protocol):
    """A number m of each sentence that can be differentiated."""

    def questions(self, sentences: Sequence[Sentence]) -> list[Question]:
        """Tokenise sentences, on the CPU."""

    def __call__(self, batch: ProgramBatch, questions: Sequence[Question]) -> Tensor:
        """Run the forward of a batch whose rows are those of n questions, in order: m of each, float [n]."""


def log_probability(scores: Tensor, truth: Tensor) -> Tensor:
    """Log of the summed softmax of the labels that a sentence has.

    Args:
        scores: [..., n, L], such as log-likelihoods, in nats.
        truth: bool [n, L], the labels that each of n sentences has; at least one.

    Returns:
        [..., n], in nats, at most 0.
    """
    own = scores.masked_fill(~truth, -torch.inf).logsumexp(-1)
    return own - scores.logsumexp(-1)


def margin(scores: Tensor, truth: Tensor) -> Tensor:
    """Highest score of the labels that a sentence has, less the highest of the others.

    Args:
        scores: [..., n, L].
        truth: bool [n, L], the labels that each of n sentences has; at least one, and not all.

    Returns:
        [..., n]; above 0 where the answer is right.
    """
    return scores.masked_fill(~truth, -torch.inf).amax(-1) - scores.masked_fill(truth, -torch.inf).amax(-1)
