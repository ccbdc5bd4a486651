"""Shards of a screening: measured one after the other, saved during the measurement, and merged in their order.

A shard is a run of sentences that depends on the corpus' length alone. Each shard starts from empty statistics. The
result is therefore the same, bit for bit, for any number of processes and interruptions.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial, reduce
from itertools import chain, islice
from types import FrameType
from typing import Protocol

import numpy as np

from affectron._internal.prefetch import prefetch
from affectron._internal.progress import Advance, track
from affectron.corpus import Corpus, Sentence
from affectron.corpus.batching import Batch
from affectron.errors import Incomplete, ScreeningInterrupted
from affectron.screening.checkpoint import RESUME, ShardFolder, ShardState
from affectron.screening.meter import Meter
from affectron.screening.processes import Processes
from affectron.stats import FIELDS, ActivationStats

# Batches prepared ahead of the forward: enough to tokenise the next pool of sentences while the last one is read.
_BATCHES_AHEAD = 64

Part = tuple[ActivationStats, ShardState]
"""Statistics of a shard, or of several, and their state."""


class Work(Protocol):
    """Measurement of the batches of a shard."""

    def start(self, kept: ActivationStats | None) -> None:
        """Begin a shard: from empty statistics, or from those that were kept."""

    def forward(self, batch: Batch) -> None:
        """Measure a batch."""

    def idle(self) -> None:
        """Run a forward that counts nothing, for coupled processes that need one."""

    def stats(self) -> ActivationStats:
        """Return the statistics since the start; the measurement can go on afterwards."""

    def blank(self) -> ActivationStats:
        """Return statistics of no tokens, to be overwritten with those of another process."""


class Shards:
    """Shards of one screening.

    Args:
        corpus: the sentences.
        shards: number of shards; their lengths differ by one at most.
        read: makes batches of sentences.
        work: measures the batches.
        meter: counts batches and checkpoints.
        progress: show a bar on stderr.
        processes: the processes that share the shards.
        what: name of the pass: ``screening``.
    """

    def __init__(
        self,
        corpus: Corpus,
        shards: int,
        read: Callable[[Iterable[Sentence]], Iterator[Batch]],
        work: Work,
        meter: Meter,
        progress: bool,
        processes: Processes,
        what: str,
    ) -> None:
        self.what = what
        self.corpus, self.shards, self.read, self.work, self.meter = corpus, shards, read, work, meter
        self.progress, self.processes = progress, processes
        self._sentences: Iterator[Sentence] = iter(())
        self._reached: int | None = None  # number of sentences taken from it; None if it must be restarted

    def bounds(self, shard: int) -> tuple[int, int]:
        """Range of a shard's sentences: the first, and the one after the last."""
        return len(self.corpus) * shard // self.shards, len(self.corpus) * (shard + 1) // self.shards

    def measure(self) -> Part:
        """Measure all shards and merge them one by one; nothing is saved.

        Raises:
            ScreeningInterrupted: Ctrl-C.
        """
        with track(self.what, len(self.corpus), self.progress) as advance:
            try:
                watch = _Watch(float("inf"), threading.Event(), self.processes)
                shards = (self._measure(shard, None, advance, watch) for shard in range(self.shards))
                return reduce(_merged, chain.from_iterable(shards))
            except KeyboardInterrupt:
                raise ScreeningInterrupted(
                    f"{self.what} was interrupted after {self.meter.sentences:,} of {len(self.corpus):,} sentences "
                    f"({self.meter.tokens:,} tokens); nothing was written"
                ) from None

    def measure_kept(self, folder: ShardFolder, every: float) -> Part:
        """Measure this process' shards that ``folder`` lacks, save them there, and merge the shards of all processes.

        A shard is saved when it is complete, every ``every`` seconds until then, and on Ctrl-C and SIGTERM.

        Raises:
            InputError: the folder cannot be written to.
            Incomplete: shards failed, on any process.
            ScreeningInterrupted: Ctrl-C or SIGTERM.
        """
        states = folder.states(self.shards)
        complete = {shard for shard, state in states.items() if state.complete}
        complete_anywhere = set().union(*self.processes.gather(complete))
        share = self.processes.share([shard for shard in range(self.shards) if shard not in complete_anywhere])
        failures: dict[int, Exception] = {}
        total = sum(stop - start for start, stop in map(self.bounds, share))
        show = self.progress and self.processes.rank == 0
        with _stop_on_signals() as stop, track(self.what, total, show) as advance:
            watch = _Watch(every, stop, self.processes)
            for shard in share:
                kept = folder.load(shard) if shard in states else None
                with closing(self._measure(shard, kept, advance, watch)) as parts:
                    try:
                        self._keep(parts, folder, watch)
                    except _Failed as failed:
                        failures[shard] = failed.error
                        self._reached = None
                    else:
                        complete.add(shard)
                if stop.is_set():
                    break
            while watch.others_busy():
                self.work.idle()
            if stop.is_set():
                raise ScreeningInterrupted(
                    f"{self.what} was interrupted after {self.meter.sentences:,} of {total:,} sentences; "
                    f"they are kept in {folder.path}: {RESUME}"
                )
        return self._merge(folder, complete, failures)

    def _keep(self, parts: Iterator[Part], folder: ShardFolder, watch: _Watch) -> None:
        """Save each of ``parts`` of a shard, until it is complete or ``watch`` stops it."""
        while True:
            try:
                part = next(parts, None)
            except Exception as error:  # no failure of one shard may end the others
                if self.processes.coupled is not None:
                    raise  # coupled processes would wait forever for this one's forward, so that all must end
                raise _Failed(error) from error
            if part is None:
                return
            if self.processes.leader:
                self.meter.checkpoint(partial(folder.save, *part))
            watch.reset()
            if watch.stop.is_set():
                return

    def _measure(self, shard: int, kept: Part | None, advance: Advance, watch: _Watch) -> Generator[Part, None, None]:
        """Measure a shard from its kept state; yield the part so far whenever it is due, and the whole at the end."""
        stats, state = kept or (None, ShardState(shard))
        self.work.start(stats)
        with prefetch(islice(self.read(self._sentences_of(shard)), state.batches, None), _BATCHES_AHEAD) as ready:
            for batch in self.meter.waiting(ready):
                if watch.due():
                    yield self.work.stats(), state
                self.work.forward(batch)
                tokens, sentences = int(batch.attention_mask.sum()), len(batch.sentences) - batch.continuing
                state.batches += 1
                state.sentences += sentences
                state.tokens_read += tokens
                state.positions += batch.attention_mask.size
                state.truncated += batch.truncated
                self.meter.batch(sentences, tokens, batch.attention_mask.size)
                advance(self.meter.sentences, self.meter.tokens)
        self.corpus.check_unchanged()
        state.complete = True
        yield self.work.stats(), state

    def _sentences_of(self, shard: int) -> Iterator[Sentence]:
        """Iterate over a shard's sentences from where the last shard ended: shards in order read the corpus once."""
        start, stop = self.bounds(shard)
        if self._reached is None or self._reached > start:
            self._sentences, self._reached = iter(self.corpus), 0
        skipped, self._reached = start - self._reached, stop
        return islice(self._sentences, skipped, skipped + stop - start)

    def _merge(self, folder: ShardFolder, complete: set[int], failures: dict[int, Exception]) -> Part:
        """Merge the shards of all processes on rank 0, and send the result to all.

        Raises:
            Incomplete: a shard is missing.
        """
        if self.processes.size == 1 and not complete:  # nothing is kept, so that the error itself says all
            raise next(iter(failures.values()))
        owner: dict[int, int] = {}
        reasons: dict[int, str] = {}
        outcome = (
            complete if self.processes.leader else set(),
            {shard: f"{type(error).__name__}: {error}" for shard, error in failures.items()},
        )
        for rank, (completed, failed) in enumerate(self.processes.gather(outcome)):
            owner.update((shard, rank) for shard in completed if shard not in owner)
            reasons.update(failed)
        missing = [shard for shard in range(self.shards) if shard not in owner]
        if missing:
            listed = "; ".join(f"shard {shard} {self._where(shard)}: {reasons[shard]}" for shard in missing)
            raise Incomplete(
                f"{len(owner)} of {self.shards} shards are measured and kept in {folder.path}: {RESUME}. "
                f"{' '.join(listed.split())}"
            )
        self.processes.collect(folder, owner)
        if self.processes.rank == 0:
            stats, state = reduce(_merged, map(folder.whole, range(self.shards)))
        else:
            stats, state = self.work.blank(), ShardState(0)
        self.processes.broadcast(getattr(stats, name)[site] for name in FIELDS for site in stats.sites)
        texts = self.processes.gather(None if stats.screened is None else len(stats.screened))[0]
        if texts is None:
            stats.screened = None
        else:
            if self.processes.rank != 0:
                stats.screened = np.zeros(texts, dtype=np.uint64)
            assert stats.screened is not None
            self.processes.broadcast([stats.screened.view(np.int64)])  # the same bits in a type that gloo can send
        return stats, self.processes.gather(state)[0]

    def _where(self, shard: int) -> str:
        start, stop = self.bounds(shard)
        return f"(sentences {start + 1:,} to {stop:,})"


