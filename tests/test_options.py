"""Options: functions, the command line, run configurations and the report read one definition."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer

import affectron
from affectron import options
from affectron._internal.options import Options, default_of, described
from affectron._internal.records import hints, members
from affectron.cli.app import app
from affectron.options import (
    Ablate,
    Associate,
    Candidates,
    Columns,
    CrossSignal,
    Evaluate,
    Induce,
    Load,
    Methods,
    Screen,
    Select,
    Stability,
    Validate,
)
from affectron.runs import config
from tests.support.errors import message

#: Function -> the classes whose options it takes, and those that it has another way to be told of.
TAKEN: list[tuple[Callable[..., Any], tuple[type[Options], ...], set[str]]] = [
    (affectron.Corpus.from_file, (Columns,), set()),
    (affectron.Corpus.from_records, (Columns,), {"quoting"}),
    (affectron.Corpus.from_dataset, (Columns,), {"quoting"}),
    (affectron.screen, (Screen,), set()),
    (affectron.select, (Select,), set()),
    (affectron.Exam, (Evaluate,), set()),
    (affectron.validate, (Evaluate, Validate), set()),
    (affectron.compare_methods, (Methods,), set()),
    (affectron.ablate, (Ablate,), set()),
]
COMMANDS = {
    "screen": (Screen, Columns, Load), "select": (Select,), "validate": (Evaluate, Validate, Columns, Load),
    "screen-pairs": (options.ScreenPairs, Load), "steer": (Columns, Load),
}  # fmt: skip
TABLES = {
    "columns": Columns, "screen": Screen, "select": Select, "stability": Stability, "candidates": Candidates,
    "evaluate": Evaluate, "validate": Validate, "methods": Methods, "ablate": Ablate, "induce": Induce,
    "cross_signal": CrossSignal, "associate": Associate,
}  # fmt: skip


@pytest.mark.parametrize(("function", "kinds", "absent"), TAKEN, ids=lambda value: getattr(value, "__qualname__", None))
def test_a_function_takes_its_options_with_their_defaults(
    function: Callable[..., Any], kinds: tuple[type[Options], ...], absent: set[str]
) -> None:
    parameters = inspect.signature(function).parameters
    for kind in kinds:
        for name, about in described(kind).items():
            parameter = about.parameter or name
            if parameter in absent:
                assert parameter not in parameters
            else:
                default = default_of(kind, name)
                assert parameters[parameter].default == default or (default == {} and not parameters[parameter].default)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_its_options_with_their_help_and_defaults(command: str) -> None:
    parameters = {p.name: p for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    for kind in COMMANDS[command]:
        for name, about in described(kind).items():
            parameter = parameters[about.flag or about.parameter or name]
            assert parameter.help == about.help
            default = default_of(kind, name)
            written = ",".join(default) if isinstance(default, tuple) else default
            assert parameter.default == written or not parameter.default


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_a_run_has_every_option_of_its_step(table: str) -> None:
    kind = hints(config.Config)[table]
    known = described(members(kind)[0])
    assert TABLES[table] in members(kind)[0].__mro__
    assert described(TABLES[table]).keys() <= known.keys()


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        (Select, {"top": 0}, "top is 0, expected a number in (0, 1]"),
        (Select, {"sign": "up"}, "sign is 'up', expected one of positive, negative"),
        (Select, {"score": "hedges_g", "assign": "bar"}, "assign is 'bar', which goes with an entropy"),
        (Screen, {"tokens": "mean", "long_texts": "windows"}, "long_texts is 'windows' and tokens 'mean'"),
        (Screen, {"template": "hello"}, "prompt without {text}: template is 'hello'"),
        (Screen, {"checkpoint_minutes": 0}, "checkpoint_minutes is 0, expected a number above 0"),
        (Validate, {"alpha": 0.9, "alpha_cap": 0.5}, "alpha is 0.9, which is above alpha_cap, 0.5"),
        (Validate, {"reference": ()}, "reference is (), expected a list of at least 1, each one of max, q99, rms"),
        (Validate, {"reference": "rms"}, "reference is 'rms', expected a list of at least 1, each one of max, q99"),
        (Validate, {"random_sets": True}, "random_sets is True, expected an integer of at least 0"),
        (Evaluate, {"evaluator": "linear_probe", "prompts": {"a": "{text}"}}, "prompts go with 'label_likelihood'"),
        (Evaluate, {"calibrate": "all"}, "calibrate is 'all', expected one of none, content_free, train"),
        (
            Evaluate,
            {"evaluator": "linear_probe", "calibrate": "train"},
            "calibrate is 'train', which goes with 'label_",
        ),
        (Evaluate, {"calibrate": "train", "test": "train"}, "the splits are dev 'dev', test 'train', train 'train'"),
        (Evaluate, {"evaluator": "linear_probe", "train": "dev"}, "the splits are dev 'dev', test 'test', train 'dev'"),
        (Induce, {"betas": (1.0, float("nan"))}, "betas[1] is nan, expected a finite number"),
        (CrossSignal, {"omegas": ()}, "omegas is (), expected a list of at least 1"),
        (Columns, {"on_bad_line": "ignore"}, "on_bad_line is 'ignore', expected one of error, skip"),
        (Load, {"dtype": "int8"}, "dtype is 'int8', expected one of auto"),
    ],
)
def test_a_wrong_value_is_named(kind: type[Options], values: dict[str, Any], named: str) -> None:
    assert message(lambda: kind(**values)).startswith(named)


def test_the_help_of_a_function_describes_its_options() -> None:
    for name, about in described(Screen).items():
        assert f"{about.parameter or name}: {about.help[:40]}" in " ".join((affectron.screen.__doc__ or "").split())
