"""A corpus in shards: measured one after the other, kept while they are measured, merged in their order.

A shard is a run of sentences that the corpus' length alone decides. Each starts from nothing, so that who measured it,
when, and after how many interruptions changes no bit of the whole: resuming and sharing out are one mechanism. Apart
from screening.py, which knows what is measured, and from checkpoint.py, which knows files.
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
from affectron.screening.checkpoint import Place, ShardFolder
from affectron.screening.meter import Meter
from affectron.screening.processes import Processes
from affectron.stats import FIELDS, ActivationStats

# Batches made ahead of the forward: so many that the next pool of sentences is tokenised while the last one is used up.
_BATCHES_AHEAD = 64

Part = tuple[ActivationStats, Place]
"""What was measured of a shard, or of several, and how far that reaches."""


class Work(Protocol):
    """What is done with the batches of a shard."""

    def start(self, kept: ActivationStats | None) -> None:
        """Begin a shard: from nothing, or where it was left."""

    def forward(self, batch: Batch) -> None: ...

    def idle(self) -> None:
        """A forward that counts nothing, for the sake of processes that need one."""

    def stats(self) -> ActivationStats:
        """What was measured since the start; measuring can go on afterwards."""

    def blank(self) -> ActivationStats:
        """Statistics of no tokens, for others' to be written over."""


