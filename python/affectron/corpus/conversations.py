"""Places of the turns' contents in a conversation as the tokenizer's chat template renders it.

A chat template is a program: it trims, escapes, merges or leaves out what was said, and it writes words of its own,
which may be the same as those of a turn. So a place is never searched for by its text. The conversation is rendered
a second time with marks in the contents; a place is taken where the mark stands, if the rendering is otherwise
unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count, takewhile
from typing import TYPE_CHECKING, NamedTuple

from affectron.corpus.corpus import Message, Sentence
from affectron.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Range = tuple[int, int]


# A template may write the time, which may pass from one rendering to the next.
_ATTEMPTS = 5


class _Shown(NamedTuple):
    """The part ``content`` (characters) of a turn's content, and the characters of the rendered text that show it."""

    content: Range
    text: Range


def render(tokenizer: PreTrainedTokenizerBase, sentence: Sentence) -> tuple[str, list[Range]]:
    """A conversation in the tokenizer's chat template, and the characters in it of the contents that count.

    Of a content that the template trims or shows in part (an answer without the thinking before it), what is shown
    counts. Of a sentence with a span, what is shown of the span.

    Raises:
        InputError: the tokenizer has no chat template, or one that does not take these turns, or that leaves out or
            rewrites a content that counts, so that its place is not certain; names the sentence and the turn.
    """
    if not tokenizer.chat_template:
        raise InputError("the corpus has conversations, but the tokenizer has no chat template")
    for attempts_left in range(_ATTEMPTS - 1, -1, -1):
        conversation = _Conversation(tokenizer, sentence)
        try:
            return conversation.text, conversation.counted()
        except InputError:
            if not attempts_left or conversation.is_current():
                raise
    raise AssertionError("unreachable")


