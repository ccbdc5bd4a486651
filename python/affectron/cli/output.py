"""Output of the command line: tables and JSON on stdout, messages on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from affectron.errors import InputError

if TYPE_CHECKING:
    from affectron import Validation
    from affectron.experiments.results import Methods


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


def print_validation(result: Validation) -> None:
    """Print the table of a validation: changes of test accuracy in points, with 95 % intervals."""

    rows = [
        (
            row["label"],
            f"{row['masked']} of {row['selected']}",
            f"{100 * row['baseline']:.1f}",
            _points(row["adaptive"], row["adaptive_interval"]),
            _points(row["zero"], row["zero_interval"]),
            _points(row["mean"]),
            _points(row["zero_random"], row["zero_random_interval"]),
            _points(row["zero_others"]),
            "-" if row["zero_loss"] is None else f"{row['zero_loss']:+.3f}",
            row["verdict"] or "-",
            row["zero_verdict"] or "-",
        )
        for row in result.rows()
    ]
    columns = (
        "label", "neurons", "accuracy", "adaptive", "zero", "mean", "random", "others", "loss", "adaptive is",
        "zero is",
    )  # fmt: skip
    title = "change of test accuracy in points, with 95 % intervals; random, others and loss: under the zero mask"
    print_table(title, columns, rows)


def print_methods(result: Methods) -> None:
    """Print what setting each method's neurons to zero does, a row for each label and method, in points of accuracy."""
    rows = []
    for task, of_task in result.tasks.items():
        for label, compared in of_task.labels.items():
            for method, measured in compared.methods.items():
                cells = ["-"] * 4
                if measured.effect is not None:
                    effect = measured.effect
                    random = None if effect.random is None else effect.random.mean
                    own = _points(effect.delta, effect.interval)
                    cells = [own, _points(effect.others_delta), _points(random), effect.verdict or "-"]
                rows.append((task, label, method, measured.selected, *cells))
    columns = ("task", "label", "neurons by", "zeroed", "own", "others", "random", "verdict")
    print_table("change of test accuracy in points when a label's neurons are set to zero", columns, rows)


@contextmanager
def timed() -> Iterator[list[float]]:
    """A list that holds the seconds of the block once it is over."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)
