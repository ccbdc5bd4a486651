"""The web application: the page, its files, neurons and their cards, and a stream of what is written."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import resources
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import affectron
from affectron._internal.wording import count
from affectron.chat.cards import Cards
from affectron.chat.request import Request
from affectron.chat.writer import Event, Writer
from affectron.errors import InputError
from affectron.interventions.recipes import SHIFTS, STRENGTHS, ProgramName
from affectron.report.text import layer_names

#: Seconds that a request waits for the one before it, which may just have been stopped.
PATIENCE = 2.0
#: Bytes of a request at most.
LARGEST = 2**20
#: Sliders reach this many times the usual strength.
_REACH = 4

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class _Guard:
    """Keeps other sites out: refuses requests that call this machine by another name, and adds the headers.

    The check of the host that starlette 1.0 has refuses every IPv6 address.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        host = re.sub(r":\d*$", "", Headers(scope=scope).get("host", "")).lower()
        app = self.app if host in self.hosts else _refusal(f"host is {host!r}, expected this page's", 400)
        await app(scope, receive, send_with_headers)


class _Lines(StreamingResponse):
    """Events as lines of JSON. ``stop`` is set once the response is over or the browser has gone away."""

    def __init__(self, events: AsyncIterator[Event], stop: threading.Event) -> None:
        super().__init__((_line(event) async for event in events), media_type="application/x-ndjson")
        self.stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.stop.set()


def _line(event: Event) -> str:
    return json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"


class Chat:
    """The page's server.

    Args:
        writer: writes the texts.
        cards: the cards of the neurons.
        name: the model's name, for the page.
        hosts: names by which requests may call this machine.

    Attributes:
        app: the ASGI application.
    """

    def __init__(self, writer: Writer, cards: Cards, name: str, hosts: Sequence[str]) -> None:
        self.writer, self.cards, self.name = writer, cards, name
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="affectron-chat")
        self.busy = asyncio.Lock()
        self.stop = threading.Event()  # of the text that is being written
        self.app = Starlette(
            routes=[
                Route("/", self.page),
                Route("/cards.css", self.card_style),
                Route("/neurons", self.neurons),
                Route("/card", self.card),
                Route("/write", self.write, methods=["POST"]),
                Mount("/static", StaticFiles(packages=[("affectron.chat", "static")])),
            ],
            middleware=[Middleware(_Guard, hosts=hosts)],
        )

    async def page(self, request: HttpRequest) -> Response:
        template = resources.files("affectron.chat").joinpath("page.html.j2").read_text(encoding="utf-8")
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        neurons = self.writer.neurons
        return HTMLResponse(
            environment.from_string(template).render(
                name=self.name,
                version=affectron.__version__,
                templated=bool(getattr(self.writer.tokenizer, "chat_template", None)),
                usual=asdict(Request(prompt="")),
                tasks=neurons.tasks,
                selected={label: len(neurons[label]) for label in neurons},
                kinds=[_slider(kind) for kind in ProgramName],
                labels=self.writer.stats.labels,
                count=count,
            )
        )

    async def card_style(self, request: HttpRequest) -> Response:
        return Response(self.cards.style, media_type="text/css")

    async def neurons(self, request: HttpRequest) -> Response:
        """The neurons of a label, best first: [site, index, score]; and for every site its short name."""
        neurons = self.writer.neurons
        sites = tuple(neurons.widths)
        try:
            listed = list(neurons[_given(request, "label")])
        except InputError as error:
            return _refusal(str(error), 400)
        axis, short = layer_names(sites)
        return JSONResponse(
            {"axis": axis.partition(",")[0], "sites": dict(zip(sites, short, strict=True)), "neurons": listed}
        )

    def card(self, request: HttpRequest) -> Response:
        """The card of a neuron, as a part of a page."""
        try:
            return HTMLResponse(self.cards.html(_given(request, "site"), _given(request, "index")))
        except InputError as error:
            return _refusal(str(error), 400)

    async def write(self, request: HttpRequest) -> Response:
        """Write what a request asks for: a stream of the events of :meth:`Writer.write`, each a line of JSON. An error
        after the first event is a last line with ``error`` and ``status``."""
        if (refusal := _foreign(request)) is not None:
            return refusal
        try:
            if (body := await _body(request)) is None:
                return _refusal(f"the request is longer than {LARGEST} bytes", 413)
            asked = Request.read(body)
        except InputError as error:
            return _refusal(str(error), 400)
        try:
            await asyncio.wait_for(self.busy.acquire(), PATIENCE)
        except asyncio.TimeoutError:
            return _refusal("another text is being written; stop it, or wait for its end", 409)
        self.stop = stop = threading.Event()
        loop, waiting = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def tell(event: Event | None) -> None:
            loop.call_soon_threadsafe(waiting.put_nowait, event)

        work = loop.run_in_executor(self.thread, self._work, asked, tell, stop)
        work.add_done_callback(lambda _: self.busy.release())
        try:
            first = await waiting.get()
        except asyncio.CancelledError:
            stop.set()
            raise
        if first is not None and "error" in first:
            return _refusal(first["error"], first["status"])
        return _Lines(_events(first, waiting), stop)

    def _work(self, asked: Request, tell: Callable[[Event | None], None], stop: threading.Event) -> None:
        """Run in the thread of the model; whatever happens, the last event is None."""
        try:
            self.writer.write(asked, tell, stop)
        except InputError as error:
            tell({"error": str(error), "status": 400})
        except Exception as error:
            logging.getLogger(__name__).exception("the text could not be written")
            reason = " ".join(str(error).split()) or type(error).__name__
            tell({"error": f"the text could not be written: {reason}", "status": 500})
        finally:
            tell(None)

    def end(self) -> None:
        """Stop the text that is being written."""
        self.stop.set()


async def _events(first: Event | None, waiting: asyncio.Queue[Event | None]) -> AsyncIterator[Event]:
    event = first
    while event is not None:
        yield event
        event = await waiting.get()


def _given(request: HttpRequest, name: str) -> str:
    value = request.query_params.get(name)
    if value is None:
        raise InputError(f"{name} is missing")
    return value


async def _body(request: HttpRequest) -> bytes | None:
    """The body of a request; None, without reading on, once it is longer than LARGEST.

    Raises:
        InputError: the browser has gone away.
    """
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                return None
    except ClientDisconnect as error:
        raise InputError("the request has no end") from error
    return bytes(body)


def _refusal(message: str, status: int) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def _foreign(request: HttpRequest) -> JSONResponse | None:
    """Refuse what a page of another site can send: its origin, or a type of content that needs no leave."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers["host"]:
        return _refusal(f"origin is {origin!r}, expected this page", 403)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return _refusal(f"content-type is {kind!r}, expected application/json", 415)
    return None


def _slider(kind: ProgramName) -> dict[str, Any]:
    """The slider of a kind of program: its name, its ends, and the positions that change nothing and are usual. A kind
    without a strength has two positions, off and on."""
    if kind not in STRENGTHS:
        return {"kind": kind.value, "strength": None, "low": 0, "high": 1, "neutral": 0, "usual": 1, "step": 1}
    of_kind = STRENGTHS[kind]
    unit = of_kind.usual - of_kind.neutral
    return {
        "kind": kind.value,
        "strength": of_kind.name,
        "low": of_kind.neutral - _REACH * unit if kind in SHIFTS else of_kind.neutral,
        "high": of_kind.neutral + _REACH * unit,
        "neutral": of_kind.neutral,
        "usual": of_kind.usual,
        "step": unit / 20,
    }
