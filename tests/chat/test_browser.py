"""The page in a headless Chromium, served by the command itself: what a person does and sees."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest

from affectron import NeuronList, NeuronSet
from affectron.chat.app import Chat
from affectron.chat.writer import Writer
from tests.chat.conftest import served
from tests.chat.test_command import process
from tests.support.browser import chromium, in_browser

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = in_browser


@pytest.fixture(scope="module")
def address(demo: Path) -> Iterator[str]:
    with process(demo) as (_, address):
        yield address


@pytest.fixture
def console() -> Iterator[list[str]]:
    """Messages that the page writes into the console; a test takes out those that it expects."""
    messages: list[str] = []
    yield messages
    assert messages == []


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with chromium() as running:
        yield running


@contextmanager
def opened(browser: sync_api.Browser, address: str, console: list[str]) -> Iterator[sync_api.Page]:
    """The open page; in the end it has asked this machine alone."""
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(120_000)
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("dialog", lambda dialog: console.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(address).netloc}


@pytest.fixture
def page(browser: sync_api.Browser, address: str, console: list[str]) -> Iterator[sync_api.Page]:
    with opened(browser, address, console) as page:
        yield page


def written(page: sync_api.Page) -> list[str]:
    """The two texts, once the page has written them and knows P(label)."""
    page.wait_for_selector("#probabilities table >> nth=1")
    page.wait_for_selector("#write:enabled")
    return page.locator(".written").all_inner_texts()


def test_a_person_steers_and_sees_both_texts_their_labels_and_a_card(page: sync_api.Page) -> None:
    page.fill("#prompt", "Yesterday evening")
    anger = page.locator('.label[data-label="anger"]')
    slider = anger.locator(".slider")
    slider.focus()
    for _ in range(15):
        page.keyboard.press("ArrowRight")
    assert anger.locator(".strength").input_value() == "3"
    assert "on" in (anger.get_attribute("class") or "").split()

    # Each state of the steered text: it grows, so it was streamed.
    page.evaluate("""() => {
        window.seen = [];
        const steered = document.querySelectorAll(".written")[1];
        new MutationObserver(() => window.seen.push(steered.innerText))
            .observe(steered, { childList: true, characterData: true, subtree: true });
    }""")
    page.keyboard.press("Control+Enter")
    texts = written(page)
    seen = page.evaluate("() => window.seen")
    assert len(set(seen)) > 5
    assert all(texts[1].startswith(state.rstrip()) for state in seen)
    assert all(text.startswith("Yesterday evening") for text in texts)
    assert texts[0] != texts[1]
    assert re.fullmatch(r"contrast 3 anger, \d+ neurons, dose 0\.\d+", page.inner_text("#program-told"))
    assert re.fullmatch(r"\d+ tokens in \d+\.\d s", page.inner_text("#status"))

    for task in ("emotion", "rhetoric"):
        table = page.locator("#probabilities table", has=page.locator(f"caption:text-is('{task}')"))
        for column in (0, 1):
            meters = table.locator("td").evaluate_all(f"cells => cells.map(cell => cell.children[{column}].innerText)")
            assert sum(float(meter.removesuffix(" %")) for meter in meters) == pytest.approx(100, abs=0.5)
    assert page.locator("#probabilities tr.on th").all_inner_texts() == ["anger"]

    # The address keeps the settings: the link writes the same texts.
    link = page.url
    settings = json.loads(unquote(urlsplit(link).fragment))
    assert settings["steered"] == [{"label": "anger", "program": "contrast", "strength": 3, "share": 1, "signal": None}]
    page.goto("about:blank")
    page.goto(link)
    assert page.input_value("#prompt") == "Yesterday evening"
    page.click("#write")
    assert written(page) == texts

    anger.locator("summary").click()
    neuron = anger.locator(".neurons button").first
    layer, index = re.split("[: ]", neuron.inner_text())[:2]
    neuron.click()
    assert f"layer {layer}, neuron {index}" in page.inner_text("dialog[open] article.card")
    page.keyboard.press("Escape")
    assert not page.locator("dialog[open]").count()


def test_programs_shares_and_all_off(page: sync_api.Page) -> None:
    fear = page.locator('.label[data-label="fear"]')
    fear.locator("summary").click()
    fear.locator(".program").select_option("zero")
    assert fear.locator(".switched").inner_text() == "off"
    fear.locator(".slider").press("ArrowRight")
    assert fear.locator(".switched").inner_text() == "on"
    fear.locator(".program").select_option("cross-signal")
    assert fear.locator(".strength").input_value() == "1"
    fear.locator(".signal").select_option("metaphor")
    fear.locator(".share").fill("50")
    assert re.fullmatch(r"cross-signal, (\d+) of \d+ neurons", fear.locator(".told").inner_text())
    page.fill("#prompt", "We")
    page.click("#write")
    written(page)
    assert page.inner_text("#program-told").startswith("cross-signal 1 metaphor at fear, ")
    page.click("#reset")
    page.click("#write")
    page.wait_for_selector("#write:enabled")
    assert page.inner_text("#program-told") == "No label is on."
    assert written(page)[1].strip() == ""


def test_a_refusal_is_one_visible_line(page: sync_api.Page, console: list[str]) -> None:
    page.fill("#prompt", "We " * 200)
    page.click("#write")
    page.wait_for_selector("#error:visible")
    assert "but the model reads 128" in page.inner_text("#error")
    assert "400 (Bad Request)" in console.pop()


def test_a_text_can_be_stopped(page: sync_api.Page) -> None:
    page.route("**/write", lambda route: None)  # a text without an end; the server's part is tested without a browser
    page.click("#write")
    page.click("#stop")
    page.wait_for_selector("#write:enabled")
    assert page.inner_text("#status") == "stopped"
    assert not page.locator("#error").is_visible()


def test_settings_survive_a_reload_and_unknown_ones_are_told(page: sync_api.Page) -> None:
    anger = page.locator('.label[data-label="anger"]')
    anger.locator(".strength").fill("3.14159265")
    page.fill("#temperature", "0.7")
    page.focus("#prompt")
    page.reload()
    assert anger.locator(".strength").input_value() == "3.14159265"
    assert page.input_value("#temperature") == "0.7"
    plain = urlsplit(page.url)._replace(fragment="").geturl()
    for settings, prompt, told in (
        ({"prompt": "We"}, "We", False),
        ({"prompt": "We", "steered": [{"label": "envy", "program": "zero"}]}, "We", True),
    ):
        page.goto("about:blank")
        page.goto(f"{plain}#{quote(json.dumps(settings))}")
        assert page.input_value("#prompt") == prompt
        assert page.input_value("#temperature") == "0"
        assert page.locator("#error").is_visible() == told
        assert not page.locator(".label.on").count()


def test_a_keyboard_reaches_every_part_and_each_has_a_name(page: sync_api.Page) -> None:
    page.focus("#prompt")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
    first = page.locator(".slider").first.get_attribute("id")
    assert reached[:7] == ["max_new_tokens", "temperature", "seed", "write", "reset", first, "strength"]
    page.keyboard.press("Enter")  # the summary of the first label
    label = page.locator(".label").first.get_attribute("data-label")
    page.wait_for_selector(".neurons button")
    snapshot = page.locator("#labels").aria_snapshot()
    for part in (f'slider "{label}"', f'spinbutton "beta of {label}"', f'group "Program and neurons of {label}"'):
        assert part in snapshot
    page.locator(".neurons button").first.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Control+Enter")
    assert not page.inner_text("#status")  # nothing is written behind the card
    page.keyboard.press("Escape")
    assert "neuron" in page.evaluate("() => document.activeElement.ariaLabel")


NAMES = (
    "\"quo'ted\"", "<img src=x onerror=alert(1)>", "a & b; </script><b>", "{{ 7*7 }}", "\U0001f600 joie \xe9",
    "\u063a\u0636\u0628", "x" * 200, *(f"label {number}" for number in range(53)),
)  # fmt: skip


@pytest.mark.parametrize("width", [320, 1200])
def test_labels_of_any_name_and_number_fit(
    browser: sync_api.Browser, chat: Chat, writer: Writer, console: list[str], width: int, one_thread: None
) -> None:
    lists = [NeuronList(name, f"<b>{'y' * 100}", list(writer.neurons["anger"])[:3]) for name in NAMES]
    neurons = NeuronSet(lists, writer.neurons.widths)
    chat.writer = Writer(writer.model, writer.tokenizer, neurons, writer.stats, {})
    with served(chat) as visitor, opened(browser, f"http://{visitor.host}/", console) as page:
        page.set_viewport_size({"width": width, "height": 844})
        assert page.locator(".name").all_inner_texts() == list(NAMES)
        for row in page.locator(".label").all()[:7]:
            row.locator("summary").click()
            row.locator(".program").select_option("zero")
            row.locator(".slider").press("ArrowRight")
        page.fill("#prompt", "We")
        page.click("#write")
        page.wait_for_selector(".left-out")  # the question in words has too many labels for the model
        assert page.inner_text("#program-told").startswith(f"{' + '.join(f'zero {name}' for name in NAMES[:7])}, 3 ")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert not page.locator("img").count()


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(page: sync_api.Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for summary in page.locator("summary").all()[:2]:
        summary.click()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
