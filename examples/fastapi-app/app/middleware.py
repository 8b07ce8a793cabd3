"""What happens around every request: its id, its metrics, and the log entry if it fails."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs, metrics

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """Plain ASGI, not Starlette's BaseHTTPMiddleware: that one costs a task per request and leaves out websockets.

    There is no access log here: the proxy in front writes one, with the same request id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)

        # The id of the proxy in front, unless somebody sends what does not belong into a log.
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                message.setdefault("headers", [])
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        token = logs.request_id.set(request_id)
        started = time.perf_counter()
        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            # Logged here, because the server's own entry would lack the request id.
            log.exception("request failed", extra={"method": scope.get("method"), "path": scope["path"]})
            if scope["type"] != "http" or status:
                raise  # too late for an answer: the server cuts the connection
            await JSONResponse({"detail": "Internal Server Error"}, 500)(scope, receive, send_with_id)
        finally:
            logs.request_id.reset(token)
            if scope["type"] == "http":
                _observe(scope, status, time.perf_counter() - started)


def _observe(scope: Scope, status: int, seconds: float) -> None:
    # Labels only from what this application defines: a scanner must not be able to make new time series.
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    mounted = isinstance(scope.get("endpoint"), StaticFiles)
    route = getattr(scope.get("route"), "path", "/static" if mounted else "unmatched")
    metrics.REQUESTS.labels(method, route, status or 500).inc()
    metrics.LATENCY.labels(method, route).observe(seconds)
