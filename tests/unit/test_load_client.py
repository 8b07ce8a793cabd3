"""The client of the load tests: what it records is what all of them stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import client
import pytest
from client import Load, Site

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n{"version":"one","size":0}'


@pytest.fixture(autouse=True)
def without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(self: client.Client) -> client.Connection:
        site = self.load.site
        return (await self.load.loop.create_connection(lambda: client.Connection(self.load, len(self.body)), site.address, site.port))[1]

    monkeypatch.setattr(client.Client, "connect", connect)
    monkeypatch.setattr(Site, "tls", lambda _: None)
    monkeypatch.setattr(client, "PATIENCE", 1.0)


def load(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], pause: float = 0.005) -> client.Record:
    async def run() -> client.Record:
        async with await asyncio.start_server(serve, "127.0.0.1") as server:
            site = Site("127.0.0.1", "a.example.org", "", server.sockets[0].getsockname()[1])
            async with Load(site, clients=1, pause=pause) as load:
                await asyncio.sleep(1)
        return load.record

    return asyncio.run(run())


def test_a_connection_that_is_closed_between_two_requests_is_not_used_again() -> None:
    """As every client does it: nothing was sent on it, so nothing is lost."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    record = load(serve, pause=0.1)
    assert record.failed() == {}
    assert len(record.requests) > 5


def test_a_connection_that_is_kept_is_used_again() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ANSWER)
        writer.close()

    assert len(load(serve).requests) > 20
    assert connections == 1


def test_a_request_that_is_not_answered_is_recorded() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    assert set(load(serve).failed()) == {"GET: connection closed"}
