"""The application, put together. Any ASGI server can serve `app.main:app`: nothing in here knows which one does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from app import __version__, logs, metrics, notes, pages, status
from app.middleware import RequestContext
from app.resources import Resources
from app.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Resources]]:
        async with Resources.open(settings) as resources:
            metrics.worker_started()
            log.info("started", extra={"version": __version__, "database": str(resources.database.url)})
            try:
                yield {"resources": resources}
            finally:
                metrics.worker_stopped()
        log.info("stopped", extra={"version": __version__})

    app = FastAPI(title=settings.name, version=__version__, lifespan=lifespan)
    app.add_middleware(RequestContext)
    for module in (pages, status, metrics, notes):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=pages.STATIC), name="static")
    return app


_settings = Settings.load()
logs.configure(_settings.log_level)
app = create_app(_settings)
