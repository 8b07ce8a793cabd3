"""A load of real clients: HTTPS requests of several kinds, and websockets, against one address; every single one is recorded.

Used by the benchmark and, in a short form, by the tests. Ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

# Nobody waits longer for an answer. A request that does counts as failed.
PATIENCE = 15.0
BODY = b"x" * 1024


@dataclass(frozen=True)
class Site:
    """Where the load goes: an address of the project's own containers, and the name that its certificate is for."""

    address: str
    name: str
    ca: str
    port: int = 443

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


@dataclass
class Record:
    """What happened: for each request its start (seconds since the load began), its duration and '' or how it failed."""

    # The time (of time.time()) at which the load began.
    began: float = field(default_factory=time.time)
    requests: list[tuple[float, float, str]] = field(default_factory=list)
    websockets_cut: list[tuple[float, int]] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    # When the last request was sent that each version has answered.
    last: dict[str, float] = field(default_factory=dict)

    def failed(self) -> Counter[str]:
        return Counter(kind for _, _, kind in self.requests if kind)

    def longest(self, begin: float = 0.0, end: float = float("inf")) -> float:
        return max((seconds for start, seconds, _ in self.requests if begin <= start < end), default=0.0)

    def percentile(self, share: float, begin: float = 0.0, end: float = float("inf")) -> float:
        durations = sorted(seconds for start, seconds, _ in self.requests if begin <= start < end)
        return durations[min(len(durations) - 1, int(share * len(durations)))] if durations else 0.0


class Connection(asyncio.Protocol):
    """One connection, with at most one request on it at a time."""

    def __init__(self, load: Load, size: int) -> None:
        self.load = load
        self.size = size
        self.buffer = b""
        self.usable = True
        self.version = ""
        self.transport: Any = None
        self.answer: asyncio.Future[str] | None = None

    async def ask(self, message: bytes) -> str:
        """Send a request and return '' for the right answer to it, or what was wrong."""
        self.answer = self.load.loop.create_future()
        self.transport.write(message)
        return await self.answer

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        self.buffer = body[length:]
        if b"connection: close" in lower:
            self.usable = False
        status = head[9:12].decode()
        failure = "" if status == "200" else f"status {status}"
        if not failure:
            content = json.loads(body[:length])
            self.version = content["version"]
            self.load.record.versions[self.version] += 1
            if content["size"] != self.size:
                failure = "wrong answer"
        self.finish(failure)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self.finish(f"connection lost: {type(exc).__name__}" if exc else "connection closed")

    def finish(self, failure: str) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(failure)


class Client:
    """One client that sends its next request when it has the answer to the last one."""

    def __init__(self, load: Load, method: str, keep_alive: bool) -> None:
        self.load = load
        self.method = method
        self.keep_alive = keep_alive
        self.body = BODY if method == "POST" else b""
        self.message = (
            f"{method} / HTTP/1.1\r\nHost: {load.site.name}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n"
            + (f"Content-Length: {len(self.body)}\r\n" if self.body else "")
            + "\r\n"
        ).encode() + self.body

    async def run(self) -> None:
        connection: Connection | None = None
        while not self.load.over:
            if connection and not connection.usable:
                # The server has said that it would close it, or has done so in the pause: a request would be lost on it.
                connection.transport.abort()
                connection = None
            begun = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    connection = connection or await self.connect()
                    failure = await connection.ask(self.message)
            except TimeoutError:
                failure = "timeout"
            except OSError as error:
                failure = f"connect: {type(error).__name__}"
            if failure:
                failure = f"{self.method}: {failure}"
            elif connection:
                self.load.record.last[connection.version] = begun - self.load.begun
            self.load.record.requests.append((begun - self.load.begun, time.monotonic() - begun, failure))
            if connection and (failure or not self.keep_alive):
                connection.usable = False
            # A pause keeps the machine from being saturated: then every figure would be that of a queue.
            await asyncio.sleep(0.1 if failure else self.load.pause)
        if connection:
            connection.transport.abort()

    async def connect(self) -> Connection:
        site = self.load.site
        _, connection = await self.load.loop.create_connection(
            lambda: Connection(self.load, len(self.body)), site.address, site.port, ssl=self.load.tls, server_hostname=site.name
        )
        return connection


class Load:
    """The whole load: run it as a context, do something to the server in its body, and look at `record` afterwards."""

    def __init__(self, site: Site, clients: int = 32, websockets: int = 0, pause: float = 0.005, echo: float = 0.25) -> None:
        self.site = site
        self.tls = site.tls()
        self.clients = clients
        self.websockets = websockets
        self.pause = pause
        # Seconds between what a websocket sends.
        self.echo = echo
        self.record: Record
        self.over = False
        self.begun = 0.0
        self.loop: asyncio.AbstractEventLoop
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.begun = time.monotonic()
        self.record = Record()
        # Of four clients three keep their connection; every other one posts.
        for number in range(self.clients):
            client = Client(self, "POST" if number % 2 else "GET", keep_alive=number % 4 != 3)
            self.tasks.append(asyncio.create_task(client.run()))
        self.tasks += [asyncio.create_task(self.websocket(number)) for number in range(self.websockets)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.over = True
        await asyncio.wait(self.tasks, timeout=PATIENCE)
        for task in self.tasks:
            task.cancel()

    @property
    def now(self) -> float:
        return time.monotonic() - self.begun

    async def websocket(self, number: int) -> None:
        """An echo client. One whose connection ends notes when and with which code, and connects again."""
        address = f"wss://{self.site.name}:{self.site.port}/ws"
        await asyncio.sleep(number * 0.02)
        while not self.over:
            try:
                async with connect(
                    address, ssl=self.tls, host=self.site.address, server_hostname=self.site.name, open_timeout=PATIENCE
                ) as socket:
                    await socket.recv()
                    while not self.over:
                        text = f"{number} {self.now}"
                        await socket.send(text)
                        if await asyncio.wait_for(socket.recv(), PATIENCE) != text:
                            self.record.websockets_cut.append((self.now, -2))
                        await asyncio.sleep(self.echo)
            except ConnectionClosed as closed:
                self.record.websockets_cut.append((self.now, closed.rcvd.code if closed.rcvd else 1006))
            except (OSError, TimeoutError, InvalidHandshake):
                self.record.websockets_cut.append((self.now, -1))
                await asyncio.sleep(0.05)
