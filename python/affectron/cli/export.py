"""``affectron export``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import affectron
from affectron._internal.artifacts import STATS
from affectron._internal.wording import count
from affectron.cli.inputs import check_model, load_model
from affectron.cli.options import JsonOption, ModelArgument, NeuronsOption, StatsOption, checked_output
from affectron.cli.output import print_json, save
from affectron.cli.programs import (
    LabelOption,
    MaxDoseOption,
    ProgramOption,
    ReferenceOption,
    ShareOption,
    SignalOption,
    Steered,
    StrengthOption,
    Where,
    WhereOption,
    found_stats,
    limited,
    members_of,
    recipe_of,
)
from affectron.errors import InputError
from affectron.interventions.recipes import ProgramName, all_activations
from affectron.interventions.storage import served_name
from affectron.options import Load

if TYPE_CHECKING:
    from affectron import Program

#: The fields of a provenance that tell the model.
_MODEL = ("model", "model_hash", "weights", "dtype")


def export(
    model: ModelArgument,
    neurons: NeuronsOption,
    label: LabelOption,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to save the program to, NAME.safetensors; requests to a server ask for NAME.",
        ),
    ],
    load: Load,
    program: ProgramOption = ProgramName.contrast,
    strength: StrengthOption = None,
    max_dose: MaxDoseOption = None,
    reference: ReferenceOption = None,
    signal: SignalOption = None,
    where: WhereOption = Where.all,
    start: Annotated[
        int, typer.Option(help="First generated token that is steered, counted from 0; not with --where prompt.")
    ] = 0,
    stop: Annotated[
        int | None, typer.Option(help="First generated token that is no longer steered; default: no end.")
    ] = None,
    half_life: Annotated[
        float | None,
        typer.Option(help="Generated tokens after which the strength is a half, and so on; default: no decay."),
    ] = None,
    share: ShareOption = 1.0,
    stats: StatsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Save what steer does with a label and a strength as a file, for a server or to share.

    MODEL is loaded to check that the neurons and the statistics are of its weights. Where they do not tell of which,
    the file names those of MODEL.
    """
    from affectron.models.provenance import check_weights, made_with

    name = served_name(output)
    checked_output(output, neurons, stats or neurons.parent / STATS)
    selected = affectron.NeuronSet.load(neurons)
    members = members_of(selected, _single("label", label), share, neurons)
    recipe = recipe_of(program, neurons, stats, reference, signal, max_dose)
    made = recipe.make(members, _single("strength", strength or [None]))
    at_tokens = partial(limited, where=where, start=start, stop=stop, half_life=half_life)
    at_tokens(made)  # refuses what cannot be before the model is loaded
    loaded, tokenizer = load_model(model, load)
    here = made_with(loaded, tokenizer)
    measured = found_stats(recipe, neurons, stats)
    check_weights(here, "neurons", selected.provenance)
    if measured is not None:
        check_weights(here, "statistics", measured.provenance)
    check_model(loaded, tokenizer, selected)
    made = _of_model(made, here)
    total = None if measured is None else all_activations(measured)
    steered = Steered.of(members, made, at_tokens(made), total)
    save(steered.acting, output)
    size = output.stat().st_size
    dose, at = steered.dose or (None, None)
    if as_json:
        sites = {site: len(part.index) for site, part in made.sites.items()}
        print_json(
            {
                "output": str(output), "name": name, "program": steered.acting.name, "neurons": len(made),
                "sites": sites, "dose": dose, "at": at, "bytes": size,
            }
        )  # fmt: skip
        return
    strongest = "" if dose is None else f", largest dose {dose:.2g} at {at}"
    print(
        f"saved {steered.acting.name} to {output}: {count(len(made), 'neuron')} at {count(len(made.sites), 'site')}"
        f"{strongest}, {count(size, 'byte')}; affectron.interventions.load_program reads it, and requests to a server "
        f"ask for {name} (docs/serving.md)"
    )


def _single(option: str, given: Sequence[Any]) -> Any:
    """The only value of an option that :func:`affectron.cli.steer.steer` takes several of."""
    if len(given) != 1:
        raise InputError(f"{option} is given {len(given)} times, expected once: a file holds one program")
    return given[0]


def _of_model(program: Program, here: Mapping[str, Any]) -> Program:
    """The program with the model of ``here`` in its provenance, where that does not tell its model.

    Neurons that are written by hand or were found before the weights were recorded do not tell it, and a server refuses
    a program of unknown weights.
    """
    if program.origin is None:
        return program
    told = program.origin.provenance
    missing = {field: here[field] for field in _MODEL if told.get(field) is None}
    return replace(program, origin=replace(program.origin, provenance={**told, **missing}))
