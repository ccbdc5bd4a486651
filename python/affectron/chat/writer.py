"""Texts with and without steering, and how much of each label is in them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import affectron
from affectron.chat.request import Request
from affectron.errors import InputError
from affectron.evaluation.label_likelihood import label_probabilities
from affectron.generation import continuations
from affectron.interventions import doses
from affectron.interventions.recipes import ProgramName, Recipe, all_activations

if TYPE_CHECKING:
    from affectron import ActivationStats, NeuronSet, Program, SiteStats

Event = dict[str, Any]


class _Stopped(Exception):
    """Ends a generation from within."""


class Writer:
    """A model that writes what requests ask for, one at a time.

    Args:
        model, tokenizer: a causal language model, which has the neurons.
        neurons: the neurons of each label.
        stats: statistics that programs are made from.
        questions: task -> question that P(label) is read from; a task without one is asked in words.
    """

    def __init__(
        self, model: Any, tokenizer: Any, neurons: NeuronSet, stats: ActivationStats, questions: Mapping[str, str]
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.neurons, self.stats, self.questions = neurons, stats, questions

    @cached_property
    def _measured(self) -> Mapping[str, SiteStats] | None:
        return all_activations(self.stats)

    def program(self, request: Request) -> Program | None:
        """The composition of the programs of all steered labels, in order; None if no label is steered.

        Raises:
            InputError: a label is unknown or has no neurons, its program cannot be made, or the programs do not
                compose.
        """
        programs = []
        for position, one in enumerate(request.steered):
            members = self.neurons[one.label].top(one.share)
            if not members:
                raise InputError(f"steered[{position}]: label {one.label!r} has no neurons")
            try:
                recipe = Recipe(ProgramName(one.program), lambda: self.stats, None, one.signal, None)
                programs.append(recipe.make(members, one.strength))
            except InputError as error:
                raise InputError(f"steered[{position}], label {one.label!r}: {error}") from error
        if len(programs) < 2:
            return programs[0] if programs else None
        return affectron.compose(*programs)

    def write(self, request: Request, tell: Callable[[Event], None], stop: threading.Event) -> None:
        """Write the unsteered text, and the steered one in the same batch if a label is steered.

        Events, in order: ``pieces``, what each text has grown by, once a token; ``texts``, the whole texts, with
        ``tokens``, ``seconds`` and, of a steered text, ``program``; then for each task ``probabilities``, label -> P
        of each text, or ``left_out``, the reason why there are none.

        Args:
            request: what is asked for.
            tell: called with each event.
            stop: once it is set, the writing ends after the next token.

        Raises:
            InputError: as :meth:`program` and :func:`affectron.generation.continuations`.
        """
        program = self.program(request)
        sent = ["" for _ in range(1 if program is None else 2)]

        def watch(texts: list[str]) -> None:
            if stop.is_set():
                raise _Stopped
            tell({"pieces": [self._piece(sent, position, text) for position, text in enumerate(texts)]})

        try:
            written = continuations(
                self.model, self.tokenizer, request.prompt, [None, program][: len(sent)],
                max_new_tokens=request.max_new_tokens, temperature=request.temperature, seed=request.seed,
                chat=request.chat, watch=watch,
            )  # fmt: skip
        except _Stopped:
            return
        tell(
            {
                "texts": written.texts,
                "tokens": written.tokens,
                "seconds": written.seconds,
                "program": None if program is None else self._told(program),
            }
        )
        for task, labels in self.neurons.tasks.items():
            if stop.is_set():
                return
            tell(self._probabilities(written.texts, task, labels))

    @staticmethod
    def _piece(sent: list[str], position: int, text: str) -> str:
        """The unsent end of a text. Its last character may be the first bytes of one that a later token completes."""
        whole = text.rstrip("\ufffd")
        if not whole.startswith(sent[position]):
            return ""
        piece = whole[len(sent[position]) :]
        sent[position] = whole
        return piece

    def _told(self, program: Program) -> Event:
        given = {} if self._measured is None else doses(program, self._measured)
        dose = max(given.values(), default=math.inf)
        return {"name": program.name, "neurons": len(program), "dose": dose if math.isfinite(dose) else None}

    def _probabilities(self, texts: list[str], task: str, labels: tuple[str, ...]) -> Event:
        try:
            found = label_probabilities(self.model, self.tokenizer, texts, task, labels, self.questions)
        except InputError as error:
            return {"task": task, "left_out": str(error)}
        return {"task": task, "probabilities": dict(zip(labels, found.T.tolist(), strict=True))}
