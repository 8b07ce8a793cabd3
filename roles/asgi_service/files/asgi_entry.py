# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between a server and the application.

- `Entry` gives the application what nginx says of the client, where the server does not do that itself; keeps the id that nginx
  gave the request for the log; and closes websockets with a code that tells their clients to come back.
- `JsonFormatter` writes one JSON object for each entry of the log.

It needs nothing but the standard library and no particular event loop, so it serves every server alike.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib import import_module
from operator import attrgetter
from typing import Any

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# The request that is being answered, by the header X-Request-ID.
request_id: ContextVar[str] = ContextVar("request_id", default="")

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
            await self._send({"type": "websocket.close", "code": 1012, "reason": "service restart"})


class Entry:
    """The application as the server is to call it.

    With `forwarded` it believes the headers X-Forwarded-For and X-Forwarded-Proto. Only nginx can connect, and it overwrites what
    clients send.
    """

    def __init__(self, app: ASGIApp, forwarded: bool = False) -> None:
        self.app = app
        self.forwarded = forwarded
        self.leaving = False
        self.websockets: set[_Websocket] = set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        token = request_id.set(headers.get(b"x-request-id", b"").decode("latin1"))
        try:
            if self.forwarded:
                believe(scope, headers)
            if scope["type"] == "http":
                await self.app(scope, receive, send)
                return
            websocket = _Websocket(self, send)
            self.websockets.add(websocket)
            try:
                await self.app(scope, receive, websocket.send)
            finally:
                self.websockets.discard(websocket)
        finally:
            request_id.reset(token)

    async def farewell(self) -> None:
        """Close the websockets that there are, and from now on each as soon as it is accepted."""
        self.leaving = True
        for websocket in list(self.websockets):
            await websocket.close()


def believe(scope: dict[str, Any], headers: dict[bytes, bytes]) -> None:
    """Put the client and the scheme that the proxy names into a scope."""
    client = headers.get(b"x-forwarded-for", b"").decode("latin1").strip()
    if client:
        scope["client"] = (client, 0)
    if headers.get(b"x-forwarded-proto") == b"https":
        scope["scheme"] = "https" if scope["type"] == "http" else "wss"


def load(path: str) -> ASGIApp:
    """Return the object that `module:object` names."""
    module, name = path.split(":", 1)
    found: ASGIApp = attrgetter(name)(import_module(module))
    return found


def create(forwarded: bool = False) -> Entry:
    """Return the application that the environment names. uvicorn's factory."""
    return Entry(load(os.environ["ASGI_IMPORT_PATH"]), forwarded)
