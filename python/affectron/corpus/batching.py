"""Token batches of sentences: prompt templates, which tokens count, batches by token budget.

Separate from the corpus, which knows no tokenizer; free of torch, as batches are numpy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectron.corpus.conversations import render
from affectron.corpus.corpus import Corpus, Sentence
from affectron.corpus.special_tokens import Frame, SpecialTokens
from affectron.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The template that leaves the text to the tokenizer, which then adds its own special tokens.
PLAIN = "{text}"
#: What becomes of a text that is too long: it loses its end, or is read in overlapping pieces.
LONG_TEXTS = ("truncate", "windows")
#: The share of a window that repeats the one before it, as context, and does not count again.
OVERLAP = 0.25
#: Tokenizers without a limit say so by a huge model_max_length.
NO_LIMIT = 10**9


@dataclass(slots=True)
class Encoded:
    """One sentence's tokens. ``counted[t]`` is True where token t is the text's own (or asked to count)."""

    input_ids: list[int]
    counted: list[bool]
    sentence: Sentence
    truncated: bool
    continues: bool = False  # a further window of the sentence before


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
        continuing: how many are further windows of a text that has been begun.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    segments: NDArray[np.int64]
    counted: NDArray[np.bool_]
    sentences: tuple[Sentence, ...]
    truncated: int
    continuing: int


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


def template_frame(tokenizer: PreTrainedTokenizerBase, template: str) -> Frame:
    """The special tokens around a text in a template, which may be ``"{text}"``."""
    if template == PLAIN:
        return Frame.of_text(tokenizer)
    return Frame.of_prompt(tokenizer, split_template(template, tokenizer)[0])


def added_bos(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, template: str) -> str | None:
    """The BOS token that is put before the corpus' sentences though neither the tokenizer nor the template does so."""
    if next(iter(corpus)).messages is not None:
        return None
    return template_frame(tokenizer, template).added_bos


