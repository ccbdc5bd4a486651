"""A server: known programs steer, anything else gets status 400, and never an unsteered text."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.engine.engines import ENVIRONMENT, KEY, PROGRAMS, TOKENS, Model, expected, program_of

COMPLETIONS, CHAT, BATCH = "/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch"
MESSAGES = [{"role": "user", "content": "I was so happy"}]
ONE_TEXT = {"temperature": 0, "ignore_eos": True, "max_tokens": TOKENS, "return_token_ids": True}


class Server:
    """A server of the demo model on loopback."""

    def __init__(self, demo: Model, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        template = folder / "template.jinja"
        template.write_text("{{ bos_token }}{% for message in messages %} {{ message['content'] }}{% endfor %}")
        options = demo.engine()
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--model", options["model"], "--served-model-name", "demo"]
        command += ["--dtype", "float32", "--enforce-eager", "--block-size", "32", "--chat-template", str(template)]
        command += ["--additional-config", json.dumps(options["additional_config"])]
        self.log = folder / "log.txt"
        with self.log.open("w") as log:
            environment = {**os.environ, **ENVIRONMENT, "VLLM_CACHE_ROOT": str(folder.parent / "vllm")}
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def wait(self, seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return
            except OSError:
                time.sleep(0.5)
        raise AssertionError("\n".join(self.log.read_text().splitlines()[-40:]))

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()

    def post(self, path: str, program: Any = None, **body: Any) -> dict[str, Any]:
        """The answer to a request that is served. A program of None leaves the entry out."""
        status, text = self.ask("POST", path, _body(program, body))
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    def refused(self, path: str, arguments: Any, **body: Any) -> str:
        """The message of a request that is refused with status 400."""
        status, text = self.ask("POST", path, {"model": "demo", **body, "vllm_xargs": arguments})
        assert status == 400, text
        message: str = json.loads(text)["error"]["message"]
        return message


def _body(program: Any, body: dict[str, Any]) -> dict[str, Any]:
    return {"model": "demo", **body, **({} if program is None else {"vllm_xargs": {KEY: program}})}


@pytest.fixture(scope="module")
def server(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(demo, tmp_path_factory.mktemp("server"))
    try:
        server.wait()
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


def complete(server: Server, prompt: list[int], program: Any = None, **options: Any) -> list[int]:
    answer = server.post(COMPLETIONS, program, prompt=prompt, **ONE_TEXT, **options)
    tokens: list[int] = answer["choices"][0]["token_ids"]
    return tokens


def test_clients_at_once_with_different_programs(server: Server, demo: Model, requests: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(8) as clients:
        texts = list(clients.map(lambda one: complete(server, one["prompt"], program_of(one)), requests))
    assert texts == expected(demo, requests)


def test_streams(server: Server, demo: Model, prompts: list[list[int]]) -> None:
    for name in (None, "damped", "window"):
        body = _body(name, {"prompt": prompts[0], **ONE_TEXT, "stream": True})
        status, text = server.ask("POST", COMPLETIONS, body)
        assert status == 200
        events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        tokens = [token for event in events for token in json.loads(event)["choices"][0]["token_ids"]]
        assert len(events) > 1
        assert tokens == demo.text(prompts[0], name)


def test_chat(server: Server, demo: Model) -> None:
    texts = []
    for name in (None, "amplify", "prompt"):
        answer = server.post(CHAT, name, messages=MESSAGES, **ONE_TEXT)
        (choice,) = answer["choices"]
        assert choice["token_ids"] == demo.text(answer["prompt_token_ids"], name)
        texts.append(choice["token_ids"])
    assert texts[1] != texts[0]


def test_a_batch_of_chats(server: Server, demo: Model) -> None:
    (plain,) = server.post(CHAT, messages=MESSAGES, **ONE_TEXT)["choices"]
    steered = server.post(BATCH, "zero", messages=[MESSAGES, MESSAGES], **ONE_TEXT)["choices"]
    (alone,) = server.post(CHAT, "zero", messages=MESSAGES, **ONE_TEXT)["choices"]
    assert [one["token_ids"] for one in steered] == [alone["token_ids"]] * 2
    assert alone["token_ids"] != plain["token_ids"]


#: Path of an endpoint -> a request that it serves.
ENDPOINTS = {
    COMPLETIONS: {"prompt": "I was"},
    CHAT: {"messages": MESSAGES},
    BATCH: {"messages": [MESSAGES]},
    "/v1/responses": {"input": "I was"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 3},
}


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("program", ["joy", "", "zero.safetensors", "../programs/zero", 7, 1.5, ["zero"]])
def test_what_is_no_program_is_refused_with_the_names(server: Server, path: str, program: Any) -> None:
    message = server.refused(path, {KEY: program}, **ENDPOINTS[path])
    assert f"{KEY} is {program!r}, expected one of {', '.join(sorted(PROGRAMS))}" in message


@pytest.mark.parametrize("arguments", [{KEY: None}, {KEY: {"name": "zero"}}, {KEY: [["zero"]]}, [KEY], KEY])
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_other_values_are_refused(server: Server, path: str, arguments: Any) -> None:
    assert "vllm_xargs" in server.refused(path, arguments, **ENDPOINTS[path])


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_beam_searches_with_a_program_are_refused(server: Server, path: str) -> None:
    """vLLM makes requests of them that do not name the program."""
    searched = {**ENDPOINTS[path], "use_beam_search": True, "n": 2, "max_tokens": 4}
    assert "in a beam search" in server.refused(path, {KEY: "zero"}, **searched)
    assert len(server.post(path, **searched)["choices"]) == 2


def test_scorings_with_a_program_are_refused(server: Server) -> None:
    """vLLM makes requests of them that do not name the program."""
    scored = {"query": [3, 4], "items": [[5], [6]], "label_token_ids": [7, 8]}
    assert "in a beam search, a scoring" in server.refused("/generative_scoring", {KEY: "zero"}, **scored)
    assert len(server.post("/generative_scoring", **scored)["data"]) == 2


def test_refusals_leave_the_server_as_it_was(server: Server, demo: Model, prompts: list[list[int]]) -> None:
    assert complete(server, prompts[8], "zero") == demo.text(prompts[8], "zero")
    assert complete(server, prompts[8]) == demo.text(prompts[8], None)
