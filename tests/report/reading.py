"""Readers of what a report writes: the page, its figures and its tables."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """A strict reader: every element is closed in order, no attribute or id comes twice."""

    VOID = frozenset(("meta", "br", "hr", "img", "link", "input", "wbr"))

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self._spanning: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        self.ids = set(ids)
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), tag
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag == "table":
            self.tables[attributes.get("id", str(len(self.tables)))] = []
        elif tag == "tr":
            # A first cell of several rows stands in each of them.
            list(self.tables.values())[-1].append([self._spanning.pop()] if self._spanning else [])
        elif tag in ("td", "th"):
            cell: list[str] = []
            list(self.tables.values())[-1][-1].append(cell)
            self._spanning += [cell] * (int(attributes.get("rowspan", 1)) - 1)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and ("td" in self.open or "th" in self.open) and data.strip():
            list(self.tables.values())[-1][-1][-1].append(" ".join(data.split()))

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def written(fraction: float) -> str:
    """A difference in points as the page must show it, from Python's own formatting."""
    text = f"{100 * fraction:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def written_pair(interval: list[float]) -> str:
    return f"[{written(interval[0])}, {written(interval[1])}]"


def written_p(p: float) -> str:
    """A p value as the page must show it: three significant digits."""
    return "< 0.001" if p < 0.001 else f"{p:.3g}"


def texts(path: Path) -> list[str]:
    """The texts of an SVG file."""
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter(f"{SVG}text")]


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def luminance(color: NDArray[np.float64]) -> float:
    """Relative luminance of red, green and blue in [0, 1] (WCAG 2)."""
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
