"""Tables in LaTeX that fit one column of a paper, for pdflatex with any text.

The width of each column is a share of ``\\linewidth``, so that no table is wider than the column it stands in, and
long words may break anywhere. A table that is too wide for the smallest letters is divided: its parts stand below one
another and repeat the columns that name a row. One that is too high continues in a further ``table``.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from affectron.report.text import clean

#: Lines of a cell, as text.
Cell = Sequence[str]

_PREAMBLE = (
    "% Needs \\usepackage{array}, \\usepackage{booktabs} and \\usepackage[T1]{fontenc}. A character that pdflatex has\n"
    "% no letter for stands as its code point, such as U+1F600.\n"
)
#: Size of letters, digits that have room in a line of 219 points, the column of a paper of two columns, and lines that
#: have room on a page below a caption, in a paper of letters of 11 points too.
_SIZES = (("\\footnotesize", 48.5, 46), ("\\scriptsize", 54.8, 52))
#: Digits that the space between two columns takes, twice ``\tabcolsep``.
_GAP, _SEPARATION = 0.75, "1.5pt"
#: Letters of Computer Modern -> their width in digits; about one for any other.
_WIDTHS = {
    "ijl.,;:'!|()[]/ ": 0.6, "ft-": 0.75, "ersczI": 0.88, "−+<>=≤≥≈≠%&@…": 1.67, "mwM—": 1.7, "W": 2.1,
}  # fmt: skip
#: Digits that a column of text has at least where its words are longer, and at most where there is room.
_LEAST, _MOST = 9, 40

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "\u00a0": "~", "`": r"\`{}",
    '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "*": "{*}",  # after the end of a row they would be its options
    "−": "$-$", "–": "--", "—": "---", "…": r"\dots{}", "“": "``", "”": "''", "‘": "`", "’": "'",
    "„": r"\quotedblbase{}", "‚": r"\quotesinglbase{}", "«": r"\guillemotleft{}", "»": r"\guillemotright{}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "đ": r"\dj{}", "Đ": r"\DJ{}", "ð": r"\dh{}", "Ð": r"\DH{}", "þ": r"\th{}",
    "Þ": r"\TH{}", "ı": r"\i{}", "¡": r"\textexclamdown{}", "¿": r"\textquestiondown{}", "§": r"\S{}", "¶": r"\P{}",
    "©": r"\copyright{}", "£": r"\pounds{}", "·": r"$\cdot$", "•": r"$\bullet$", "●": r"$\bullet$", "±": r"$\pm$",
    "×": r"$\times$", "÷": r"$\div$", "°": r"$^\circ$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$",
    "≈": r"$\approx$", "→": r"$\to$", "←": r"$\leftarrow$", "∞": r"$\infty$", "′": "$'$", "μ": r"$\mu$", "µ": r"$\mu$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\epsilon$", "λ": r"$\lambda$",
    "π": r"$\pi$", "ρ": r"$\rho$", "σ": r"$\sigma$", "τ": r"$\tau$", "φ": r"$\phi$", "χ": r"$\chi$", "ω": r"$\omega$",
    "Δ": r"$\Delta$", "Σ": r"$\Sigma$", "Ω": r"$\Omega$",
}  # fmt: skip
#: Runs of characters that TeX would set as a dash, a quotation mark or another letter.
_LIGATURES = frozenset(("--", "''", "``", ",,", "!`", "?`"))
#: Combining mark -> the command that sets it on a letter.
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0328": "k",
}  # fmt: skip


def escaped(text: str) -> str:
    """The text on one line for pdflatex."""
    return "".join(source for source, _ in _letters(text))


def _flat(text: str) -> str:
    return unicodedata.normalize("NFC", re.sub(r"[ \t\r\n]+", " ", clean(text)))


def _letters(text: str) -> list[tuple[str, float]]:
    """The LaTeX source of each character of the text on one line, and its width in digits."""
    letters: list[tuple[str, float]] = []
    before = " "
    for character in _flat(text):
        source = _source(character)
        separated = f"{{}}{source}" if before[-1] + source[0] in _LIGATURES else source
        letters.append((separated, _letter_width(character, source)))
        before = source
    return letters


def _letter_width(character: str, source: str) -> float:
    if "U+" in source:
        return 1.05 * len(f"U+{ord(character):04X}")
    known = (width for letters, width in _WIDTHS.items() if character in letters)
    return next(known, 1.45 if character.isupper() else 1.08 if character.isalpha() else 1.0)


def _source(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if " " <= character <= "~":
        return character
    letter, *marks = list(unicodedata.normalize("NFD", character))
    if len(marks) == 1 and marks[0] in _ACCENTS and letter.isascii() and letter.isalpha():
        return f"\\{_ACCENTS[marks[0]]}{{{letter}}}"
    return f"\\texttt{{U+{ord(character):04X}}}"


def _words(text: str) -> list[list[tuple[str, float]]]:
    words: list[list[tuple[str, float]]] = [[]]
    for letter in _letters(text):
        if letter[0] == " ":
            words.append([])
        else:
            words[-1].append(letter)
    return words


def _width(letters: Sequence[tuple[str, float]]) -> float:
    return sum(width for _, width in letters)


def _line_width(line: str) -> float:
    return _width(_letters(line))


def _broken(text: str, room: float) -> list[str]:
    """The text in lines of at most ``room``: a line ends at a blank, or within a word that is wider than one."""
    lines, used = [""], 0.0
    for word in re.findall("[^ ]+ ?| ", _flat(text)):
        for piece in [word] if _line_width(word.rstrip(" ")) <= room else word:
            if used and used + _line_width(piece.rstrip(" ")) > room:
                lines.append("")
                used = 0.0
            lines[-1] += piece
            used += _line_width(piece)
    return lines


def _cut(cell: Cell, room: float, most: int) -> tuple[list[str], list[str]]:
    """The text of the cell that has room in ``most`` lines, and the rest."""
    for place, text in enumerate(cell):
        lines = _broken(text, room)
        if len(lines) > most:
            return [*cell[:place], "".join(lines[:most])], ["".join(lines[most:]), *cell[place + 1 :]]
        most -= len(lines)
    return [*cell], [""]


def _set(cell: Cell, room: float) -> tuple[str, int]:
    """The cell's source, in which a word that is wider than ``room`` may break, and about its number of lines."""
    sources, lines = [], 0
    for line in cell:
        set_words = []
        for word in _words(line):
            joint = "\\allowbreak{}" if _width(word) > room else ""
            set_words.append(joint.join(source for source, _ in word))
        sources.append(" ".join(set_words))
        lines += len(_broken(line, room))
    return "\\par ".join(sources), lines


