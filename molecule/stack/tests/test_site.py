"""What a client of the site gets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import Client

STATIC = Path(__file__).resolve().parents[3] / "examples/fastapi-app/app/static"
HSTS = "max-age=63072000"


def test_the_application_answers_over_https(client: Client) -> None:
    answer = client.ask("/")
    assert answer.status_code == 200
    assert answer.json()["name"] == "stack"


def test_the_certificate_is_for_this_name_only(client: Client) -> None:
    """Also shows that the other tests verify what they get."""
    client.domain = "other.example"
    with pytest.raises(httpx.ConnectError, match="certificate"):
        client.ask("/")


def test_plain_http_is_redirected(client: Client) -> None:
    answer = client.ask_without_tls("/notes?limit=1")
    assert answer.status_code == 301
    assert answer.headers["location"] == "https://notes.example/notes?limit=1"


def test_the_application_is_ready(client: Client) -> None:
    answer = client.ask("/ready")
    assert answer.status_code == 200
    assert answer.json()["checks"] == {"database": "ok"}


def test_what_is_written_can_be_read(client: Client) -> None:
    location = client.ask("/notes", "POST", json={"text": "from outside"}).headers["location"]
    assert client.ask(location).json()["text"] == "from outside"


@pytest.mark.parametrize("file", ["style.css", "logo.svg"])
def test_static_files(client: Client, file: str) -> None:
    answer = client.ask(f"/static/{file}")
    assert answer.status_code == 200
    assert answer.content == (STATIC / file).read_bytes()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/static/style.css", 200), ("/static/nothing", 404), ("/nothing", 404)])
def test_every_answer_insists_on_https(client: Client, method: str, path: str, status: int) -> None:
    answer = client.ask(path, method)
    # The example's front page knows no HEAD; what counts here is the header.
    assert answer.status_code in ({status, 405} if method == "HEAD" else {status})
    assert answer.headers.get_list("strict-transport-security") == [HSTS]


@pytest.fixture
def stopped(host: Host, slot: str) -> Iterator[None]:
    units = f"notes@{slot}.socket notes@{slot}.service"
    host.check_output(f"systemctl stop {units}")
    yield
    host.check_output(f"systemctl start {units}")


@pytest.mark.usefixtures("stopped")
def test_without_the_application_nginx_answers(client: Client) -> None:
    answer = client.ask("/")
    assert answer.status_code == 502
    assert answer.headers.get_list("strict-transport-security") == [HSTS]
    assert "Please try again" in answer.text
    # So it is nginx that serves these.
    assert client.ask("/static/style.css").status_code == 200


def test_a_client_cannot_forge_its_address(client: Client) -> None:
    forged = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
    seen = client.ask("/whoami", headers=forged).json()
    assert seen["client"] == client.own_address()
    assert seen["scheme"] == "https"
    assert seen["host"] == "notes.example"


def test_websockets(client: Client) -> None:
    async def talk() -> None:
        async with asyncio.timeout(20), client.websocket("/ws") as websocket:
            assert "version" in json.loads(await websocket.recv())
            await websocket.send("text")
            assert await websocket.recv() == "text"
            await websocket.send(b"\x00\xff")
            assert await websocket.recv() == b"\x00\xff"

    asyncio.run(talk())


def metric(client: Client, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.ask("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_the_requests_of_all_workers(client: Client) -> None:
    requests = 'http_requests_total{method="GET",route="/health",status="200"}'
    before = metric(client, requests)
    workers: set[int] = set()
    number = 0
    # Several at once: nginx asks on a connection that it keeps as long as that is free, and so the same worker.
    with ThreadPoolExecutor(8) as pool:
        while len(workers) < 2 and number < 200:
            workers |= {answer.json()["pid"] for answer in pool.map(client.ask, ["/health"] * 20)}
            number += 20
    assert len(workers) == 2
    # Whichever worker is asked: both know the whole sum.
    assert {metric(client, requests) for _ in range(10)} == {before + number}
    version = client.ask("/").json()["version"]
    assert metric(client, f'app_workers{{version="{version}"}}') == 2
