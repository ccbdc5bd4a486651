"""Commands that make a pass over a corpus: what they prepare, and what they print of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from affectron._internal.wording import count
from affectron.cli.inputs import read_corpus
from affectron.cli.options import checked_output
from affectron.cli.output import print_json, print_table
from affectron.options import Columns, Load, Sharded

if TYPE_CHECKING:
    from affectron import ActivationStats, Corpus
    from affectron.screening.meter import EventLog

Of = TypeVar("Of", bound=Sharded)


@dataclass(frozen=True)
class PreparedPass(Generic[Of]):
    """A pass that is ready to run: by itself, or as one of the processes that torchrun started."""

    corpus: Corpus
    options: Of
    load: Load
    log: EventLog

    @classmethod
    def of(
        cls,
        source: str,
        output: Path,
        options: Of,
        columns: Columns,
        load: Load,
        task: str | None,
        split: str | None,
    ) -> PreparedPass[Of]:
        """Read the corpus, join the other processes, and check what needs no model.

        Raises:
            InputError: a file that cannot be written, or the corpus or number of shards cannot be used.
        """
        from affectron.screening import processes
        from affectron.screening.meter import EventLog
        from affectron.screening.passes import shards_of

        checked_output(output, source)
        if options.log is not None:
            checked_output(options.log, source, output)
        folder = options.checkpoint or output.with_name(f"{output.name}.shards")
        if processes.launched():
            processes.initialise()
            load = dataclasses.replace(load, device=processes.local_device(load.device))
        corpus = read_corpus(source, columns, task, split)
        kept = dataclasses.replace(options, checkpoint=folder, resume=options.resume or processes.restarted())
        shards_of(corpus, kept)  # fails now: a model may take minutes to load
        return cls(corpus, kept, load, EventLog(options.log))

    @property
    def first(self) -> bool:
        """True if this process writes the result; known after the pass."""
        return bool(self.log.summary["rank"] == 0)

    def finish(self) -> None:
        """Leave the other processes, and remove the checkpoint."""
        from affectron.screening import processes
        from affectron.screening.checkpoint import ShardFolder

        processes.finish()
        assert self.options.checkpoint is not None
        ShardFolder.remove(self.options.checkpoint)

    def report(
        self,
        stats: ActivationStats,
        output: Path,
        seconds: float,
        labels: dict[str, dict[str, Any]],
        columns: Sequence[str],
        notes: Sequence[str],
        as_json: bool,
    ) -> None:
        """Print what was measured: ``labels`` by label, under ``columns``, and ``notes`` below the table."""
        made, summary, versions = stats.provenance, self.log.summary, stats.provenance["versions"]
        read = made["tokens_read"]
        if as_json:
            print_json(
                {
                    "output": str(output),
                    "sites": len(stats.sites),
                    "neurons": sum(stats.widths.values()),
                    "labels": labels,
                    "sentences": made["sentences"],
                    "skipped": self.corpus.skipped,
                    "truncated": made["truncated"],
                    "nonfinite": stats.nonfinite_share,
                    "tokens_read": read,
                    "seconds": round(seconds, 3),
                    "summary": summary,
                }
            )
            return
        rows = [(entry["task"], label, *list(entry.values())[1:]) for label, entry in labels.items()]
        print_table(f"{self.corpus.name} on {made['model']}", ("task", "label", *columns), rows)
        for note in notes:
            print(note)
        if made["truncated"]:
            print(f"{count(made['truncated'], 'sentence')} cut to the model's maximum length")
        print(
            f"{count(sum(stats.widths.values()), 'neuron')} at {count(len(stats.sites), 'site')}, "
            f"{count(read, 'token')} in {seconds:.1f} s ({read / seconds:,.0f} tokens/s); saved to {output}"
        )
        device = summary["device_peak_bytes"]  # 0 on a CPU
        print(
            f"affectron {made['affectron']}, torch {versions['torch']}, transformers {versions['transformers']}, "
            f"{made['dtype']} on {made['device']}; {count(made['shards'], 'shard')}, padding {made['padding']:.1%}, "
            f"waiting for batches {summary['waiting']:.1%}, {count(summary['checkpoints'], 'checkpoint')} in "
            f"{summary['checkpoint_seconds']:.1f} s, peak memory {summary['memory_peak_bytes'] / 2**20:,.0f} MiB"
            + (f" and {device / 2**20:,.0f} MiB on the device" if device else "")
        )


def sentences_of(corpus: Corpus) -> dict[str, int]:
    """Label -> number of its sentences."""
    counts: dict[str, int] = {}
    for (_, label), sentences in corpus.counts.items():
        counts[label] = counts.get(label, 0) + sentences
    return counts
