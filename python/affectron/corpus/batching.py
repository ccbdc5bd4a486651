"""Token batches: sentences of similar length, padded on the right, within a budget of tokens.

Batches are numpy arrays; this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from affectron._internal.checks import Whole, check
from affectron._internal.options import check_option
from affectron.corpus.corpus import Corpus, Sentence
from affectron.corpus.encoding import Encoded, encode
from affectron.options import POOL, Screen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class Batch:
    """B sentences of similar length, padded on the right to T tokens, longest first.

    Attributes:
        input_ids: int64 [B, T].
        attention_mask: int64 [B, T], 0 at the padding, else 1.
        segments: int64 [B], each sentence's position in ``corpus.segments``.
        counted: bool [B, T], False at the padding.
        sentences: the B sentences.
        truncated: number of sentences that were cut to the maximum length.
        continuing: number of rows that are further windows of a sentence.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    segments: NDArray[np.int64]
    counted: NDArray[np.bool_]
    sentences: tuple[Sentence, ...]
    truncated: int
    continuing: int


def batches(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_tokens: int = Screen.batch_tokens,
    template: str = Screen.template,
    count_special: bool = Screen.count_special,
    max_length: int | None = None,
    long_texts: str = Screen.long_texts,
    pool: int = POOL,
    padding: bool = True,
    sentences: Iterable[Sentence] | None = None,
) -> Iterator[Batch]:
    """Stream a corpus as batches of at most ``batch_tokens`` tokens, padding included (B x T <= batch_tokens).

    The same corpus and options give the same batches.

    Args:
        corpus: the corpus.
        tokenizer: the model's tokenizer.
        batch_tokens: tokens of a batch; a longer sentence is a batch of its own.
        template, count_special, max_length, long_texts: as in :func:`~affectron.corpus.encoding.encode`.
        pool: number of sentences that are tokenised at a time and sorted by length, longest first. Batches then have
            little padding, and too large a budget shows in the first one. Equal lengths keep the corpus' order.
        padding: whether sentences of several lengths may share a batch.
        sentences: the sentences of the corpus to read; all if None.

    Raises:
        InputError: as :func:`~affectron.corpus.encoding.encode` and iterating the corpus; ``batch_tokens`` or ``pool``
            is out of range. Options are checked before anything is read.
    """
    check_option(Screen, "batch_tokens", batch_tokens)
    check("pool", pool, Whole(1))
    encoder = partial(
        encode,
        tokenizer,
        template=template,
        count_special=count_special,
        max_length=max_length,
        long_texts=long_texts,
    )
    encoder([])  # checks its options
    return _stream(corpus, corpus if sentences is None else sentences, encoder, batch_tokens, pool, padding)


def _stream(
    corpus: Corpus,
    sentences: Iterable[Sentence],
    encoder: Callable[[Sequence[Sentence]], list[Encoded]],
    batch_tokens: int,
    pool: int,
    padding: bool,
) -> Iterator[Batch]:
    remaining = iter(sentences)
    while pooled := list(islice(remaining, pool)):
        encoded = encoder(pooled)
        encoded.sort(key=lambda row: len(row.input_ids), reverse=True)  # stable, in reverse too
        for rows, width in cut([len(row.input_ids) for row in encoded], batch_tokens, padding):
            yield _batch(corpus, encoded[rows], width)


def cut(lengths: Sequence[int], batch_tokens: int, padding: bool) -> Iterator[tuple[slice, int]]:
    """Cut rows of tokens into batches: the rows of each, and its width in tokens.

    Args:
        lengths: tokens of each row, longest first.
        batch_tokens: the most rows x width of a batch; a longer row is a batch of its own.
        padding: whether rows of several lengths may share a batch.
    """
    start = 0
    while start < len(lengths):
        width = max(lengths[start], 1)  # a text without a character that its tokenizer knows has no token
        stop = min(start + max(batch_tokens // width, 1), len(lengths))
        if not padding:
            stop = next((row for row in range(start, stop) if lengths[row] != lengths[start]), stop)
        yield slice(start, stop), width
        start = stop


def padded(rows: Sequence[Sequence[int]], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad B rows of token ids on the right: int64 [B, width] ids, and the attention mask [B, width], 0 at the padding.

    The padding is token 0. No row sees it, and it is a token of every model; a tokenizer's own padding token may have
    been added to the tokenizer alone.
    """
    return filled(rows, width), filled([[1] * len(row) for row in rows], width)


def filled(rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    """int64 [B, width]: B rows of whole numbers, padded with 0 on the right."""
    table = np.zeros((len(rows), width), dtype=np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def _batch(corpus: Corpus, rows: list[Encoded], width: int) -> Batch:
    input_ids, attention_mask = padded([row.input_ids for row in rows], width)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        segments=np.array([corpus.segment_index(row.sentence) for row in rows], dtype=np.int64),
        counted=filled([row.counted for row in rows], width).astype(np.bool_),
        sentences=tuple(row.sentence for row in rows),
        truncated=sum(row.truncated for row in rows),
        continuing=sum(row.continues for row in rows),
    )