def _merged(first: Part, second: Part) -> Part:
    return first[0].merge(second[0]), first[1].plus(second[1])


class _Failed(Exception):
    """Failure of a shard's measurement, which does not end the others."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Watch:
    """Timer and stop flag of a measurement, which are read before each forward. Coupled processes share them.

    Args:
        every: seconds between two saves.
        stop: set when the screening is to stop.
        processes: the processes of the screening.
    """

    def __init__(self, every: float, stop: threading.Event, processes: Processes) -> None:
        self.every, self.stop, self.processes = every, stop, processes
        self.reset()

    def reset(self) -> None:
        """Start the time until the next save."""
        self.save_at = time.monotonic() + self.every

    def due(self) -> bool:
        """Tell whether to save: ``every`` seconds have passed since the last reset, or the screening is to stop."""
        late = time.monotonic() >= self.save_at
        return self._agree(busy=True, due=late or self.stop.is_set())[1]

    def others_busy(self) -> bool:
        """Tell whether coupled processes need another forward of this one, which has no batch left."""
        return self._agree(busy=False, due=False)[0] and not self.stop.is_set()

    def _agree(self, busy: bool, due: bool) -> tuple[bool, bool]:
        """Combine ``busy``, ``due`` and the stop event with those of the coupled processes."""
        busy, due, stop = self.processes.step(busy, due, self.stop.is_set())
        if stop:
            self.stop.set()
        return busy, due


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set, instead of their usual effect; a second Ctrl-C ends at once.

    Python handles signals in the main thread alone. In any other thread the event stays unset.
    """
    stop = threading.Event()
    again = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal again
        if number == signal.SIGINT and again:
            raise ScreeningInterrupted("screening was interrupted; what the last checkpoint kept is kept still")
        again = again or number == signal.SIGINT
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
