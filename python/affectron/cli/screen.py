"""``affectron screen``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import affectron
from affectron.cli.inputs import load_model
from affectron.cli.options import CorpusArgument, JsonOption, ModelArgument, SplitOption, TaskOption
from affectron.cli.output import save, timed
from affectron.cli.passes import PreparedPass, sentences_of
from affectron.options import Columns, Load, ScreenSites


def screen(
    model: ModelArgument,
    corpus: CorpusArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the statistics to (.safetensors).")],
    options: ScreenSites,
    columns: Columns,
    load: Load,
    split: SplitOption = None,
    task: TaskOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every MLP neuron of MODEL over the labelled sentences of CORPUS.

    Started by torchrun, the processes share out the corpus. What was interrupted goes on with --resume.
    """
    prepared = PreparedPass.of(corpus, output, options, columns, load, task, split)
    loaded, tokenizer = load_model(model, prepared.load)
    given = prepared.options.values() | {"log": prepared.log}
    with timed() as seconds:
        stats = affectron.screen(loaded, tokenizer, prepared.corpus, **given, progress=True)
    if prepared.first:
        save(stats, output)
        counts = sentences_of(prepared.corpus)
        labels = {
            label: {"task": task, "sentences": counts[label], "tokens": stats.tokens(label)}
            for task, names in stats.tasks.items()
            for label in names
        }
        notes = (
            ["not every token passes every site: tokens are those of the site that has most of the label's"]
            if stats.uneven
            else []
        )
        prepared.report(stats, output, seconds[0], labels, ("sentences", "tokens"), notes, as_json)
    prepared.finish()
