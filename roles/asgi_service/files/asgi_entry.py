# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between a server and the application.

- `Entry` gives the application what nginx says of the client, by the same rules under every server; keeps the id that nginx gave the
  request for the log; has nginx pass on server-sent events as they come; reads what the application leaves of a request; ends connections
  that are kept when another slot has become the live one; and closes websockets with a code that tells their clients to come back.
- `StandaloneEntry` closes the websockets before uvicorn by itself stops, where no hand-over worker does.
- `JsonFormatter` writes one JSON object for each entry of the log.

It needs nothing but the standard library, and under hypercorn with Trio that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib import import_module
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from operator import attrgetter
from typing import Any

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# The request that is being answered, by the header X-Request-ID.
request_id: ContextVar[str] = ContextVar("request_id", default="")

# An address that may have a port behind it, and is in brackets then if it has colons itself.
_HOP = re.compile(r"(?:\[(.*)\]|([^:]*))(?::(\d{1,5}))?")
# What the header X-Forwarded-Proto says, as ASGI says it.
_SCHEMES = {
    name: {"http": f"http{secure}", "websocket": f"ws{secure}"}
    for name, secure in ((b"http", ""), (b"https", "s"), (b"ws", ""), (b"wss", "s"))
}

_OURS = frozenset((b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"content-length", b"transfer-encoding", b"expect"))

# Seconds in which the rest of a request has to come that the application has answered already, and in which the next part of it has to:
# once it has the head of an answer without a length, nginx sends nothing more, and waits for the end of that.
_READ_ON = 5.0
_PART_COMES = 0.5
# Seconds between two looks at whether it has come to the application.
_LOOK_AGAIN = 0.01

# Seconds in which the clients of websockets have to take the word that they are closed.
_TOLD = 1.0

# Seconds for which it is taken that the live link has not changed.
_LINK_CHECK = 0.1

# What every entry has (logging.LogRecord); everything else came in by `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """One line with a JSON object for each entry: time, level, logger, message, process, and where there are such: request, extras."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if current := request_id.get():
            entry["request_id"] = current
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        extra = {name: value for name, value in vars(record).items() if name not in _USUAL and name not in entry}
        return json.dumps(entry | extra, default=str)


class _Websocket:
    """The server's end of one websocket, which can be closed without the application."""

    def __init__(self, entry: Entry, send: Callable[[Any], Awaitable[None]]) -> None:
        self._entry = entry
        self._send = send
        self._accepted = False
        self._closed = False

    async def send(self, message: dict[str, Any]) -> None:
        """What the application sends. After a farewell there is nobody to send to, and it learns so from what it receives."""
        if self._closed:
            return
        self._accepted = self._accepted or message["type"] == "websocket.accept"
        self._closed = message["type"] == "websocket.close"
        await self._send(message)
        if self._entry.leaving:
            await self.close()

    async def close(self) -> None:
        """Close it with code 1012, service restart (IANA's registry of websocket close codes)."""
        if self._accepted and not self._closed:
            self._closed = True
            # A client that has left meanwhile needs no word.
            with suppress(Exception):
                await self._send({"type": "websocket.close", "code": 1012, "reason": "service restart"})


