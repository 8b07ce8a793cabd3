"""How often a note was read: counted in Redis where there is one, so that all workers and hosts share the number."""

from __future__ import annotations

import logging

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


class Views:
    def __init__(self, url: str, prefix: str, timeout: float) -> None:
        self._prefix = prefix
        self._redis: Redis = Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)

    async def count(self, note_id: int) -> int | None:
        """Count one more view. A note can be read without its counter: None if Redis does not answer."""
        try:
            return int(await self._redis.incr(f"{self._prefix}:{note_id}:views"))
        except RedisError as error:
            log.warning("view not counted", extra={"note": note_id, "error": str(error)})
            return None

    async def check(self) -> None:
        await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()
