"""What the role puts between a server and an application."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / "roles/asgi_service/files/asgi_entry.py"

Messages = list[dict[str, Any]]


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("asgi_entry", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def record(**more: Any) -> logging.LogRecord:
    given = {"name": "shop", "levelno": 20, "levelname": "INFO", "msg": "%d of %s", "args": (2, "tea"), "process": 7, "created": 0.5}
    return logging.makeLogRecord(given | more)


def test_an_entry_is_one_line_of_json(entry: ModuleType) -> None:
    line = entry.JsonFormatter().format(record(order=4711, path=Path("/tmp")))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "info",
        "logger": "shop",
        "message": "2 of tea",
        "pid": 7,
        "order": 4711,
        "path": "/tmp",
    }


def test_a_traceback_is_in_it(entry: ModuleType) -> None:
    try:
        raise ValueError("on purpose\n}")
    except ValueError:
        line = entry.JsonFormatter().format(record(exc_info=sys.exc_info(), stack_info="Stack:\n  here"))
    assert "\n" not in line
    found = json.loads(line)
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: on purpose\n}")
    assert found["stack"] == "Stack:\n  here"


def test_what_came_in_cannot_take_the_place_of_what_is_known(entry: ModuleType) -> None:
    assert json.loads(entry.JsonFormatter().format(record(level="forged", time="never")))["level"] == "info"


def test_each_request_has_its_own_id(entry: ModuleType) -> None:
    seen: dict[str, str] = {}

    async def app(scope: dict[str, Any], _receive: object, _send: object) -> None:
        await asyncio.sleep(0)
        seen[scope["path"]] = json.loads(entry.JsonFormatter().format(record())).get("request_id", "none")

    async def main() -> None:
        wrapped = entry.Entry(app)
        scopes = [{"type": "http", "path": name, "headers": [(b"x-request-id", name.encode())]} for name in ("a", "b")]
        await asyncio.gather(*(wrapped(scope, None, None) for scope in [*scopes, {"type": "http", "path": "c", "headers": []}]))
        assert entry.request_id.get() == ""

    asyncio.run(main())
    assert seen == {"a": "a", "b": "b", "c": "none"}


def test_websockets_are_closed_with_a_code_and_only_those_that_are_open(entry: ModuleType) -> None:
    sent: dict[str, Messages] = {}
    go_on = asyncio.Event()

    async def app(scope: dict[str, Any], _receive: object, send: Any) -> None:
        if scope["path"] in ("open", "closed"):
            await send({"type": "websocket.accept"})
        if scope["path"] == "closed":
            await send({"type": "websocket.close", "code": 1000})
        await go_on.wait()
        # After the farewell: to a closed connection, and a new one.
        await send({"type": "websocket.send", "text": "late"} if scope["path"] == "open" else {"type": "websocket.accept"})

    async def main() -> None:
        wrapped = entry.Entry(app)

        def ask(path: str) -> Any:
            sent[path] = []

            async def send(message: dict[str, Any]) -> None:
                sent[path].append(message)

            return wrapped({"type": "websocket", "path": path, "headers": []}, None, send)

        tasks = [asyncio.create_task(ask(path)) for path in ("open", "closed", "waiting")]
        await asyncio.sleep(0.01)
        await wrapped.farewell()
        assert [message["type"] for message in sent["waiting"]] == []
        go_on.set()
        await asyncio.gather(*tasks)
        assert wrapped.websockets == set()

    asyncio.run(main())
    assert [message.get("code") for message in sent["open"]] == [None, 1012]
    assert [message.get("code") for message in sent["closed"]] == [None, 1000]
    assert [message.get("code") for message in sent["waiting"]] == [None, 1012]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def in_blue(entry: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Set up a process in slot blue; returns a function that changes the live link, and lets time pass."""
    clock = Clock()
    monkeypatch.setattr(entry, "time", clock)
    monkeypatch.setenv("ASGI_SLOT", "blue")
    monkeypatch.setenv("ASGI_LIVE", str(tmp_path / "live"))

    def live(slot: str, seconds: float = 0.2) -> None:
        (tmp_path / "live").unlink(missing_ok=True)
        if slot:
            (tmp_path / "live").symlink_to(slot)
        clock.now += seconds

    return live


