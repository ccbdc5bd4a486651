"""``affectron demo``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from affectron._internal.files import locked
from affectron.cli.inputs import quiet_transformers
from affectron.cli.options import JsonOption
from affectron.cli.output import console, print_json, print_validation, say, side_by_side


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that all files go to.")] = Path("run/demo"),
    as_json: JsonOption = False,
) -> None:
    """The whole path on the embedded model: screen, select, validate, steer, report. About a minute."""
    from affectron.demo.run import run

    quiet_transformers()
    with locked(output):
        result = run(output, say, progress=True)
    sample = result.sample
    if as_json:
        print_json(
            {
                "report": str(result.report),
                "seconds": {step: round(taken, 2) for step, taken in result.seconds.items()},
                "sample": dataclasses.asdict(sample),
                "validation": result.validation.content,
            }
        )
        return
    print_validation(result.validation)
    columns = ("unsteered", f"induce {sample.beta:g} {sample.label}")
    console().print(side_by_side(sample.prompt, columns, (sample.unsteered, sample.steered)))
    steps = ", ".join(f"{step} {taken:.1f} s" for step, taken in result.seconds.items())
    print(f"{sum(result.seconds.values()):.0f} s in all ({steps})")
    print(f"report written to {result.report}")
