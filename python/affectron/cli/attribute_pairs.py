"""``affectron attribute-pairs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from affectron.cli.inputs import load_model
from affectron.cli.options import JsonOption, ModelArgument, checked_output
from affectron.cli.output import print_json, print_table, save
from affectron.options import AttributePairs, Load


def attribute_pairs(
    model: ModelArgument,
    pairs: Annotated[
        Path,
        typer.Argument(metavar="PAIRS", help="Pairs (.jsonl): label, text, other, and the answer and other_answer."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the attributions to (.safetensors).")],
    options: AttributePairs,
    load: Load,
    as_json: JsonOption = False,
) -> None:
    """Attribute the preference for each text's answer in PAIRS to every neuron; select then reads the result."""
    from affectron.attribution.pairs import attribute_pairs
    from affectron.corpus.pairs import load_pairs

    checked_output(output, pairs)
    loaded_pairs = load_pairs(pairs)
    loaded, tokenizer = load_model(model, load)
    attributions = attribute_pairs(loaded, tokenizer, loaded_pairs, **options.values(), progress=True)
    save(attributions, output)
    labels = {label: attributions.tokens(label) for label in attributions.labels}
    if as_json:
        print_json({"output": str(output), "task": options.task, "labels": labels})
        return
    print_table(f"attributions within {pairs.name}", ("label", "pairs"), list(labels.items()))
    print(f"saved to {output}")
