"""Encoding of sentences: prompt templates, the tokens that count, and texts that are longer than the model reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from affectron._internal.checks import Whole, check, check_template
from affectron._internal.options import check_option
from affectron.corpus.conversations import Range, render
from affectron.corpus.corpus import Corpus, Sentence
from affectron.corpus.special_tokens import Frame, SpecialTokens
from affectron.errors import InputError
from affectron.options import Screen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The template of a bare text, to which the tokenizer adds its own special tokens.
PLAIN = "{text}"
#: Share of a window that repeats the end of the window before, as context, and is not counted again.
OVERLAP = 0.25
#: A tokenizer without a limit has a model_max_length of at least this.
NO_LIMIT = 10**9


@dataclass(slots=True)
class Encoded:
    """Tokens of a sentence, or of one window of it.

    Attributes:
        input_ids: T token ids.
        counted: T flags: whether the token belongs to the text, or is asked to count.
        sentence: the sentence.
        truncated: whether tokens of the text were cut off.
        continues: whether this is a further window of the sentence before.
        pieces: T pieces of the text; all are empty unless they are asked for. Joined, those of consecutive tokens are
            the text as it stands. A token outside of the text has an empty one, and so has a token that goes on with a
            character of the token before.
    """

    input_ids: list[int]
    counted: list[bool]
    sentence: Sentence
    truncated: bool
    pieces: list[str]
    continues: bool = False


def split_template(template: str, tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[str, str]:
    """Split a prompt template at ``{text}`` into the parts before and after it.

    With a tokenizer ``{bos}`` becomes its beginning-of-sequence token; without a tokenizer ``{bos}`` stays. Other
    braces are plain characters.

    Raises:
        InputError: the template does not have ``{text}`` exactly once; it has ``{bos}`` and the tokenizer has no such
            token.
    """
    check_template("template", template)
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
    """The BOS token that is added to the corpus' sentences because neither tokenizer nor template writes it.

    None if no BOS token is added, as for conversations.
    """
    if next(iter(corpus)).messages is not None:
        return None
    return template_frame(tokenizer, template).added_bos


def length_limit(tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> int | None:
    """The most tokens of a sequence: the smaller of ``max_length`` and the tokenizer's own limit; None without any."""
    limits = [limit for limit in (max_length, tokenizer.model_max_length) if limit is not None and limit < NO_LIMIT]
    return int(min(limits)) if limits else None


