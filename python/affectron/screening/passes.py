"""Passes over a corpus: shards that are measured, kept and merged, with the provenance of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from affectron._internal.files import locked
from affectron.corpus import Corpus, Sentence
from affectron.corpus.batching import Batch
from affectron.errors import InputError
from affectron.models import Reader, evaluating, max_length
from affectron.options import MOST_SHARDS, POOL, Sharded
from affectron.screening.checkpoint import ShardFolder
from affectron.screening.meter import Log, Meter
from affectron.screening.processes import Processes
from affectron.screening.shards import Shards, Work
from affectron.stats import ActivationStats


def shards_of(corpus: Corpus, options: Sharded) -> int:
    """The number of shards of a corpus.

    Raises:
        InputError: there are more shards than sentences.
    """
    shards = options.shards or min(-(-len(corpus) // POOL), MOST_SHARDS)
    if not 1 <= shards <= len(corpus):
        raise InputError(f"shards is {shards}, expected 1 to {len(corpus)}, the number of sentences")
    return shards


@dataclass(frozen=True)
class Pass:
    """A pass of a model over a corpus.

    Attributes:
        what: its name on the progress bar and in messages: ``screening``.
        reader: the model, and its sites.
        corpus: the sentences.
        options: shards and checkpoints.
        log: told of each event.
        progress: show a bar on stderr.
    """

    what: str
    reader: Reader
    corpus: Corpus
    options: Sharded
    log: Log | None
    progress: bool

    def measure(
        self,
        read: Callable[[Iterable[Sentence]], Iterator[Batch]],
        work: Work,
        attached: AbstractContextManager[None],
        provenance: Mapping[str, Any],
        **depends: Any,
    ) -> ActivationStats:
        """Measure all shards and merge them.

        Args:
            read: makes batches of sentences.
            work: measures the batches.
            attached: the context in which it does.
            provenance: that of the statistics; what was read is added to it.
            depends: what else the numbers depend on, as JSON; an interrupted pass goes on only where it is the same.

        Raises:
            InputError: no checkpoint folder with ``resume`` or several processes, or as :class:`ShardFolder`.
        """
        model, corpus, options = self.reader.model, self.corpus, self.options
        shards = shards_of(corpus, options)
        processes = Processes(model)
        if options.checkpoint is None and (options.resume or processes.size > 1):
            reason = "resume is True" if options.resume else f"there are {processes.size} processes"
            raise InputError(f"checkpoint is None and {reason}; expected the folder that keeps the shards")
        provenance = {**provenance, "shards": shards}
        names = ("model", "revision", "corpus_name")  # a run may be moved, and its files be called otherwise
        # The dtype before the weights, which change with it: what differs first is named.
        run = {"dtype": provenance["dtype"]} | {key: value for key, value in provenance.items() if key not in names}
        run |= {
            "corpus_order": corpus.order,
            "task": corpus.task,
            "max_length": max_length(model),
            "sites": {site.name: site.neurons for site in self.reader.sites},
            **depends,
        }
        if options.checkpoint is not None:
            processes.agree(run)
        meter = Meter(self.log, processes.rank)
        measured = Shards(corpus, shards, read, work, meter, self.progress, processes, self.what)
        # One process for all that share out the shards.
        held = locked(options.checkpoint) if options.checkpoint is not None and processes.rank == 0 else nullcontext()
        with held, torch.no_grad(), evaluating(model), attached:
            if options.checkpoint is None:
                stats, state = measured.measure()
            else:
                folder = ShardFolder(options.checkpoint, run, options.resume)
                processes.gather(None)  # no process writes to the folder before all have looked
                stats, state = measured.measure_kept(folder, 60 * options.checkpoint_minutes)
        meter.end()
        stats.provenance = {
            **provenance,
            "sentences": state.sentences,
            "tokens_read": state.tokens_read,
            "padding": round(1 - state.tokens_read / state.positions, 4) if state.positions else 0.0,
            "truncated": state.truncated,
        }
        return stats


def corpus_provenance(corpus: Corpus) -> dict[str, Any]:
    """The fields of a provenance that identify a corpus."""
    return {
        "corpus": [corpus.hash],
        "corpus_name": corpus.name,
        "sources": corpus.sources,
        "split": corpus.split,
    }


def as_folds(parts: list[ActivationStats]) -> list[ActivationStats]:
    """Give the statistics of the folds of one corpus the provenance of the whole, and the number of each."""
    whole = {name: sum(part.provenance[name] for part in parts) for name in ("sentences", "tokens_read", "truncated")}
    for number, part in enumerate(parts):
        del part.provenance["padding"]
        part.provenance |= {**whole, "fold": [number, len(parts)]}
    return parts
