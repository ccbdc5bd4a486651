"""``affectron report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import affectron
from affectron.cli.options import AllowOverlap, JsonOption
from affectron.cli.output import print_json
from affectron.options import Common


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder with stats.safetensors, neurons.json, validation.json.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to; default: RUN/report.")] = (
        None
    ),
    allow_overlap: AllowOverlap = Common.allow_overlap,
    as_json: JsonOption = False,
) -> None:
    """Write an HTML page with the tables and figures of a run."""
    page = affectron.build_report(run, output, allow_overlap=allow_overlap)
    if as_json:
        print_json({"output": str(page)})
    else:
        print(f"report written to {page}")
