"""Output of the command line: tables and JSON on stdout, messages on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from affectron._internal.wording import p_value
from affectron.errors import InputError

if TYPE_CHECKING:
    from affectron import Validation
    from affectron.experiments.results import Effect, Methods


class Saved(Protocol):
    """A result that can be written to a file."""

    def save(self, path: Path) -> None: ...


def say(message: str) -> None:
    """Print a line on stderr."""
    print(message, file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def save(result: Saved, path: Path) -> None:
    """Save a result; its folder is made.

    Raises:
        InputError: the folder cannot be made, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
    result.save(path)


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160)  # a pipe has no width of its own


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: text to the left, numbers to the right. Cells stand as they are: a label may hold [brackets]."""
    table = Table(title=Text(title), title_justify="left")
    for position, column in enumerate(columns):
        numbers = all(isinstance(row[position], (int, float)) for row in rows)
        table.add_column(Text(column), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    console().print(table)


def side_by_side(prompt: str, columns: Sequence[str], texts: Sequence[str]) -> Table:
    """A table of continuations of one prompt."""
    table = Table(title=Text(prompt), title_justify="left")
    for column in columns:
        table.add_column(Text(column), ratio=1, overflow="fold")
    table.add_row(*(Text(text.strip()) for text in texts))
    return table


@contextmanager
def watched(prompt: str, columns: Sequence[str], quiet: bool) -> Iterator[Callable[[list[str]], None]]:
    """Show texts as they are written; into a pipe, once they are complete."""
    if quiet:
        yield lambda texts: None
        return
    with Live(console=console(), auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda texts: live.update(side_by_side(prompt, columns, texts), refresh=sys.stdout.isatty())
    if not sys.stdout.isatty():
        print()  # rich ends the line of a terminal only


def _points(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A change in points, perhaps with its interval; "-" for None."""
    if value is None:
        return "-"
    around = f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval else ""
    return f"{100 * value:+.1f}{around}"


#: Columns of an effect, from the change of accuracy to the verdict.
_EFFECT = ("own", "p", "random", "others", "Δh", "verdict")


def _effect(effect: Effect | None) -> tuple[str, ...]:
    """The cells of ``_EFFECT``; "-" for what was not measured."""
    if effect is None:
        return ("-",) * len(_EFFECT)
    random, changed = effect.random, effect.relative_change
    return (
        _points(effect.delta, effect.interval),
        p_value(effect.adjusted_p),
        "-" if random is None else f"{random.beyond} of {random.sets}",
        _points(effect.others_delta),
        "-" if changed is None else f"{100 * changed:.0f}%",
        f"{effect.verdict}: {effect.reason}" if effect.reason else effect.verdict,
    )


_TITLE = (
    "change of test accuracy in points [95 % interval]; p: McNemar's test, adjusted over the labels (Holm); random: "
    "sets under which it falls as much"
)


def print_validation(result: Validation) -> None:
    """Print the table of a validation, a row for each label and mask."""
    rows = []
    for label, validated in result.results.items():
        named = (label, validated.sentences, f"{100 * validated.baseline:.1f}")
        masks: Mapping[str, Effect | None] = validated.masks or {"-": None}
        rows += [(*named, mask, *_effect(effect)) for mask, effect in masks.items()]
    title = f"{_TITLE}; Δh: relative change of an activation"
    print_table(title, ("label", "n", "before", "mask", *_EFFECT), rows)


def print_methods(result: Methods) -> None:
    """Print what setting each method's neurons to zero does: a table a method, a row for each label, and below it why
    no more is claimed."""
    methods = dict.fromkeys(
        name for task in result.tasks.values() for of in task.labels.values() for name in of.methods
    )
    for method in methods:
        rows, reasons = [], dict[tuple[str, str], list[str]]()
        for task in result.tasks.values():
            for label, compared in task.labels.items():
                measured = compared.methods[method]
                effect = measured.effect
                rows.append(
                    (
                        label,
                        compared.sentences,
                        measured.selected,
                        *_effect(effect)[:-2],
                        effect.verdict if effect else "-",
                    )
                )
                if effect is not None and effect.reason:
                    reasons.setdefault((effect.verdict, effect.reason), []).append(label)
        print_table(
            f"neurons by {method}, set to zero: {_TITLE}", ("label", "n", "zeroed", *_EFFECT[:-2], "verdict"), rows
        )
        for (verdict, reason), labels in reasons.items():
            print(f"{verdict} ({', '.join(labels)}): {reason}")


@contextmanager
def timed() -> Iterator[list[float]]:
    """A list that holds the seconds of the block once it is over."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)
