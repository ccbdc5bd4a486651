"""``affectron chat`` as a process: its address, its end, and what is refused before the model is loaded."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from affectron.chat import server
from affectron.cli.app import app
from affectron.demo import MODEL, PROMPTS
from tests.chat.conftest import Visitor
from tests.chat.test_writing import STEERED, whole

# Run as Python starts, also where a caller would catch an error.
_GUARD = """
import os, sys

def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        if "127.0.0.1" not in str(arguments):
            os.write(2, f"{event} {arguments}".encode())
            os._exit(99)

sys.addaudithook(guard)
"""


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command on a free port, and the address that it prints. It ends at once if it speaks to another machine."""
    questions = [word for task, text in PROMPTS.items() for word in ("--label-prompt", f"{task}={text}")]
    (folder / "sitecustomize.py").write_text(_GUARD)
    arguments = (MODEL, "--neurons", folder / "steering.json", "--port", "0", *questions)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
    with subprocess.Popen(
        [sys.executable, "-m", "affectron", "chat", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
        # A job in the background is started with Ctrl-C ignored, and would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            found = re.fullmatch(r"affectron chat: (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
            assert found, line
            yield running, found.group(1)
        finally:
            running.kill()


def refuse(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["chat", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_also_while_a_text_is_written(demo: Path, sent: int, status: int) -> None:
    with process(demo) as (running, address):
        visitor = Visitor(int(address.rstrip("/").rpartition(":")[2]))
        texts = whole(visitor.events(STEERED))["texts"]
        assert texts[0] != texts[1]
        response = visitor.post({**STEERED, "max_new_tokens": 110, "temperature": 3.0})
        response.readline()
        running.send_signal(sent)
        _, messages = running.communicate(timeout=60)
        assert running.returncode == status
        last = messages.splitlines()[-1]
        assert last.startswith("error: ")
        assert "Traceback" not in messages


def test_a_busy_port_is_refused_before_the_model_is_loaded(demo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refuse("no/such/model", "--neurons", demo / "steering.json", "--port", port)
    assert f"cannot serve at 127.0.0.1, port {port}: Address already in use; --port 0 takes a free one" in line


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("0.0.0.0", "expected the address or name by which browsers reach this machine"),
        ("::", "expected the address or name by which browsers reach this machine"),
        ("192.0.2.1", "cannot serve at 192.0.2.1, port 0: "),
        ("no host", "expected an address or a name of this machine"),
    ],
)
def test_a_host_that_is_not_this_machine_is_refused(demo: Path, host: str, message: str) -> None:
    line = refuse("no/such/model", "--neurons", demo / "steering.json", "--port", 0, "--host", host)
    assert message in line


def test_what_needs_no_model_is_checked_before_it_is_loaded(demo: Path, tmp_path: Path) -> None:
    neurons = ("--neurons", demo / "steering.json")
    assert "label_prompt has task 'mood', expected emotion, rhetoric" in refuse(
        "no/such/model", *neurons, "--label-prompt", "mood={text}"
    )
    (tmp_path / "steering.json").write_bytes((demo / "steering.json").read_bytes())
    assert "--stats is not given" in refuse("no/such/model", "--neurons", tmp_path / "steering.json")


def test_a_missing_package_is_named_with_its_extra(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("starlette.applications", "affectron.chat.app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    line = refuse("no/such/model", "--neurons", demo / "steering.json")
    assert line == ("error: chat needs starlette.applications, which is not installed: pip install 'affectron[chat]'")


@pytest.mark.parametrize(("address", "warned"), [("127.0.0.1", False), ("192.0.2.7", True)])
def test_a_page_that_others_reach_is_warned_of(
    demo: Path, monkeypatch: pytest.MonkeyPatch, address: str, warned: bool
) -> None:
    class Listening:
        def getsockname(self) -> tuple[str, int]:
            return address, 1234

        def __enter__(self) -> Listening:
            return self

        def __exit__(self, *_: object) -> None: ...

    class NoServer:
        def __init__(self, chat: object) -> None: ...

        def run(self, sockets: object) -> None: ...

    monkeypatch.setattr(server, "listen", lambda host, port: Listening())
    monkeypatch.setattr(server, "Server", NoServer)
    result = CliRunner().invoke(app, ["chat", str(MODEL), "--neurons", str(demo / "steering.json"), "--host", address])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"affectron chat: http://{address}:1234/ (Ctrl-C ends it)\n"
    assert (f"warning: anyone who reaches http://{address}:1234/ can use the model" in result.stderr) == warned
