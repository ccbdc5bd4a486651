"""The application: its commands, and what becomes of an error.

Tables and JSON go to stdout, progress and messages to stderr. Bad input ends with one line and exit code 2.
"""

from __future__ import annotations

import errno
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from logging import ERROR, getLogger
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import affectron
from affectron.cli.attribute import attribute
from affectron.cli.attribute_pairs import attribute_pairs
from affectron.cli.chat import chat
from affectron.cli.demo import demo
from affectron.cli.export import export
from affectron.cli.info import info
from affectron.cli.neurons import neurons
from affectron.cli.options import with_options
from affectron.cli.output import say
from affectron.cli.report import report
from affectron.cli.run import run
from affectron.cli.screen import screen
from affectron.cli.screen_pairs import screen_pairs
from affectron.cli.select import select
from affectron.cli.steer import steer
from affectron.cli.validate import validate
from affectron.errors import Incomplete, InputError, Note

# A wrong option, argument or command. typer has a copy of click or uses click, by its version.
_UsageError: Any = typer.BadParameter.__base__


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what a user or the system can mend into one line on stderr, and an exit code: 2 for bad input, 1 for work
    that is done in part, 130 for Ctrl-C and 143 for SIGTERM."""
    status = 2
    try:
        yield
        sys.stdout.flush()  # fails here, not when Python ends
        return
    except InputError as error:
        message = str(error)
    except _UsageError as error:
        message = error.format_message()
        if error.ctx is not None:
            message = f"{message.rstrip('.')}; {error.ctx.command_path} -h shows what there is"
    except Incomplete as error:
        message, status = str(error), 1
    except KeyboardInterrupt as error:
        message = str(error) or "interrupted; every file is whole or as it was"
        status = 128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT)
    except MemoryError as error:
        message = f"the memory does not suffice: {error}"
    except OSError as error:
        if error.errno == errno.EPIPE:  # who reads has enough, such as head; typer ends in silence
            raise
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    say(f"error: {' '.join(message.split())}")
    raise typer.Exit(status)


class _Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _one_line():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _affectron(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and end.")] = False,
) -> None:
    """Find, test and steer the MLP neurons of a language model."""
    if version:
        print(f"affectron {affectron.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


for _command in (
    demo, info, screen, screen_pairs, attribute, attribute_pairs, select, validate, steer, chat, export, run, neurons,
    report,
):  # fmt: skip
    app.command()(with_options(_command))


def _terminate(*_: Any) -> None:
    raise _Terminated("stopped by SIGTERM; every file is whole or as it was")


def main() -> None:
    """The entry point of the command ``affectron``."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a label or a path may hold what the terminal cannot show
    warnings.showwarning = lambda message, category, *_: say(
        f"{'note' if issubclass(category, Note) else 'warning'}: {message}"
    )
    # transformers imports torchao wherever it is installed, which then tells of kernels that nothing here asks for.
    for name in ("torchao", "torch.utils._pytree"):
        getLogger(name).setLevel(ERROR)
    app()
