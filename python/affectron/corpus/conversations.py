"""Positions of the turns' contents in a conversation as the tokenizer's chat template renders it.

A chat template is a program. It trims, escapes, merges or leaves out contents, and it writes words of its own, which
may be those of a turn: searching for a content's text could find the wrong position. Instead the conversation is
rendered a second time with marks in the contents. A mark's position is taken if the rendering is otherwise unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count, takewhile
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from affectron.corpus.corpus import Message, Sentence
from affectron.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The first character and the one after the last.
Range: TypeAlias = tuple[int, int]

# A template may write the time, which may change from one rendering to the next.
_ATTEMPTS = 5


class _Shown(NamedTuple):
    """The part of a turn's content that the template shows: its range in the content and in the rendered text."""

    content: Range
    text: Range


def render(tokenizer: PreTrainedTokenizerBase, sentence: Sentence) -> tuple[str, list[Range]]:
    """Render a conversation in the tokenizer's chat template, and find the ranges of the text that count.

    These are the contents of the turns that count; of a sentence with a span the part of them in the span. Where the
    template trims a content or shows a part of it (an answer without the thinking before it), the shown part counts.

    Raises:
        InputError: the tokenizer has no chat template, or one that does not take these turns, or one that leaves out or
            rewrites a content that counts, so that its position is not certain. The message names the sentence and the
            turn.
    """
    if not tokenizer.chat_template:
        raise InputError("the corpus has conversations, but the tokenizer has no chat template")
    conversation = _Conversation(tokenizer, sentence)
    for _ in range(_ATTEMPTS - 1):
        try:
            return conversation.text, conversation.counted()
        except InputError:
            if conversation.is_current():
                raise
        conversation = _Conversation(tokenizer, sentence)
    return conversation.text, conversation.counted()


class _Conversation:
    """A rendered conversation, and renderings of it with marks in its contents."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sentence: Sentence) -> None:
        self.tokenizer, self.sentence = tokenizer, sentence
        self.messages: Sequence[Message] = sentence.messages or ()
        contents = [message.content for message in self.messages]
        try:
            self.text = self._render(contents)
        except Exception as error:  # a template is a program of the tokenizer, with exceptions of its own
            raise InputError(f"sentence {sentence.id}: the chat template does not take these turns: {error}") from error
        # Digits survive trimming, escaping and changes of case. "9" stands only at the beginning of a mark, so that
        # marks do not overlap.
        taken = "\n".join([self.text, *contents])
        self.nonce = next(nonce for nonce in (f"9{number:09o}" for number in count()) if nonce not in taken)

    def _render(self, contents: Sequence[str]) -> str:
        turns = [
            {"role": message.role, "content": content} for message, content in zip(self.messages, contents, strict=True)
        ]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))

    def is_current(self) -> bool:
        """Tell whether the template renders the same text again."""
        return self._render([message.content for message in self.messages]) == self.text

    def counted(self) -> list[Range]:
        """The ranges of the text that count, in the order of the turns."""
        turns = [turn for turn, message in enumerate(self.messages) if message.counts and message.content.strip()]
        lengths = {turn: len(self.messages[turn].content) for turn in turns}
        positions = self._positions([(turn, offset) for turn in turns for offset in (0, lengths[turn])])
        if positions is None:
            shown = {turn: self._shown(turn) for turn in turns}
        else:
            bounds = iter(positions)
            shown = {turn: _Shown((0, lengths[turn]), (next(bounds), next(bounds))) for turn in turns}
        if self.sentence.span is None:
            return [shown[turn].text for turn in turns]
        return self._within(self.sentence.span, shown)

    def _positions(self, marks: Sequence[tuple[int, int]]) -> list[int] | None:
        """The positions in the text of marks at (turn, offset in its content).

        None if the marks change more than they add, or one of them is not shown, or is shown twice.
        """
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
        positions = [0] * len(marks)
        position = 0
        for piece, number in zip(pieces[::2], numbers, strict=False):  # no mark follows the last piece
            position += len(piece)
            positions[number] = position
        return positions

    def _shown(self, turn: int) -> _Shown:
        """The part of a turn's content that is shown: all of it, all but the blanks around it, or its last part."""
        content = self.messages[turn].content
        lead, end = len(content) - len(content.lstrip()), len(content.rstrip())
        first = self._first_certain(turn, (0, lead))
        last = self._first_certain(turn, (len(content), end))
        if last is not None and first is None:
            first = self._begin_of_last_part(turn, *last)
        if first is not None and last is not None:
            return _Shown((first[0], last[0]), (first[1], last[1]))
        # A template may look at how a content begins and ends; it then takes a mark in the middle.
        middle = self._first_certain(turn, (len(content) // 2,))
        if middle is not None:
            shift = middle[1] - middle[0]
            shown = _Shown((lead, end), (lead + shift, end + shift))
            if self._is_literal(turn, shown):
                return shown
        raise self._uncertain(turn, content)

    def _is_literal(self, turn: int, shown: _Shown) -> bool:
        """Tell whether the text shows the part of a turn's content character by character."""
        return self.messages[turn].content[slice(*shown.content)] == self.text[slice(*shown.text)]

    def _uncertain(self, turn: int, part: str) -> InputError:
        return InputError(
            f"sentence {self.sentence.id}: turn {turn + 1} ({self.messages[turn].role}): the chat template leaves out "
            f"or rewrites {part[:40]!r}, so that its place is not certain"
        )

    def _first_certain(self, turn: int, offsets: tuple[int, ...]) -> tuple[int, int] | None:
        """The first of these offsets in a turn's content whose position in the text is certain, and that position."""
        for offset in dict.fromkeys(offsets):
            positions = self._positions([(turn, offset)])
            if positions is not None:
                return offset, positions[0]
        return None

    def _begin_of_last_part(self, turn: int, last: int, stop: int) -> tuple[int, int] | None:
        """The begin of the part of a turn's content that is shown up to offset ``last``, at ``stop`` in the text.

        As an offset in the content and a position in the text; None if it is not certain.
        """
        content = self.messages[turn].content[:last]
        pairs = zip(reversed(content), reversed(self.text[:stop]), strict=False)
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        lead = len(content) - len(content.lstrip())
        if alike >= last - lead:
            return lead, stop - (last - lead)
        # Characters before the part may equal those before its position by chance: a mark among them is not shown.
        for offset in range(last - alike, last):
            if self._positions([(turn, offset)]) == [stop - (last - offset)]:
                return offset, stop - (last - offset)
        return None

    def _within(self, span: Range, shown: dict[int, _Shown]) -> list[Range]:
        """The ranges of the text that show a span of ``Sentence.text``: the contents that count, a line a message."""
        ranges = []
        begin = 0
        for turn, message in enumerate(self.messages):
            if not message.counts:
                continue
            first, last = max(span[0] - begin, 0), min(span[1] - begin, len(message.content))
            begin += len(message.content) + 1
            if message.content[first : max(last, 0)].strip():
                ranges.append(self._part(turn, (first, last), shown[turn]))
        return ranges

    def _part(self, turn: int, part: Range, shown: _Shown) -> Range:
        """The range of the text that shows a part of a turn's content."""
        content = self.messages[turn].content
        first, last = max(part[0], shown.content[0]), min(part[1], shown.content[1])
        positions: list[int] | None = None
        if first < last:
            if self._is_literal(turn, shown):
                positions = [shown.text[0] + offset - shown.content[0] for offset in (first, last)]
            else:  # escaped, or in other letters
                positions = self._positions([(turn, first), (turn, last)])
        if positions is None:
            raise self._uncertain(turn, content[slice(*part)])
        return positions[0], positions[1]