@dataclass(frozen=True)
class _Need:
    """Digits that a column takes: at least, for its longest word; where no number breaks; and where nothing does."""

    least: float
    numbers: float
    whole: float


def _need(head: Cell, cells: Sequence[Cell], numeric: bool) -> _Need:
    lines = [line for cell in cells for line in cell]
    least = max((_width(word) for line in (*head, *lines) for word in _words(line)), default=1.0)
    widest = max(map(_line_width, lines), default=1.0)
    whole = max(widest, *map(_line_width, head))
    if numeric:
        return _Need(least, max(least, widest), max(least, whole))
    least = min(least, _LEAST)
    return _Need(least, least, max(least, min(whole, _MOST)))


def _parts(needs: Sequence[_Need], keys: int, capacity: float) -> list[list[int]]:
    """The columns of each part of the table; the first ``keys`` stand in every one."""
    named = list(range(keys))
    parts, used = [[*named]], 0.0
    taken = sum(needs[column].least + _GAP for column in named)
    for column in range(keys, len(needs)):
        width = needs[column].least + _GAP
        if len(parts[-1]) > keys and taken + used + width > capacity:
            parts.append([*named])
            used = 0.0
        parts[-1].append(column)
        used += width
    return parts


def _shares(needs: Sequence[_Need], capacity: float) -> list[float]:
    """Digits for each column with its gap: what it takes at least, then of the rest what keeps numbers whole, and then
    headings and text."""
    shares = [need.least + _GAP for need in needs]
    for wished in ([need.numbers - need.least for need in needs], [need.whole - need.numbers for need in needs]):
        given = min(1.0, max(0.0, capacity - sum(shares)) / (sum(wished) or 1.0))
        shares = [share + given * wish for share, wish in zip(shares, wished, strict=True)]
    shrink = min(1.0, capacity / sum(shares))
    return [shrink * share for share in shares]


