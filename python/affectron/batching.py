"""From sentences to token batches: prompt templates, which tokens count, batches by token budget. Apart from the
corpus because this is where a tokenizer comes in; still free of torch, as batches are numpy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectron.corpus import Corpus, Message, Sentence
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
    count. With any other, the filled template is tokenised as it stands, with nothing added, and the tokens that
    overlap the text's characters count; a token that joins the text's end and the template is thus counted.
    ``count_special`` counts the added special tokens, or the template's ``{bos}``, as well.

    Of a sentence with a span only the tokens that overlap it count. A conversation is read in the tokenizer's chat
    template, as it stands, and the tokens count that overlap the contents of the turns that do.

    Too long a sequence loses the last of the text's own tokens, so that what follows the text in a template stays. With
    ``long_texts="windows"`` it becomes several instead, each with what stands around the text and a quarter of the one
    before as context; every token of the text counts once.
    ``max_length`` (tokens) defaults to the tokenizer's own; not every tokenizer knows its model's, so callers that
    know the model should pass it.

    Raises:
        InputError: an unusable template (see :func:`split_template`); a template other than ``"{text}"`` with a
            tokenizer that gives no character offsets; a maximum length that leaves no room for the text.
    """
    before, after = split_template(template, tokenizer)
    if long_texts not in LONG_TEXTS:
        raise InputError(f"long_texts is {long_texts!r}, expected one of {', '.join(LONG_TEXTS)}")
    if max_length is None and tokenizer.model_max_length < NO_LIMIT:
        max_length = int(tokenizer.model_max_length)
    if max_length is not None and max_length < 1:
        raise InputError(f"max_length is {max_length}, expected at least 1")
    plain = template == PLAIN
    if not plain and not tokenizer.is_fast:
        raise InputError(
            f"template is {template!r}, but {type(tokenizer).__name__} gives no character offsets to tell the text's "
            f"tokens from the template's; use a fast tokenizer or the template {PLAIN!r}"
        )
    if not sentences:
        return []
    chat = sentences[0].messages is not None
    placed = not plain or chat or any(sentence.span for sentence in sentences)
    if placed and not tokenizer.is_fast:
        raise InputError(
            f"the corpus has {'conversations' if chat else 'spans'}, but {type(tokenizer).__name__} gives no character "
            "offsets to find their tokens by; use a fast tokenizer"
        )
    if chat and not plain:
        raise InputError(f"template is {template!r}, but the corpus has conversations; expected {PLAIN!r}")

    reads = [_chat(tokenizer, one) if chat else _filled(one, before, after) for one in sentences]
    found = tokenizer(
        [read.text for read in reads],
        add_special_tokens=plain and not chat,
        return_special_tokens_mask=plain,
        return_offsets_mapping=placed,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    encoded = []
    for row, (sentence, read, ids) in enumerate(zip(sentences, reads, found["input_ids"], strict=True)):
        if placed:
            offsets = found["offset_mapping"][row]
            within = [_overlaps(offset, [read.whole]) for offset in offsets]
            own = [_overlaps(offset, read.counted) for offset in offsets]
            special = [token == tokenizer.bos_token_id for token in ids]
        if plain and not chat:
            special = [bool(added) for added in found["special_tokens_mask"][row]]
            within = [not added for added in special]
            own = [mine and here for mine, here in zip(own, within, strict=True)] if placed else within
        counted = [a or b for a, b in zip(own, special, strict=True)] if count_special else own
        excess = 0 if max_length is None else max(len(ids) - max_length, 0)
        if not excess:
            encoded.append(Encoded(ids, counted, sentence, truncated=False))
            continue
        assert max_length is not None
        places = [place for place, mine in enumerate(within) if mine]
        if excess >= len(places):
            raise InputError(
                f"max_length is {max_length}, which leaves no room for the text beside the "
                f"{len(ids) - len(places)} other tokens of template {template!r}"
            )
        if long_texts == "windows":
            encoded += _windows(ids, counted, sentence, (places[0], places[-1] + 1), max_length)
            continue
        dropped = set(places[-excess:])
        kept = [place for place in range(len(ids)) if place not in dropped]
        encoded.append(Encoded([ids[p] for p in kept], [counted[p] for p in kept], sentence, truncated=True))
    return encoded


class _Read(NamedTuple):
    """What the model reads of a sentence, and in it the characters of the whole text and of what counts."""

    text: str
    whole: tuple[int, int]
    counted: list[tuple[int, int]]


def _filled(sentence: Sentence, before: str, after: str) -> _Read:
    start, end = sentence.span or (0, len(sentence.text))
    whole = (len(before), len(before) + len(sentence.text))
    return _Read(before + sentence.text + after, whole, [(len(before) + start, len(before) + end)])


def _chat(tokenizer: PreTrainedTokenizerBase, sentence: Sentence) -> _Read:
    """A conversation in the tokenizer's chat template, and where in it the contents of its turns are.

    Raises:
        InputError: the tokenizer has no chat template, or one that leaves out or rewrites what was said.
    """
    messages = sentence.messages or ()
    if not tokenizer.chat_template:
        raise InputError("the corpus has conversations, but the tokenizer has no chat template")
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception as error:  # a template is a program of the tokenizer's own, with errors of its own
        raise InputError(f"sentence {sentence.id}: the chat template does not take these turns: {error}") from error
    places: list[tuple[int, int]] = []
    at = 0
    for message in messages:
        content = message.content.strip()  # many templates strip it
        start = text.find(content, at)
        if start < 0:
            raise InputError(f"sentence {sentence.id}: the chat template does not show the turn {content[:40]!r}")
        at = start + len(content)
        places.append((start, at))
    counted = [place for place, message in zip(places, messages, strict=True) if message.counts]
    shown = _Read(text, (0, len(text)), counted)
    if sentence.span is None:
        return shown
    return shown._replace(counted=_within(sentence.span, messages, counted))


def _within(span: tuple[int, int], messages: Sequence[Message], places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The places of a span of ``Sentence.text``, which is the contents that count, a line a message."""
    found = []
    at = 0
    for message, (first, _) in zip([m for m in messages if m.counts], places, strict=True):
        lead = len(message.content) - len(message.content.lstrip())
        start, end = max(span[0], at), min(span[1], at + len(message.content))
        if start < end:
            found.append((first + max(start - at - lead, 0), first + end - at - lead))
        at += len(message.content) + 1
    return found


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
    encode(tokenizer, [], template, count_special, max_length, long_texts)  # options fail here, before anything is read
    found = corpus if sentences is None else sentences
    return _batches(corpus, found, tokenizer, batch_tokens, template, count_special, max_length, long_texts, pool)


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
) -> Iterator[Batch]:
    sentences = iter(sentences)
    while pooled := list(islice(sentences, pool)):
        encoded = encode(tokenizer, pooled, template, count_special, max_length, long_texts)
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
        continuing=sum(one.continues for one in rows),
    )
