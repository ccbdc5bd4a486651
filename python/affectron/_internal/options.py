"""Fields of options classes: their descriptions, their check, and what is made of them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from affectron._internal.checks import Bound, check
from affectron._internal.display import Shown
from affectron._internal.records import hints

F = TypeVar("F", bound=Callable[..., Any])

OURS = "ours"


@dataclass(frozen=True)
class About:
    """Description of an option, stored in the metadata of its field.

    Attributes:
        help: meaning, in one sentence.
        bound: the values that are allowed; None if the type says everything.
        origin: source of the option, with the value that the source names.
        parameter: name as an argument of a function, and with dashes on the command line; None for the field's name.
        flag: name on the command line, if it differs from ``parameter``.
        metavar: placeholder of the value in the help.
        template: True for a prompt template, in which a shell's ``\\n`` means a line break.
        counts: False if no number of a result depends on the option.
    """

    help: str
    bound: Bound | None = None
    origin: str = OURS
    parameter: str | None = None
    flag: str | None = None
    metavar: str | None = None
    template: bool = False
    counts: bool = True


#: The default of an option that has to be given.
REQUIRED: Any = dataclasses.MISSING


def option(default: Any, help: str, bound: Bound | None = None, **about: Any) -> Any:
    """A field of an options class; see :class:`About`."""
    return _field(default, About(help, bound, **about))


def same(kind: type[Options], name: str, **changes: Any) -> Any:
    """The option ``name`` of another class, perhaps with another ``default`` or description."""
    default = changes.pop("default") if "default" in changes else default_of(kind, name)
    return _field(default, dataclasses.replace(described(kind)[name], **changes))


def _field(default: Any, about: About) -> Any:
    metadata = {"about": about}
    if isinstance(default, (dict, Options)):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Options(Shown):
    """Base of all options classes. Every value is checked when an object is made.

    Raises:
        InputError: a value is out of its bound, or does not go with another; names the option.
    """

    def __post_init__(self) -> None:
        kinds = hints(type(self))
        for name in described(type(self)):
            value = getattr(self, name)
            if value is not None or type(None) not in get_args(kinds[name]):
                check_option(type(self), name, value)
        self.check_together()

    def check_together(self) -> None:
        """Check values that depend on each other."""

    def values(self, kind: type[Options] | None = None) -> dict[str, Any]:
        """Option -> value, as arguments of a function. ``kind``, a class that this one extends, leaves out the rest."""
        known = described(kind or type(self))
        return {about.parameter or name: getattr(self, name) for name, about in known.items()}


def described(kind: type[Options]) -> dict[str, About]:
    """Field -> its description, in order."""
    return {entry.name: entry.metadata["about"] for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]


def check_option(kind: type[Options], name: str, value: Any) -> None:
    """Check that a value is within the bound of the option ``name``.

    Raises:
        InputError: it is not; gives the option, the value and the bound.
    """
    about = described(kind)[name]
    if about.bound is not None:
        check(about.parameter or name, value, about.bound)


def default_of(kind: type[Options], name: str) -> Any:
    """The default of a field."""
    entry = next(entry for entry in dataclasses.fields(kind) if entry.name == name)  # type: ignore[arg-type]
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()


def documented(*kinds: type[Options]) -> Callable[[F], F]:
    """Fill in ``{options}`` in a function's docstring: a line for each option that is one of its parameters."""

    def fill(function: F) -> F:
        parameters = inspect.signature(function).parameters
        lines = [
            f"{about.parameter or name}: {about.help}{f' Expected: {about.bound}.' if about.bound else ''}"
            for kind in kinds
            for name, about in described(kind).items()
            if (about.parameter or name) in parameters
        ]
        text = inspect.cleandoc(function.__doc__ or "")
        wrapped = [textwrap.fill(line, 116, initial_indent=" " * 4, subsequent_indent=" " * 8) for line in lines]
        function.__doc__ = text.replace("    {options}", "\n".join(wrapped))
        return function

    return fill
