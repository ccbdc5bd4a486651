"""The progress bar of everything that takes long: apart so that the command line and Python show the same one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Advance(Protocol):
    """Report progress: ``done`` of the steps announced so far, and ``tokens`` processed so far."""

    def __call__(self, done: int, tokens: int = 0) -> None: ...


class _TokenRate(ProgressColumn):
    def render(self, task: Task) -> Text:
        tokens, elapsed = task.fields["tokens"], task.elapsed
        return Text(f"{tokens / elapsed:,.0f} tokens/s" if tokens and elapsed else "", style="progress.data.speed")


@contextmanager
def track(what: str, total: int, show: bool) -> Iterator[Advance]:
    """A bar on stderr, with tokens/s and the time left, while the block runs.

    Nothing where ``show`` is false, or where stderr is a file or a pipe, which a bar would only fill with noise.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _TokenRate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (show and console.is_terminal), transient=True) as bar:
        task = bar.add_task(what, total=total, tokens=0)

        def advance(done: int, tokens: int = 0) -> None:
            bar.update(task, completed=done, tokens=tokens)

        yield advance
