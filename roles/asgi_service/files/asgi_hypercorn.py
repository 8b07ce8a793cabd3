"""The application as hypercorn is to serve it behind nginx: with the client's address and the scheme that nginx says.

hypercorn has a middleware for this, which copies all of the scope for each request: also the application's state, of which most
things (a database's pool, a lock) cannot be copied.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from importlib import import_module
from operator import attrgetter
from typing import Any

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


class Forwarded:
    """Believes the headers X-Forwarded-For and X-Forwarded-Proto. Only nginx can connect, and it overwrites what clients send."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = dict(scope["headers"])
            client = headers.get(b"x-forwarded-for", b"").decode("latin1").strip()
            if client:
                scope["client"] = (client, 0)
            if headers.get(b"x-forwarded-proto") == b"https":
                scope["scheme"] = "https" if scope["type"] == "http" else "wss"
        await self.app(scope, receive, send)


_module, _, _object = os.environ["ASGI_IMPORT_PATH"].partition(":")
application = Forwarded(attrgetter(_object)(import_module(_module)))