@dataclass(frozen=True)
class _Part:
    """Columns of the table that stand side by side, and the share of the line's width that each of them has."""

    columns: list[int]
    shares: list[float]
    capacity: float

    def begin(self, heads: Sequence[Cell], numeric: Sequence[bool]) -> tuple[list[str], float]:
        """The source down to the rule below the headings, and its number of lines."""
        align = "".join(
            f">{{\\ragged{'left' if numeric[column] else 'right'}\\arraybackslash}}"
            f"p{{\\dimexpr {share / self.capacity:.4f}\\linewidth-2\\tabcolsep\\relax}}"
            for column, share in zip(self.columns, self.shares, strict=True)
        )
        source, lines = self.row(heads)
        return [f"\\begin{{tabular}}{{{align}}}", "\\toprule", source, "\\midrule"], lines + 3

    def row(self, row: str | Sequence[Cell]) -> tuple[str, float]:
        """The source of a row, or of a heading of rows, and about its number of lines."""
        if isinstance(row, str):
            source, lines = _set((row,), self.capacity)
            return f"\\multicolumn{{{len(self.columns)}}}{{p{{0.95\\linewidth}}}}{{\\textbf{{{source}}}}} \\\\", lines
        return self._row([row[column] for column in self.columns])

    @property
    def _rooms(self) -> list[float]:
        # Text that fills a column exactly must not break for a rounding error.
        return [share - _GAP + 1e-9 for share in self.shares]

    def _row(self, cells: Sequence[Cell]) -> tuple[str, float]:
        done = [_set(cell, room) for cell, room in zip(cells, self._rooms, strict=True)]
        return " & ".join(source for source, _ in done) + " \\\\[1pt]", max(lines for _, lines in done) + 0.125

    def rows(self, row: str | Sequence[Cell], most: int) -> list[tuple[str, float]]:
        """The same, in several rows where it takes more than ``most`` lines."""
        if isinstance(row, str):
            return [self.row(row)]
        rows = []
        cells: list[Cell] = [row[column] for column in self.columns]
        while self._row(cells)[1] > most:
            cut = [_cut(cell, room, most - 1) for cell, room in zip(cells, self._rooms, strict=True)]
            rows.append(self._row([top for top, _ in cut]))
            cells = [rest for _, rest in cut]
        return [*rows, self._row(cells)]


_END = ["\\bottomrule", "\\end{tabular}", ""]


def tables(
    name: str, caption: str, heads: Sequence[Cell], numeric: Sequence[bool], rows: Sequence[str | Sequence[Cell]]
) -> str:
    """One or more ``table`` environments with booktabs rules.

    Args:
        name: of the label, ``tab:name``.
        caption: of the table.
        heads: the heading of each column.
        numeric: for each column, whether it is aligned to the right.
        rows: the cells of each row; a text is a heading of the rows after it.
    """
    cells = [row for row in rows if not isinstance(row, str)]
    needs = [_need(head, [row[column] for row in cells], numeric[column]) for column, head in enumerate(heads)]
    least = [need.least + _GAP for need in needs]
    wanted = sum(need.numbers + _GAP for need in needs)
    size, capacity, most = next((found for found in _SIZES if wanted <= found[1]), _SIZES[-1])
    keys = 1
    while keys < len(heads) - 1 and not numeric[keys] and sum(least[: keys + 1]) < capacity / 2:
        keys += 1
    parts = [
        _Part(columns, _shares([needs[column] for column in columns], capacity), capacity)
        for columns in _parts(needs, keys, capacity)
    ]
    floats: list[list[str]] = [[]]
    height = 0.0
    for part in parts:
        opened, head_lines = part.begin(heads, numeric)
        body = [line for row in rows for line in part.rows(row, most - math.ceil(head_lines))]
        if floats[-1] and height + head_lines + sum(lines for _, lines in body) > most:
            floats.append([])
            height = 0.0
        floats[-1] += opened
        height += head_lines
        for source, lines in body:
            if height + lines > most and floats[-1] != opened:
                floats[-1] += _END
                floats.append([*opened])
                height = head_lines
            floats[-1].append(source)
            height += lines
        floats[-1] += _END
    return _PREAMBLE + "\n".join(
        "\n".join(
            [
                "\\begin{table}",
                "\\addtocounter{table}{-1}" if place else "\\centering",
                f"\\caption{{{escaped(caption)}{' (continued)' if place else ''}}}",
                *([] if place else [f"\\label{{tab:{name}}}"]),
                f"{size}\\setlength{{\\tabcolsep}}{{{_SEPARATION}}}",
                *lines,
                "\\end{table}",
                "",
            ]
        )
        for place, lines in enumerate(floats)
    )
