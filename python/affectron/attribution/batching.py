"""Batches of questions: sentences of similar length with all their rows, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from affectron.corpus import Corpus, Sentence
from affectron.corpus.batching import Batch, filled, padded
from affectron.errors import InputError
from affectron.evaluation.metrics import Metric, Question
from affectron.options import POOL


@dataclass(slots=True)
class QuestionBatch(Batch):
    """A batch of n questions with R rows, longest first.

    ``segments`` (-1 where the metric is not defined) and ``sentences`` are of the questions, the tokens of the rows;
    ``counted`` are the tokens whose activations are attributed.

    Attributes:
        questions: the n questions.
        owner: int64 [R], the question of each row.
    """

    questions: tuple[Question, ...]
    owner: NDArray[np.int64]


def question_batches(
    corpus: Corpus,
    metric: Metric,
    positions: str,
    batch_tokens: int,
    padding: bool,
    sentences: Iterable[Sentence],
) -> Iterator[QuestionBatch]:
    """Stream sentences of a corpus as batches of at most ``batch_tokens`` tokens, padding included.

    A question with more tokens is a batch of its own. The same sentences and options give the same batches.

    Args:
        positions: the tokens that are attributed: ``all``, the ``text``'s own, or the rest, ``prompt``.
        padding: whether rows of several lengths may share a batch.

    Raises:
        InputError: a question has rows of several lengths, and the model reads no padding.
    """
    remaining = iter(sentences)
    while pooled := list(islice(remaining, POOL)):
        questions = sorted(metric.questions(pooled), key=lambda question: question.width, reverse=True)
        start = 0
        while start < len(questions):
            width, rows, stop = max(questions[start].width, 1), 0, start
            while stop < len(questions):
                question = questions[stop]
                if not padding and len({len(ids) for ids in question.ids}) > 1:
                    raise InputError(
                        f"sentence {question.sentence.id}: its labels make rows of several lengths, which need "
                        "padding, and the model reads a text otherwise where padding follows it"
                    )
                rows += len(question.ids)
                if stop > start and (rows * width > batch_tokens or (question.width != width and not padding)):
                    break
                stop += 1
            yield _batch(corpus, questions[start:stop], positions, width)
            start = stop


def _batch(corpus: Corpus, questions: list[Question], positions: str, width: int) -> QuestionBatch:
    rows = [ids for question in questions for ids in question.ids]
    input_ids, attention_mask = padded(rows, width)
    counted = attention_mask.astype(np.bool_)
    if positions != "all":
        in_text = filled([text for question in questions for text in question.text], width).astype(np.bool_)
        counted &= in_text if positions == "text" else ~in_text
    return QuestionBatch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        segments=np.array(
            [corpus.segment_index(question.sentence) if question.defined else -1 for question in questions], np.int64
        ),
        counted=counted,
        sentences=tuple(question.sentence for question in questions),
        truncated=sum(question.truncated for question in questions),
        continuing=0,
        questions=tuple(questions),
        owner=np.repeat(np.arange(len(questions)), [len(question.ids) for question in questions]),
    )
