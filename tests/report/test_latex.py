"""Tables in LaTeX: they fit the column of a paper, compile with any text, and lose none of it without a word."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectron._internal.artifacts import CROSS_DATASET, KINDS
from affectron.report import build_report
from affectron.report.latex import escaped
from affectron.report.tables import Column, Table
from affectron.report.text import clean
from tests.support.results import make_run

HOSTILE = [
    r"50 % & $x_1$ \end{table} #1 ~ ^ {a} \\ \input{/etc/passwd} % comment",
    "“quoted” ‘once’ „unten‘ «guillemets» it's \"straight\" `grave` ''two'' --dash ---- ?`!` ,,low <<x>>",
    "déjà vu, naïve façade, Ærø, Łódź, ČŠŽ, ğışİ, ő, Ångström, ß, œuvre, ñ, þorn, đ",
    "de\u0301compose\u0301 a\u0337 x\u0308\u0301 \u0301lone",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 ❤️ 悲しみ привет שלום مرحبا αβγδ ≤≥≠→∞ ½ ² €",
    "two\nlines\n\nand a blank one\tand a tab\r\x00\x07\ufffd\u00a0\u2028end",
    "[2cm] *star &next",
    "W" * 400,
    "悲" * 90,
    "http://example.org/" + "a-very/long_path" * 20,
    "a label far too long to be set in full beside any axis of any figure in the report " * 6,
    "",
    " ",
    "-",
    "[",
]


def hostile_table(texts: Sequence[str], wide: bool) -> Table:
    """A table whose every text is one of ``texts``; a wide one has more columns than a line has room for."""
    repeated = 4 if wide else 1
    columns = (
        Column("group \\ &"), Column("label {", "text"), Column("number", "number", "under"), Column("text", "passage"),
        *[
            column
            for n in range(repeated)
            for column in (
                Column(f"Δ own of {n}", "points"), Column(f"interval {n}", "points interval", "under"),
                Column(f"random_{n}", "beyond"), Column(f"reason {n}", "passage"),
            )
        ],
    )  # fmt: skip
    rows = [
        [
            texts[place // 3 * 3], text, -123.456, text,
            *[cell for _ in range(repeated) for cell in (-0.999, (-0.999, 0.999), (1_000, 1_219), text)],
        ]
        for place, text in enumerate(texts)
    ]  # fmt: skip
    return Table("hostile", texts[0], columns, rows, "f", grouped=True)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_every_table_compiles_within_the_column_of_a_paper(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, {"emotion": ["anger", "happiness", "Überraschung"], "rhetoric": ["hyperbole", "😀"]}, *KINDS).save(
        run / CROSS_DATASET
    )
    sources = [file.read_text(encoding="utf-8") for file in sorted(build_report(run).parent.glob("table-*.tex"))]
    assert len(sources) > 20
    sources += [hostile_table(HOSTILE, wide).latex() for wide in (False, True)]
    sources += [Table("one", "one", (Column("x", "passage"),), [[text] for text in HOSTILE], "f").latex()]
    log = compiled(tmp_path, sources)
    assert [
        float(points) for points in re.findall(r"Overfull \\hbox \((\S+)pt too wide", log) if float(points) > 2
    ] == []
    assert "Undefined control sequence" not in log
    assert "Missing character" not in log
    assert "Float too large" not in log


def compiled(folder: Path, sources: Sequence[str]) -> str:
    """The log of a document of two columns, those of a paper, with the tables."""
    body = "\n".join(f"{source}\n\\clearpage" for source in sources)
    packages = "".join(
        f"\\usepackage{needed}" for needed in dict.fromkeys(re.findall(r"\\usepackage(\S+\})", sources[0]))
    )
    (folder / "paper.tex").write_text(
        f"\\documentclass[10pt,twocolumn]{{article}}{packages}\n"
        f"\\setlength{{\\textwidth}}{{455pt}}\\setlength{{\\columnsep}}{{17pt}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
    log = (folder / "paper.log").read_text(encoding="latin-1")
    assert ended.returncode == 0, log[-3000:]
    return log.replace("\n", "")


def test_odd_text_keeps_its_rows() -> None:
    """A bracket or a star after the end of a row would be its option; a blank line would end a paragraph."""
    rows = [["[2cm] x"], ["*y"], ["two\n\nlines"], ["50 % & $x_1$ \\end{table}"]]
    lines = Table("t", "c", (Column("label"),), rows, "f").latex().split("\n")
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert body == [r"{[}2cm{]} x \\[1pt]", r"{*}y \\[1pt]", r"two lines \\[1pt]",
                    r"50 \% \& \$x\_1\$ \textbackslash{}end\{table\} \\[1pt]"]  # fmt: skip


@given(st.text(max_size=40))
def test_a_character_beyond_the_letters_of_europe_stands_as_its_code_point(text: str) -> None:
    source = escaped(text)
    assert source.isascii()
    named = [chr(int(code, 16)) for code in re.findall(r"\\texttt\{U\+([0-9A-F]{4,6})\}", source)]
    kept = unicodedata.normalize("NFC", clean(text))
    assert [letter for letter in named if letter > "\u2fff"] == [letter for letter in kept if letter > "\u2fff"]


def test_letters_that_pdflatex_has_are_set_and_others_are_named() -> None:
    assert escaped("é Å ő ß “x”") == r"\'{e} \r{A} \H{o} \ss{} ``x''"
    assert escaped("😀 悲") == r"\texttt{U+1F600} \texttt{U+60B2}"
    assert escaped("e\u0301") == r"\'{e}"
    assert escaped("--'',,") == "-{}-'{}',{},"


def test_a_table_that_is_too_wide_repeats_the_names_of_its_rows_and_loses_no_column() -> None:
    names = [f"column{n}" for n in range(30)]
    columns = (Column("label"), *(Column(name, "number") for name in names))
    source = Table("t", "c", columns, [["anger", *range(30)]], "f").latex()
    parts = re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", source, re.S)
    assert len(parts) > 2
    assert re.findall(r"column\d+", source) == names
    for part in parts:
        assert part.count("anger") == 1
        shares = [float(share) for share in re.findall(r"(\d\.\d+)\\linewidth", part)]
        assert sum(shares) <= 1.0005
    assert [int(float(n)) for n in re.findall(r"(\d+)\.000", source)] == list(range(30))


def test_a_table_that_is_too_high_continues_under_the_same_number() -> None:
    source = Table("t", "c", (Column("label"),), [[f"row{n}"] for n in range(100)], "f").latex()
    assert source.count(r"\begin{table}") == source.count(r"\toprule") == 3
    assert source.count(r"\addtocounter{table}{-1}") == source.count("(continued)") == 2
    assert source.count(r"\label{tab:t}") == 1
    assert re.findall(r"row\d+", source) == [f"row{n}" for n in range(100)]


def test_a_row_that_is_higher_than_a_page_continues_and_keeps_every_word() -> None:
    words = [f"word{n}" for n in range(900)]
    columns = (Column("label"), Column("n", "number", "under"), Column("text", "passage"), Column("p", "p"))
    source = Table("t", "c", columns, [["anger", 0.5, " ".join(words), 0.25]], "f").latex()
    assert re.findall(r"word\d+", source) == words
    rows = [line for line in source.split("\n") if line.endswith(r"\\[1pt]") and "label" not in line]
    assert len(rows) == source.count(r"\begin{table}") > 2
    assert [row.split(" & ")[0] for row in rows] == [r"anger\par 0.500", *[""] * (len(rows) - 1)]
    assert source.count("0.25") == 1
