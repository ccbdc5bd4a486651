"""``affectron screen``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import affectron
from affectron._internal.wording import count
from affectron.cli.inputs import load_model, read_corpus
from affectron.cli.options import CorpusArgument, JsonOption, ModelArgument, TaskOption, checked_output
from affectron.cli.output import print_json, print_table, save, timed
from affectron.options import Columns, Load, Screen

if TYPE_CHECKING:
    from affectron import ActivationStats, Corpus


def screen(
    model: ModelArgument,
    corpus: CorpusArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the statistics to (.safetensors).")],
    options: Screen,
    columns: Columns,
    load: Load,
    split: Annotated[str | None, typer.Option(help="Read this split only.")] = None,
    task: TaskOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every MLP neuron of MODEL over the labelled sentences of CORPUS.

    Started by torchrun, the processes share out the corpus. What was interrupted goes on with --resume.
    """
    from affectron.screening import processes
    from affectron.screening.checkpoint import ShardFolder
    from affectron.screening.meter import EventLog
    from affectron.screening.screen import check_options

    checked_output(output, corpus)
    if options.log is not None:
        checked_output(options.log, corpus, output)
    log = EventLog(options.log)
    folder = options.checkpoint or output.with_name(f"{output.name}.shards")
    if processes.launched():
        processes.initialise()
        load = dataclasses.replace(load, device=processes.local_device(load.device))
    sentences = read_corpus(corpus, columns, task, split)
    options = dataclasses.replace(options, checkpoint=folder, resume=options.resume or processes.restarted())
    check_options(sentences, options)  # a model may take minutes to load
    loaded, tokenizer = load_model(model, load)
    with timed() as seconds:
        stats = affectron.screen(loaded, tokenizer, sentences, **options.values() | {"log": log}, progress=True)
    if log.summary["rank"] == 0:
        save(stats, output)
        _print(stats, sentences, output, seconds[0], log.summary, as_json)
    processes.finish()
    ShardFolder.remove(folder)


def _print(
    stats: ActivationStats, corpus: Corpus, output: Path, seconds: float, summary: dict[str, Any], as_json: bool
) -> None:
    counts: dict[str, int] = {}
    for (_, label), sentences in corpus.counts.items():
        counts[label] = counts.get(label, 0) + sentences
    labels = {
        label: {"task": task, "sentences": counts[label], "tokens": stats.tokens(label)}
        for task, names in stats.tasks.items()
        for label in names
    }
    read = stats.provenance["tokens_read"]
    if as_json:
        print_json(
            {
                "output": str(output),
                "sites": len(stats.sites),
                "neurons": sum(stats.widths.values()),
                "labels": labels,
                "sentences": stats.provenance["sentences"],
                "skipped": corpus.skipped,
                "truncated": stats.provenance["truncated"],
                "nonfinite": stats.nonfinite_share,
                "tokens_read": read,
                "seconds": round(seconds, 3),
                "summary": summary,
            }
        )
        return
    rows = [(entry["task"], label, entry["sentences"], entry["tokens"]) for label, entry in labels.items()]
    print_table(f"{corpus.name} on {stats.provenance['model']}", ("task", "label", "sentences", "tokens"), rows)
    if stats.uneven:
        print("not every token passes every site: tokens are those of the site that has most of the label's")
    if stats.provenance["truncated"]:
        print(f"{count(stats.provenance['truncated'], 'sentence')} cut to the model's maximum length")
    print(
        f"{count(sum(stats.widths.values()), 'neuron')} at {count(len(stats.sites), 'site')}, {count(read, 'token')} "
        f"in {seconds:.1f} s ({read / seconds:,.0f} tokens/s); saved to {output}"
    )
    made, versions = stats.provenance, stats.provenance["versions"]
    device = summary["device_peak_bytes"]  # 0 on a CPU
    print(
        f"affectron {made['affectron']}, torch {versions['torch']}, transformers {versions['transformers']}, "
        f"{made['dtype']} on {made['device']}; {count(made['shards'], 'shard')}, padding {made['padding']:.1%}, "
        f"waiting for batches {summary['waiting']:.1%}, {count(summary['checkpoints'], 'checkpoint')} in "
        f"{summary['checkpoint_seconds']:.1f} s, peak memory {summary['memory_peak_bytes'] / 2**20:,.0f} MiB"
        + (f" and {device / 2**20:,.0f} MiB on the device" if device else "")
    )
