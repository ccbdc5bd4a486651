"""The one exception that stands for bad input; apart so that every layer can raise it and the CLI can catch it."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used: one line naming the field, the value and what was expected.

    Raised before anything is written. The command line prints the message and exits with status 2.
    """