def length_limit(tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> int | None:
    """The tokens of a sequence at most: the smaller of the model's limit and the tokenizer's own; None without any."""
    limits = [limit for limit in (max_length, tokenizer.model_max_length) if limit is not None and limit < NO_LIMIT]
    return int(min(limits)) if limits else None


def encode(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sentence],
    template: str = PLAIN,
    count_special: bool = False,
    max_length: int | None = None,
    long_texts: str = "truncate",
) -> list[Encoded]:
    """Tokenise sentences in one call of the tokenizer, and tell the texts' own tokens from the others.

    With the template ``"{text}"`` the tokenizer adds its special tokens as it does for this model, and these do not
    count. With any other, the filled template is tokenised as it stands, and the tokens that overlap the text's
    characters count; a token that joins the text's end and the template is thus counted. Either begins with the
    tokenizer's BOS token exactly once (:func:`starts_with_bos`), whoever writes it.

    A special token that is written in a text does not count. An unknown word does. ``count_special`` counts the
    special tokens around a text and in it, and a template's ``{bos}``, as well.

    Of a sentence with a span only the tokens that overlap it count. A conversation is read in the tokenizer's chat
    template, as it stands, and the tokens count that overlap the contents of the turns that do
    (:func:`affectron.corpus.conversations.render`).

    Too long a sequence loses the last of the text's own tokens, so that what follows the text in a template stays. With
    ``long_texts="windows"`` it becomes several instead, each with what stands around the text and a quarter of the one
    before as context; every token of the text counts once.
    ``max_length`` (tokens) is the model's limit; the tokenizer's own holds as well, but not every tokenizer knows its
    model's, so callers that know the model should pass it.

    Raises:
        InputError: an unusable template (see :func:`split_template`) or chat template; a template other than
            ``"{text}"`` with a tokenizer that gives no character offsets; a maximum length that leaves no room for the
            text.
    """
    before, after = split_template(template, tokenizer)
    if long_texts not in LONG_TEXTS:
        raise InputError(f"long_texts is {long_texts!r}, expected one of {', '.join(LONG_TEXTS)}")
    limit = length_limit(tokenizer, max_length)
    if limit is not None and limit < 1:
        raise InputError(f"max_length is {limit}, expected at least 1")
    needs = _needs_offsets(sentences, template)
    if needs and not tokenizer.is_fast:
        raise InputError(
            f"{needs}, but {type(tokenizer).__name__} gives no character offsets to tell the text's tokens by; "
            f"use a fast tokenizer, or whole texts with the template {PLAIN!r}"
        )
    if not sentences:
        return []
    if sentences[0].messages is None:
        reads = [_filled(sentence, before, after) for sentence in sentences]
        frame = template_frame(tokenizer, template)
    elif template == PLAIN:
        reads = [_conversation(tokenizer, sentence) for sentence in sentences]
        frame = None
    else:
        raise InputError(f"template is {template!r}, but the corpus has conversations; expected {PLAIN!r}")
    tokens = tokenizer(
        [read.text for read in reads],
        add_special_tokens=False,
        return_offsets_mapping=needs is not None,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    offsets = tokens["offset_mapping"] if needs else [None] * len(reads)
    special = SpecialTokens.of(tokenizer)
    encoded = []
    for sentence, read, ids, places in zip(sentences, reads, tokens["input_ids"], offsets, strict=True):
        around = Frame.of_conversation(tokenizer, ids) if frame is None else frame
        sequence = _sequence(ids, places, read, around, special, count_special)
        encoded += _fitted(sequence, sentence, limit, long_texts, template)
    return encoded


def _needs_offsets(sentences: Sequence[Sentence], template: str) -> str | None:
    """Name the part of the input that needs each token's characters; None if no part does."""
    if template != PLAIN:
        return f"template is {template!r}"
    if sentences and sentences[0].messages is not None:
        return "the corpus has conversations"
    return "the corpus has spans" if any(sentence.span for sentence in sentences) else None


class _Read(NamedTuple):
    """What the model reads of a sentence, and in it the characters of the whole text and of what counts."""

    text: str
    whole: tuple[int, int]
    counted: list[tuple[int, int]]


def _filled(sentence: Sentence, before: str, after: str) -> _Read:
    start, end = sentence.span or (0, len(sentence.text))
    whole = (len(before), len(before) + len(sentence.text))
    return _Read(before + sentence.text + after, whole, [(len(before) + start, len(before) + end)])


def _conversation(tokenizer: PreTrainedTokenizerBase, sentence: Sentence) -> _Read:
    text, counted = render(tokenizer, sentence)
    return _Read(text, (0, len(text)), counted)


class _Sequence(NamedTuple):
    """Tokens, whether each counts, and whether each is the whole text's own, which may be cut."""

    ids: list[int]
    counted: list[bool]
    own: list[bool]


def _sequence(
    ids: list[int],
    offsets: list[tuple[int, int]] | None,
    read: _Read,
    frame: Frame,
    special: SpecialTokens,
    count_special: bool,
) -> _Sequence:
    """The frame around the tokens of what is read, each once; ``offsets`` None means that all of it counts."""
    bare = frame.bare(ids)
    ids = ids[bare]
    if offsets is None:
        own = counted = [True] * len(ids)
    else:
        own = [_overlaps(offset, [read.whole]) for offset in offsets[bare]]
        counted = [_overlaps(offset, read.counted) for offset in offsets[bare]]
    if count_special:
        counted = [mine or token == special.bos for token, mine in zip(ids, counted, strict=True)]
    else:
        left_out = special.in_text(read.text)
        counted = [mine and token not in left_out for token, mine in zip(ids, counted, strict=True)]
    before, after = len(frame.before), len(frame.after)
    return _Sequence(
        [*frame.before, *ids, *frame.after],
        [count_special] * before + counted + [count_special] * after,
        [False] * before + own + [False] * after,
    )


def _fitted(
    sequence: _Sequence, sentence: Sentence, limit: int | None, long_texts: str, template: str
) -> list[Encoded]:
    """The sequence as it is, or cut or split to at most ``limit`` tokens."""
    ids, counted, own = sequence
    excess = 0 if limit is None else len(ids) - limit
    if limit is None or excess <= 0:
        return [Encoded(ids, counted, sentence, truncated=False)]
    places = [place for place, mine in enumerate(own) if mine]
    if excess >= len(places):
        raise InputError(
            f"max_length is {limit}, which leaves no room for the text beside the {len(ids) - len(places)} other "
            f"tokens of template {template!r}"
        )
    if long_texts == "windows":
        return _windows(ids, counted, sentence, (places[0], places[-1] + 1), limit)
    dropped = set(places[-excess:])
    kept = [place for place in range(len(ids)) if place not in dropped]
    return [Encoded([ids[place] for place in kept], [counted[place] for place in kept], sentence, truncated=True)]


def _overlaps(offset: tuple[int, int], ranges: list[tuple[int, int]]) -> bool:
    # Some tokenizers trim blanks from offsets: a blank alone then has no width, and stands before its place.
    first, last = offset
    return any(last > start and min(first, last - 1) < stop for start, stop in ranges)


def _windows(
    ids: list[int], counted: list[bool], sentence: Sentence, text: tuple[int, int], max_length: int
) -> list[Encoded]:
    """The sequence in pieces of at most ``max_length`` tokens; ``text`` is where the text's own tokens are."""
    first, stop = text
    room = max_length - first - (len(ids) - stop)
    overlap = int(room * OVERLAP)
    found = []
    start = first
    while True:
        end = min(start + room, stop)
        context = overlap if start > first else 0
        found.append(
            Encoded(
                ids[:first] + ids[start:end] + ids[stop:],
                # What stands around the text counts once as well, where it counts at all.
                [mine and start == first for mine in counted[:first]]
                + [False] * context
                + counted[start + context : end]
                + [mine and end == stop for mine in counted[stop:]],
                sentence,
                truncated=False,
                continues=start > first,
            )
        )
        if end == stop:
            return found
        start = end - overlap


def batches(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_tokens: int = 8192,
    template: str = PLAIN,
    count_special: bool = False,
    max_length: int | None = None,
    long_texts: str = "truncate",
    pool: int = 8192,
    padding: bool = True,
    sentences: Iterable[Sentence] | None = None,
) -> Iterator[Batch]:
    """Stream a corpus as batches of at most ``batch_tokens`` tokens, padding included (B x T <= batch_tokens).

    ``pool`` sentences at a time are tokenised and sorted by length, longest first, so that a batch has little padding
    and too large a budget shows at once; equal lengths keep the corpus' order. A sentence longer than the budget is a
    batch of its own. The same corpus and options give the same batches. Without ``padding`` all sentences of a batch
    have the same length. ``sentences`` are the ones to read, where it shall not be all of the corpus.

    Raises:
        InputError: as :func:`encode` and iterating the corpus; ``batch_tokens`` or ``pool`` below 1.
    """
    for name, value in (("batch_tokens", batch_tokens), ("pool", pool)):
        if value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")
    encode(tokenizer, [], template, count_special, max_length, long_texts)  # options fail here, before anything is read
    found = corpus if sentences is None else sentences
    return _batches(
        corpus, found, tokenizer, batch_tokens, template, count_special, max_length, long_texts, pool, padding
    )


def _batches(
    corpus: Corpus,
    sentences: Iterable[Sentence],
    tokenizer: PreTrainedTokenizerBase,
    batch_tokens: int,
    template: str,
    count_special: bool,
    max_length: int | None,
    long_texts: str,
    pool: int,
    padding: bool,
) -> Iterator[Batch]:
    sentences = iter(sentences)
    while pooled := list(islice(sentences, pool)):
        encoded = encode(tokenizer, pooled, template, count_special, max_length, long_texts)
        encoded.sort(key=lambda one: len(one.input_ids), reverse=True)  # stable, in reverse too
        for rows, width in cut([len(one.input_ids) for one in encoded], batch_tokens, padding):
            yield _batch(corpus, encoded[rows], width)


def cut(lengths: Sequence[int], batch_tokens: int, padding: bool) -> Iterator[tuple[slice, int]]:
    """Cut rows of these lengths, longest first, into batches: (rows, width), rows x width at most ``batch_tokens`` but
    for a single row; without ``padding`` all of one length."""
    start = 0
    while start < len(lengths):
        width = max(lengths[start], 1)  # a text may hold nothing that its tokenizer knows
        stop = min(start + max(batch_tokens // width, 1), len(lengths))
        if not padding:
            stop = next((row for row in range(start, stop) if lengths[row] != lengths[start]), stop)
        yield slice(start, stop), width
        start = stop


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
        continuing=sum(one.continues for one in rows),
    )
