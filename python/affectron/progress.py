"""The progress bar of everything that takes long: apart so that the command line and Python show the same one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Report progress: ``done`` of the steps announced so far, and ``tokens`` processed so far."""

    def __call__(self, done: int, tokens: int = 0) -> None: ...


@contextmanager
def track(what: str, total: int, show: bool) -> Iterator[Advance]:
    """A bar on stderr, with tokens/s and the time left, while the block runs.

    Nothing where ``show`` is false, or where stderr is a file or a pipe, which a bar would only fill with noise.
    """
    if not (show and sys.stderr.isatty()):
        yield lambda done, tokens=0: None
        return
    # Only here: who asks for no bar needs no rich.
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

    class TokenRate(ProgressColumn):
        def render(self, task: Task) -> Text:
            tokens, elapsed = task.fields["tokens"], task.elapsed
            return Text(f"{tokens / elapsed:,.0f} tokens/s" if tokens and elapsed else "", style="progress.data.speed")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TokenRate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, tokens=0)

        def advance(done: int, tokens: int = 0) -> None:
            bar.update(task, completed=done, tokens=tokens)

        yield advance
