"""What the proxy, the monitoring and the people who deploy ask for."""

from __future__ import annotations

import os

from fastapi import APIRouter, Request, Response

from app import __version__, logs
from app.resources import ResourcesDep

router = APIRouter()


@router.get("/health")
async def health(response: Response) -> dict[str, object]:
    """The process is alive. Asks nobody else: a database that is down is no reason to restart this."""
    response.headers["cache-control"] = "no-store"
    return {"status": "ok", "version": __version__, "pid": os.getpid()}


@router.get("/ready", responses={503: {"description": "A dependency does not answer"}})
async def ready(resources: ResourcesDep, response: Response) -> dict[str, object]:
    """This process can serve: every dependency has just answered."""
    problems = await resources.check()
    failed = any(problems.values())
    response.status_code = 503 if failed else 200
    response.headers["cache-control"] = "no-store"
    return {
        "status": "unavailable" if failed else "ready",
        "version": __version__,
        "pid": os.getpid(),
        "checks": {name: problem or "ok" for name, problem in problems.items()},
    }


@router.get("/whoami")
async def whoami(request: Request) -> dict[str, object]:
    """The request as it arrives here, behind whatever proxies there are."""
    return {
        "client": request.client.host if request.client else None,
        "scheme": request.url.scheme,
        "host": request.headers.get("host"),
        "request_id": logs.request_id.get(),
    }
