"""The page, its files and its neurons, and what keeps other sites and machines out."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from importlib import resources

import pytest
from starlette.types import Message

from affectron.chat.app import LARGEST, Chat
from affectron.chat.cards import Cards
from affectron.chat.server import listen
from affectron.chat.writer import Writer
from affectron.errors import InputError
from affectron.report.cards import CARD_STYLE
from affectron.report.pieces import Pieces
from tests.chat.conftest import Visitor, served
from tests.chat.test_writing import STEERED

PATHS = (
    "/",
    "/cards.css",
    "/static/chat.css",
    "/static/chat.js",
    "/static/icon.svg",
    "/neurons?label=anger",
    "/nowhere",
)


@pytest.mark.parametrize("path", PATHS)
def test_every_response_allows_the_page_its_own_files_alone(visitor: Visitor, path: str) -> None:
    response = visitor.get(path)
    assert response.status == (404 if path == "/nowhere" else 200)
    policy = dict(part.split(maxsplit=1) for part in response.headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_names_nothing_outside(visitor: Visitor) -> None:
    page = visitor.get("/").read().decode()
    assert not re.search(r"<style|<script(?! src=)| style=| on[a-z]+=", page)
    linked = set(re.findall(r'(?:src|href)="([^"]*)"', page))
    assert linked == {path for path in PATHS if path.startswith("/static/") or path == "/cards.css"}
    files = [page, *(file.read_text() for file in resources.files("affectron.chat").joinpath("static").iterdir())]
    assert {url for file in files for url in re.findall(r"https?://[^\s\"']*", file)} <= {"http://www.w3.org/2000/svg"}


def test_the_page_has_a_slider_for_each_label(visitor: Visitor, writer: Writer) -> None:
    page = visitor.get("/").read().decode()
    assert re.findall(r'data-label="([^"]*)" data-neurons="(\d+)"', page) == [
        (label, str(len(neurons))) for label, neurons in writer.neurons.items()
    ]
    assert page.count('type="range"') == 2 * len(writer.neurons)
    for kind, ends in (("contrast", (-16, 16, 0, 4)), ("amplify", (1, 5, 1, 2)), ("zero", (0, 1, 0, 1))):
        (option,) = set(re.findall(f'<option value="{kind}" [^>]*', page))
        told = dict(re.findall(r'data-([a-z]+)="([^"]*)"', option))
        assert tuple(float(told[end]) for end in ("low", "high", "neutral", "usual")) == ends
    assert "Chat template" not in page  # the tokenizer has none


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.0.2.1", "evil.example:127.0.0.1", "[::1]", ""]
)
def test_another_host_is_refused(visitor: Visitor, host: str) -> None:
    """A name of another site that is made to lead to this machine (DNS rebinding)."""
    assert visitor.get("/", Host=host).status == 400
    assert visitor.post(STEERED, Host=host).status == 400


def test_an_ipv6_address_is_served(writer: Writer, one_thread: None) -> None:
    try:
        listen("::1", 0).close()
    except InputError:
        pytest.skip("this machine has no IPv6")
    chat = Chat(writer, Cards(Pieces(neurons=writer.neurons)), "embedded", ["[::1]"])
    with served(chat, "::1") as visitor:
        assert visitor.get("/").status == 200
        assert visitor.post(STEERED, Origin=f"http://[::1]:{visitor.port}").status == 200
        assert visitor.post(STEERED, Origin=f"http://[::2]:{visitor.port}").status == 403
        assert visitor.get("/", Host="[::2]").status == 400


def test_loopback_names_are_served(visitor: Visitor) -> None:
    for host in (f"localhost:{visitor.port}", "LOCALHOST", "127.0.0.1:"):
        assert visitor.get("/", Host=host).status == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "http://[", "file://"]
)
def test_a_request_of_another_site_is_refused(visitor: Visitor, origin: str) -> None:
    response = visitor.post(STEERED, Origin=origin)
    assert response.status == 403
    assert "origin is" in json.loads(response.read())["error"]
    assert visitor.post(STEERED, Origin=f"http://{visitor.host}").status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_can_send_is_refused(visitor: Visitor, kind: str) -> None:
    assert visitor.post(STEERED, **{"Content-Type": kind}).status == 415


@pytest.mark.parametrize("path", ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "..%5capp.py", "/etc/passwd", ""])
def test_no_other_file_is_served(visitor: Visitor, path: str) -> None:
    assert visitor.get(f"/static/{path}").status == 404


def test_a_request_of_any_length_takes_bounded_memory(visitor: Visitor) -> None:
    """The rest of the body is never read: the answer comes before it is sent."""
    with socket.create_connection(("127.0.0.1", visitor.port), timeout=60) as speaking:
        head = f"POST /write HTTP/1.1\r\nHost: {visitor.host}\r\nContent-Type: application/json\r\n"
        speaking.sendall(f"{head}Content-Length: {2**40}\r\n\r\n".encode() + b" " * (LARGEST + 1))
        assert speaking.recv(100).startswith(b"HTTP/1.1 413 ")
    assert visitor.get("/").status == 200


def test_a_request_without_an_end_is_no_failure_of_the_server(chat: Chat) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": "/write", "query_string": b"", "headers": headers}
    asyncio.run(chat.app(scope, receive, send))
    assert sent[0]["status"] == 400


def test_a_request_that_has_not_ended_keeps_nobody_out(visitor: Visitor) -> None:
    head = f"POST /write HTTP/1.1\r\nHost: {visitor.host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", visitor.port), timeout=60) as speaking:
        speaking.sendall(f"{head}Content-Length: 9\r\n\r\n{{".encode())
        assert visitor.events({"prompt": "We", "max_new_tokens": 2})


def test_the_text_is_written_for_a_post_alone(visitor: Visitor) -> None:
    assert visitor.get("/write").status == 405


def test_neurons_are_those_of_the_label_and_each_has_a_card(visitor: Visitor, writer: Writer) -> None:
    told = json.loads(visitor.get("/neurons?label=anger").read())
    assert [tuple(neuron) for neuron in told["neurons"]] == list(writer.neurons["anger"])
    assert (told["axis"], told["sites"]["model.layers.3.mlp"]) == ("layer", "3")
    site, index, _ = told["neurons"][0]
    card = visitor.get(f"/card?site={site}&index={index}")
    assert card.headers["content-type"].startswith("text/html")
    html = card.read().decode()
    assert '<article class="card"' in html
    assert " style=" not in html
    assert "<script" not in html
    assert "cards.json" in html  # what is missing, and the command that makes it
    assert visitor.get("/cards.css").read().decode() == CARD_STYLE


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/neurons", "label is missing"),
        ("/neurons?label=envy", "label 'envy' is not in the neuron set"),
        ("/card?site=x", "index is missing"),
        ("/card?site=x&index=0", "neuron 0 of 'x' is not selected for any label"),
        ("/card?site=model.layers.3.mlp&index=-1", "neuron -1 of 'model.layers.3.mlp' is not selected"),
        ("/card?site=model.layers.3.mlp&index=" + "9" * 5000, "of 'model.layers.3.mlp' is not selected"),
    ],
)
def test_a_neuron_that_is_not_there_is_refused(visitor: Visitor, path: str, message: str) -> None:
    response = visitor.get(path)
    assert response.status == 400
    assert message in json.loads(response.read())["error"]


def test_a_folder_that_is_no_run_leaves_scores(writer: Writer, tmp_path) -> None:
    said: list[str] = []
    cards = Cards.beside(tmp_path, writer.neurons, writer.stats, said.append)
    (line,) = said
    assert line.startswith(f"cards have scores alone: run folder {tmp_path} has none of ")
    site, index, _ = writer.neurons["fear"][0]
    assert "<article" in cards.html(site, str(index))


def test_names_are_escaped(chat: Chat, visitor: Visitor) -> None:
    chat.name = '<b>"model"</b>'
    page = visitor.get("/").read().decode()
    assert "<b>" not in page
