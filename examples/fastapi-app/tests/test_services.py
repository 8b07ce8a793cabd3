"""The same with PostgreSQL and Redis, where the environment says that there are some to use."""

from __future__ import annotations

import os

import pytest

from tests.conftest import ClientFactory
from tests.test_processes import workers

POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "")
REDIS = os.environ.get("TEST_REDIS_URL", "")

needs_postgresql = pytest.mark.skipif(not POSTGRESQL, reason="TEST_POSTGRESQL_URL is not set")
needs_redis = pytest.mark.skipif(not REDIS, reason="TEST_REDIS_URL is not set")


@needs_postgresql
def test_notes_in_postgresql(start: ClientFactory) -> None:
    client = start(POSTGRESQL)
    assert client.get("/ready").json()["checks"] == {"database": "ok"}
    created = client.post("/notes", json={"text": "hello"})
    assert client.get(created.headers["location"]).json() == {**created.json(), "views": None}


@needs_postgresql
def test_workers_that_start_at_once_create_one_schema(start: ClientFactory) -> None:
    with workers(3, APP_DATABASE_URL=POSTGRESQL) as started:
        for worker in started:
            assert worker.request("GET", "/ready")[0] == 200
            assert "dependency is not ready" not in worker.stop()


@needs_redis
def test_views_are_counted_in_redis(start: ClientFactory) -> None:
    client = start(redis_url=REDIS)
    assert client.get("/ready").json()["checks"] == {"database": "ok", "redis": "ok"}
    location = client.post("/notes", json={"text": "hello"}).headers["location"]
    first, second = (client.get(location).json()["views"] for _ in range(2))
    assert second == first + 1
