"""``affectron run``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from affectron.cli.inputs import quiet_transformers
from affectron.cli.options import AllowOverlap, JsonOption
from affectron.cli.output import print_json, print_table, say
from affectron.options import Common


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to do (.toml); docs/run.md has every option.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder that all files go to; default: the file's output.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run and about how long.")] = False,
    allow_overlap: AllowOverlap = Common.allow_overlap,
    as_json: JsonOption = False,
) -> None:
    """A whole experiment: screen, select, validate, ablate, induce, and a report. What is done is not done again."""
    from affectron import runs
    from affectron._internal.progress import duration

    loaded = runs.load_config(config)
    if output is not None:
        loaded = dataclasses.replace(loaded, output=output)
    if allow_overlap:
        loaded = dataclasses.replace(loaded, allow_overlap=True)
    quiet_transformers()
    if dry_run:
        stages = runs.plan(loaded)
    else:
        page, stages = runs.run(loaded, say=say, progress=True)
    if as_json:
        result: dict[str, Any] = {"stages": [dataclasses.asdict(stage) for stage in stages]}
        print_json(result if dry_run else {"report": str(page), **result})
        return
    rows = [(stage.stage, stage.reason, "-" if stage.seconds is None else duration(stage.seconds)) for stage in stages]
    print_table(f"{config.name} in {loaded.output}", ("stage", "", "about" if dry_run else "took"), rows)
    if not dry_run:
        print(f"report written to {page}")
