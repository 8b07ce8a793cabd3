"""Litestar with its OpenAPI pages."""

from __future__ import annotations

from litestar import Litestar, get


@get("/ready")
async def ready() -> dict[str, str]:
    return {"status": "ready"}


app = Litestar([ready])
