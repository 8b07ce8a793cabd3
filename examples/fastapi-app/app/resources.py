"""What a process holds open while it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Self, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.database import Database
from app.settings import Settings
from app.views import Views

log = logging.getLogger(__name__)


class Resources:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.views: Views | None = None
        if settings.redis_url:
            self.views = Views(settings.redis_url.get_secret_value(), settings.name, settings.check_timeout)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        resources = cls(settings)
        try:
            # A dependency that is down must not keep the process from starting: /ready reports it until it is back.
            for name, problem in (await resources.check()).items():
                if problem:
                    log.error("dependency is not ready", extra={"dependency": name, "error": problem})
            yield resources
        finally:
            if resources.views:
                await resources.views.close()
            await resources.database.close()

    async def check(self) -> dict[str, str | None]:
        """Ask all dependencies at once: what is wrong with each of them, None if nothing is."""
        checks = {"database": self.database.check}
        if self.views:
            checks["redis"] = self.views.check
        problems = await asyncio.gather(*(self._problem(check) for check in checks.values()))
        return dict(zip(checks, problems, strict=True))

    async def _problem(self, check: Callable[[], Awaitable[None]]) -> str | None:
        try:
            await asyncio.wait_for(check(), self.settings.check_timeout)
        except TimeoutError:
            return f"no answer within {self.settings.check_timeout:g} s"
        except Exception as error:  # whatever a driver raises
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return None


def _of(connection: HTTPConnection) -> Resources:
    return cast(Resources, connection.state.resources)


# `connection.state` is what the lifespan yields: Starlette hands it to requests and websockets alike.
ResourcesDep = Annotated[Resources, Depends(_of)]
