"""Options: functions, the command line, run configurations and the report read one definition."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer

import affectron
from affectron._internal.options import Options, default_of, described
from affectron._internal.records import hints, members
from affectron.attribution.pairs import attribute_pairs
from affectron.cli.app import app
from affectron.corpus.batching import batches
from affectron.experiments.candidates import examine
from affectron.experiments.cross_signal import cross_signal_matrix
from affectron.experiments.induction import induction
from affectron.experiments.stability import stability
from affectron.options import (
    Ablate,
    Ask,
    Associate,
    Attribute,
    AttributePairs,
    Candidates,
    Columns,
    CrossSignal,
    Describe,
    Estimate,
    Evaluate,
    Generate,
    Induce,
    Load,
    Methods,
    Read,
    Responses,
    Screen,
    ScreenPairs,
    ScreenSites,
    Select,
    SelectTask,
    Sharded,
    Stability,
    Validate,
)
from affectron.runs import config
from affectron.screening.pairs import screen_pairs
from tests.support.errors import message

#: Function -> the classes whose options it takes, and those that it has another way to be told of.
TAKEN: list[tuple[Callable[..., Any], tuple[type[Options], ...], set[str]]] = [
    (affectron.Corpus.from_file, (Columns,), set()),
    (affectron.Corpus.from_records, (Columns,), {"quoting"}),
    (affectron.Corpus.from_dataset, (Columns,), {"quoting"}),
    (affectron.screen, (ScreenSites,), set()),
    (screen_pairs, (ScreenPairs,), set()),
    (affectron.attribute, (Ask, Attribute), set()),
    (attribute_pairs, (AttributePairs,), set()),
    (batches, (Screen,), {"tokens", "active", *described(Sharded)}),
    (affectron.select, (Select,), set()),
    (stability, (Stability,), set()),
    (affectron.describe, (Describe, Read), set()),
    (examine, (Candidates,), set()),
    (affectron.Exam, (Evaluate,), set()),
    (affectron.validate, (Evaluate, Validate), set()),
    (affectron.check_estimate, (Estimate,), set()),
    (affectron.responses, (Responses,), set()),
    (affectron.compare_methods, (Methods,), set()),
    (affectron.ablate, (Ablate,), set()),
    (induction, (Induce,), set()),
    (cross_signal_matrix, (CrossSignal,), set()),
]
#: Functions whose docstring refers to another for these options.
REFER = (affectron.Corpus.from_records, affectron.Corpus.from_dataset, batches)
COMMANDS = {
    "screen": (ScreenSites, Columns, Load), "attribute": (Ask, Attribute, Columns, Load),
    "select": (Select, SelectTask), "validate": (Evaluate, Validate, Columns, Load),
    "screen-pairs": (ScreenPairs, Load), "attribute-pairs": (AttributePairs, Load), "steer": (Columns, Load),
    "chat": (Load,), "neurons": (Read, Columns, Load),
}  # fmt: skip
TABLES = {
    "columns": Columns, "screen": Screen, "attribute": Attribute, "select": Select, "stability": Stability,
    "candidates": Candidates, "evaluate": Evaluate, "validate": Validate, "estimate": Estimate, "responses": Responses,
    "methods": Methods, "ablate": Ablate, "induce": Induce, "generate": Generate, "cross_signal": CrossSignal,
    "associate": Associate,
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


@pytest.mark.parametrize(
    ("function", "kinds"),
    [(function, kinds) for function, kinds, _ in TAKEN if function not in REFER],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_the_help_of_a_function_describes_its_options(
    function: Callable[..., Any], kinds: tuple[type[Options], ...]
) -> None:
    text = " ".join((function.__doc__ or "").split())
    for kind in kinds:
        for name, about in described(kind).items():
            assert f"{about.parameter or name}: {about.help}" in text
