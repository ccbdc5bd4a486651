"""Keywords with which a corpus is made: one list for all constructors, and it is that of the options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from affectron._internal.options import default_of, described
from affectron.corpus import Corpus
from affectron.options import Columns

#: Keyword -> its default, by the options.
OPTIONS = {about.parameter or name: default_of(Columns, name) for name, about in described(Columns).items()}


@pytest.mark.parametrize(
    ("constructor", "lacks"),
    [(Corpus.from_file, set()), (Corpus.from_records, {"quoting"}), (Corpus.from_dataset, {"quoting"})],
)
def test_constructors_take_the_options_with_their_defaults(constructor: Callable[..., Any], lacks: set[str]) -> None:
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.name != "config"}
    expected = {name: default for name, default in OPTIONS.items() if name not in lacks}
    assert defaults == {**expected, "split": None, "task": None}


def test_an_unknown_keyword_is_a_type_error() -> None:
    records = [{"text": "a", "label": "x"}]
    for unknown in ({"text": "text"}, {"quoting": None}, {"columns": Columns()}):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(unknown))}'"):
            Corpus.from_records(records, **unknown)  # type: ignore[arg-type]
