from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import __version__


def test_index_is_json_for_programs_and_a_page_for_browsers(client: TestClient) -> None:
    assert client.get("/").json() == {"name": "notes", "version": __version__, "pid": os.getpid()}
    page = client.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("file", "media_type"),
    [("style.css", "text/css"), ("logo.svg", "image/svg+xml"), ("notes.js", "text/javascript")],
)
def test_static_files(client: TestClient, file: str, media_type: str) -> None:
    assert f"/static/{file}" in client.get("/", headers={"accept": "text/html"}).text
    response = client.get(f"/static/{file}")
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == media_type


def test_a_note_can_be_written_listed_and_read(client: TestClient) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    created = client.post("/notes", json={"text": "hello"})
    assert created.status_code == 201
    note = created.json()
    assert before < datetime.fromisoformat(note["created_at"]) < datetime.now(UTC)

    assert client.get(created.headers["location"]).json() == {**note, "views": None}
    client.post("/notes", json={"text": "later"})
    assert [entry["text"] for entry in client.get("/notes").json()] == ["later", "hello"]
    assert [entry["text"] for entry in client.get("/notes?limit=1").json()] == ["later"]


@pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": "x" * 1001}, {"text": None}])
def test_what_is_not_a_note_is_refused(client: TestClient, body: object) -> None:
    assert client.post("/notes", json=body).status_code == 422
    assert client.get("/notes").json() == []


def test_a_note_that_does_not_exist(client: TestClient) -> None:
    assert client.get("/notes/1").status_code == 404


def test_whoami_shows_the_request_as_it_arrives(client: TestClient) -> None:
    response = client.get("https://example.org/whoami", headers={"x-request-id": "from-the-proxy"})
    assert response.json() == {
        "client": "testclient",
        "scheme": "https",
        "host": "example.org",
        "request_id": "from-the-proxy",
    }
    assert response.headers["x-request-id"] == "from-the-proxy"


@pytest.mark.parametrize("hostile", ["", "a b", 'x", "level": "y', "x" * 129])
def test_a_request_id_that_does_not_belong_into_a_log_is_replaced(client: TestClient, hostile: str) -> None:
    response = client.get("/whoami", headers={"x-request-id": hostile})
    assert len(response.json()["request_id"]) == 32
    assert response.headers["x-request-id"] == response.json()["request_id"]


def test_a_request_that_fails_is_answered_and_logged_once(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    @_app(client).get("/fail")
    async def fail() -> None:
        raise LookupError("on purpose")

    with caplog.at_level(logging.ERROR):
        response = client.get("/fail", headers={"x-request-id": "id-1"})
    assert response.status_code == 500
    assert response.json() == {"detail": "Internal Server Error"}
    assert response.headers["x-request-id"] == "id-1"
    assert [record.message for record in caplog.records] == ["request failed"]
    assert 'http_requests_total{method="GET",route="/fail",status="500"} 1.0' in client.get("/metrics").text


def test_metrics_have_no_labels_that_a_client_invents(client: TestClient) -> None:
    client.request("BREW", "/coffee-4711")
    client.get("/static/style.css")
    client.get("/notes/4711")
    metrics = client.get("/metrics").text
    assert 'http_requests_total{method="OTHER",route="unmatched",status="404"} 1.0' in metrics
    assert 'route="/static"' in metrics
    assert 'route="/notes/{note_id}"' in metrics
    assert "4711" not in metrics
    assert "BREW" not in metrics


def test_websocket_says_who_answers_and_echoes(client: TestClient) -> None:
    with client.websocket_connect("/ws", headers={"x-request-id": "id-2"}) as websocket:
        assert websocket.receive_json() == {"version": __version__, "pid": os.getpid()}
        assert (b"x-request-id", b"id-2") in (websocket.extra_headers or [])
        websocket.send_text("text")
        assert websocket.receive_text() == "text"
        websocket.send_bytes(b"\x00bytes")
        assert websocket.receive_bytes() == b"\x00bytes"
        assert "websocket_connections 1.0" in client.get("/metrics").text
    assert "websocket_connections 0.0" in client.get("/metrics").text


def _app(client: TestClient) -> FastAPI:
    assert isinstance(client.app, FastAPI)
    return client.app
