"""What nginx makes of HTTP/2 that breaks the rules, or stretches them: a table of checks, by the sections of RFC 9113 and RFC 7541.

The client writes frames by hand, because a library would refuse to send most of these. Where nginx does something else than the RFC
asks for, DEVIATIONS says what and why it may stay.
"""

from __future__ import annotations

import json
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Client

SHOP = "shop.example"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
# Flags. END_STREAM and ACK are the same bit.
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
# RFC 9113, 7.
CODES = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
]
# The numbers of RFC 9113, 6.5.2.
TABLE_SIZE, ENABLE_PUSH, WINDOW, FRAME_SIZE = 1, 2, 4, 5
PROBE = b"the end."


def text(value: str) -> bytes:
    """A string of RFC 7541, 5.2, without Huffman's code."""
    length = len(value)
    if length < 127:
        return bytes([length]) + value.encode()
    length -= 127
    more = b""
    while length >= 128:
        more += bytes([length % 128 + 128])
        length //= 128
    return b"\x7f" + more + bytes([length]) + value.encode()


def fields(*pairs: tuple[str, str]) -> bytes:
    """A block of fields, each literal and never to be indexed (RFC 7541, 6.2.3)."""
    return b"".join(b"\x10" + text(name) + text(value) for name, value in pairs)


def request(method: str = "GET", path: str = "/", *more: tuple[str, str]) -> bytes:
    return fields((":method", method), (":scheme", "https"), (":path", path), (":authority", SHOP), *more)


def setting(number: int, value: int) -> bytes:
    return struct.pack(">HI", number, value)


GET, POST = request(), request("POST")


