"""Meter of a screening: its counts, and the JSON events that report them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch

from affectron._internal.memory import peak_bytes, resident_bytes
from affectron.errors import InputError

T = TypeVar("T")
#: Function that is called with each event of a screening; :class:`Meter` describes the events.
Log = Callable[[dict[str, Any]], None]

#: Seconds between two progress events.
_PROGRESS_INTERVAL = 10.0


class Meter:
    """Meter that counts the work of a screening and reports it to ``log`` as JSON events.

    Every event has ``event`` (its kind), ``seconds`` since the start and ``rank``. There are three kinds:

    - ``progress``, every ten seconds, and ``summary``, at the end: ``sentences`` and ``tokens`` read by this process in
      this run, ``tokens_per_second``, ``padding`` (share of all positions), ``waiting`` (share of the time in which no
      batch was ready, since reading and tokenising were too slow), ``memory_bytes`` resident now,
      ``memory_peak_bytes``, ``device_peak_bytes`` of a GPU (0 where torch does not measure it, on Apple's), and number
      and duration of the checkpoints (``checkpoints``, ``checkpoint_seconds``).
    - ``checkpoint``: ``bytes`` of one file and the seconds that it ``took``.

    Args:
        log: called with each event; None reports nothing.
        rank: rank of this process.
    """

    def __init__(self, log: Log | None, rank: int = 0) -> None:
        self.log, self.rank = log, rank
        self.sentences = self.tokens = self.positions = self.checkpoints = 0
        self.waited = self.checkpointing = 0.0
        self.start = time.perf_counter()
        self.next = self.start + _PROGRESS_INTERVAL

    def waiting(self, source: Iterable[T]) -> Iterator[T]:
        """Yield the items of ``source``, and count the time until each is ready as waiting."""
        items = iter(source)
        while True:
            before = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - before
            if item is None:
                return
            yield item

    def batch(self, sentences: int, tokens: int, positions: int) -> None:
        """Count a measured batch: its sentences, its tokens, and its positions (tokens with padding)."""
        self.sentences += sentences
        self.tokens += tokens
        self.positions += positions
        if time.perf_counter() >= self.next:
            self.next = time.perf_counter() + _PROGRESS_INTERVAL
            self._report("progress", self._figures())

    def checkpoint(self, save: Callable[[], int]) -> None:
        """Call ``save``, which returns the number of bytes written, and count its duration."""
        before = time.perf_counter()
        size = save()
        took = time.perf_counter() - before
        self.checkpoints += 1
        self.checkpointing += took
        self._report("checkpoint", {"bytes": size, "took": round(took, 4)})

    def end(self) -> None:
        """Report the summary."""
        self._report("summary", self._figures())

    def _report(self, event: str, figures: dict[str, Any]) -> None:
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
            # The kernel adds each thread's pages to the peak with a delay, so that it can be below the present size.
            "memory_peak_bytes": max(held, peak_bytes()),
            "device_peak_bytes": _device_peak_bytes(),
            "checkpoints": self.checkpoints,
            "checkpoint_seconds": round(self.checkpointing, 3),
        }


def _device_peak_bytes() -> int:
    measured = getattr(torch.get_device_module(), "max_memory_allocated", None)
    return 0 if measured is None else int(measured())


class EventLog:
    """Log that appends each event to a file as a line of JSON, and keeps the summary.

    Args:
        path: the file; None keeps the summary alone.

    Raises:
        InputError: on an event, if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self.summary: dict[str, Any] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "summary":
            self.summary = event
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Each line is a single append, since several processes may share the file.
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(event) + "\n")
            except OSError as error:
                raise InputError(f"cannot write the log {self.path}: {error.strerror or error}") from error