class Proxies:
    """Whose word on the client is taken: `*` for whoever can connect, or addresses and networks; nothing for nobody's.

    Who connects through a unix socket has no address. The socket's group is the guard there, so it is believed as long as anybody is.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        allowed = list(allowed)
        self.everyone = "*" in allowed
        self.networks = [ip_network(each, strict=False) for each in allowed if each != "*"]
        self._is_proxy = lru_cache(maxsize=512)(lambda host: _address(host) is None or self._is_known(host))
        # Of a header of addresses, to which each proxy has added the one that it saw, the client is the last that is no proxy.
        self.client = lru_cache(maxsize=512)(self._find_client)

    def believes(self, peer: Sequence[Any] | None) -> bool:
        """Return whether what `peer` (ASGI's client) says of the client is taken."""
        if self.everyone or not self.networks:
            return self.everyone
        return self._is_proxy(peer[0] if peer else "")

    def _find_client(self, told: bytes) -> tuple[str, int]:
        hops = [_without_port(hop.strip()) for hop in told.decode("latin1").split(",")]
        if not self.everyone:
            for host, port in reversed(hops):
                if not self._is_known(host):
                    return host, port
        return hops[0]

    def _is_known(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(address in network for network in self.networks)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _without_port(host: str) -> tuple[str, int]:
    """Return a host and its port, 0 for none: some proxies write 192.0.2.7:4711, and [2001:db8::7]:4711."""
    found = _HOP.fullmatch(host)
    return (found[1] or found[2] or "", int(found[3] or 0)) if found else (host, 0)


class Live:
    """Whether the slot that this process runs in is the live one: the environment names the slot (ASGI_SLOT) and the link (ASGI_LIVE)."""

    def __init__(self) -> None:
        self._link = os.environ.get("ASGI_LIVE", "")
        self._slot = os.environ.get("ASGI_SLOT", "")
        self._checked = -_LINK_CHECK
        self._other = False

    def is_here(self) -> bool:
        """Return whether the link names this slot, as far as it can be read."""
        return self._named() == self._slot

    def is_elsewhere(self) -> bool:
        """Return whether it names the other slot. This is on every request's way, so the link is read ten times a second at most."""
        now = time.monotonic()
        if now - self._checked >= _LINK_CHECK:
            self._checked = now
            self._other = self._named() not in ("", self._slot)
        return self._other

    def _named(self) -> str:
        try:
            return os.path.basename(os.readlink(self._link))
        except OSError:
            # Before the first deployment there is none.
            return ""


def _with_a_word_to_nginx(send: Callable[[Any], Awaitable[None]], last: bool) -> Callable[[Any], Awaitable[None]]:
    """Return `send` that adds to an answer what nginx has to know of it. `last` says that it ends its connection."""

    async def send_on(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if last:
                headers.append((b"connection", b"close"))
            for name, value in headers:
                if name == b"content-type" and value.startswith(b"text/event-stream"):
                    # Or nginx would keep the events until there are enough of them. It takes this header out.
                    headers.append((b"x-accel-buffering", b"no"))
                    break
            message = message | {"headers": headers}
        await send(message)

    return send_on


# hypercorn alone has that loop.
_trio: Any = import_module("trio") if os.environ.get("ASGI_EVENT_LOOP") == "trio" else None


async def within(seconds: float, wait: Callable[[], Awaitable[Any]]) -> None:
    """Wait, but not longer than that."""
    if _trio:
        with _trio.move_on_after(seconds):
            await wait()
    else:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wait()


class _Rest:
    """What the application does not read of a request's body, read and forgotten before the answer is over.

    Servers close a connection on which more is on its way when the answer is written. nginx, which still sends then, takes the application
    for dead, and answers 502 in its place: to a large POST, say, that needs a login.
    """

    def __init__(self, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]], answer_first: bool) -> None:
        self._receive = receive
        self._send = send
        self._answer_first = answer_first
        self._comes = True
        self._waiting = 0
        self._last = 0.0

    async def receive(self) -> Any:
        self._waiting += 1
        try:
            message = await self._receive()
        finally:
            self._waiting -= 1
        # A client that has left sends no more either.
        self._comes = bool(message.get("more_body"))
        self._last = time.monotonic()
        return message

    async def send(self, message: dict[str, Any]) -> None:
        if self._comes and message["type"] == "http.response.body" and not message.get("more_body"):
            if self._answer_first:
                await self._send(message | {"more_body": True})
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await self._read()
        await self._send(message)

    async def _read(self) -> None:
        begun = self._last = time.monotonic()
        while self._comes and (now := time.monotonic()) < begun + _READ_ON and now < self._last + _PART_COMES:
            if self._waiting:
                # The application itself listens for the client's leaving, and is given what comes. Not every server gives it to two.
                await (_trio or asyncio).sleep(_LOOK_AGAIN)
            else:
                await within(_PART_COMES, self.receive)


class Entry:
    """The application as the server is to call it.

    `forwarded` says whom the headers X-Forwarded-For and X-Forwarded-Proto are believed (see Proxies).
    """

    # Whether the client has all of its answer before the rest of its request is read.
    answer_first = True

    def __init__(self, app: ASGIApp, forwarded: Iterable[str] = ()) -> None:
        self.app = app
        self.proxies = Proxies(forwarded)
        self.live = Live()
        self.leaving = False
        self.websockets: set[_Websocket] = set()
        # The event loop itself holds tasks only weakly.
        self.tasks: list[asyncio.Future[None]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if self.read(scope):
                rest = _Rest(receive, send, self.answer_first)
                receive, send = rest.receive, rest.send
            # On a connection that is kept requests would go on coming in here. HTTP/2 has no such header, and nginx does not speak it.
            last = self.live.is_elsewhere() and scope["http_version"] == "1.1"
            await self.app(scope, receive, _with_a_word_to_nginx(send, last))
        elif scope["type"] == "websocket":
            self.read(scope)
            websocket = _Websocket(self, send)
            self.websockets.add(websocket)
            try:
                await self.app(scope, receive, websocket.send)
            finally:
                self.websockets.discard(websocket)
        else:
            await self.app(scope, receive, send)

    def read(self, scope: dict[str, Any]) -> bool:
        """Keep the request's id, and put the client and the scheme that the proxy names into the scope.

        Return whether a body comes with the request. Who expects to be told to go on (100-continue) may never send one.
        Each request has a context of its own, so the id need not be taken back. This is on every request's way: one pass, no copies.
        """
        identity = told = scheme = b""
        body = asks = False
        for name, value in scope["headers"]:
            if name not in _OURS:
                continue
            if name == b"x-request-id":
                identity = value
            elif name == b"x-forwarded-for":
                told = told + b"," + value if told else value
            elif name == b"x-forwarded-proto":
                scheme = value
            elif name == b"expect":
                asks = True
            else:
                body = True
        request_id.set(identity.decode("latin1"))
        if (told or scheme) and self.proxies.believes(scope.get("client")):
            if told:
                client = self.proxies.client(told)
                if client[0]:
                    scope["client"] = client
            if scheme in _SCHEMES:
                scope["scheme"] = _SCHEMES[scheme][scope["type"]]
        return body and not asks

    async def farewell(self) -> None:
        """Close the websockets that there are, and from now on each as soon as it is accepted. Those that take none of it are left."""
        self.leaving = True
        websockets = list(self.websockets)
        if _trio:
            async with _trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = _trio.current_time() + _TOLD
                for websocket in websockets:
                    nursery.start_soon(websocket.close)
        elif websockets:
            closing = [asyncio.ensure_future(websocket.close()) for websocket in websockets]
            self.tasks += closing
            await asyncio.wait(closing, timeout=_TOLD)


class StandaloneEntry(Entry):
    """uvicorn by itself stops at a signal, and closes each websocket right behind its close frame.

    What a client sends in that moment is answered by a reset, which may overtake the frame. So the websockets are closed first.
    """

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                stop = signal.getsignal(number)
                if callable(stop):
                    signal.signal(number, partial(self.leave, loop, stop))
        await super().__call__(scope, receive, send)

    def leave(self, loop: asyncio.AbstractEventLoop, stop: Callable[[int, Any], Any], number: int, frame: Any) -> None:
        """Handle a signal: uvicorn's own handler `stop` gets it when the clients have been told, or the second time at once."""
        if self.leaving:
            stop(number, frame)
            return
        self.leaving = True

        async def go() -> None:
            await self.farewell()
            stop(number, frame)

        def begin() -> None:
            self.tasks.append(loop.create_task(go()))

        loop.call_soon_threadsafe(begin)


def load(path: str) -> ASGIApp:
    """Return the object that `module:object` names."""
    module, name = path.split(":", 1)
    found: ASGIApp = attrgetter(name)(import_module(module))
    return found


def create(kind: type[Entry] = StandaloneEntry) -> Entry:
    """Return the application that the environment names. uvicorn's factory."""
    return kind(load(os.environ["ASGI_IMPORT_PATH"]), os.environ.get("ASGI_FORWARDED_ALLOW_IPS", "").split())
