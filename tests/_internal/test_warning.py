"""A warning names the line that called the package, through decorators, context managers and threads in between."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest

import affectron
from affectron._internal.arguments import checked_arguments
from affectron._internal.warning import warn
from affectron.demo import MODEL

ROWS = [{"text": "She laughed.", "label": "Joy"}, {"text": "She wept.", "label": "joy"}]


def of_labels() -> Any:
    return affectron.Corpus.from_records(ROWS)  # here


def of_a_note() -> Any:
    model, tokenizer = affectron.load_model(MODEL)
    corpus = affectron.Corpus.from_records(ROWS[:1])
    return affectron.screen(model, tokenizer, corpus)  # here


def of_a_context() -> None:
    names: dict[str, Any] = {"__name__": "affectron.made_up", "warn": warn}
    exec("def made_up():\n    warn('opened')\n    yield", names)
    with checked_arguments(contextmanager(names["made_up"]))():  # here
        pass


@pytest.mark.parametrize("call", [of_labels, of_a_note, of_a_context])
def test_the_line_is_the_callers(call: Callable[[], Any]) -> None:
    with pytest.warns(UserWarning, match="opened|labels that differ|is put before every text") as found:
        call()
    for warning in found:
        assert warning.filename == __file__
        assert linecache.getline(__file__, warning.lineno).endswith("# here\n")