class Wire:
    """A connection on which frames of any form can be sent, and what came back on it."""

    def __init__(self, client: Client, preface: bytes = PREFACE) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        self.socket = client.tls(context)
        self.socket.settimeout(5)
        self.seen: list[tuple[int, int, int, bytes]] = []
        self.socket.sendall(preface)
        if preface == PREFACE:
            self.send(SETTINGS, 0, 0)

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.write(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def write(self, octets: bytes) -> None:
        # Whoever has been cut off is told so by what can be read.
        with suppress(OSError):
            self.socket.sendall(octets)

    def get(self, stream: int = 1, block: bytes = GET, flags: int = END_HEADERS | END_STREAM) -> None:
        self.send(HEADERS, flags, stream, block)

    def read(self, length: int) -> bytes:
        found = b""
        while len(found) < length:
            try:
                part = self.socket.recv(length - len(found))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError
            found += part
        return found

    def frame(self) -> tuple[int, int, int, bytes]:
        """The next frame: type, flags, stream, payload. Raises EOFError where the connection ends."""
        head = self.read(9)
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        self.seen.append((kind, flags, stream, self.read(int.from_bytes(head[:3], "big"))))
        return self.seen[-1]

    def outcome(self, awaited: int = 0) -> str:
        """What came of it: "connection CODE", "stream CODE", "closed", a status of the stream that is awaited, or "nothing".

        Frames are handled in their order, so that the answer to a last PING says that nothing has come of those before it.
        """
        if not awaited:
            self.send(PING, 0, 0, PROBE)
        try:
            while True:
                kind, flags, stream, payload = self.frame()
                if kind == GOAWAY:
                    return f"connection {CODES[struct.unpack('>I', payload[4:8])[0]]}"
                if kind == RST_STREAM:
                    return f"stream {CODES[struct.unpack('>I', payload)[0]]}"
                if kind == HEADERS and stream == awaited:
                    return status(payload)
                if kind == PING and flags & ACK and payload == PROBE:
                    return "nothing"
        except EOFError:
            return "closed"
        except TimeoutError:
            return "silence"

    def answers(self, kind: int) -> list[tuple[int, int, int, bytes]]:
        return [frame for frame in self.seen if frame[0] == kind]


def status(block: bytes) -> str:
    """The status in a block of fields from nginx: indexed (RFC 7541, appendix A) or in plain digits."""
    first = block.lstrip(b"\x20\x3f")
    indexed = {0x88: "200", 0x89: "204", 0x8A: "206", 0x8B: "304", 0x8C: "400", 0x8D: "404", 0x8E: "500"}
    return indexed.get(first[0]) or first[2:5].decode()


# What a check does, and what the RFC allows to come of it.
Act = Callable[[Wire], str]


@dataclass
class Check:
    section: str
    what: str
    act: Act
    allowed: set[str]


CHECKS: list[Check] = []


def check(section: str, what: str, *allowed: str) -> Callable[[Act], Act]:
    """Put a function into the table. An error of the connection may also be shown by closing it (5.4.1)."""

    def put(act: Act) -> Act:
        outcomes = set(allowed)
        for outcome in allowed:
            # A stream's error may be taken for the connection's (5.4.2).
            if outcome.startswith("stream "):
                outcomes.add(outcome.replace("stream", "connection"))
        if any(outcome.startswith(("connection ", "stream ")) for outcome in outcomes):
            outcomes.add("closed")
        CHECKS.append(Check(section, what, act, outcomes))
        return act

    return put


def frames(section: str, what: str, allowed: str | tuple[str, ...], *sent: tuple[int, int, int, bytes], awaited: int = 0) -> None:
    """A check that only sends frames, of type, flags, stream and payload."""

    def act(wire: Wire) -> str:
        for frame in sent:
            wire.send(*frame)
        return wire.outcome(awaited)

    check(section, what, *([allowed] if isinstance(allowed, str) else allowed))(act)


OPEN = (HEADERS, END_HEADERS, 1, POST)
GET_WITH_BODY = (HEADERS, END_HEADERS, 1, GET)
WHOLE = (HEADERS, END_HEADERS | END_STREAM, 1, GET)
# A client that takes nothing keeps the stream half-closed: its answer cannot be finished.
NO_WINDOW = (SETTINGS, 0, 0, setting(WINDOW, 0))
BAD = "connection PROTOCOL_ERROR"
SIZE = "connection FRAME_SIZE_ERROR"
HPACK = "connection COMPRESSION_ERROR"
# A request that is malformed may also be answered (8.1.1).
MALFORMED = ("stream PROTOCOL_ERROR", "400")

# 4: frames
frames("4.1", "a frame of an unknown type is ignored", "nothing", (0x16, 0, 0, b"x" * 8))
frames("4.1", "unknown flags are ignored", "nothing", (PING, 0x16, 0, b"x" * 8))
frames("4.1", "the reserved bit is ignored", "nothing", (PING, 0, 1 << 31, b"x" * 8))
frames("4.2", "DATA larger than SETTINGS_MAX_FRAME_SIZE", "stream FRAME_SIZE_ERROR", OPEN, (DATA, END_STREAM, 1, b"x" * 16385))
frames("4.2", "HEADERS larger than SETTINGS_MAX_FRAME_SIZE", SIZE, (HEADERS, 5, 1, GET + fields(("x", "y" * 16384))))
frames("4.3", "a field block that cannot be decoded", HPACK, (HEADERS, 5, 1, b"\x40"))
frames("4.3", "PRIORITY in the middle of a field block", BAD, (HEADERS, END_STREAM, 1, GET[:9]), (PRIORITY, 0, 1, b"\0\0\0\0\1"))
frames("4.3", "HEADERS of another stream in the middle of one", BAD, (HEADERS, END_STREAM, 1, GET[:9]), (HEADERS, 5, 3, GET))

# 5: streams
frames("5.1", "idle: DATA", BAD, (DATA, END_STREAM, 1, b"x"))
frames("5.1", "idle: RST_STREAM", BAD, (RST_STREAM, 0, 1, b"\0\0\0\x08"))
frames("5.1", "idle: WINDOW_UPDATE", BAD, (WINDOW_UPDATE, 0, 1, b"\0\0\0\x64"))
frames("5.1", "idle: CONTINUATION", BAD, (CONTINUATION, END_HEADERS, 1, GET))
frames("5.1", "half-closed: DATA", ("stream STREAM_CLOSED",), NO_WINDOW, WHOLE, (DATA, END_STREAM, 1, b"x"))
frames("5.1", "half-closed: HEADERS", ("stream STREAM_CLOSED", BAD), NO_WINDOW, WHOLE, WHOLE)
frames("5.1", "half-closed: CONTINUATION", ("stream STREAM_CLOSED", BAD), NO_WINDOW, WHOLE, (CONTINUATION, 4, 1, GET))
frames("5.1", "closed: DATA", ("stream STREAM_CLOSED", "nothing"), OPEN, (RST_STREAM, 0, 1, b"\0\0\0\x08"), (DATA, 1, 1, b"x"))
frames("5.1", "closed: HEADERS", ("stream STREAM_CLOSED", BAD, "nothing"), OPEN, (RST_STREAM, 0, 1, b"\0\0\0\x08"), WHOLE)
frames("5.1", "closed: CONTINUATION", ("stream STREAM_CLOSED", BAD), OPEN, (RST_STREAM, 0, 1, b"\0\0\0\x08"), (CONTINUATION, 4, 1, GET))
frames("5.1.1", "a stream with an even number", BAD, (HEADERS, 5, 2, GET))
frames("5.1.1", "a stream with a number that has been passed", (BAD, "stream STREAM_CLOSED"), (HEADERS, 5, 5, GET), (HEADERS, 5, 3, GET))
frames("5.5", "an unknown frame in the middle of a field block", BAD, (HEADERS, END_STREAM, 1, GET[:9]), (0x16, 0, 0, b"x"))


@check("5.1.2", "more streams at once than were allowed", "stream REFUSED_STREAM", BAD)
def too_many_streams(wire: Wire) -> str:
    for stream in range(1, 2 * 129 + 1, 2):
        wire.get(stream, POST, END_HEADERS)
    return wire.outcome()


# 6: each type of frame
frames("6.1", "DATA of no stream", BAD, (DATA, END_STREAM, 0, b"x"))
frames("6.1", "DATA that is padded beyond its end", BAD, OPEN, (DATA, END_STREAM | PADDED, 1, b"\x06xxxx"))
frames("6.1", "DATA that is padded, with room for the padding", "200", GET_WITH_BODY, (DATA, 9, 1, b"\x02xx\0\0"), awaited=1)
frames("6.2", "HEADERS of no stream", BAD, (HEADERS, 5, 0, GET))
frames("6.2", "HEADERS that are padded beyond their end", (BAD, SIZE), (HEADERS, 5 | PADDED, 1, b"\xff" + GET))
frames("6.2", "HEADERS that are padded, with room for the padding", "200", (HEADERS, 5 | PADDED, 1, b"\x02" + GET + b"\0\0"), awaited=1)
frames("6.3", "PRIORITY of no stream", BAD, (PRIORITY, 0, 0, b"\0\0\0\0\1"))
frames("6.3", "PRIORITY of a wrong length", "stream FRAME_SIZE_ERROR", OPEN, (PRIORITY, 0, 1, b"\0\0\0\1"))
frames("6.4", "RST_STREAM of no stream", BAD, (RST_STREAM, 0, 0, b"\0\0\0\x08"))
frames("6.4", "RST_STREAM of a wrong length", SIZE, OPEN, (RST_STREAM, 0, 1, b"\0\0\x08"))
frames("6.5", "an ACK of SETTINGS that has settings", SIZE, (SETTINGS, ACK, 0, b"\0"))
frames("6.5", "SETTINGS of a stream", BAD, (SETTINGS, 0, 1, setting(3, 100)))
frames("6.5", "SETTINGS of a wrong length", SIZE, (SETTINGS, 0, 0, b"\0\3\0\0\0"))
frames("6.5.2", "SETTINGS_ENABLE_PUSH that is neither 0 nor 1", BAD, (SETTINGS, 0, 0, setting(ENABLE_PUSH, 2)))
frames("6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1", "connection FLOW_CONTROL_ERROR", (SETTINGS, 0, 0, setting(WINDOW, 1 << 31)))
frames("6.5.2", "SETTINGS_MAX_FRAME_SIZE below 2^14", BAD, (SETTINGS, 0, 0, setting(FRAME_SIZE, 16383)))
frames("6.5.2", "SETTINGS_MAX_FRAME_SIZE above 2^24-1", BAD, (SETTINGS, 0, 0, setting(FRAME_SIZE, 1 << 24)))
frames("6.5.2", "an unknown setting is ignored", "nothing", (SETTINGS, 0, 0, setting(0xFF, 1)))
frames("6.6", "PUSH_PROMISE by a client", BAD, OPEN, (PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + GET))
frames("6.7", "an ACK of a PING that nobody sent", "nothing", (PING, ACK, 0, b"invalid."))
frames("6.7", "PING of a stream", BAD, (PING, 0, 1, b"x" * 8))
frames("6.7", "PING of a wrong length", SIZE, (PING, 0, 0, b"x" * 6))
frames("6.8", "GOAWAY of a stream", BAD, (GOAWAY, 0, 1, bytes(8)))
frames("6.9", "WINDOW_UPDATE by nothing", BAD, (WINDOW_UPDATE, 0, 0, bytes(4)))
frames("6.9", "WINDOW_UPDATE of a stream by nothing", "stream PROTOCOL_ERROR", OPEN, (WINDOW_UPDATE, 0, 1, bytes(4)))
frames("6.9", "WINDOW_UPDATE of a wrong length", SIZE, (WINDOW_UPDATE, 0, 0, b"\0\0\1"))
WIDE = b"\x7f\xff\xff\xff"
frames("6.9.1", "the connection's window above 2^31-1", "connection FLOW_CONTROL_ERROR", (WINDOW_UPDATE, 0, 0, WIDE))
frames("6.9.1", "a stream's window above 2^31-1", "stream FLOW_CONTROL_ERROR", OPEN, (WINDOW_UPDATE, 0, 1, WIDE))
frames(
    "6.9.2",
    "SETTINGS_INITIAL_WINDOW_SIZE that lifts a stream's window above 2^31-1",
    ("connection FLOW_CONTROL_ERROR", "stream FLOW_CONTROL_ERROR"),
    OPEN,
    (WINDOW_UPDATE, 0, 1, b"\x7f\xff\0\0"),
    (SETTINGS, 0, 0, setting(WINDOW, 0x7FFFFFFF)),
)
FIRST = (HEADERS, END_STREAM, 1, GET[:9])
frames("6.10", "several CONTINUATIONs", "200", FIRST, (CONTINUATION, 0, 1, GET[9:20]), (CONTINUATION, 4, 1, GET[20:]), awaited=1)
frames("6.10", "CONTINUATION of no stream", BAD, FIRST, (CONTINUATION, END_HEADERS, 0, GET[9:]))
frames("6.10", "CONTINUATION after the end of the fields", (BAD, "stream STREAM_CLOSED"), OPEN, (CONTINUATION, END_HEADERS, 1, GET))
frames("6.10", "CONTINUATION after DATA", (BAD, "stream STREAM_CLOSED"), OPEN, (DATA, 0, 1, b"x"), (CONTINUATION, END_HEADERS, 1, GET))


@check("6.5.3", "SETTINGS are acknowledged", "acknowledged")
def settings_acknowledged(wire: Wire) -> str:
    wire.outcome()
    return "acknowledged" if (SETTINGS, ACK, 0, b"") in wire.seen else str(wire.seen)


@check("6.7", "a PING is answered with the same octets", "answered")
def ping_answered(wire: Wire) -> str:
    wire.outcome()
    return "answered" if (PING, ACK, 0, PROBE) in wire.seen else str(wire.seen)


@check("6.9.1", "no more is sent than the window has room for", "1 octet, then the rest")
def small_window(wire: Wire) -> str:
    wire.send(SETTINGS, 0, 0, setting(WINDOW, 1))
    wire.get()
    while not wire.answers(DATA):
        wire.frame()
    wire.outcome()
    sent = [len(frame[3]) for frame in wire.answers(DATA)]
    wire.send(WINDOW_UPDATE, 0, 1, b"\0\0\x7f\xff")
    while not wire.seen[-1][1] & END_STREAM or wire.seen[-1][0] != DATA:
        wire.frame()
    return "1 octet, then the rest" if sent == [1] else f"{sent}"


@check("6.9.2", "a window that shrinks below nothing", "nothing, then the rest")
def negative_window(wire: Wire) -> str:
    wire.send(SETTINGS, 0, 0, setting(WINDOW, 3))
    wire.get()
    while not wire.answers(DATA):
        wire.frame()
    wire.send(SETTINGS, 0, 0, setting(WINDOW, 2))
    wire.send(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")
    wire.outcome()
    sent = sum(len(frame[3]) for frame in wire.answers(DATA))
    wire.send(WINDOW_UPDATE, 0, 1, b"\0\0\x7f\xff")
    while not wire.seen[-1][1] & END_STREAM or wire.seen[-1][0] != DATA:
        wire.frame()
    return "nothing, then the rest" if sent == 3 else f"{sent}"


# 8: requests
TRAILER = (HEADERS, END_HEADERS | END_STREAM, 1)
frames("8.1", "a second block of fields that does not end the stream", "stream PROTOCOL_ERROR", OPEN, (HEADERS, END_HEADERS, 1, GET))
frames("8.1", "a pseudo-header in a trailer", MALFORMED, OPEN, (DATA, 0, 1, b"x"), (*TRAILER, fields((":method", "GET"))))
frames("8.1", "a trailer", "200", GET_WITH_BODY, (DATA, 0, 1, b"x"), (*TRAILER, fields(("x-sum", "1"))), awaited=1)
REQUESTS: list[tuple[str, str, bytes]] = [
    ("8.2.1", "a name in upper case", request("GET", "/", ("X-Test", "ok"))),
    ("8.2.1", "a name with a blank", request("GET", "/", ("x test", "ok"))),
    ("8.2.1", "a value with a line feed", request("GET", "/", ("x-test", "a\nb: c"))),
    ("8.2.1", "a value with a NUL", request("GET", "/", ("x-test", "a\0b"))),
    ("8.2.2", "a field of the connection", request("GET", "/", ("connection", "keep-alive"))),
    ("8.2.2", "transfer-encoding", request("GET", "/", ("transfer-encoding", "chunked"))),
    ("8.2.2", "TE that is not trailers", request("GET", "/", ("te", "trailers, deflate"))),
    ("8.3", "an unknown pseudo-header", request("GET", "/", (":test", "ok"))),
    ("8.3", "a pseudo-header of answers", request("GET", "/", (":status", "200"))),
    ("8.3", "a pseudo-header after another field", fields(("x", "y")) + GET),
    ("8.3.1", "an empty :path", request("GET", "")),
    ("8.3.1", "a :path without a slash", request("GET", "x")),
    ("8.3.1", "no :method", fields((":scheme", "https"), (":path", "/"), (":authority", SHOP))),
    ("8.3.1", "no :scheme", fields((":method", "GET"), (":path", "/"), (":authority", SHOP))),
    ("8.3.1", "no :path", fields((":method", "GET"), (":scheme", "https"), (":authority", SHOP))),
    ("8.3.1", "no :authority and no host", fields((":method", "GET"), (":scheme", "https"), (":path", "/"))),
    ("8.3.1", ":method twice", fields((":method", "GET")) + GET),
    ("8.3.1", ":scheme twice", fields((":scheme", "https")) + GET),
    ("8.3.1", ":path twice", fields((":path", "/")) + GET),
    ("8.3.1", ":authority twice", fields((":authority", SHOP)) + GET),
    ("8.3.1", "a host that is not the :authority", request("GET", "/", ("host", "other.example"))),
]
for number, name, fields_sent in REQUESTS:
    frames(number, name, MALFORMED, (HEADERS, END_HEADERS | END_STREAM, 1, fields_sent), awaited=1)
LONG = request("POST", "/", ("content-length", "2"))
frames("8.1.1", "less DATA than content-length", MALFORMED, (HEADERS, 4, 1, LONG), (DATA, END_STREAM, 1, b"x"), awaited=1)
frames(
    "8.1.1", "more DATA than content-length", MALFORMED, (HEADERS, 4, 1, LONG), (DATA, 0, 1, b"xx"), (DATA, END_STREAM, 1, b"x"), awaited=1
)

# RFC 7541
for number, name, block in [
    ("HPACK 2.3.3", "an index beyond the table", b"\xc6"),
    ("HPACK 2.3.3", "a name by an index beyond the table", b"\x0f\x60" + text("x")),
    ("HPACK 4.2", "a new size of the table at the end of a block", GET + b"\x20"),
    ("HPACK 5.1", "a number without an end", b"\xff" + b"\xff" * 16),
    ("HPACK 5.2", "padding that is longer than seven bits", request() + b"\x00\x01x\x82\xff\xff"),
    ("HPACK 5.2", "padding with zeros", request() + b"\x00\x01x\x81\x00"),
    ("HPACK 5.2", "the end of a string in the middle of it", request() + b"\x00\x01x\x84\xff\xff\xff\xff"),
    ("HPACK 6.1", "index 0", request() + b"\x80"),
    ("HPACK 6.3", "a table larger than was allowed", b"\x3f\xe2\x1f" + GET),
]:
    frames(number, name, HPACK, (HEADERS, END_HEADERS | END_STREAM, 1, block))


# Floods. Each has an end: it is counted what nginx puts up with before it closes the connection.
def flood(section: str, what: str, most: int, batch: Callable[[int], bytes]) -> None:
    """A check that sends batch after batch until nginx has enough, at the latest after `most`."""

    def act(wire: Wire) -> str:
        wire.socket.settimeout(0.01)
        for number in range(most):
            wire.write(batch(number))
            try:
                while True:
                    if wire.frame()[0] == GOAWAY:
                        return "closed"
            except TimeoutError:
                continue
            except EOFError:
                return "closed"
        return f"{most} were taken"

    check(section, what, "closed")(act)


def packed(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def many_continuations(number: int) -> bytes:
    return (packed(HEADERS, END_STREAM, 1, GET) if number == 0 else b"") + packed(CONTINUATION, 0, 1, fields(("x", "y"))) * 1000


def many_resets(number: int) -> bytes:
    streams = range(200 * number + 1, 200 * (number + 1), 2)
    return b"".join(packed(HEADERS, 5, stream, GET) + packed(RST_STREAM, 0, stream, b"\0\0\0\x08") for stream in streams)


flood("10.5", "CONTINUATION without an end (CVE-2024-27983)", 100, many_continuations)
flood("10.5", "rapid reset (CVE-2023-44487)", 100, many_resets)
flood("10.5", "SETTINGS (CVE-2019-9515)", 300, lambda _: packed(SETTINGS, 0, 0, setting(3, 100)) * 5000)
flood("10.5", "PING (CVE-2019-9512)", 300, lambda _: packed(PING, 0, 0, b"x" * 8) * 5000)
flood(
    "10.5",
    "empty DATA (CVE-2019-9518)",
    300,
    lambda number: (packed(*OPEN) if number == 0 else b"") + packed(DATA, 0, 1, b"") * 5000,
)
flood(
    "10.5",
    "PRIORITY (CVE-2019-9513)",
    300,
    lambda number: (packed(*OPEN) if number == 0 else b"") + packed(PRIORITY, 0, 1, b"\0\0\0\0\1") * 5000,
)

IDLE = "a frame for a stream that is not there does nothing"
PASSES = "it is not handed on: see test_fields_of_the_connection_do_not_reach_the_application"
LENIENT = "the fields are read as they are meant, and the octets do not change what comes after"
# What nginx does instead, and why it may stay: by section and check.
DEVIATIONS: dict[tuple[str, str], tuple[set[str], str]] = {
    ("4.2", "DATA larger than SETTINGS_MAX_FRAME_SIZE"): (
        {"nothing", "stream NO_ERROR"},
        "a body is read in parts of its own size, within client_max_body_size, whatever frames it came in",
    ),
    ("4.2", "HEADERS larger than SETTINGS_MAX_FRAME_SIZE"): (
        {"connection ENHANCE_YOUR_CALM"},
        "the fields are beyond large_client_header_buffers before the frame is beyond its size",
    ),
    ("4.3", "a field block that cannot be decoded"): ({"connection FRAME_SIZE_ERROR"}, "the same by another name: it ends too early"),
    ("5.1", "idle: DATA"): ({"nothing"}, IDLE),
    ("5.1", "idle: RST_STREAM"): ({"nothing"}, IDLE),
    ("5.1", "idle: WINDOW_UPDATE"): ({"nothing"}, IDLE),
    ("8.1", "a trailer"): ({"connection PROTOCOL_ERROR"}, "nginx takes no trailers in requests over HTTP/2"),
    ("8.2.2", "a field of the connection"): ({"200"}, PASSES),
    ("8.2.2", "transfer-encoding"): ({"200"}, PASSES),
    ("8.2.2", "TE that is not trailers"): ({"200"}, PASSES),
    ("8.3", "a pseudo-header after another field"): ({"200"}, "each may be there only once, so that its place means nothing"),
    ("HPACK 4.2", "a new size of the table at the end of a block"): ({"nothing"}, LENIENT),
    ("HPACK 5.2", "padding that is longer than seven bits"): ({"nothing"}, LENIENT),
}


def name_of(entry: Check) -> str:
    return f"{entry.section} {entry.what}".replace("::", ":")


@pytest.fixture
def wire(client: Client) -> Iterator[Wire]:
    wire = Wire(client)
    yield wire
    wire.socket.close()


@pytest.mark.parametrize("entry", CHECKS, ids=name_of)
def test_check(client: Client, wire: Wire, entry: Check) -> None:
    outcome = entry.act(wire)
    instead, _ = DEVIATIONS.get((entry.section, entry.what), (set(), ""))
    # One that nginx has mended belongs out of the table.
    assert outcome in (instead or entry.allowed)
    # Whatever it was, the others are served.
    assert client.ask("/").status == 200


def test_each_deviation_is_one() -> None:
    allowed = {(entry.section, entry.what): entry.allowed for entry in CHECKS}
    assert len(allowed) == len(CHECKS)
    for key, (instead, _) in DEVIATIONS.items():
        assert not instead & allowed[key], key


def test_fields_of_the_connection_do_not_reach_the_application(wire: Wire) -> None:
    sent = [("connection", "keep-alive"), ("transfer-encoding", "chunked"), ("te", "trailers, deflate"), ("upgrade", "h2c")]
    wire.get(1, request("GET", "/", *sent))
    while not any(flags & END_STREAM for kind, flags, _, _ in wire.seen if kind == DATA):
        wire.frame()
    seen = dict(json.loads(b"".join(payload for kind, _, _, payload in wire.seen if kind == DATA)))
    assert seen["connection"] == "close"
    assert not {"transfer-encoding", "te", "upgrade"} & set(seen)


def test_a_preface_that_is_none(client: Client) -> None:
    """RFC 9113, 3.4."""
    wire = Wire(client, b"INVALID CONNECTION PREFACE\r\n\r\n")
    assert wire.outcome() in {"closed", BAD}
    wire.socket.close()


def test_the_settings_come_first(wire: Wire) -> None:
    """RFC 9113, 3.4: the server's preface."""
    assert wire.frame()[0] == SETTINGS