class Shards:
    """The shards of one screening.

    Args:
        corpus: the sentences.
        shards: into how many runs they are divided, of the same length or one more.
        read: gives the batches of ``sentences``.
        work: what is done with them.
        meter: told of every batch and checkpoint.
        progress: show a bar on stderr.
        processes: those that share out the shards.
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
    ) -> None:
        self.corpus, self.shards, self.read, self.work, self.meter = corpus, shards, read, work, meter
        self.progress, self.processes = progress, processes
        self._sentences: Iterator[Sentence] = iter(())
        self._reached: int | None = None  # sentences taken from it; None: it has to be made anew

    def bounds(self, shard: int) -> tuple[int, int]:
        """The sentences of a shard: the first, and the one after the last."""
        return len(self.corpus) * shard // self.shards, len(self.corpus) * (shard + 1) // self.shards

    def measure(self) -> Part:
        """Measure all shards and merge them as they come; nothing is kept.

        Raises:
            ScreeningInterrupted: Ctrl-C.
        """
        with track("screening", len(self.corpus), self.progress) as advance:
            try:
                watch = _Watch(float("inf"), threading.Event(), self.processes)
                shards = (self._measure(shard, None, advance, watch) for shard in range(self.shards))
                return reduce(_merged, chain.from_iterable(shards))
            except KeyboardInterrupt:
                raise ScreeningInterrupted(
                    f"screening was interrupted after {self.meter.sentences:,} of {len(self.corpus):,} sentences "
                    f"({self.meter.tokens:,} tokens); nothing was written"
                ) from None

    def measure_kept(self, folder: ShardFolder, every: float) -> Part:
        """Measure what ``folder`` lacks of this process' shards, keep it there, and merge all shards of all processes.

        A shard is saved when it is complete, every ``every`` seconds until then, and on Ctrl-C and SIGTERM.

        Raises:
            InputError: the folder cannot be written to.
            Incomplete: some shards failed, on whichever process.
            ScreeningInterrupted: Ctrl-C or SIGTERM.
        """
        places = folder.places(self.shards)
        complete = {shard for shard, place in places.items() if place.complete}
        everywhere = set().union(*self.processes.gather(complete))
        own = self.processes.share([shard for shard in range(self.shards) if shard not in everywhere])
        failures: dict[int, Exception] = {}
        total = sum(stop - start for start, stop in map(self.bounds, own))
        show = self.progress and self.processes.rank == 0
        with _told_to_stop() as stop, track("screening", total, show) as advance:
            watch = _Watch(every, stop, self.processes)
            for shard in own:
                kept = folder.load(shard) if shard in places else None
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
                    f"screening was interrupted after {self.meter.sentences:,} of {total:,} sentences; "
                    f"they are kept in {folder.path}: go on with --resume"
                )
        return self._merge(folder, complete, failures)

    def _keep(self, parts: Iterator[Part], folder: ShardFolder, watch: _Watch) -> None:
        """Save what is measured of a shard whenever there is something, until it is complete or ``watch`` ends it."""
        while True:
            try:
                part = next(parts, None)
            except Exception as error:  # whatever it is, it shall not cost the other shards
                if self.processes.coupled is not None:
                    raise  # the others wait for a forward that will not come: better that all end
                raise _Failed(error) from error
            if part is None:
                return
            if self.processes.leader:
                self.meter.checkpoint(partial(folder.save, *part))
            watch.reset()
            if watch.stop.is_set():
                return

    def _measure(self, shard: int, kept: Part | None, advance: Advance, watch: _Watch) -> Generator[Part, None, None]:
        """Measure a shard from where it is kept; gives what there is whenever it is due, and the whole at last."""
        stats, place = kept or (None, Place(shard))
        self.work.start(stats)
        with prefetch(islice(self.read(self._sentences_of(shard)), place.batches, None), _BATCHES_AHEAD) as ready:
            for batch in self.meter.waiting(ready):
                if watch.due():
                    yield self.work.stats(), place
                self.work.forward(batch)
                tokens, sentences = int(batch.attention_mask.sum()), len(batch.sentences) - batch.continuing
                place.batches += 1
                place.sentences += sentences
                place.tokens_read += tokens
                place.positions += batch.attention_mask.size
                place.truncated += batch.truncated
                self.meter.batch(sentences, tokens, batch.attention_mask.size)
                advance(self.meter.sentences, self.meter.tokens)
        self.corpus.check_unchanged()
        place.complete = True
        yield self.work.stats(), place

    def _sentences_of(self, shard: int) -> Iterator[Sentence]:
        """Reads on where the last shard ended: the corpus is read once, as long as shards are asked for in order."""
        start, stop = self.bounds(shard)
        if self._reached is None or self._reached > start:
            self._sentences, self._reached = iter(self.corpus), 0
        skipped, self._reached = start - self._reached, stop
        return islice(self._sentences, skipped, skipped + stop - start)

    def _merge(self, folder: ShardFolder, complete: set[int], failures: dict[int, Exception]) -> Part:
        if self.processes.size == 1 and not complete:  # nothing is kept: there is nothing to tell beside the error
            raise next(iter(failures.values()))
        owner: dict[int, int] = {}
        reasons: dict[int, str] = {}
        found = (
            complete if self.processes.leader else set(),
            {shard: f"{type(error).__name__}: {error}" for shard, error in failures.items()},
        )
        for rank, (theirs, failed) in enumerate(self.processes.gather(found)):
            owner.update((shard, rank) for shard in theirs if shard not in owner)
            reasons.update(failed)
        missing = [shard for shard in range(self.shards) if shard not in owner]
        if missing:
            listed = "; ".join(f"shard {shard} {self._where(shard)}: {reasons[shard]}" for shard in missing)
            raise Incomplete(
                f"{len(owner)} of {self.shards} shards are measured and kept in {folder.path}; go on with --resume "
                f"for the rest. {' '.join(listed.split())}"
            )
        self.processes.collect(folder, owner)
        if self.processes.rank == 0:
            stats, place = reduce(_merged, map(folder.whole, range(self.shards)))
        else:
            stats, place = self.work.blank(), Place(0)
        self.processes.broadcast(getattr(stats, name)[site] for name in FIELDS for site in stats.sites)
        texts = self.processes.gather(None if stats.screened is None else len(stats.screened))[0]
        if texts is None:
            stats.screened = None
        else:
            if self.processes.rank != 0:
                stats.screened = np.zeros(texts, dtype=np.uint64)
            assert stats.screened is not None
            self.processes.broadcast([stats.screened.view(np.int64)])  # of the same bits, which gloo can send
        return stats, self.processes.gather(place)[0]

    def _where(self, shard: int) -> str:
        start, stop = self.bounds(shard)
        return f"(sentences {start + 1:,} to {stop:,})"


def _merged(one: Part, other: Part) -> Part:
    (stats, place), (more, further) = one, other
    return stats.merge(more), place.plus(further)


class _Failed(Exception):
    """A shard could not be measured."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Watch:
    """Says before each forward what is to be done first; processes that compute together do the same."""

    def __init__(self, every: float, stop: threading.Event, processes: Processes) -> None:
        self.every, self.stop, self.processes = every, stop, processes
        self.reset()

    def reset(self) -> None:
        self.at = time.monotonic() + self.every

    def due(self) -> bool:
        """Whether to save: ``every`` seconds are over since the last reset, or it is time to stop."""
        late = time.monotonic() >= self.at
        return self._agree(busy=True, due=late or self.stop.is_set())[1]

    def others_busy(self) -> bool:
        """Whether a forward is needed of this process, which has none of its own left."""
        return self._agree(busy=False, due=False)[0] and not self.stop.is_set()

    def _agree(self, busy: bool, due: bool) -> tuple[bool, bool]:
        busy, due, stop = self.processes.step(busy, due, self.stop.is_set())
        if stop:
            self.stop.set()
        return busy, due


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, in place of what they do otherwise; a second Ctrl-C ends at once.

    Only the main thread is told of signals: in any other the event stays unset.
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
