"""From sentences to token batches: prompt templates, which tokens count, batches by token budget. Apart from the
corpus because this is where a tokenizer comes in; still free of torch, as batches are numpy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The template that leaves the text to the tokenizer, which then adds its own special tokens.
PLAIN = "{text}"
#: Tokenizers without a limit say so by a huge model_max_length.
NO_LIMIT = 10**9


@dataclass(slots=True)
class Encoded:
    """One sentence's tokens. ``counted[t]`` is True where token t is the text's own (or asked to count)."""

    input_ids: list[int]
    counted: list[bool]
    sentence: Sentence
    truncated: bool


@dataclass(slots=True)
class Batch:
    """Sentences of similar length, padded on the right to T tokens, longest first.

    Attributes:
        input_ids: int64 [B, T].
        attention_mask: int64 [B, T], 0 at the padding.
        segments: int64 [B], each sentence's position in ``corpus.segments``.
        counted: bool [B, T], never True at the padding.
        sentences: the B sentences.
        truncated: how many of them were cut to fit the maximum length.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    segments: NDArray[np.int64]
    counted: NDArray[np.bool_]
    sentences: tuple[Sentence, ...]
    truncated: int


def split_template(template: str, tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[str, str]:
    """What stands before and after ``{text}`` in a prompt template.

    With a tokenizer its beginning-of-sequence token is put in for ``{bos}``; without one ``{bos}`` stays. Other
    braces are plain characters.

    Raises:
        InputError: ``{text}`` is not there exactly once; ``{bos}`` is there and the tokenizer has no such token.
    """
    if template.count("{text}") != 1:
        problem = "prompt without {text}" if "{text}" not in template else "prompt with {text} more than once"
        raise InputError(f"{problem}: template is {template!r}")
    before, _, after = template.partition("{text}")
    if tokenizer is None or "{bos}" not in template:
        return before, after
    bos = tokenizer.bos_token
    if bos is None:
        raise InputError(f"template is {template!r}, but the tokenizer has no beginning-of-sequence token for {{bos}}")
    return before.replace("{bos}", bos), after.replace("{bos}", bos)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sentence],
    template: str = PLAIN,
    count_special: bool = False,
    max_length: int | None = None,
) -> list[Encoded]:
    """Tokenise sentences in one call of the tokenizer, and tell the texts' own tokens from the others.

    With the template ``"{text}"`` the tokenizer adds its special tokens as it does for this model, and these do not
    count. With any other, the filled template is tokenised as it stands, with nothing added, and the tokens that
    overlap the text's characters count; a token that joins the text's end and the template is thus counted.
    ``count_special`` counts the added special tokens, or the template's ``{bos}``, as well.

    Too long a sequence loses the last of the text's own tokens, so that what follows the text in a template stays.
    ``max_length`` (tokens) defaults to the tokenizer's own; not every tokenizer knows its model's, so callers that
    know the model should pass it.

    Raises:
        InputError: an unusable template (see :func:`split_template`); a template other than ``"{text}"`` with a
            tokenizer that gives no character offsets; a maximum length that leaves no room for the text.
    """
    before, after = split_template(template, tokenizer)
    if max_length is None and tokenizer.model_max_length < NO_LIMIT:
        max_length = int(tokenizer.model_max_length)
    if max_length is not None and max_length < 1:
        raise InputError(f"max_length is {max_length}, expected at least 1")
    if template != PLAIN and not tokenizer.is_fast:
        raise InputError(
            f"template is {template!r}, but {type(tokenizer).__name__} gives no character offsets to tell the text's "
            f"tokens from the template's; use a fast tokenizer or the template {PLAIN!r}"
        )
    if not sentences:
        return []

    plain = template == PLAIN
    found = tokenizer(
        [before + sentence.text + after for sentence in sentences],
        add_special_tokens=plain,
        return_special_tokens_mask=plain,
        return_offsets_mapping=not plain,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    encoded = []
    for row, (sentence, ids) in enumerate(zip(sentences, found["input_ids"], strict=True)):
        if plain:
            special = [bool(added) for added in found["special_tokens_mask"][row]]
            own = [not added for added in special]
        else:
            start, stop = len(before), len(before) + len(sentence.text)
            # Some tokenizers trim blanks from offsets: a blank alone then has no width, and stands before its place.
            own = [last > start and min(first, last - 1) < stop for first, last in found["offset_mapping"][row]]
            special = [token == tokenizer.bos_token_id for token in ids]
        counted = [a or b for a, b in zip(own, special, strict=True)] if count_special else own
        excess = 0 if max_length is None else max(len(ids) - max_length, 0)
        if excess:
            places = [place for place, mine in enumerate(own) if mine]
            if excess >= len(places):
                raise InputError(
                    f"max_length is {max_length}, which leaves no room for the text beside the "
                    f"{len(ids) - len(places)} other tokens of template {template!r}"
                )
            dropped = set(places[-excess:])
            kept = [place for place in range(len(ids)) if place not in dropped]
            ids = [ids[place] for place in kept]
            counted = [counted[place] for place in kept]
        encoded.append(Encoded(ids, counted, sentence, truncated=excess > 0))
    return encoded


def batches(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_tokens: int = 8192,
    template: str = PLAIN,
    count_special: bool = False,
    max_length: int | None = None,
    pool: int = 8192,
    sentences: Iterable[Sentence] | None = None,
) -> Iterator[Batch]:
    """Stream a corpus as batches of at most ``batch_tokens`` tokens, padding included (B x T <= batch_tokens).

    ``pool`` sentences at a time are tokenised and sorted by length, longest first, so that a batch has little padding
    and too large a budget shows at once; equal lengths keep the corpus' order. A sentence longer than the budget is a
    batch of its own. The same corpus and options give the same batches. ``sentences`` are the ones to read, where it
    shall not be all of the corpus.

    Raises:
        InputError: as :func:`encode` and iterating the corpus; ``batch_tokens`` or ``pool`` below 1.
    """
    for name, value in (("batch_tokens", batch_tokens), ("pool", pool)):
        if value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")
    encode(tokenizer, [], template, count_special, max_length)  # options fail here, before anything is read
    found = corpus if sentences is None else sentences
    return _batches(corpus, found, tokenizer, batch_tokens, template, count_special, max_length, pool)


def _batches(
    corpus: Corpus,
    sentences: Iterable[Sentence],
    tokenizer: PreTrainedTokenizerBase,
    batch_tokens: int,
    template: str,
    count_special: bool,
    max_length: int | None,
    pool: int,
) -> Iterator[Batch]:
    sentences = iter(sentences)
    while pooled := list(islice(sentences, pool)):
        encoded = encode(tokenizer, pooled, template, count_special, max_length)
        encoded.sort(key=lambda one: len(one.input_ids), reverse=True)  # stable, in reverse too
        first = 0
        while first < len(encoded):
            # At least one token, as a text may hold nothing that its tokenizer knows.
            width = max(len(encoded[first].input_ids), 1)
            rows = encoded[first : first + max(batch_tokens // width, 1)]
            yield _batch(corpus, rows, width)
            first += len(rows)


def _batch(corpus: Corpus, rows: list[Encoded], width: int) -> Batch:
    shape = (len(rows), width)
    # What stands at the padding is neither seen nor counted; 0 is a token of every model, unlike a tokenizer's own
    # padding token, which may have been added to it alone.
    input_ids = np.zeros(shape, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    counted = np.zeros(shape, dtype=np.bool_)
    for row, one in enumerate(rows):
        length = len(one.input_ids)
        input_ids[row, :length] = one.input_ids
        attention_mask[row, :length] = 1
        counted[row, :length] = one.counted
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        segments=np.array([corpus.segment_index(one.sentence) for one in rows], dtype=np.int64),
        counted=counted,
        sentences=tuple(one.sentence for one in rows),
        truncated=sum(one.truncated for one in rows),
    )