def encode(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sentence],
    template: str = Screen.template,
    count_special: bool = Screen.count_special,
    max_length: int | None = None,
    long_texts: str = Screen.long_texts,
    pieces: bool = False,
) -> list[Encoded]:
    """Tokenise sentences in one call of the tokenizer and mark the tokens that count.

    With the template ``"{text}"`` the tokenizer adds its special tokens as it does for this model; these do not count.
    With any other template the filled template is tokenised as it stands, and the tokens that overlap the text's
    characters count, also a token that joins the text's end to the template. Every sequence begins with the
    tokenizer's BOS token exactly once (:func:`~affectron.corpus.special_tokens.starts_with_bos`), whether the
    tokenizer, the template or the text writes it.

    A special token that is written in a text does not count; an unknown word does. ``count_special`` counts the special
    tokens around and in a text too, and a template's ``{bos}``.

    In a sentence with a span only the tokens that overlap the span count. A conversation is rendered with the
    tokenizer's chat template, and the tokens count that overlap the contents of the turns that count
    (:func:`affectron.corpus.conversations.render`).

    Too long a sequence loses the last tokens of the text; what follows the text in a template stays. With
    ``long_texts="windows"`` the sequence is split into windows instead. Each window has the tokens around the text and
    begins with a quarter of the window before, as context; every token of the text counts once.

    Args:
        tokenizer: the model's tokenizer.
        sentences: sentences of one corpus: all are conversations, or none is.
        template: prompt template with ``{text}``, and with ``{bos}`` where wanted.
        count_special: count special tokens too.
        max_length: the model's limit in tokens. The tokenizer's own limit holds as well, but not every tokenizer knows
            its model's: a caller that knows the model should pass its limit.
        long_texts: ``"truncate"`` or ``"windows"``.
        pieces: give the piece of the text that each token is; with a tokenizer that gives no character offsets, as it
            decodes the tokens.

    Returns:
        one item per sentence in their order, or one per window.

    Raises:
        InputError: an unusable template (see :func:`split_template`) or chat template; tokens that have to be told
            apart by their characters (a template other than ``"{text}"``, a span, a conversation) and a tokenizer that
            gives no character offsets; a maximum length that leaves no room for the text.
    """
    before, after = split_template(template, tokenizer)
    check_option(Screen, "long_texts", long_texts)
    limit = length_limit(tokenizer, max_length)
    if limit is not None:
        check("max_length", limit, Whole(1))
    reason = _reason_for_offsets(sentences, template)
    if reason and not tokenizer.is_fast:
        raise InputError(
            f"{reason}, but {type(tokenizer).__name__} gives no character offsets to tell the text's tokens by; "
            f"use a fast tokenizer, or whole texts with the template {PLAIN!r}"
        )
    if not sentences:
        return []
    frame: Frame | None = None  # of all sequences, or None if each has its own
    if sentences[0].messages is None:
        rendered = [_in_template(sentence, before, after) for sentence in sentences]
        frame = template_frame(tokenizer, template)
    elif template == PLAIN:
        rendered = [_conversation(tokenizer, sentence) for sentence in sentences]
    else:
        raise InputError(f"template is {template!r}, but the corpus has conversations; expected {PLAIN!r}")
    special = SpecialTokens.of(tokenizer)
    offsets_wanted = tokenizer.is_fast and (pieces or reason is not None)
    tokenised = tokenise(tokenizer, [source.text for source in rendered], offsets_wanted)
    encoded: list[Encoded] = []
    for sentence, source, (ids, offsets) in zip(sentences, rendered, tokenised, strict=True):
        around = Frame.of_conversation(tokenizer, ids) if frame is None else frame
        parts = _pieces(tokenizer, ids, offsets, source) if pieces else [""] * len(ids)
        sequence = _framed(ids, offsets, parts, source, around, special, count_special)
        if limit is None or len(sequence.ids) <= limit:
            encoded.append(Encoded(sequence.ids, sequence.counted, sentence, False, sequence.pieces))
            continue
        if len(sequence.ids) - limit >= sum(sequence.in_text):
            raise InputError(
                f"max_length is {limit}, which leaves no room for the text beside the {sequence.in_text.count(False)} "
                f"other tokens of template {template!r}"
            )
        if long_texts == "windows":
            encoded += _windows(sequence, sentence, limit)
        else:
            encoded.append(_truncated(sequence, sentence, limit))
    return encoded


def tokenise(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], offsets: bool
) -> Iterator[tuple[list[int], list[Range] | None]]:
    """Token ids of each text without added special tokens, and each token's characters if ``offsets`` is set."""
    tokens = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=offsets,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return zip(tokens["input_ids"], tokens["offset_mapping"] if offsets else [None] * len(texts), strict=True)


def overlaps(offset: Range, ranges: Sequence[Range]) -> bool:
    """Tell whether the characters ``offset`` of a token are in one of ``ranges``, at least in part."""
    # Some tokenizers trim blanks from offsets: a blank alone then has no width, and its offset is the blank's end.
    first, last = offset
    return any(last > start and min(first, last - 1) < stop for start, stop in ranges)


def _reason_for_offsets(sentences: Sequence[Sentence], template: str) -> str | None:
    """The part of the input that needs each token's characters, as a clause; None if no part does."""
    if template != PLAIN:
        return f"template is {template!r}"
    if sentences and sentences[0].messages is not None:
        return "the corpus has conversations"
    return "the corpus has spans" if any(sentence.span for sentence in sentences) else None


class _Rendered(NamedTuple):
    """A sentence as the tokenizer is given it.

    ``removable`` are the characters of ``text`` that may be cut where it is too long, ``counted`` those that count, and
    ``own`` those of the sentence itself, or of the turns that count.
    """

    text: str
    removable: Range
    counted: list[Range]
    own: list[Range]


def _in_template(sentence: Sentence, before: str, after: str) -> _Rendered:
    start, stop = sentence.span or (0, len(sentence.text))
    removable = (len(before), len(before) + len(sentence.text))
    counted = (len(before) + start, len(before) + stop)
    return _Rendered(before + sentence.text + after, removable, [counted], [removable])


