"""Progress of long work: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

#: Seconds between two lines.
_LINE_INTERVAL = 30.0


class Advance(Protocol):
    """Callback that reports progress: the number of steps ``done`` and of ``tokens`` processed so far."""

    def __call__(self, done: int, tokens: int = 0) -> None: ...


@contextmanager
def track(what: str, total: int, show: bool) -> Iterator[Advance]:
    """Show a bar on stderr, with tokens/s and the time left, while the block runs; nothing if ``show`` is False.

    If stderr is a file or a pipe, print a line every 30 seconds instead.
    """
    if not show:
        yield lambda done, tokens=0: None
        return
    if not sys.stderr.isatty():
        yield _Lines(what, total)
        return
    # rich is imported here because it is needed for a bar alone.
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


class _Lines:
    """Progress as lines of text."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.start = what, total, time.monotonic()
        self.next = self.start + _LINE_INTERVAL

    def __call__(self, done: int, tokens: int = 0) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + _LINE_INTERVAL
        seconds = now - self.start
        line = f"{self.what}: {done:,} of {self.total:,}"
        if done:
            line += f", {tokens / seconds:,.0f} tokens/s" if tokens else f", {done / seconds:,.3g}/s"
            line += f", about {duration(seconds * (self.total - done) / done)} left"
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Format a duration: ``12 s``, ``3 min 20 s`` or ``5 h 2 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
