"""The front page and the websocket."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import FileResponse, JSONResponse

from app import __version__, metrics
from app.resources import ResourcesDep

STATIC = Path(__file__).parent / "static"

router = APIRouter()


@router.get("/", include_in_schema=False)
async def index(request: Request, resources: ResourcesDep) -> Response:
    """A page for browsers, JSON for everybody else."""
    headers = {"cache-control": "no-store", "vary": "Accept"}
    if "text/html" in request.headers.get("accept", ""):
        return FileResponse(STATIC / "index.html", headers=headers)
    body = {"name": resources.settings.name, "version": __version__, "pid": os.getpid()}
    return JSONResponse(body, headers=headers)


@router.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    """Say who answers, then send back whatever comes, text as text and bytes as bytes."""
    await websocket.accept()
    with metrics.WEBSOCKETS.track_inprogress():
        await websocket.send_json({"version": __version__, "pid": os.getpid()})
        while (message := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send({**message, "type": "websocket.send"})
