"""``affectron validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import affectron
from affectron.cli.inputs import load_model, read_corpus, stats_beside
from affectron.cli.options import (
    AllowOverlap,
    CorpusArgument,
    JsonOption,
    ModelArgument,
    NeuronsOption,
    SeedOption,
    StatsOption,
    TaskOption,
    checked_output,
)
from affectron.cli.output import print_json, print_validation, save
from affectron.options import Columns, Common, Evaluate, Load, Validate


def validate(
    model: ModelArgument,
    corpus: CorpusArgument,
    neurons: NeuronsOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the result to (.json).")],
    evaluate: Evaluate,
    options: Validate,
    columns: Columns,
    load: Load,
    stats: StatsOption = None,
    seed: SeedOption = Common.seed,
    allow_overlap: AllowOverlap = Common.allow_overlap,
    task: TaskOption = None,
    as_json: JsonOption = False,
) -> None:
    """Weaken each label's neurons and see what it does, against zero, mean and random masks."""
    from affectron.evaluation.exam import Exam

    checked_output(output, corpus, neurons, stats)
    selected = affectron.NeuronSet.load(neurons)
    measured = stats_beside(neurons, stats)
    sentences = read_corpus(corpus, columns, task)
    exam: dict[str, Any] = {
        **evaluate.values(),
        "prompts": evaluate.prompts or None,
        "seed": seed,
        "allow_overlap": allow_overlap,
    }
    # A model may take minutes to load: what it is not needed for is checked first.
    Exam(None, None, sentences, **exam).tasks(selected, measured, task)
    if options.neutral is not None:
        sentences.where(split=evaluate.test).require([options.neutral])
    loaded, tokenizer = load_model(model, load)
    result = affectron.validate(
        loaded, tokenizer, sentences, selected, measured, **exam, **options.values(), task=task, progress=True
    )
    save(result, output)
    if as_json:
        print_json(result.content)
    else:
        print_validation(result)
        print(f"saved to {output}")