def test_the_live_link_decides(entry: ModuleType, in_blue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = entry.Live()
    assert (live.is_here(), live.is_elsewhere()) == (False, False), "before the first deployment there is none"
    in_blue("green")
    assert (live.is_here(), live.is_elsewhere()) == (False, True)
    in_blue("blue")
    assert (live.is_here(), live.is_elsewhere()) == (True, False)
    in_blue("green", seconds=0.04)
    assert not live.is_elsewhere(), "it is read ten times a second, not with each request"
    in_blue("green", seconds=0.07)
    assert live.is_elsewhere()
    monkeypatch.delenv("ASGI_LIVE")
    assert not entry.Live().is_elsewhere(), "nobody has said where it is"


def test_a_connection_ends_with_the_first_answer_after_a_switch(entry: ModuleType, in_blue: Any) -> None:
    """And no longer when the switch was taken back. HTTP/2 has no such header: RFC 9113, 8.2.2."""

    async def app(_scope: object, _receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": [(b"x-kind", b"tea")]})
        await send({"type": "http.response.body"})

    wrapped = entry.Entry(app)

    def ask(version: str = "1.1") -> Messages:
        sent: Messages = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(wrapped({"type": "http", "http_version": version, "headers": []}, None, send))
        return sent

    in_blue("blue")
    usual = ask()
    assert usual[0]["headers"] == [(b"x-kind", b"tea")]
    in_blue("green")
    assert ask()[0]["headers"] == [(b"x-kind", b"tea"), (b"connection", b"close")]
    assert ask()[1:] == usual[1:]
    assert ask("2") == usual
    in_blue("blue")
    assert ask() == usual


@pytest.mark.parametrize(
    ("kind", "added"),
    [
        (b"text/event-stream", [(b"x-accel-buffering", b"no")]),
        (b"text/event-stream; charset=utf-8", [(b"x-accel-buffering", b"no")]),
        (b"text/html", []),
    ],
)
def test_events_are_not_kept_back_by_nginx(entry: ModuleType, kind: bytes, added: list[tuple[bytes, bytes]]) -> None:
    sent: Messages = []

    async def app(_scope: object, _receive: object, send: Any) -> None:
        # ASGI wants something to iterate over, no more.
        await send({"type": "http.response.start", "status": 200, "headers": iter([(b"content-type", kind), (b"x-kind", b"tea")])})
        await send({"type": "http.response.body", "body": b"data: 1"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(entry.Entry(app)({"type": "http", "http_version": "1.1", "headers": []}, None, send))
    assert sent[0]["headers"] == [(b"content-type", kind), (b"x-kind", b"tea"), *added]
    assert sent[1] == {"type": "http.response.body", "body": b"data: 1"}


@pytest.mark.parametrize(
    ("allowed", "peer", "told", "client"),
    [
        # Whoever can connect; nginx has overwritten the header.
        (["*"], None, ["192.0.2.7"], ("192.0.2.7", 0)),
        (["*"], ("198.51.100.1", 5), ["192.0.2.7, 10.0.0.1"], ("192.0.2.7", 0)),
        # Nobody.
        ([], None, ["192.0.2.7"], None),
        ([], ("10.0.0.1", 5), ["192.0.2.7"], ("10.0.0.1", 5)),
        # Through the unix socket, where servers know no address or an empty one.
        (["10.0.0.0/8"], None, ["203.0.113.9, 192.0.2.7, 10.0.0.1"], ("192.0.2.7", 0)),
        (["10.0.0.0/8"], ("", 0), ["203.0.113.9", "192.0.2.7", "10.0.0.1"], ("192.0.2.7", 0)),
        (["10.0.0.0/8"], None, ["10.0.0.1, 10.0.0.2"], ("10.0.0.1", 0)),
        (["10.0.0.0/8", "2001:db8::1"], None, ["192.0.2.7:4711, [2001:db8::1]:443"], ("192.0.2.7", 4711)),
        (["10.0.0.0/8"], None, ["2001:db8::7"], ("2001:db8::7", 0)),
        (["10.0.0.0/8"], None, ["unknown, 10.0.0.1"], ("unknown", 0)),
        # Over TCP.
        (["10.0.0.0/8"], ("10.0.0.1", 5), ["192.0.2.7"], ("192.0.2.7", 0)),
        (["10.0.0.0/8"], ("198.51.100.1", 5), ["192.0.2.7"], ("198.51.100.1", 5)),
        (["*"], ("10.0.0.1", 5), [" "], ("10.0.0.1", 5)),
    ],
)
def test_who_the_client_is(
    entry: ModuleType, allowed: list[str], peer: tuple[str, int] | None, told: list[str], client: tuple[str, int] | None
) -> None:
    headers = [(b"x-forwarded-for", each.encode()) for each in told] + [(b"x-forwarded-proto", b"https"), (b"host", b"x")]
    scope: dict[str, Any] = {"type": "http", "client": peer, "scheme": "http", "headers": headers}

    async def app(*_: object) -> None: ...

    asyncio.run(entry.Entry(app, allowed)(scope, None, None))
    assert scope["client"] == client
    assert scope["scheme"] == ("http" if client == peer and told != [" "] else "https")


@pytest.mark.parametrize(
    ("kind", "told", "scheme"),
    [
        ("http", b"https", "https"),
        ("http", b"http", "http"),
        ("websocket", b"https", "wss"),
        ("websocket", b"ws", "ws"),
        ("http", b"x", "?"),
    ],
)
def test_the_scheme_is_the_one_that_the_client_used(entry: ModuleType, kind: str, told: bytes, scheme: str) -> None:
    async def app(*_: object) -> None: ...

    scope = {"type": kind, "client": None, "scheme": "?", "headers": [(b"x-forwarded-proto", told)]}
    asyncio.run(entry.Entry(app, ["*"])(scope, None, None))
    assert (scope["scheme"], scope["client"]) == (scheme, None)


def part(size: int, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


GONE = {"type": "http.disconnect"}
BODY = (b"content-length", b"30")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("headers", "comes", "reads", "left"),
    [
        # What is left is read before the answer is over, and no more than that.
        ([BODY], [part(10, True), part(10, True), part(10, False), GONE], 0, 1),
        ([BODY], [part(10, True), part(20, False), GONE], 1, 1),
        ([(b"transfer-encoding", b"chunked")], [part(30, False), GONE], 0, 1),
        # The client has left.
        ([BODY], [part(10, True), GONE, GONE], 0, 1),
        # All was read, or there is nothing; or it comes only if it is asked for.
        ([BODY], [part(30, False), GONE], 1, 1),
        ([], [part(0, False), GONE], 0, 2),
        ([BODY, (b"expect", b"100-continue")], [part(30, False), GONE], 0, 2),
    ],
)
def test_what_the_application_leaves_of_a_request_is_read(
    entry: ModuleType, headers: list[tuple[bytes, bytes]], comes: Messages, reads: int, left: int, first: bool
) -> None:
    messages = list(comes)
    sent: list[tuple[int, dict[str, Any]]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append((len(messages), message))

    async def app(_scope: object, receive: Any, send: Any) -> None:
        for _ in range(reads):
            await receive()
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"log"})

    wrapped = entry.Entry(app)
    wrapped.answer_first = first
    asyncio.run(wrapped({"type": "http", "http_version": "1.1", "headers": headers}, receive, send))
    bodies = [message for _, message in sent if message["type"] == "http.response.body"]
    assert b"".join(message["body"] for message in bodies) == b"log"
    assert [message.get("more_body", False) for message in bodies] == [True] * (len(bodies) - 1) + [False]
    assert sent[-1][0] == len(messages) == left
    # The answer does not wait for it, unless the server wants that.
    assert next(still for still, message in sent if message.get("body")) == (len(comes) - reads if first else left)


@pytest.mark.parametrize("parts", [1, 3, 100])
def test_what_is_left_of_a_request_goes_to_an_application_that_listens(entry: ModuleType, parts: int) -> None:
    """Not every server lets two ask at a time: an application that listens until it has `parts`, and what reads the rest."""
    messages = [part(1, True)] * 5 + [part(1, False)]
    asking = 0

    async def receive() -> dict[str, Any]:
        nonlocal asking
        asking += 1
        assert asking == 1
        await asyncio.sleep(0.005)
        asking -= 1
        return messages.pop(0) if messages else GONE

    sent: list[tuple[int, dict[str, Any]]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append((len(messages), message))

    async def app(_scope: object, receive: Any, send: Any) -> None:
        async def hear() -> None:
            for _ in range(parts):
                if (await receive())["type"] == "http.disconnect":
                    return

        listener = asyncio.ensure_future(hear())
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"log"})
        listener.cancel()

    asyncio.run(entry.Entry(app)({"type": "http", "http_version": "1.1", "headers": [BODY]}, receive, send))
    assert [(still, message.get("more_body", False)) for still, message in sent] == [(6, True), (0, False)]


@pytest.mark.parametrize(("name", "pause"), [("_PART_COMES", 3600.0), ("_READ_ON", 0.001)])
def test_a_request_that_does_not_end_does_not_hold_up_the_end_of_its_answer(
    entry: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, pause: float
) -> None:
    monkeypatch.setattr(entry, name, 0.05)
    sent: Messages = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        return part(1, True)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def app(_scope: object, _receive: object, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"log"})

    asyncio.run(entry.Entry(app)({"type": "http", "http_version": "1.1", "headers": [BODY]}, receive, send))
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_uvicorn_stops_when_its_websockets_are_closed(entry: ModuleType) -> None:
    """Not before, since it breaks off what it closes; and not never, if a client does not answer."""
    happened: list[str] = []
    usual = signal.signal(signal.SIGTERM, lambda *_: happened.append("stopped"))
    try:

        async def app(scope: dict[str, Any], _receive: object, send: Any) -> None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.accept"})
                await asyncio.sleep(3600)

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.close":
                await asyncio.sleep(0.05)
                happened.append(f"closed {message['code']}")

        async def main() -> None:
            wrapped = entry.StandaloneEntry(app)
            await wrapped({"type": "lifespan"}, None, send)
            client = asyncio.create_task(wrapped({"type": "websocket", "headers": []}, None, send))
            await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                while "stopped" not in happened:
                    await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            client.cancel()

        asyncio.run(main())
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert happened == ["closed 1012", "stopped", "stopped"]
