"""``affectron demo``."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from affectron._internal.artifacts import STEERING
from affectron._internal.files import locked
from affectron.cli.inputs import quiet_transformers
from affectron.cli.options import JsonOption
from affectron.cli.output import console, print_json, print_methods, print_table, say, side_by_side


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that all files go to.")] = Path("run/demo"),
    as_json: JsonOption = False,
) -> None:
    """The whole path on the embedded model: screen, attribute, select, validate, steer, report. About a minute."""
    from affectron.demo import MODEL
    from affectron.demo.run import run

    quiet_transformers()
    with locked(output):
        result = run(output, say, progress=True)
    if as_json:
        print_json(
            {
                "report": str(result.report),
                "seconds": {step: round(taken, 2) for step, taken in result.seconds.items()},
                "methods": result.methods.content,
                "validation": result.validation.content,
                "steered": [dataclasses.asdict(steered) for steered in result.steered],
                "judge": result.judge,
            }
        )
        return
    print_methods(result.methods)
    rows = [(steered.label, f"{steered.before:.0%}", f"{steered.after:.0%}") for steered in result.steered]
    print_table("texts that a judge gives to the label", ("label", "unsteered", "shifted towards it"), rows)
    print(f"the judge, a regression on words, is right on {result.judge:.0%} of held-out sentences")
    best = max(result.steered, key=lambda steered: (steered.after - steered.before, steered.after))
    for beginning, unsteered, text in best.texts[:3]:
        console().print(side_by_side(beginning, ("unsteered", f"towards {best.label}"), (unsteered, text)))
    steps = ", ".join(f"{step} {taken:.1f} s" for step, taken in result.seconds.items())
    print(f"{sum(result.seconds.values()):.0f} s in all ({steps})")
    print(f"report written to {result.report}; next:")
    program = ["affectron"] if shutil.which("affectron") else [sys.executable, "-m", "affectron"]
    for command in (("neurons", output, "--label", best.label), ("chat", MODEL, "--neurons", output / STEERING)):
        print("  " + shlex.join([*program, *map(str, command)]))
