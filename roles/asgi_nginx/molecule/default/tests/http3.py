"""Asks a host over HTTP/3, in ways that are right and ways that are wrong, and prints what came of it as JSON.

    uv run --no-project --with aioquic==1.7.2 python http3.py ADDRESS
    uv run --no-project --with aioquic==1.7.2 python http3.py ADDRESS paths <A_JSON_LIST

A program of its own, because what it needs is needed nowhere else. The wrong ways are by the sections of RFC 9114.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import H3_ALPN, ErrorCode, FrameType, H3Connection, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent, StopSendingReceived, StreamReset
from aioquic.tls import SessionTicket

SHOP = "shop.example"
CONTROL, PUSH = 0, 1


class Client(QuicConnectionProtocol):
    """A connection; what came back is put into `answer` or `ended`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.http: H3Connection | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.early_data = False
        self.broken = "nothing"
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(self, outcome: str) -> None:
        if not self.done.done():
            self.done.set_result(outcome)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self.early_data = event.early_data_accepted
        elif isinstance(event, ConnectionTerminated):
            self.end(f"connection {code(event.error_code)}")
        elif isinstance(event, StreamReset | StopSendingReceived):
            # The connection's end may follow.
            self.broken = f"stream {code(event.error_code)}"
        if self.http is None:
            return
        for part in self.http.handle_event(event):
            if isinstance(part, HeadersReceived):
                self.headers |= {name.decode(): value.decode() for name, value in part.headers}
            elif isinstance(part, DataReceived):
                self.body += part.data
            if getattr(part, "stream_ended", False):
                self.end(self.headers[":status"])

    def ask(self, *fields: tuple[str, str], body: bytes = b"") -> None:
        stream = self._quic.get_next_available_stream_id()
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in fields], end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()

    def send(self, stream: int, octets: bytes, end: bool = False) -> None:
        self._quic.send_stream_data(stream, octets, end)
        self.transmit()

    async def outcome(self) -> str:
        try:
            return await asyncio.wait_for(self.done, 6)
        except TimeoutError:
            return self.broken


def code(number: int) -> str:
    try:
        return ErrorCode(number).name
    except ValueError:
        return hex(number)


def request(method: str = "GET", path: str = "/", *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [(":method", method), (":scheme", "https"), (":authority", SHOP), (":path", path), *more]


def configuration(**options: Any) -> QuicConfiguration:
    # The certificate has signed itself.
    return QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=SHOP, verify_mode=ssl.CERT_NONE, **options)


async def right(address: str) -> dict[str, Any]:
    """A GET, a POST, and a second connection that would like to send its request with the first packet."""
    tickets: list[SessionTicket] = []
    found: dict[str, Any] = {}
    for name, method, body in (("GET", "GET", b""), ("POST", "POST", b"x" * 1000), ("too large", "POST", b"x" * 1025)):
        async with connect(
            address, 443, configuration=configuration(), create_protocol=Client, session_ticket_handler=tickets.append
        ) as client:
            client.http = H3Connection(client._quic)
            client.ask(*request(method, "/", ("x-forwarded-for", "6.6.6.6")), body=body)
            status = await asyncio.wait_for(client.done, 5)
            found[name] = {"status": status, "headers": client.headers, "body": client.body.decode()}
    found["tickets"] = len(tickets)
    found["early data offered"] = [ticket.max_early_data_size or 0 for ticket in tickets]
    found["early data taken"] = []
    for ticket in tickets[:1]:
        # As if it had been offered.
        ticket.max_early_data_size = 0xFFFFFFFF
        async with connect(
            address, 443, configuration=configuration(session_ticket=ticket), create_protocol=Client, wait_connected=False
        ) as client:
            client.http = H3Connection(client._quic)
            client.ask(*request())
            await asyncio.wait_for(client.wait_connected(), 5)
            found["early data taken"].append(client.early_data)
    return found


UNEXPECTED = "connection H3_FRAME_UNEXPECTED"
# A request that is malformed may also be answered (4.1.2).
MALFORMED = ("stream H3_MESSAGE_ERROR", "connection H3_MESSAGE_ERROR", "400")
SET = encode_uint_var(CONTROL) + encode_frame(FrameType.SETTINGS, b"")

