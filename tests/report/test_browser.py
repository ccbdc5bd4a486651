"""The page as a browser shows it: on a phone, on paper, in the dark, and under its content security policy."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from affectron._internal.artifacts import CROSS_DATASET, KINDS
from affectron.experiments.results import Validation
from affectron.report import build_report
from affectron.report.drawing import BLUE, GREEN, INK, ORANGE, SKY, VERMILLION
from tests.report.conftest import TASKS
from tests.report.reading import Page, contrast, luminance, rgb
from tests.support.browser import chromium, in_browser
from tests.support.results import make_run

#: The printable width of A4 between margins of 10 mm and its height between 12 mm, in pixels of CSS.
A4 = (round(190 / 25.4 * 96), round(273 / 25.4 * 96))
PHONE = 390


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with every experiment, and a label too long for any line."""
    folder = tmp_path_factory.mktemp("browser")
    tasks = {**TASKS, "rhetoric": [*TASKS["rhetoric"][:-1], "unbroken" * 12]}
    make_run(folder, tasks, *KINDS).save(folder / CROSS_DATASET)
    return build_report(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def opened(browser: Any, path: Path, width: int, *, scheme: str = "light", media: str = "screen") -> Any:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.emulate_media(media=media, color_scheme=scheme)
    tab.goto(path.as_uri())
    return tab


@in_browser
def test_a_phone_shows_the_tables_of_the_summary_without_scrolling_sideways(browser: Any, page: Path) -> None:
    tab = opened(browser, page, PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") == PHONE
    tables = tab.evaluate(
        "[...document.querySelectorAll('table.compact')].map(table => [table.id, table.parentNode.scrollWidth <="
        " table.parentNode.clientWidth, Math.max(...[...table.querySelectorAll('th, td')].map(cell =>"
        " cell.getBoundingClientRect().right))])"
    )
    assert [name for name, *_ in tables] == ["table-verdicts", "table-induced", "table-generated"]
    assert all(within and right <= PHONE for _, within, right in tables)
    # Each value has its heading beside it.
    told = tab.evaluate(
        "[...document.querySelectorAll('#table-verdicts td')].map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert set(told) == {'"verdict"', '"Δ own, points"', '"claim adjusted p"', '"Δ others, points"', '"random"'}
    tab.close()


@in_browser
def test_paper_has_every_table_whole_and_the_verdicts_on_the_first_page(browser: Any, page: Path) -> None:
    tab = opened(browser, page, A4[0], media="print")
    wide = tab.evaluate(
        "[...document.querySelectorAll('table, figure svg')].filter(element =>"
        f" element.getBoundingClientRect().right > {A4[0]} + 0.5).map(element => element.id)"
    )
    assert wide == []
    # The longest name of a method has room on one line.
    fits = (
        "() => { const cell = document.querySelector('#table-methods-emotion td.text');"
        " cell.textContent = 'attribution_moderated'; const text = document.createRange();"
        " text.selectNodeContents(cell); return text.getClientRects().length; }"
    )
    assert tab.evaluate(fits) == 1
    assert tab.evaluate("document.querySelector('#table-verdicts').getBoundingClientRect().bottom") < A4[1]
    assert tab.evaluate("Math.max(...[...document.querySelectorAll('svg')].map(figure =>"
                        " figure.getBoundingClientRect().height))") < A4[1]  # fmt: skip
    tab.close()


@in_browser
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext")
def test_print_shows_what_is_folded_and_no_page_ends_with_a_heading(
    browser: Any, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, content = whole
    tab = opened(browser, path, 1000, scheme="dark", media="print")
    tab.pdf(path=tmp_path / "page.pdf", format="A4", prefer_css_page_size=True)
    tab.close()
    command = ["pdftotext", "-layout", tmp_path / "page.pdf", "-"]
    text = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    pages = [[line.strip() for line in page.split("\n") if line.strip()] for page in text.split("\f")]
    assert all(any(re.match(rf"{label}\b", line) for line in pages[0]) for labels in TASKS.values() for label in labels)
    flat = " ".join(text.split())
    # The folded sentences and the folded table of rounds; provenance stays folded.
    assert flat.count("McNemar's p ") == sum(map(len, TASKS.values()))
    rounds = [r for result in Validation.from_json(content).results.values() for r in result.trace]
    assert len(re.findall(r"\brms +\d\.\d{3}", flat)) == len(rounds)
    assert "Provenance in" in flat
    assert content["provenance"]["weights"] not in flat
    headings = set(re.findall(r"<h[23]>(.*?)</h[23]>", path.read_text(encoding="utf-8")))
    assert len(headings) > 10
    assert headings.isdisjoint(page[-1] for page in pages if page)


@in_browser
@pytest.mark.parametrize(
    ("scheme", "media", "dark"), [("light", "screen", False), ("dark", "screen", True), ("dark", "print", False)]
)
def test_page_and_figures_are_dark_on_a_dark_screen_and_light_on_paper(
    scheme: str, media: str, dark: bool, browser: Any, page: Path
) -> None:
    tab = opened(browser, page, 1000, scheme=scheme, media=media)
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 40) == dark
    assert (tab.evaluate("getComputedStyle(document.querySelector('#figure-accuracy svg')).filter") != "none") == dark
    assert tab.evaluate("getComputedStyle(document.querySelector('#figure-overlap svg')).filter") == "none"
    tab.close()


@in_browser
def test_the_policy_lets_styles_act_and_no_script(browser: Any, page: Path) -> None:
    tab = browser.new_page()
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(page.as_uri())
    assert said == []
    assert tab.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") == "1088px"
    assert tab.evaluate("document.querySelector('figure svg').style.maxWidth") != ""
    tab.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        " document.body.append(script); document.body.setAttribute('onclick', 'window.ran = true');"
        " document.body.click(); }"
    )
    assert tab.evaluate("window.ran") is None
    assert any("Content Security Policy" in line for line in said)
    tab.close()


def test_the_page_has_a_policy_that_loads_nothing(page: Path) -> None:
    (policy,) = (a["content"] for tag, a in Page(page).elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("style-src") == "'unsafe-inline'"
    assert rules.pop("img-src") == "data:"
    assert set(rules.values()) == {"'none'"}


def palettes(page: Path) -> list[dict[str, NDArray[np.float64]]]:
    """The colours of the light page and of the dark one."""
    roots = re.findall(r":root \{(.*?)\}", page.read_text(encoding="utf-8"))
    return [{name: rgb(color) for name, color in re.findall(r"--(\w+): (#\w{6})", root)} for root in roots]


def test_text_stands_out_in_both_palettes(page: Path) -> None:
    light, dark = palettes(page)
    assert set(light) == set(dark)
    for colors in (light, dark):
        for ground in ("paper", "wash", "warn"):
            for text in ("ink", "soft", "link"):
                assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        assert contrast(colors["mark"], colors["paper"]) >= 3
    assert luminance(light["paper"]) > 0.9
    assert luminance(dark["paper"]) < 0.01


def in_the_dark(color: NDArray[np.float64]) -> NDArray[np.float64]:
    """The colour under ``invert(.92) hue-rotate(180deg)`` (W3C, Filter Effects 1)."""
    inverted = color * (1 - 2 * 0.92) + 0.92
    weights = np.array([0.213, 0.715, 0.072])
    return np.clip(2 * (weights @ inverted) - inverted, 0, 1)


def test_marks_and_letters_of_figures_stand_out_on_a_dark_page(page: Path) -> None:
    assert "figure svg { filter: invert(.92) hue-rotate(180deg); }" in page.read_text(encoding="utf-8")
    _, dark = palettes(page)
    assert contrast(in_the_dark(rgb(INK)), dark["paper"]) >= 4.5
    for color in (VERMILLION, BLUE, GREEN, ORANGE, SKY, "#777777"):
        assert contrast(in_the_dark(rgb(color)), dark["paper"]) >= 3, color
