"""Requests of the page: what is written, and which labels are steered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from affectron._internal.checks import SHARE, OneOf, Positive, Whole
from affectron._internal.records import from_plain
from affectron.corpus.values import is_unicode
from affectron.errors import InputError
from affectron.interventions.recipes import ProgramName


@dataclass(frozen=True)
class SteeredLabel:
    """A label that is steered.

    Attributes:
        label: the label.
        program: the kind of program.
        strength: its strength; None for the usual one, and for a kind without a strength.
        share: the share of the label's neurons, best first.
        signal: with cross-signal the label whose mean activation is added.
    """

    label: str
    program: Annotated[str, OneOf(tuple(ProgramName))] = ProgramName.contrast.value
    strength: float | None = None
    share: Annotated[float, SHARE] = 1.0
    signal: str | None = None


@dataclass(frozen=True)
class Request:
    """A text that is asked for. The arguments are those of :func:`affectron.generation.continuations`; ``steered`` are
    the labels of the steered text, whose programs act one after another."""

    prompt: str
    chat: bool = False
    max_new_tokens: Annotated[int, Whole(1)] = 40
    temperature: Annotated[float, Positive(zero_too=True)] = 0.0
    seed: Annotated[int, Whole()] = 0
    steered: tuple[SteeredLabel, ...] = ()

    @classmethod
    def read(cls, body: bytes) -> Request:
        """Read the JSON of a request.

        Raises:
            InputError: it is not JSON, or a field is missing, unknown or out of bounds; names the field.
        """
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InputError(f"request is not JSON: {error}") from error
        request = from_plain(cls, value, "request")
        if not is_unicode(request.prompt):
            raise InputError("request: prompt holds half a surrogate pair, expected text")
        return request
