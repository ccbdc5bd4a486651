"""Arguments of public functions in the wrong order: found by the names of the parameters, and told in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

from affectron._internal.checks import shown
from affectron.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

MODEL, TOKENIZER, CORPUS, STATISTICS = "a model", "a tokenizer", "a corpus", "statistics"
NEURONS, NEURON_SET, PROGRAM, EXAM = "a list of neurons", "a neuron set", "a program", "an exam"

#: Parameter -> what it takes; one that is annotated as a NeuronSet takes that.
TAKES = {
    "model": MODEL, "tokenizer": TOKENIZER, "corpus": CORPUS, "exam": EXAM, "neurons": NEURONS, "selection": NEURONS,
    "program": PROGRAM, "programs": PROGRAM,
    **dict.fromkeys(("stats", "attributions", "activations", "gradients", "layers"), STATISTICS),
}  # fmt: skip
# Of these the objects of this package alone: any object may be a model or tokenizer, any tuples are neurons.
_OWN = (CORPUS, STATISTICS, NEURON_SET, EXAM, PROGRAM)


def checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse an argument that is known to be of another kind than its parameter takes (:data:`TAKES`).

    An argument of no known kind is let through where it may be right: a model need not be a module, nor a tokenizer one
    of transformers.

    Raises:
        InputError: in a call; names each such parameter, what was given and what was expected, and the order.
    """
    parameters = signature(function).parameters
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    positions = [name for name, parameter in parameters.items() if parameter.kind in kinds]
    taken = [
        (name, positions.index(name) if name in positions else sys.maxsize, _expected(parameter),
         parameter.kind is Parameter.VAR_POSITIONAL)
        for name, parameter in parameters.items()
        if name in TAKES
    ]  # fmt: skip
    in_order = [name for name, *_ in taken if name in positions and parameters[name].default is Parameter.empty]
    order = f": the order is {function.__qualname__.removesuffix('.__init__')}({', '.join(in_order)})"

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        wrong = []
        for name, place, expected, several in taken:
            value = kwargs.get(name) if place >= len(args) else args[place:] if several else args[place]
            if value is not None and (problem := _problem(name, value, expected)):
                wrong.append(problem)
        if wrong:
            raise InputError("; ".join(wrong) + order * (len(in_order) > 1))
        return function(*args, **kwargs)

    return checked


def _expected(parameter: Parameter) -> str:
    return NEURON_SET if "NeuronSet" in str(parameter.annotation) else TAKES[parameter.name]


def _problem(parameter: str, value: object, expected: str) -> str | None:
    """The reason why the parameter does not take the value; None if there is none to be seen."""
    kind = kind_of(value)
    if kind == expected:
        return None
    if kind is not None:
        return f"{parameter} is {kind} ({type(value).__name__}), expected {expected}"
    if isinstance(value, (str, os.PathLike)):
        return f"{parameter} is {shown(value)}, expected {expected}"
    if expected is PROGRAM and isinstance(value, Sequence):
        problems = (_problem(f"{parameter}[{i}]", item, expected) for i, item in enumerate(value) if item is not None)
        return next(filter(None, problems), None)
    return f"{parameter} is of type {type(value).__name__}, expected {expected}" if expected in _OWN else None


def kind_of(value: Any) -> str | None:
    """Kind of an argument, one of the values of :data:`TAKES`; None if it is not known.

    Classes of this package name their kind in ``_argument``. The others are looked at without importing torch or
    transformers. A module is a model, and so is its wrapper. An object that decodes, and encodes or decodes batches, is
    a tokenizer or a processor.
    """
    named: str | None = getattr(type(value), "_argument", None)
    if named is not None:
        return named
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        return MODEL
    has = [callable(getattr(type(value), method, None)) for method in ("decode", "encode", "batch_decode")]
    return TOKENIZER if has[0] and any(has[1:]) else None
