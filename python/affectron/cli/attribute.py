"""``affectron attribute``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import affectron
from affectron.cli.inputs import load_model
from affectron.cli.options import CorpusArgument, JsonOption, ModelArgument, SplitOption, TaskOption
from affectron.cli.output import save, timed
from affectron.cli.passes import PreparedPass, sentences_of
from affectron.options import Ask, Attribute, Columns, Load

if TYPE_CHECKING:
    from affectron import ActivationStats


def attribute(
    model: ModelArgument,
    corpus: CorpusArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the attributions to (.safetensors).")],
    ask: Ask,
    options: Attribute,
    columns: Columns,
    load: Load,
    stats: Annotated[Path | None, typer.Option(help="Statistics of the model, for --baseline mean.")] = None,
    split: SplitOption = None,
    task: TaskOption = None,
    as_json: JsonOption = False,
) -> None:
    """Attribute the answers of MODEL about the sentences of CORPUS to every MLP neuron; select then reads the result.

    Started by torchrun, the processes share out the corpus. What was interrupted goes on with --resume.
    """
    prepared = PreparedPass.of(corpus, output, options, columns, load, task, split)
    measured = None if stats is None else affectron.ActivationStats.load(stats)
    loaded, tokenizer = load_model(model, prepared.load)
    given = prepared.options.values() | ask.values() | {"log": prepared.log, "stats": measured}
    with timed() as seconds:
        attributions = affectron.attribute(loaded, tokenizer, prepared.corpus, **given, progress=True)
    if prepared.first:
        save(attributions, output)
        counts = sentences_of(prepared.corpus)
        labels = {
            label: {"task": task, "sentences": counts[label], "largest mean": _largest(attributions, label)}
            for task, names in attributions.tasks.items()
            for label in names
        }
        prepared.report(attributions, output, seconds[0], labels, ("sentences", "largest mean"), [], as_json)
    prepared.finish()


def _largest(attributions: ActivationStats, label: str) -> str:
    """The neuron of the largest mean attribution under a label, and its mean in nats."""
    means: dict[str, Any] = {site: of_site.mean for site, of_site in attributions.label(label).items()}
    site = max(means, key=lambda name: np.nanmax(means[name], initial=-np.inf))
    index = int(np.nanargmax(means[site]))
    return f"{means[site][index]:+.3f} at {site} {index}"