def _conversation(tokenizer: PreTrainedTokenizerBase, sentence: Sentence) -> _Rendered:
    text, counted = render(tokenizer, sentence)
    return _Rendered(text, (0, len(text)), counted, counted)


def _pieces(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], offsets: list[Range] | None, source: _Rendered
) -> list[str]:
    """The part of the sentence's own characters that each token is, with the white space before it."""
    if offsets is None:
        stops = range(1, len(ids) + 1)
        return _grown(str(tokenizer.decode(ids[:stop], clean_up_tokenization_spaces=False)) for stop in stops)
    pieces, end = [], 0
    for _, stop in offsets:
        stop = max(stop, end)
        pieces.append("".join(source.text[max(first, end) : min(last, stop)] for first, last in source.own))
        end = stop
    return pieces


def _grown(texts: Iterable[str]) -> list[str]:
    """The piece that each of growing texts adds to the one before; empty where it ends within a character."""
    pieces, done = [], ""
    for text in texts:
        whole = not text.endswith("\ufffd")
        pieces.append(text[len(done) :] if whole else "")
        done = text if whole else done
    return pieces


class _Sequence(NamedTuple):
    """Token ids, whether each counts, whether each belongs to the text and may be cut, and its piece of the text."""

    ids: list[int]
    counted: list[bool]
    in_text: list[bool]
    pieces: list[str]


def _framed(
    ids: list[int],
    offsets: list[Range] | None,
    pieces: list[str],
    source: _Rendered,
    frame: Frame,
    special: SpecialTokens,
    count_special: bool,
) -> _Sequence:
    """Put the frame around the tokens of a rendered sentence; without ``offsets`` all of these belong to the text."""
    bare = frame.bare(ids)
    ids = ids[bare]
    if offsets is None:
        in_text = counted = [True] * len(ids)
    else:
        in_text = [overlaps(offset, [source.removable]) for offset in offsets[bare]]
        counted = [overlaps(offset, source.counted) for offset in offsets[bare]]
    if count_special:
        counted = [counts or token == special.bos for token, counts in zip(ids, counted, strict=True)]
    else:
        left_out = special.in_text(source.text)
        counted = [counts and token not in left_out for token, counts in zip(ids, counted, strict=True)]
    before, after = len(frame.before), len(frame.after)
    return _Sequence(
        [*frame.before, *ids, *frame.after],
        [count_special] * before + counted + [count_special] * after,
        [False] * before + in_text + [False] * after,
        [""] * before + pieces[bare] + [""] * after,
    )


def _truncated(sequence: _Sequence, sentence: Sentence, limit: int) -> Encoded:
    """The sequence without the last tokens of the text that are too many."""
    positions = range(len(sequence.ids))
    dropped = set([position for position in positions if sequence.in_text[position]][limit - len(positions) :])
    kept = [position for position in positions if position not in dropped]
    ids = [sequence.ids[position] for position in kept]
    counted = [sequence.counted[position] for position in kept]
    return Encoded(ids, counted, sentence, True, [sequence.pieces[position] for position in kept])


def _windows(sequence: _Sequence, sentence: Sentence, limit: int) -> Iterator[Encoded]:
    """The sequence in windows of at most ``limit`` tokens, each with the tokens before and after the text."""
    ids, counted, in_text, pieces = sequence
    first = in_text.index(True)
    stop = len(ids) - in_text[::-1].index(True)
    room = limit - first - (len(ids) - stop)
    overlap = int(room * OVERLAP)
    for start in range(first, stop - overlap, room - overlap):
        end = min(start + room, stop)
        context = overlap if start > first else 0
        yield Encoded(
            ids[:first] + ids[start:end] + ids[stop:],
            # Tokens around the text that count do so once: in the first window those before it, in the last the others.
            [counts and start == first for counts in counted[:first]]
            + [False] * context
            + counted[start + context : end]
            + [counts and end == stop for counts in counted[stop:]],
            sentence,
            truncated=False,
            pieces=pieces[:first] + pieces[start:end] + pieces[stop:],
            continues=start > first,
        )
