"""Running and planning: each stage whose inputs have changed, in order, recorded when its files are complete."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from affectron import __version__
from affectron._internal.artifacts import PAGE, REPORT
from affectron._internal.files import locked
from affectron.models.provenance import versions
from affectron.runs.config import Config
from affectron.runs.session import Session
from affectron.runs.stages import STAGES


@dataclass(frozen=True)
class Planned:
    """A stage of a plan. ``seconds`` is an estimate; None where nothing has to be run, or no estimate was asked for."""

    stage: str
    cached: bool
    reason: str
    seconds: float | None


def run(
    config: Config, *, say: Callable[[str], None] = lambda _: None, progress: bool = False
) -> tuple[Path, list[Planned]]:
    """Run the stages that are not done yet, and end in the report.

    Each stage is recorded in ``run.json`` of the output folder when its files are whole; a run that was stopped goes
    on with the stage that it was in. A stage that the configuration leaves out loses the files that it once left.

    Args:
        say: told what is done, a line a stage.
        progress: show bars on stderr.

    Returns:
        the path of the report's page, and what was run and what was there.

    Raises:
        InputError: the configuration, model or corpus cannot be used, a file cannot be written, or another process runs
            in the folder.
    """
    session = Session(config, progress)
    session.check()
    with locked(config.output):
        return config.output / REPORT / PAGE, _run(session, say)


def _run(session: Session, say: Callable[[str], None]) -> list[Planned]:
    """Run the stages that are not done yet, in a folder that is held."""
    config, cache = session.config, session.cache
    cache.made_with = {"affectron": __version__, "config": config.json(), "versions": versions()}
    done: list[Planned] = []
    for stage in STAGES:
        if stage.options(config) is None:
            cache.drop(stage.name)
            continue
        key = stage.key(session)
        if cache.done(stage.name, key):
            say(f"{stage.name}: there already")
            done.append(Planned(stage.name, True, "there already", None))
            continue
        say(f"{stage.name}: running")
        start = time.perf_counter()
        stage.work(session)
        seconds = time.perf_counter() - start
        cache.add(stage.name, key, stage.outputs(config), seconds)
        say(f"{stage.name}: {seconds:.1f} s")
        done.append(Planned(stage.name, False, "run", seconds))
    cache.save()
    return done


def plan(config: Config) -> list[Planned]:
    """Plan :func:`run`: the stages that it would run, and about how long each would take. Nothing is written.

    The estimate is the number of tokens that a stage feeds to the model over what the model reads in a second, which
    is measured for a moment.

    Raises:
        InputError: the configuration, model or corpus cannot be used.
    """
    session = Session(config, False)
    session.check()
    planned: list[Planned] = []
    again: set[str] = set()
    for stage in STAGES:
        if stage.options(config) is None:
            continue
        changed = [name for name in stage.inputs(config) if name in again or not (config.output / name).is_file()]
        if not changed and session.cache.done(stage.name, stage.key(session)):
            planned.append(Planned(stage.name, True, "there already", None))
            continue
        again |= set(stage.outputs(config))
        known = stage.name in session.cache.stages
        reason = f"after {changed[0]}" if changed else "its inputs or files have changed" if known else "not run yet"
        seconds = stage.tokens(session) / session.tokens_per_second if stage.asks_model else 1.0
        planned.append(Planned(stage.name, False, reason, seconds))
    return planned
