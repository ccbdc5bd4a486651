"""The report of a run: one page, ``index.html``, with its figures and tables as files beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from affectron._internal.files import atomic_write
from affectron.errors import InputError
from affectron.options import Common
from affectron.report import cards
from affectron.report.context import contents, page_context
from affectron.report.pieces import Pieces
from affectron.report.tested import overlap_notices
from affectron.report.text import clean

if TYPE_CHECKING:
    from affectron.report.drawing import Drawing
    from affectron.report.tables import Table

#: Files of an earlier report, which go where the new one has none of their name.
_FORMER = ("figure-*.svg", "figure-*.png", "table-*.csv", "table-*.tex")


@dataclass(frozen=True)
class _Inlined:
    """A figure on the page: its number, the SVG element, and the name of its files."""

    number: int
    svg: str
    file: str


def build_report(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    allow_overlap: bool = Common.allow_overlap,
) -> Path:
    """Write the report of a run: one HTML page that needs no network, with its figures and tables as files beside it.

    Nothing is written before all of the report is made.

    Args:
        run: a folder with any of ``stats.safetensors``, ``neurons.json`` and ``validation.json``. A part without its
            file is left out, and the page says so.
        out: the folder to write to, made if need be; ``<run>/report`` when None.
        allow_overlap: state that tested sentences were screened, in place of refusing it. An overlap that a file
            states itself is stated in any case.

    Returns:
        the path of ``index.html``. The same files give the same bytes.

    Raises:
        InputError: no such folder, none of the three files in it, one of them cannot be used, tested sentences were
            screened, the page cannot be written, or matplotlib or jinja2 is not installed.
    """
    folder = Path(run)
    pieces = Pieces.read(folder)
    overlaps = overlap_notices(pieces.tests, pieces.sources, allow_overlap)
    try:
        import jinja2

        from affectron.report.drawing import inline
        from affectron.report.overview import overview_figures
        from affectron.report.sections import sections
        from affectron.report.summary import overview_tables
    except ImportError as error:
        raise InputError(
            f"a report needs {error.name or error}, which is not installed: pip install affectron[report]"
        ) from error

    chapters = sections(pieces)
    drawings = overview_figures(pieces)
    drawings |= {figure.name: figure.drawing for chapter in chapters for figure in chapter.figures}
    overview = overview_tables(pieces)
    tables = [*overview.values(), *(table for chapter in chapters for table in chapter.tables)]
    context = page_context(pieces, folder, overlaps)
    context["tables"] = overview
    context["figures"] = {
        name: _Inlined(number, inline(drawing, f"f{number}", f"Figure {number}"), f"figure-{name}")
        for number, (name, drawing) in enumerate(drawings.items(), start=1)
    }
    context["chapters"] = chapters
    context |= {"cards": cards.chapter(pieces), "card_style": cards.CARD_STYLE}
    context["contents"] = contents(context)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(
        resources.files("affectron.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    )
    files = _files(drawings, tables) | {"index.html": clean(template.render(context)).encode()}
    target = folder / "report" if out is None else Path(out)
    _write(target, files)
    return target / "index.html"


def _files(drawings: dict[str, Drawing], tables: list[Table]) -> dict[str, bytes]:
    """Name -> content of the files beside the page."""
    files = {f"figure-{name}.svg": drawing.svg.encode() for name, drawing in drawings.items()}
    files |= {f"figure-{name}.png": drawing.png for name, drawing in drawings.items()}
    files |= {f"table-{table.name}.csv": clean(table.csv()).encode() for table in tables}
    files |= {f"table-{table.name}.tex": clean(table.latex()).encode() for table in tables}
    return files


def _write(target: Path, files: dict[str, bytes]) -> None:
    """Write the files to the folder ``target``, the last one last, and remove those of an earlier report.

    Raises:
        InputError: a file cannot be written or removed.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for pattern in _FORMER:
            for file in target.glob(pattern):
                if file.name not in files:
                    file.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {target}: {error.strerror or error}") from error
    for name, content in files.items():
        with atomic_write(target / name) as temporary:
            temporary.write_bytes(content)