# Streams of one direction, of which nginx allows three: what is sent on each, and what may come of it.
STREAMS: dict[str, tuple[list[bytes], tuple[str, ...]]] = {
    "6.2.1 a second control stream": ([SET, SET], ("connection H3_STREAM_CREATION_ERROR",)),
    "6.2.1 no SETTINGS first": (
        [encode_uint_var(CONTROL) + encode_frame(FrameType.GOAWAY, b"\0")],
        ("connection H3_MISSING_SETTINGS",),
    ),
    "6.2.2 a push stream by a client": ([SET, encode_uint_var(PUSH)], ("connection H3_STREAM_CREATION_ERROR",)),
    "6.2.3 a stream of an unknown type": ([SET, encode_uint_var(0x21) + b"x" * 100], ("nothing", "stream H3_STREAM_CREATION_ERROR")),
    "7.2.4.1 a setting of HTTP/2": (
        [encode_uint_var(CONTROL) + encode_frame(FrameType.SETTINGS, encode_uint_var(2) + encode_uint_var(0))],
        ("connection H3_SETTINGS_ERROR",),
    ),
}
# What is sent after the settings on the control stream; nothing is its end.
ON_CONTROL: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "6.2.1 the control stream is closed": (b"", ("connection H3_CLOSED_CRITICAL_STREAM",)),
    "7.2.1 DATA on the control stream": (encode_frame(FrameType.DATA, b"x"), (UNEXPECTED,)),
    "7.2.2 HEADERS on the control stream": (encode_frame(FrameType.HEADERS, b"\0\0"), (UNEXPECTED,)),
    "7.2.4 SETTINGS twice": (encode_frame(FrameType.SETTINGS, b""), (UNEXPECTED,)),
    "7.2.8 a frame of HTTP/2": (encode_frame(0x6, b"x" * 8), (UNEXPECTED,)),
}
# What is sent on the stream of a request; HEADERS stands for those of a good one.
ON_REQUEST: dict[str, tuple[list[bytes | str], tuple[str, ...]]] = {
    "4.1 DATA before HEADERS": ([encode_frame(FrameType.DATA, b"x")], (UNEXPECTED,)),
    "7.1 a frame that is cut short": ([encode_frame(FrameType.HEADERS, b"\0\0\xd1")[:-1]], ("connection H3_FRAME_ERROR",)),
    "7.2.4 SETTINGS on a stream of a request": ([encode_frame(FrameType.SETTINGS, b"")], (UNEXPECTED,)),
    "7.2.5 PUSH_PROMISE by a client": ([encode_frame(FrameType.PUSH_PROMISE, b"\0\0\0")], (UNEXPECTED,)),
    "9 an unknown frame is ignored": ([encode_frame(0x21, b"x"), "HEADERS"], ("200",)),
    "QPACK 2.2 an index beyond the table": (
        [encode_frame(FrameType.HEADERS, b"\0\0\xff\xff\x01")],
        ("connection QPACK_DECOMPRESSION_FAILED",),
    ),
}
REQUESTS: dict[str, list[tuple[str, str]]] = {
    "4.2 a name in upper case": request("GET", "/", ("X-Test", "ok")),
    "4.2 a field of the connection": request("GET", "/", ("connection", "keep-alive")),
    "4.3 an unknown pseudo-header": [*request(), (":test", "ok")],
    "4.3.1 no :path": request()[:3],
    "4.3.1 :method twice": [(":method", "GET"), *request()],
}
ALLOWED: dict[str, tuple[str, ...]] = {
    **{what: allowed for table in (STREAMS, ON_CONTROL, ON_REQUEST) for what, (_, allowed) in table.items()},
    **dict.fromkeys(REQUESTS, MALFORMED),
}
THE_STREAM = "the request fails, and the connection goes on"
ANOTHER_NAME = "the connection ends, by another name"
# What nginx does instead, and why it may stay.
DEVIATIONS: dict[str, tuple[str, str]] = {
    "4.1 DATA before HEADERS": ("stream H3_FRAME_UNEXPECTED", THE_STREAM),
    "4.2 a field of the connection": ("200", "it does not reach the application"),
    "6.2.3 a stream of an unknown type": ("connection H3_STREAM_CREATION_ERROR", "clients go on over HTTP/2"),
    "7.1 a frame that is cut short": ("stream H3_INTERNAL_ERROR", THE_STREAM),
    "7.2.1 DATA on the control stream": ("connection H3_CLOSED_CRITICAL_STREAM", ANOTHER_NAME),
    "7.2.2 HEADERS on the control stream": ("connection H3_CLOSED_CRITICAL_STREAM", ANOTHER_NAME),
    "7.2.4 SETTINGS on a stream of a request": ("stream H3_FRAME_UNEXPECTED", THE_STREAM),
    "7.2.4 SETTINGS twice": ("connection H3_CLOSED_CRITICAL_STREAM", ANOTHER_NAME),
    "7.2.4.1 a setting of HTTP/2": ("nothing", "it means nothing, as any that is not known"),
    "7.2.5 PUSH_PROMISE by a client": ("stream H3_FRAME_UNEXPECTED", THE_STREAM),
    "7.2.8 a frame of HTTP/2": ("connection H3_CLOSED_CRITICAL_STREAM", ANOTHER_NAME),
    "QPACK 2.2 an index beyond the table": ("stream QPACK_DECOMPRESSION_FAILED", THE_STREAM),
}


