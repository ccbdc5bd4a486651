"""``affectron screen-pairs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import affectron
from affectron.cli.inputs import load_model
from affectron.cli.options import JsonOption, ModelArgument, checked_output
from affectron.cli.output import print_json, print_table, save
from affectron.options import Load, ScreenPairs


def screen_pairs(
    model: ModelArgument,
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Pairs (.jsonl): label, text with it, other without.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the statistics to (.safetensors).")],
    options: ScreenPairs,
    load: Load,
    as_json: JsonOption = False,
) -> None:
    """Measure what each neuron does to the difference within PAIRS; select then takes --score paired_t."""
    from affectron.corpus.pairs import load_pairs
    from affectron.screening.pairs import screen_pairs

    checked_output(output, pairs)
    loaded_pairs = load_pairs(pairs)
    loaded, tokenizer = load_model(model, load)
    stats = screen_pairs(loaded, tokenizer, loaded_pairs, **options.values(), progress=True)
    save(stats, output)
    p = affectron.score(stats, "paired_p", options.task)
    q = affectron.fdr(np.concatenate([p[site] for site in stats.sites], axis=1))
    labels = {
        label: {"pairs": stats.tokens(label), "neurons_at_q_0.05": int((row <= 0.05).sum())}
        for label, row in zip(stats.tasks[options.task], q, strict=True)
    }
    if as_json:
        print_json({"output": str(output), "task": options.task, "labels": labels})
        return
    rows = [(label, *counts.values()) for label, counts in labels.items()]
    print_table(f"differences within {pairs.name}", ("label", "pairs", "neurons at q <= 0.05"), rows)
    print(f"saved to {output}")
