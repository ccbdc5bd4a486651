"""The exceptions that end a command with one line; apart so that every layer can raise them and the CLI catch them."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used: one line naming the field, the value and what was expected.

    Raised before anything is written. The command line prints the message and exits with status 2.
    """


class Incomplete(RuntimeError):
    """Work of which a part failed and the rest is done and kept: one line that says which, why, and how to go on.

    The command line prints the message and exits with status 1.
    """


class ScreeningInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM while screening; the message says how far it got and what is kept."""


class Note(UserWarning):
    """A default of a run that its results depend on; the command line prints it once, after ``note:``."""