async def wrong(address: str, what: str) -> str:
    """What came of this: "connection CODE", "stream CODE", a status, or "nothing"."""
    async with connect(address, 443, configuration=configuration(), create_protocol=Client) as client:
        if what in STREAMS:
            for octets in STREAMS[what][0]:
                client.send(client._quic.get_next_available_stream_id(is_unidirectional=True), octets)
            return await client.outcome()
        client.http = http = H3Connection(client._quic)
        stream = client._quic.get_next_available_stream_id()
        if what in ON_CONTROL:
            octets = ON_CONTROL[what][0]
            client.send(http._local_control_stream_id, octets, end=not octets)
        elif what in ON_REQUEST:
            _, fields = http._encoder.encode(stream, [(name.encode(), value.encode()) for name, value in request()])
            headers = encode_frame(FrameType.HEADERS, fields)
            client.send(stream, b"".join(headers if isinstance(part, str) else part for part in ON_REQUEST[what][0]), end=True)
        else:
            client.ask(*REQUESTS[what])
        return await client.outcome()


class Asker(QuicConnectionProtocol):
    """A connection for many requests; what came of each is put into its future, a status and a body."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.answers: dict[int, tuple[asyncio.Future[tuple[str, bytes]], list[Any]]] = {}

    def end(self, stream: int, outcome: str | None = None) -> None:
        future, (status, body) = self.answers[stream]
        if not future.done():
            future.set_result((outcome or status, body))

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for stream in self.answers:
                self.end(stream, "closed")
        elif isinstance(event, StreamReset | StopSendingReceived) and event.stream_id in self.answers:
            self.end(event.stream_id, "reset")
        for part in self.http.handle_event(event):
            found = self.answers[part.stream_id][1]
            if isinstance(part, HeadersReceived):
                found[0] = dict(part.headers)[b":status"].decode()
            elif isinstance(part, DataReceived):
                found[1] += part.data
            if part.stream_ended:
                self.end(part.stream_id)

    def ask(self, path: str) -> asyncio.Future[tuple[str, bytes]]:
        stream = self._quic.get_next_available_stream_id()
        future: asyncio.Future[tuple[str, bytes]] = asyncio.get_running_loop().create_future()
        self.answers[stream] = (future, ["", b""])
        self.http.send_headers(stream, [(name.encode(), value.encode("latin-1")) for name, value in request(path=path)], end_stream=True)
        self.transmit()
        return future


async def ask_for(address: str, paths: list[str]) -> None:
    """Print what came of a request for each of the paths: a status, or how it ended, and the body."""
    found: list[tuple[str, bytes]] = []
    # Fewer than nginx lets one connection have at once.
    for start in range(0, len(paths), 100):
        async with connect(address, 443, configuration=configuration(), create_protocol=Asker) as client:
            found += await asyncio.wait_for(asyncio.gather(*(client.ask(path) for path in paths[start : start + 100])), 20)
    print(json.dumps([(status, body.decode("latin-1")) for status, body in found]))


async def main(address: str) -> None:
    found = await right(address)
    outcomes = dict(zip(ALLOWED, await asyncio.gather(*(wrong(address, what) for what in ALLOWED)), strict=True))
    found["checks"] = len(outcomes)
    found["wrong"] = {
        what: outcome
        for what, outcome in outcomes.items()
        if outcome not in ([DEVIATIONS[what][0]] if what in DEVIATIONS else ALLOWED[what])
    }
    print(json.dumps(found))


asyncio.run(ask_for(sys.argv[1], json.load(sys.stdin)) if sys.argv[2:] == ["paths"] else main(sys.argv[1]))