class _Conversation:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, sentence: Sentence) -> None:
        self.tokenizer, self.sentence = tokenizer, sentence
        self.messages: Sequence[Message] = sentence.messages or ()
        contents = [message.content for message in self.messages]
        try:
            self.text = self._render(contents)
        except Exception as error:  # a template is a program of the tokenizer's own, with errors of its own
            raise InputError(f"sentence {sentence.id}: the chat template does not take these turns: {error}") from error
        # Digits survive trimming, escaping and changes of case. "9" stands only at the beginning of a mark, so that
        # no mark overlaps another one or itself.
        taken = "\n".join([self.text, *contents])
        self.nonce = next(nonce for nonce in (f"9{number:09o}" for number in count()) if nonce not in taken)

    def _render(self, contents: Sequence[str]) -> str:
        turns = [
            {"role": message.role, "content": content} for message, content in zip(self.messages, contents, strict=True)
        ]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))

    def is_current(self) -> bool:
        """Whether the template still renders the same text."""
        return self._render([message.content for message in self.messages]) == self.text

    def counted(self) -> list[Range]:
        """The ranges of the text that count, in the order of the turns."""
        turns = [turn for turn, message in enumerate(self.messages) if message.counts and message.content.strip()]
        lengths = {turn: len(self.messages[turn].content) for turn in turns}
        places = self._places([(turn, offset) for turn in turns for offset in (0, lengths[turn])])
        if places is None:
            shown = {turn: self._shown(turn) for turn in turns}
        else:
            ends = iter(places)
            shown = {turn: _Shown((0, lengths[turn]), (next(ends), next(ends))) for turn in turns}
        if self.sentence.span is None:
            return [shown[turn].text for turn in turns]
        return self._within(self.sentence.span, shown)

    def _places(self, marks: Sequence[tuple[int, int]]) -> list[int] | None:
        """Where in the text the given (turn, offset in its content) are; None where a mark there changes more than
        itself, is not shown, or is shown twice."""
        contents = [message.content for message in self.messages]
        for number in sorted(range(len(marks)), key=marks.__getitem__, reverse=True):
            turn, offset = marks[number]
            contents[turn] = f"{contents[turn][:offset]}{self.nonce}{number:06o}{contents[turn][offset:]}"
        try:
            pieces = re.split(f"{self.nonce}([0-7]{{6}})", self._render(contents))
        except Exception:  # the template does not take the marked contents
            return None
        numbers = [int(piece, 8) for piece in pieces[1::2]]
        if "".join(pieces[::2]) != self.text or sorted(numbers) != list(range(len(marks))):
            return None
        places = [0] * len(marks)
        at = 0
        for piece, number in zip(pieces[::2], numbers, strict=False):  # the last piece has no mark behind it
            at += len(piece)
            places[number] = at
        return places

    def _shown(self, turn: int) -> _Shown:
        """The part of a turn's content that is shown: all of it, all but the blanks around it, or its last part."""
        content = self.messages[turn].content
        lead, end = len(content) - len(content.lstrip()), len(content.rstrip())
        first = self._end(turn, (0, lead))
        last = self._end(turn, (len(content), end))
        if last is not None and first is None:
            first = self._begin_of_last_part(turn, *last)
        if first is not None and last is not None:
            return _Shown((first[0], last[0]), (first[1], last[1]))
        # A template that looks at how a content begins and ends lets a mark stand between.
        middle = self._end(turn, (len(content) // 2,))
        if middle is not None:
            place = _Shown((lead, end), (middle[1] - middle[0] + lead, middle[1] - middle[0] + end))
            if self._is_literal(turn, place):
                return place
        raise self._uncertain(turn, content)

    def _is_literal(self, turn: int, shown: _Shown) -> bool:
        return self.messages[turn].content[slice(*shown.content)] == self.text[slice(*shown.text)]

    def _uncertain(self, turn: int, what: str) -> InputError:
        return InputError(
            f"sentence {self.sentence.id}: turn {turn + 1} ({self.messages[turn].role}): the chat template leaves out "
            f"or rewrites {what[:40]!r}, so that its place is not certain"
        )

    def _end(self, turn: int, offsets: tuple[int, ...]) -> Range | None:
        """The first of these offsets in a content whose place is certain, with that place."""
        for offset in dict.fromkeys(offsets):
            places = self._places([(turn, offset)])
            if places is not None:
                return offset, places[0]
        return None

    def _begin_of_last_part(self, turn: int, last: int, stop: int) -> Range | None:
        """Where the part of a content begins that is shown up to its offset ``last``, at ``stop`` in the text."""
        content = self.messages[turn].content[:last]
        pairs = zip(reversed(content), reversed(self.text[:stop]), strict=False)
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        lead = len(content) - len(content.lstrip())
        if alike >= last - lead:
            return lead, stop - (last - lead)
        # The characters before the part may be like those before its place by chance: a mark among them is not shown.
        for offset in range(last - alike, last):
            if self._places([(turn, offset)]) == [stop - (last - offset)]:
                return offset, stop - (last - offset)
        return None

    def _within(self, span: Range, shown: dict[int, _Shown]) -> list[Range]:
        """The ranges of a span of ``Sentence.text``, which is the contents that count, a line a message."""
        ranges = []
        at = 0
        for turn, message in enumerate(self.messages):
            if not message.counts:
                continue
            first, last = max(span[0] - at, 0), min(span[1] - at, len(message.content))
            at += len(message.content) + 1
            if message.content[first : max(last, 0)].strip():
                ranges.append(self._piece(turn, (first, last), shown[turn]))
        return ranges

    def _piece(self, turn: int, piece: Range, shown: _Shown) -> Range:
        """The range of the text that shows a piece of a turn's content."""
        content = self.messages[turn].content
        first, last = max(piece[0], shown.content[0]), min(piece[1], shown.content[1])
        places: list[int] | None = None
        if first < last:
            if self._is_literal(turn, shown):
                places = [shown.text[0] + offset - shown.content[0] for offset in (first, last)]
            else:  # escaped, or in other letters
                places = self._places([(turn, first), (turn, last)])
        if places is None:
            raise self._uncertain(turn, content[slice(*piece)])
        return places[0], places[1]
