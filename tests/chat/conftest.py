"""The embedded model with neurons of its own corpus, and a server of the page."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import affectron
from affectron.chat.app import Chat
from affectron.chat.cards import Cards
from affectron.chat.server import Server, in_address, listen
from affectron.chat.writer import Writer
from affectron.demo import MODEL, PROMPTS
from affectron.demo.corpus import generate


class Visitor:
    """Speaks HTTP with the server as a program does that is no browser."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.port, self.address = port, address
        self.host = f"{in_address(address)}:{port}"

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        self.connection = http.client.HTTPConnection(self.address, self.port, timeout=60)
        self.connection.request(method, path, body, dict(headers))
        return self.connection.getresponse()

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        return self._ask("GET", path, None, headers)

    def post(self, body: Any, **headers: str) -> http.client.HTTPResponse:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._ask("POST", "/write", content, {"Content-Type": "application/json", **headers})

    def events(self, body: Any) -> list[dict[str, Any]]:
        """All events of a text that must be written."""
        response = self.post(body)
        assert response.status == 200, response.read()
        return [json.loads(line) for line in response]

    def refused(self, body: Any, status: int = 400) -> str:
        """The message of a request that must be refused."""
        response = self.post(body)
        assert response.status == status
        answer = json.loads(response.read())
        assert list(answer) == ["error"]
        return str(answer["error"])


@contextmanager
def served(chat: Chat, address: str = "127.0.0.1") -> Iterator[Visitor]:
    server = Server(chat)
    with listen(address, 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Visitor(listening.getsockname()[1], address)
        finally:
            server.handle_exit(signal.SIGINT, None)
            thread.join(30)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with statistics and the neurons of every label."""
    folder = tmp_path_factory.mktemp("chat")
    model, tokenizer = affectron.load_model(MODEL)
    corpus = affectron.Corpus.from_records([row for row in generate() if row["split"] == "train"][::20])
    stats = affectron.screen(model, tokenizer, corpus, template="{bos}{text}")
    stats.save(folder / "stats.safetensors")
    affectron.select(stats, top=0.03).save(folder / "steering.json")
    return folder


@pytest.fixture(scope="session")
def writer(demo: Path) -> Writer:
    model, tokenizer = affectron.load_model(MODEL)
    neurons = affectron.NeuronSet.load(demo / "steering.json")
    return Writer(model, tokenizer, neurons, affectron.ActivationStats.load(demo / "stats.safetensors"), PROMPTS)


@pytest.fixture
def chat(writer: Writer, demo: Path) -> Chat:
    said: list[str] = []
    cards = Cards.beside(demo, writer.neurons, writer.stats, said.append)
    assert said == []
    return Chat(writer, cards, "embedded", ["127.0.0.1", "localhost"])


@pytest.fixture
def visitor(chat: Chat, one_thread: None) -> Iterator[Visitor]:
    with served(chat) as visitor:
        yield visitor
