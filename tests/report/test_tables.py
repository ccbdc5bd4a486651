"""Tables: CSV and LaTeX carry every number, and no text turns into a formula or a command."""

from __future__ import annotations

import re
from pathlib import Path

from affectron.report import build_report
from affectron.report.tables import Column, Table
from tests.report.reading import read_csv
from tests.support.results import (
    make_candidates,
    make_methods,
    make_run,
)

FORMULAS = ['=HYPERLINK("x","y")', "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "=", "+49 30"]
PLAIN = ["a=b", " =1", "'=1", "1-1", "", "−1", "x\ry", 'a "quoted", cell']


def test_no_text_of_a_csv_is_a_formula_and_every_number_stays_one() -> None:
    columns = (Column("=label"), Column("n", "number"), Column("i", "interval"), Column("setting"))
    rows = [[text, -0.25, [-1.5, 2], -4.0] for text in [*FORMULAS, *PLAIN]]
    header, *lines = read_csv(Table("t", "c", columns, rows, "f").csv())
    assert header == ["'=label", "n", "i low", "i high", "setting"]
    assert [line[0] for line in lines] == [f"'{text}" for text in FORMULAS] + PLAIN
    for line in lines:
        assert [float(cell) for cell in line[1:]] == [-0.25, -1.5, 2.0, -4.0]


def test_what_is_missing_is_a_dash_and_an_empty_cell() -> None:
    columns = (Column("t"), Column("n", "number"), Column("i", "interval"), Column("p", "percent"), Column("q", "p"))
    rows = [["x", missing, None, missing, missing] for missing in (None, float("nan"))]
    table = Table("t", "c", columns, rows, "f")
    assert table.cells() == [["x", "–", "–", "–", "–"]] * 2
    assert read_csv(table.csv())[1:] == [["x", "", "", "", "", ""]] * 2


def test_details_are_for_spreadsheets_and_random_sets_have_two_cells_there() -> None:
    columns = (Column("label"), Column("random", "beyond"), Column("reason", "passage", detail=True), Column("p", "p"))
    rows = [["x", (3, 1219), "of two\nlines", 0.05], [" =1", None, "", None]]
    table = Table("t", "c", columns, rows, "f")
    assert [column.name for column in table.shown] == ["label", "random", "p"]
    assert table.numeric() == [False, True, True]
    assert table.cells() == [["x", "3 of 1,219", "0.05"], [" =1", "–", "–"]]
    assert "reason" not in table.latex()
    header = ["label", "random beyond", "random sets", "reason", "p"]
    assert read_csv(table.csv()) == [header, ["x", "3", "1219", "of two\nlines", "0.05"], [" =1", "", "", "", ""]]
    assert table.tsv().split("\n") == ["\t".join(header), "x\t3\t1219\tof two lines\t0.05", "'=1\t\t\t\t"]


def test_formulas_of_labels_reach_no_spreadsheet(tmp_path: Path) -> None:
    tasks = {"@task": ["=1+1", "-label"]}
    make_run(tmp_path, tasks)
    make_candidates(tasks).save(tmp_path / "candidates.json")
    make_methods(tasks).save(tmp_path / "methods.json")
    path = build_report(tmp_path)
    tables = list(path.parent.glob("table-*.csv"))
    assert {"table-results.csv", "table-candidates.csv"} <= {file.name for file in tables}
    text = re.search(r'id="main-table-text">(.*?)</pre>', path.read_text(encoding="utf-8"), re.S)
    assert text is not None
    cells = [cell for line in text[1].split("\n") for cell in line.split("\t")]
    cells += [cell for file in tables for row in read_csv(file.read_text(encoding="utf-8")) for cell in row]
    for cell in cells:
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
            float(cell)
    assert {"&#39;=1+1", "&#39;@task", "'=1+1"} <= set(cells)


def test_latex_of_odd_text_keeps_its_rows() -> None:
    """A bracket or a star after the end of a row would be its option; a blank line would end a paragraph."""
    rows = [["[2cm] x"], ["*y"], ["two\n\nlines"], ["50 % & $x_1$ \\end{table}"]]
    lines = Table("t", "c", (Column("label"),), rows, "f").latex().split("\n")
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert body == [r"{[}2cm{]} x \\", r"{*}y \\", r"two lines \\",
                    r"50 \% \& \$x\_1\$ \textbackslash{}end\{table\} \\"]  # fmt: skip
