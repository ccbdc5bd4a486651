"""Exceptions and warnings of the package. The command line prints each as one line."""

from __future__ import annotations


class InputError(ValueError):
    """Invalid input: the message is one line that names the field, the value and what was expected.

    It is raised before anything is written. The command line prints the message and exits with status 2.
    """


class Incomplete(RuntimeError):
    """Partial failure: a part of the work failed, and the rest is kept.

    The message is one line that names the failed part, the reason and how to go on.

    The command line prints the message and exits with status 1.
    """


class ScreeningInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM during a screening. The message says how far the screening got and what is kept."""


class Note(UserWarning):
    """Note on a default that the results depend on. The command line prints it once, after ``note:``."""
