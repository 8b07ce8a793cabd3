from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app import __version__
from tests.conftest import ClientFactory


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_ready(start: ClientFactory) -> None:
    response = start().get("/ready")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "status": "ready",
        "version": __version__,
        "pid": os.getpid(),
        "checks": {"database": "ok"},
    }


def test_a_broken_database_is_reported_and_a_repaired_one_is_used(start: ClientFactory, tmp_path: Path) -> None:
    obstacle = tmp_path / "state"
    obstacle.touch()
    client = start(f"sqlite:///{obstacle}/notes.sqlite3")

    response = client.get("/ready")
    assert response.status_code == 503
    assert response.json()["status"] == "unavailable"
    assert "state" in response.json()["checks"]["database"]
    assert client.get("/health").status_code == 200
    assert client.post("/notes", json={"text": "lost"}).status_code == 500

    obstacle.unlink()
    assert client.get("/ready").status_code == 200
    assert client.post("/notes", json={"text": "kept"}).status_code == 201


def test_a_database_that_loses_its_table_is_not_ready(start: ClientFactory, tmp_path: Path) -> None:
    client = start()
    with closing(sqlite3.connect(tmp_path / "notes.sqlite3")) as connection:
        connection.execute("DROP TABLE notes")
    response = client.get("/ready")
    assert response.status_code == 503
    assert "no such table" in response.json()["checks"]["database"]


def test_a_database_that_hangs_is_given_up_after_the_timeout(start: ClientFactory, silent_port: int) -> None:
    response = start(f"postgresql://user:secret@127.0.0.1:{silent_port}/notes").get("/ready")
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": "no answer within 0.3 s"}
    assert response.elapsed.total_seconds() < 1


def test_redis_that_is_down_is_reported_next_to_a_database_that_is_up(start: ClientFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = start(redis_url=f"redis://:secret@127.0.0.1:{port}/0")

    response = client.get("/ready")
    assert response.status_code == 503
    assert response.json()["checks"]["database"] == "ok"
    assert "ConnectionError" in response.json()["checks"]["redis"]
    assert "secret" not in response.text

    # Notes do without the counter.
    assert client.get(client.post("/notes", json={"text": "x"}).headers["location"]).json()["views"] is None
