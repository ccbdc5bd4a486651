"""Dataclasses from plain data (of JSON or TOML) and back, by their annotations: one reader for options and results."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from affectron._internal.checks import shown
from affectron.errors import InputError

T = TypeVar("T")

_EXPECTED = {str: "text", Path: "a path", bool: "true or false", int: "an integer", float: "a finite number"}
_ACCEPTED: dict[Any, tuple[type, ...]] = {str: (str,), Path: (str,), bool: (bool,), int: (int,), float: (int, float)}


#: Mark of an inline field, ``Annotated[X, INLINE]``: its names stand in the file beside those of its owner, and not
#: below a name of its own. X is a dataclass, a dataclass ``| None`` (None where the file has none of its names), or
#: ``dict[str, Any]`` (all names that are left over).
INLINE = "inline"


def from_plain(kind: type[T], value: Any, file: str, folder: Path | None = None, path: str = "") -> T:
    """Make a dataclass from an object of JSON or a table of TOML.

    A field is a dataclass, text, a number, a truth value, a path, a ``tuple[X, ...]`` or ``tuple[X, Y]`` (a list), a
    ``dict[str, X]`` (an object), ``Any``, one of these with a bound (``Annotated[X, bound]``, a
    :class:`affectron._internal.checks.Bound`), or one of these ``| None``; or it is inline (``INLINE``). A float field
    takes an integer too. A field with a default may be absent.

    Args:
        kind: the dataclass.
        value: what was read.
        file: names the file in messages.
        folder: what paths are relative to.
        path: the way to ``value`` in the file.

    Raises:
        InputError: a field is missing, unknown or of another type, or ``kind`` refuses it; names the file, the field
            with the way to it, the value and what was expected.
    """
    return typing.cast(T, _Reading(file, folder).record(kind, value, path))


def to_plain(value: Any) -> Any:
    """Convert a record to plain data: dataclasses and mappings as dict, sequences as list, paths as text.

    The inverse of :func:`from_plain`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {}
        for name, kind in hints(type(value)).items():
            inner = to_plain(getattr(value, name))
            if inlined(kind) is None:
                plain[name] = inner
            elif inner is not None:
                plain |= inner
        return plain
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def hints(kind: type[Any]) -> Mapping[str, Any]:
    """Field -> type of a dataclass, with its annotations."""
    return _hints(typing.cast("Any", kind))


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    found = typing.get_type_hints(kind, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """The origin and the arguments of a type."""
    return typing.get_origin(kind), typing.get_args(kind)


def inlined(kind: Any) -> Any:
    """X of an inline field, ``Annotated[X, INLINE]``; None for any other."""
    origin, inner = _parts(kind)
    return inner[0] if origin is Annotated and inner[1] == INLINE else None


@cache
def _owners(kind: Any) -> Mapping[str | None, str]:
    """Name in the file -> the field of ``kind`` that it belongs to; None -> the field of all names left over."""
    owners: dict[str | None, str] = {}
    for field, of_field in hints(kind).items():
        inner = members(inlined(of_field))[0]
        names: typing.Iterable[str | None] = [field]
        if inner is not None:
            names = [None] if typing.get_origin(inner) is dict else _owners(inner)
        owners |= dict.fromkeys(names, field)
    return owners


def members(kind: Any) -> tuple[Any, ...]:
    """List the types of a union except None; any other type alone."""
    origin, inner = _parts(kind)
    if origin in (types.UnionType, typing.Union):
        return tuple(member for member in inner if member is not type(None))
    return (kind,)


def chosen(kind: Any, value: Any) -> Any:
    """The member of a union that a value is read as: a list as the tuple that there is, anything else as the first."""
    return _chosen(kind, isinstance(value, list))


@cache
def _chosen(kind: Any, is_list: bool) -> Any:
    tuples = [inner for inner in members(kind) if _parts(inner)[0] is tuple]
    return tuples[0] if tuples and is_list else members(kind)[0]


class _Reading:
    """The reading of one file; ``path`` is the way to a value in it, such as ``tasks.emotion.labels[2]``."""

    def __init__(self, file: str, folder: Path | None) -> None:
        self.file, self.folder = file, folder
        toml = file.endswith(".toml")
        self.noun, self.part = ("a table", "an option") if toml else ("an object", "a field")

    def record(self, kind: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise self.wrong(path, value, self.noun)
        known, owners = hints(kind), _owners(kind)
        given: dict[str, dict[str, Any]] = {}
        for name, item in value.items():
            owner = owners.get(name, owners.get(None))
            if owner is None:
                label = name if name.isprintable() else repr(name)
                raise InputError(
                    f"{self.file}: {_below(path, label)} is not {self.part}, expected one of "
                    f"{', '.join(name for name in owners if name)}"
                )
            given.setdefault(owner, {})[name] = item
        arguments = {}
        for field in dataclasses.fields(kind):
            if (inner := inlined(known[field.name])) is not None:
                arguments[field.name] = self.inline(inner, given.get(field.name), path)
            elif field.name in given:
                item = given[field.name][field.name]
                arguments[field.name] = self.value(known[field.name], item, _below(path, field.name))
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                expected = self.expected(known[field.name])
                raise InputError(f"{self.file}: {_below(path, field.name)} is missing, expected {expected}")
        try:
            return kind(**arguments)
        except InputError as error:
            raise InputError(f"{self.file}: {_below(path, str(error))}") from error

    def inline(self, kind: Any, value: dict[str, Any] | None, path: str) -> Any:
        """A field whose names stand beside those of its owner; ``value`` has these names, None where there are none."""
        inner = members(kind)[0]
        if value is None and inner is not kind:
            return None
        return value or {} if typing.get_origin(inner) is dict else self.record(inner, value or {}, path)

    def value(self, kind: Any, value: Any, path: str) -> Any:
        if kind is Any:
            return value
        if value is None and type(None) in typing.get_args(kind):
            return None
        kind = chosen(kind, value)
        origin, inner = _parts(kind)
        if origin is Annotated:
            found = self.value(inner[0], value, path)
            if not inner[1].accepts(found):
                raise self.wrong(path, value, str(inner[1]))
            return found
        if kind in _ACCEPTED or origin is typing.Literal:
            return self.scalar(kind, value, path)
        if origin is tuple:
            return self.sequence(kind, inner, value, path)
        if origin is dict:
            if not isinstance(value, dict):
                raise self.wrong(path, value, self.expected(kind))
            return {
                key: self.value(inner[1], item, _below(path, key if key.isprintable() else repr(key)))
                for key, item in value.items()
            }
        return self.record(kind, value, path)

    def sequence(self, kind: Any, inner: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
        repeated = len(inner) == 2 and inner[1] is Ellipsis
        if not isinstance(value, list) or not (repeated or len(value) == len(inner)):
            raise self.wrong(path, value, self.expected(kind))
        kinds = [inner[0]] * len(value) if repeated else inner
        return tuple(
            self.value(of_item, item, f"{path}[{position}]")
            for position, (of_item, item) in enumerate(zip(kinds, value, strict=True))
        )

    def scalar(self, kind: Any, value: Any, path: str) -> Any:
        if _parts(kind)[0] is typing.Literal:  # of which the bound knows the names
            kind = str
        right = isinstance(value, _ACCEPTED[kind]) and (kind is bool or not isinstance(value, bool))
        if right and isinstance(value, int) and abs(value) >= 2**63:
            raise InputError(f"{self.file}: {path} has more than 64 bits, expected {self.expected(kind)}")
        if not right or (kind is float and not math.isfinite(value)) or (kind is Path and "\0" in value):
            raise self.wrong(path, value, self.expected(kind))
        if kind is Path:
            return Path(value) if self.folder is None else self.folder / value
        return float(value) if kind is float else value

    def expected(self, kind: Any) -> str:
        kind = members(kind)[0]
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if origin is Annotated:
            return str(inner[1])
        if origin is tuple:
            return "a list" if Ellipsis in inner else f"a list of {len(inner)}"
        return _EXPECTED.get(kind, self.noun)

    def wrong(self, path: str, value: Any, expected: str) -> InputError:
        return InputError(f"{self.file}: {path or 'the file'} is {shown(value)}, expected {expected}")


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
