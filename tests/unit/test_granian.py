"""What the role adds to granian, without granian."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILES = Path(__file__).resolve().parents[2] / "roles/asgi_service/files"


@pytest.fixture
def granian(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    stubs: dict[str, dict[str, Any]] = {
        "granian": {},
        "granian._signals": {},
        "granian._granian": {"SocketHolder": object, "WorkerSignal": object},
        "granian.log": {"LogLevels": str},
        "granian.server": {"Server": object},
    }
    for name, content in stubs.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "asgi_entry", raising=False)
    spec = importlib.util.spec_from_file_location("asgi_granian", FILES / "asgi_granian.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HELD", 0.01)
    yield module
    sys.modules.pop("asgi_entry", None)


def test_a_connection_that_is_held_takes_what_its_client_still_sends(
    granian: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        monkeypatch.setattr(granian, "LISTENER", listener.fileno())
        # Neither other sockets, nor files, nor the listener itself.
        before = set(os.listdir("/proc/self/fd"))
        held = granian.hold_connections()
        assert len(held) == len(set(os.listdir("/proc/self/fd")) - before) == 1
        accepted.sendall(b"close")
        accepted.close()
        client.sendall(b"one more")
        assert client.recv(100) == b"close"
        os.close(held[0])
        with pytest.raises(ConnectionError):
            client.sendall(b"two more")


class Server:
    """granian's side of one websocket."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.asked = asyncio.Event()

    async def receive(self) -> Any:
        self.asked.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.happened.append("let go")
            raise

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.close":
            # It takes its time.
            await asyncio.sleep(0.02)
        self.happened.append(f"{message['type']} {message.get('code', '')}".strip())


def test_the_code_is_sent_before_the_application_is_over(granian: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granian, "hold_connections", list)

    async def run() -> list[str]:
        server = Server()

        async def app(_scope: object, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            assert await receive() == {"type": "websocket.disconnect", "code": 1012}
            # Also if it asks again.
            assert await receive() == {"type": "websocket.disconnect", "code": 1012}
            server.happened.append("over")

        entry = granian.GranianEntry(app)
        serving = asyncio.ensure_future(entry({"type": "websocket", "headers": []}, server.receive, server.send))
        await server.asked.wait()
        await entry.farewell()
        await asyncio.wait_for(serving, 5)
        return server.happened

    assert asyncio.run(run()) == ["websocket.accept", "let go", "websocket.close 1012", "over"]


def test_an_application_that_works_meanwhile_is_not_given_to_granian_again(granian: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """granian would give it what the client sends, and send the end only then."""
    monkeypatch.setattr(granian, "hold_connections", list)

    async def run() -> list[str]:
        server = Server()
        working, done = asyncio.Event(), asyncio.Event()

        async def app(_scope: object, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            working.set()
            await done.wait()
            assert (await receive())["type"] == "websocket.disconnect"

        entry = granian.GranianEntry(app)
        serving = asyncio.ensure_future(entry({"type": "websocket", "headers": []}, server.receive, server.send))
        await working.wait()
        leaving = asyncio.ensure_future(entry.farewell())
        # It is being sent by now.
        await asyncio.sleep(0.005)
        done.set()
        await asyncio.wait_for(leaving, 5)
        await asyncio.wait_for(serving, 5)
        assert not server.asked.is_set()
        return server.happened

    assert asyncio.run(run()) == ["websocket.accept", "websocket.close 1012"]


def test_a_client_that_takes_nothing_does_not_hold_up_the_end(granian: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granian, "hold_connections", list)
    monkeypatch.setattr(sys.modules["asgi_entry"], "_TOLD", 0.3)

    async def run() -> list[str]:
        stuck, other = Server(), Server()

        async def never(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.close":
                await asyncio.sleep(3600)

        async def app(_scope: object, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            await receive()

        entry = granian.GranianEntry(app)
        scope = {"type": "websocket", "headers": []}
        serving = [asyncio.ensure_future(entry(dict(scope), stuck.receive, never))]
        serving.append(asyncio.ensure_future(entry(dict(scope), other.receive, other.send)))
        await stuck.asked.wait()
        await other.asked.wait()
        await asyncio.wait_for(entry.farewell(), 5)
        for task in serving:
            task.cancel()
        return other.happened

    assert asyncio.run(run()) == ["websocket.accept", "let go", "websocket.close 1012"]
