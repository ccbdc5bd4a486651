"""Tables: each form carries every number in the unit of its heading, and no text turns into a formula or a command."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectron._internal.artifacts import CROSS_DATASET, KINDS
from affectron.report import build_report
from affectron.report.tables import Column, Kind, Table
from tests.report.reading import Page, read_csv
from tests.support.results import (
    make_candidates,
    make_methods,
    make_run,
)

FORMULAS = ['=HYPERLINK("x","y")', "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "=", "+49 30"]
PLAIN = ["a=b", " =1", "'=1", "1-1", "", "−1", "x\ry", 'a "quoted", cell']


def cells(table: Table) -> list[list[list[str]]]:
    return [row.cells for _, rows in table.groups() for row in rows]


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
    assert cells(table) == [[["x"], ["–"], ["–"], ["–"], ["–"]]] * 2
    assert read_csv(table.csv())[1:] == [["x", "", "", "", "", ""]] * 2


def test_details_are_for_spreadsheets_and_random_sets_have_two_cells_there() -> None:
    columns = (
        Column("label"), Column("random", "beyond"), Column("reason", "passage", "detail"), Column("p", "p", "under"),
    )  # fmt: skip
    rows = [["x", (3, 1219), "of two\nlines", 0.05], [" =1", None, "", None]]
    table = Table("t", "c", columns, rows, "f")
    assert [[column.name for column in stack] for stack in table.stacks] == [["label"], ["random", "p"]]
    assert cells(table) == [[["x"], ["3 of 1,219", "0.05"]], [[" =1"], ["–"]]]
    assert "reason" not in table.latex()
    header = ["label", "random beyond", "random sets", "reason", "p"]
    assert read_csv(table.csv()) == [header, ["x", "3", "1219", "of two\nlines", "0.05"], [" =1", "", "", "", ""]]


@given(st.floats(-1, 1), st.floats(-1, 0), st.floats(0, 1))
def test_a_fraction_has_the_unit_of_its_heading_in_every_form(value: float, low: float, high: float) -> None:
    kinds: list[Kind] = ["percent", "points", "percent interval", "points interval"]
    columns = (Column("label"), *(Column(kind, kind) for kind in kinds))
    table = Table("t", "c", columns, [["x", value, value, (low, high), (low, high)]], "f")
    header, (_, *told) = read_csv(table.csv())
    assert header[1:] == [
        "percent, %", "points, points", "percent interval low, %", "percent interval high, %",
        "points interval low, points", "points interval high, points",
    ]  # fmt: skip
    exact = [100 * number for number in (value, value, low, high, low, high)]
    assert [float(number) for number in told] == pytest.approx(exact, abs=1e-9)
    (shown,) = cells(table)
    numbers = [
        float(number) for cell in shown[1:] for number in cell[0].replace("−", "-").strip("[]").split(", ")
    ]  # fmt: skip
    assert numbers == pytest.approx(exact, abs=0.05 + 1e-9)
    heads = [column.heading for stack in table.stacks for column in stack]
    assert heads == ["label", "percent, %", "points, points", "percent interval, %", "points interval, points"]
    source = table.latex()
    for head in heads:
        assert head.replace("%", r"\%") in source
    for cell in shown:
        assert cell[0].replace("−", "$-$").replace("[", "{[}").replace("]", "{]}") in source


def test_a_grouped_table_has_a_heading_for_each_group_and_one_cell_for_neighbours_of_the_same_name() -> None:
    columns = (Column("task"), Column("label"), Column("n", "count", "under"), Column("mask"))
    rows = [["t", "a", 1, "x"], ["t", "a", 1, "y"], ["t", "a", 2, "x"], ["u", "a", 2, "x"]]
    table = Table("t", "c", columns, rows, "f", grouped=True)
    groups = [(heading, [(row.cells, row.span) for row in of_group]) for heading, of_group in table.groups()]
    assert groups == [
        ("t", [([["a", "1"], ["x"]], 2), ([["a", "1"], ["y"]], 0), ([["a", "2"], ["x"]], 1)]),
        ("u", [([["a", "2"], ["x"]], 1)]),
    ]
    assert [line[0] for line in read_csv(table.csv())] == ["task", "t", "t", "t", "u"]


def test_every_table_of_the_page_has_the_headings_of_its_csv(tmp_path: Path) -> None:
    make_run(tmp_path, {"tone": ["calm", "loud"]}, *KINDS).save(tmp_path / CROSS_DATASET)
    path = build_report(tmp_path)
    page = Page(path)
    files = {file.stem: read_csv(file.read_text(encoding="utf-8")) for file in path.parent.glob("table-*.csv")}
    assert len(files) > 15
    assert {name for name in page.tables if name.startswith("table-")} == set(files)
    for name, (header, *_) in files.items():
        shown = [heading for cell in page.tables[name][0] for heading in cell]
        for heading in shown:
            title, _, unit = heading.rpartition(", ")
            parts = {heading, *(f"{title} {part}, {unit}" for part in ("low", "high"))}
            parts |= {f"{heading} {part}" for part in ("low", "high", "beyond")}
            assert parts & set(header), (name, heading)


def test_formulas_of_labels_reach_no_spreadsheet(tmp_path: Path) -> None:
    tasks = {"@task": ["=1+1", "-label"]}
    make_run(tmp_path, tasks)
    make_candidates(tasks).save(tmp_path / "candidates.json")
    make_methods(tasks).save(tmp_path / "methods.json")
    path = build_report(tmp_path)
    tables = list(path.parent.glob("table-*.csv"))
    assert {"table-results.csv", "table-candidates.csv"} <= {file.name for file in tables}
    cells = [cell for file in tables for row in read_csv(file.read_text(encoding="utf-8")) for cell in row]
    for cell in cells:
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
            float(cell)
    assert {"'@task", "'=1+1", "'-label"} <= set(cells)
