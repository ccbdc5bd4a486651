"""Progress of everything that takes long: a bar or lines for people, events for programs. Apart so that the command
line and Python show the same."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch


class Advance(Protocol):
    """Report progress: ``done`` of the steps announced so far, and ``tokens`` processed so far."""

    def __call__(self, done: int, tokens: int = 0) -> None: ...


@contextmanager
def track(what: str, total: int, show: bool) -> Iterator[Advance]:
    """A bar on stderr, with tokens/s and the time left, while the block runs; nothing where ``show`` is false.

    Where stderr is a file or a pipe, a line every 30 seconds instead.
    """
    if not show:
        yield lambda done, tokens=0: None
        return
    if not sys.stderr.isatty():
        yield _Lines(what, total)
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


class _Lines:
    """Progress as lines of text."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.start = what, total, time.monotonic()
        self.next = self.start + _LINE_EVERY

    def __call__(self, done: int, tokens: int = 0) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + _LINE_EVERY
        seconds = now - self.start
        line = f"{self.what}: {done:,} of {self.total:,}"
        if done:
            line += f", {tokens / seconds:,.0f} tokens/s" if tokens else f", {done / seconds:,.3g}/s"
            line += f", about {duration(seconds * (self.total - done) / done)} left"
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 20 s``, ``5 h 2 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


T = TypeVar("T")
Log = Callable[[dict[str, Any]], None]

# Seconds between two events of progress, and between two lines of it.
_EVERY = 10.0
_LINE_EVERY = 30.0


class Meter:
    """Counts what a screening does, and tells ``log`` of it as JSON events.

    Every event has ``event``, ``seconds`` since the start and ``rank``. ``progress`` comes every ten seconds and
    ``summary`` at the end: ``sentences`` and ``tokens`` read by this process in this run, ``tokens_per_second``,
    ``padding`` (share of the positions), ``waiting`` (share of the time without a batch that was ready: reading and
    tokenising were too slow), ``memory_bytes`` resident now, ``memory_peak_bytes``, ``device_peak_bytes`` of a GPU, and
    what the checkpoints took (``checkpoints``, ``checkpoint_seconds``). ``checkpoint`` has the ``bytes`` of one file
    and the seconds that it ``took``.
    """

    def __init__(self, log: Log | None, rank: int = 0) -> None:
        self.log, self.rank = log, rank
        self.sentences = self.tokens = self.positions = self.checkpoints = 0
        self.waited = self.checkpointing = 0.0
        self.start = time.perf_counter()
        self.next = self.start + _EVERY

    def waiting(self, source: Iterable[T]) -> Iterator[T]:
        """The items of ``source``; the time until each is there counts as waiting."""
        items = iter(source)
        while True:
            before = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - before
            if item is None:
                return
            yield item

    def batch(self, sentences: int, tokens: int, positions: int) -> None:
        """A batch was measured: so many sentences, tokens, and tokens with their padding."""
        self.sentences += sentences
        self.tokens += tokens
        self.positions += positions
        if time.perf_counter() >= self.next:
            self.next = time.perf_counter() + _EVERY
            self._tell("progress", self._figures())

    def checkpoint(self, save: Callable[[], int]) -> None:
        """Save, which returns the bytes written, and count the time that it takes."""
        before = time.perf_counter()
        size = save()
        took = time.perf_counter() - before
        self.checkpoints += 1
        self.checkpointing += took
        self._tell("checkpoint", {"bytes": size, "took": round(took, 4)})

    def end(self) -> None:
        """Everything is done."""
        self._tell("summary", self._figures())

    def _tell(self, event: str, figures: dict[str, Any]) -> None:
        if self.log is not None:
            seconds = round(time.perf_counter() - self.start, 3)
            self.log({"event": event, "seconds": seconds, "rank": self.rank, **figures})

    def _figures(self) -> dict[str, Any]:
        seconds, held = time.perf_counter() - self.start, resident_bytes()
        return {
            "sentences": self.sentences,
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / seconds, 1),
            "padding": round(1 - self.tokens / self.positions, 4) if self.positions else 0.0,
            "waiting": round(self.waited / seconds, 4),
            "memory_bytes": held,
            # The kernel adds each thread's pages to the peak by and by.
            "memory_peak_bytes": max(held, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
            "device_peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0,
            "checkpoints": self.checkpoints,
            "checkpoint_seconds": round(self.checkpointing, 3),
        }


def resident_bytes() -> int:
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
