"""``affectron select``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import affectron
from affectron.cli.options import JsonOption, checked_output
from affectron.cli.output import print_json, print_table, save, say
from affectron.options import Select, SelectTask
from affectron.selection import STEPS

if TYPE_CHECKING:
    from affectron import NeuronList

#: Label -> step -> number of neurons that the step removed.
Removed = dict[str, dict[str, int]]


def select(
    stats: Annotated[Path, typer.Argument(metavar="STATS", help="Statistics saved by screen, or by attribute.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to save the neurons to (.json).")],
    options: Select,
    contrast: SelectTask,
    activations: Annotated[
        Path | None,
        typer.Option(
            help="With attributions of the metric text: statistics saved by screen. The neurons are then those that "
            "the steering program contrast is for."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Select the neurons of each label from the statistics STATS."""
    checked_output(output, stats, activations)
    if options.top == 1:
        say("--top is a share, and 1 is all neurons: none is left out by rank")
    measured = None if activations is None else affectron.ActivationStats.load(activations)
    neurons = affectron.select(
        affectron.ActivationStats.load(stats), contrast.task, **options.values(), activations=measured
    )
    save(neurons, output)
    removed: Removed = neurons.provenance["select"]["removed"]
    if as_json:
        labels = {
            label: {
                "task": members.task,
                "neurons": len(members),
                "sites": _site_sizes(members),
                "removed": removed[label],
            }
            for label, members in neurons.items()
        }
        print_json({"output": str(output), "labels": labels})
        return
    rows = [(members.task, label, len(members), _best_sites(members)) for label, members in neurons.items()]
    print_table("selected neurons", ("task", "label", "neurons", "most at"), rows)
    print(f"removed of {sum(neurons.widths.values()):,} neurons, for each label:")
    for line in _removed_lines(removed):
        print(f"  {line}")
    empty = [label for label, members in neurons.items() if not members]
    if empty:
        print(f"no neuron was selected for {', '.join(empty)}; --json says what removed the neurons of each label")
    print(f"saved to {output}")


def _removed_lines(removed: Removed) -> list[str]:
    """A line for each step that removed neurons, in order: the number, or the least and the largest of the labels."""
    lines = []
    for step, what in STEPS.items():
        numbers = sorted({of_label[step] for of_label in removed.values() if step in of_label})
        if any(numbers):
            between = "" if len(numbers) == 1 else f" to {numbers[-1]:,}"
            lines.append(f"{numbers[0]:,}{between} {what} ({step})")
    return lines


def _site_sizes(neurons: NeuronList) -> dict[str, int]:
    return {site: len(index) for site, index in neurons.by_site().items()}


def _best_sites(neurons: NeuronList, most: int = 3) -> str:
    sizes = sorted(_site_sizes(neurons).items(), key=lambda item: -item[1])
    return ", ".join(f"{site} ({size})" for site, size in sizes[:most])
