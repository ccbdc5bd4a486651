"""Options of the command line, made of the classes in ``affectron.options``, and arguments that commands share."""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from affectron._internal.checks import OneOf
from affectron._internal.options import About, Options, default_of, described
from affectron._internal.records import hints, members
from affectron.errors import InputError
from affectron.options import Common, Inputs

# Text, not a path: ./gpt2 is a folder, and gpt2, where no such folder is, a name.
_INPUTS, _COMMON = described(Inputs), described(Common)
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=_INPUTS["model"].help)]
CorpusArgument = Annotated[str, typer.Argument(metavar="CORPUS", help=_INPUTS["corpus"].help)]
TaskOption = Annotated[str | None, typer.Option(help=_COMMON["task"].help)]
SplitOption = Annotated[str | None, typer.Option(help="Read this split only.")]
SeedOption = Annotated[int, typer.Option(help=_COMMON["seed"].help)]
NeuronsOption = Annotated[Path, typer.Option(help="Neurons saved by select.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
StatsOption = Annotated[Path | None, typer.Option(help="Statistics; default: stats.safetensors beside NEURONS.")]
LabelPromptOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Question for a task's label, with {text} in it, that P(label) is read from; default: the one by which "
        "the neurons were found, or else one in words.",
        metavar="TASK=TEMPLATE",
    ),
]
AllowOverlap = Annotated[bool, typer.Option("--allow-overlap", help=_COMMON["allow_overlap"].help)]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Turn each parameter of ``command`` that is an options class into the options of that class.

    The command is called with objects of the classes, whose values are checked by then.
    """
    signature = inspect.signature(command, eval_str=True)
    expanded: list[inspect.Parameter] = []
    kinds: dict[str, type[Options]] = {}
    for parameter in signature.parameters.values():
        kind = parameter.annotation
        if inspect.isclass(kind) and issubclass(kind, Options):
            kinds[parameter.name] = kind
            expanded += [_parameter(kind, name, about) for name, about in described(kind).items()]
        else:
            expanded.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def call(**given: Any) -> None:
        objects = {name: _made(kind, given) for name, kind in kinds.items()}
        command(**objects, **given)

    call.__name__, call.__doc__, call.__module__ = command.__name__, command.__doc__, command.__module__
    call.__signature__ = signature.replace(parameters=expanded)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in expanded}
    return call


def template_text(text: str) -> str:
    """Read a prompt template from a shell, where two characters, ``\\n``, mean a line break."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _name(name: str, about: About) -> str:
    return about.flag or about.parameter or name


def _parameter(kind: type[Options], name: str, about: About) -> inspect.Parameter:
    """Make an option of the command line for a field."""
    declared = hints(kind)[name]
    value = members(declared)[0]
    default = default_of(kind, name)
    if typing.get_origin(value) is typing.Literal:
        value = str
    elif typing.get_origin(value) is dict:
        value, default = list[str], None
    elif typing.get_origin(value) is tuple:
        value, default = str, ",".join(default)
    metavar = about.metavar
    if metavar is None and isinstance(about.bound, OneOf) and len(about.bound.names) <= 4:
        metavar = "|".join(about.bound.names)
    flags = [f"--{_name(name, about).replace('_', '-')}"] if value is bool and default is False else []
    annotation = value | types.NoneType if default is None else value
    return inspect.Parameter(
        _name(name, about),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[annotation, typer.Option(*flags, help=about.help, metavar=metavar)],
    )


def _made(kind: type[Options], given: dict[str, Any]) -> Options:
    """Make an object of an options class from arguments of a command, which are taken out of ``given``."""
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        about: About = field.metadata["about"]
        value = given.pop(_name(field.name, about))
        declared = members(hints(kind)[field.name])
        kinds = {typing.get_origin(inner) for inner in declared}
        if dict in kinds:
            value = by_task(_name(field.name, about), value or ())
        elif isinstance(value, str) and tuple in kinds and (str not in declared or "," in value):
            value = tuple(value.split(","))
        if about.template:
            is_text = isinstance(value, str)
            value = template_text(value) if is_text else {key: template_text(text) for key, text in value.items()}
        values[field.name] = value
    return kind(**values)


def by_task(name: str, given: Sequence[str]) -> dict[str, str]:
    """Map task to value, from texts TASK=VALUE."""
    values: dict[str, str] = {}
    for text in given:
        task, equals, value = text.partition("=")
        if not equals or not task:
            raise InputError(f"{name} is {text!r}, expected TASK=TEMPLATE")
        if task in values:
            raise InputError(f"{name}: task {task!r} is given twice")
        values[task] = value
    return values


def checked_output(path: Path, *inputs: str | Path | None) -> Path:
    """Check an output file before hours are spent on it, and return its path.

    Raises:
        InputError: it cannot be written, or it is one of the inputs.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; expected the path of a file")
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it is a device or a pipe; expected the path of a file")
    for source in inputs:
        if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
            raise InputError(f"cannot write {path}: it is read as well; expected another file")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: {folder} is not a folder that can be written to")
    return path
