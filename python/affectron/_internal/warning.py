"""Warnings that name the line of the caller's own code."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from types import FrameType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
# In a thread of the package: the caller of what started it.
_STARTED: ContextVar[FrameType | None] = ContextVar("started", default=None)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called the package, however deep in the package the reason is found.

    Python shows a warning once for each line.
    """
    frame = _caller()
    names = frame.f_globals
    registry = names.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, names.get("__name__"), registry)


def with_caller(work: Callable[[], None]) -> Callable[[], Any]:
    """Make ``work`` for a thread, where :func:`warn` is to name the line that called the package here."""
    context = copy_context()
    context.run(_STARTED.set, _caller())
    return lambda: context.run(work)


def _caller() -> FrameType:
    """The frame below the package's outermost one, or the one that enters a context manager of the package."""
    started = _STARTED.get()
    if started is not None:
        return started
    frame: FrameType | None = sys._getframe()
    caller = sys._getframe()
    inside = True
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        own = module.partition(".")[0] == _PACKAGE or (inside and module == contextlib.__name__)
        if own or inside:
            caller = frame
        frame, inside = frame.f_back, own
    return caller
