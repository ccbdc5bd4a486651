"""The server: a socket that is taken before the model is loaded, and an end that stops what is being written."""

from __future__ import annotations

import os
import socket
from types import FrameType

import uvicorn

from affectron.chat.app import Chat
from affectron.errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """Take a port; 0 takes a free one.

    Raises:
        InputError: the host is no address of this machine, or every address of it; or the port is taken, or not
            allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(
            f"host is {host!r}, expected an address or a name of this machine: {error.strerror}"
        ) from error
    if address[0] in ("0.0.0.0", "::"):
        raise InputError(
            f"host is {host!r}, expected the address or name by which browsers reach this machine: requests that call "
            "it by another are refused"
        )
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(f"cannot serve at {host}, port {port}: {reason}; --port 0 takes a free one") from error


def in_address(host: str) -> str:
    """A host as addresses have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def address(listening: socket.socket, host: str) -> str:
    """The address of the page."""
    return f"http://{in_address(host)}:{listening.getsockname()[1]}/"


class Server(uvicorn.Server):
    """Serves the page until SIGINT or SIGTERM, which then act as they do elsewhere; the text that is being written
    ends with them."""

    def __init__(self, chat: Chat) -> None:
        config = uvicorn.Config(
            chat.app, log_level="warning", access_log=False, lifespan="off", ws="none", server_header=False,
            timeout_graceful_shutdown=5,
        )  # fmt: skip
        super().__init__(config)
        self.chat = chat

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.chat.end()
        super().handle_exit(sig, frame)
