"""No way of writing a path gets a request past the rules of a location.

Each path of GUARDED is written in each of WAYS and asked for over HTTP/1.1, HTTP/2 and HTTP/3. What reaches the application has to be what
the client wrote, and the path that the application makes of it must not be one that a rule is for.
"""

from __future__ import annotations

import json
import posixpath
import re
import ssl
import struct
import subprocess
from collections.abc import Iterable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import pytest

if TYPE_CHECKING:
    from .conftest import Client

SHOP = "shop.example"
# See converge.yml; the last two are nginx's own.
GUARDED = {
    "closed": "/metrics",
    "closed folder": "/internal/",
    "allow": "/office",
    "auth_file": "/desk",
    "exact": "/limited",
    "open below closed": "/metrics/public",
    "static": "/papers/plan.txt",
    "fallback": "/.asgi-fallback/papers/plan.txt",
    "error page": "/.asgi-errors/403",
}
SECRET = b"not for you"

# {t} is the path, {u} without its slash at the beginning, {e} with its second letter encoded, {d} with that encoded twice, {U} in upper
# case, {s} with its slashes encoded.
WAYS = [
    "{t}",
    "{t}/",
    "{t}/x",
    "{t}?x",
    "{t}?/..",
    # nginx takes the last segment away, and the application does not.
    "{t}/..",
    "{t}/../",
    "{t}/../x",
    "{t}/x/../..",
    "{t}/x/../../x",
    "{t}/../../..",
    "{t}/../..{t}",
    "{t}/..?x",
    "{t}/..#x",
    "{t}/%2e%2e",
    "{t}/%2E%2E/",
    "{t}/.%2e/x",
    "{t}/%2e./x",
    "{t}%2f..",
    "{t}%2F..%2Fx",
    "{t}%2f%2e%2e%2f",
    "{t}/..%2f",
    "{t}/..%5c",
    "{t}/..\\x",
    "{t}/..;/x",
    "{t}/..%00/x",
    "{t}/..%3f",
    "{t}/..%23",
    "{t}/x/%2e%2e/%2e%2e/x",
    "{s}",
    "{s}%2f..",
    # nginx gets to the path, and the application to another; or the other way round.
    "/x/..{t}",
    "/x/%2e%2e{t}",
    "/x/..%2f{u}",
    "/.{t}",
    "/%2e{t}",
    "/./{u}/.",
    "{t}/.",
    "{t}/%2e",
    "/..{t}",
    "/{t}",
    "//{t}",
    "/%2f{u}",
    "/%2F{t}",
    "%2f{u}",
    "{t}//",
    "{t}//x",
    "{t}%2f%2f",
    "/x//..{t}",
    "/x{t}",
    "/x/{t}",
    "{e}",
    "{d}",
    "{U}",
    # What ends a path somewhere.
    "{t}%00",
    "{t}%00.html",
    "{t}%3f",
    "{t}%3Fx=1",
    "{t}%23",
    "{t}%23x",
    "{t}#",
    "{t}#x",
    "{t};x",
    "{t};x=1/y",
    "{t}%3bx",
    "{t}%20",
    "{t}%09",
    "{t}%0a",
    "{t}%0d%0aX:%20y",
    "{t}%7f",
    "{t}.",
    "{t}..",
    "{t}.html",
    "{t}%2e",
    "{t}%",
    "{t}%zz",
    "{t}%c0%ae",
    "/x/%c0%ae%c0%ae{t}",
    "{t}/%e0%80%ae%e0%80%ae/x",
    "/x/%252e%252e{t}",
    "{t}/%252e%252e",
    "/x%252f..%252f{u}",
    "/%u002e{t}",
    "\\{u}",
    "/\\{u}",
    "/x\\..\\{u}",
    "/%5c{u}",
    "{u}",
    "*{t}",
    "*",
    "?{t}",
    "#{t}",
    " {t}",
    "{t} x",
    "{t}\tx",
    "/\t{u}",
    "/%09{u}",
    "http://shop.example{t}",
    "https://shop.example{t}/..",
    "HTTP://SHOP.EXAMPLE{t}",
    "http://other.example{t}",
    "http://user@shop.example{t}",
    "http:{t}",
    "http:/{t}",
    "//shop.example{t}",
    "shop.example:443",
    "http://shop.example?{t}",
    "http://shop.example",
]
# What has to reach the application as it is written.
LEGITIMATE = [
    "/",
    "/a",
    "/a/",
    "/a/b.c/d",
    "/a%20b",
    "/a+b%2Bc",
    "/key/a%2Fb%2fc",
    "/key%2Fa",
    "/~user/:id/@name",
    "/a;v=1;w=2/b;c",
    "/a,b=c&d!e$f'g(h)*i",
    "/%E2%82%AC/%C3%BC",
    "/%F0%9F%98%80",
    "/%61%62",
    "/100%25",
    "/a%252Fb",
    "/a%3Fb%23c",
    "/a%5Cb",
    "/a%22%3C%3E%7B%7D%7C%5E%60",
    "/..a/a../...",
    "/.well-known/security.txt",
    "/a/.b/..c",
    "/%2e%2ea",
    "/fetch/https://host/x//y",
    "/a/b//c",
    "/a/b///",
    "/a?",
    "/a??",
    "/a?b=../..&c=//&d=%2e%2e/%00%0a",
    "/a?/../metrics",
    "/a?b#c",
    "/a?q=%20+%2B&r=a%2Fb;c",
    "/metric",
    "/Metrics",
    "/x/metrics",
    "/metrics/public",
    "/metrics/public/a%2Fb",
    "/limited/else",
    "/events/a%20b",
    "/" + "a" * 4000,
    "/" + "a/" * 2000,
    "/" + "%41" * 1500,
    "/a?" + "b" * 4000,
]


class Answer(NamedTuple):
    """The status, or what ended the request otherwise; and the body."""

    status: str
    body: bytes = b""


def ways(path: str) -> list[str]:
    parts = {
        "t": path,
        "u": path[1:],
        "e": f"/%{ord(path[1]):02x}{path[2:]}",
        "d": f"/%25{ord(path[1]):02x}{path[2:]}",
        "U": path.upper(),
        "s": "/" + path[1:].replace("/", "%2f"),
    }
    return list(dict.fromkeys(way.format(**parts) for way in WAYS))


def understood(path: str) -> set[str]:
    """What a framework may make of scope["path"]: Litestar joins slashes and drops the last, others take the path out of a URL."""
    found = {path}
    for change in (
        lambda path: re.sub("//+", "/", path),
        lambda path: path.rstrip("/"),
        lambda path: re.split("[?#;]", path)[0],
        lambda path: re.sub(r"[\t\r\n]", "", path),
        posixpath.normpath,
    ):
        found |= {change(each) or "/" for each in found}
    return found


def guarded(path: str) -> bool:
    if path.startswith("/metrics/public"):
        return False
    return path in {"/internal", "/limited", "/limited/"} or path.startswith(("/metrics", "/internal/", "/office", "/desk"))


def reached(answer: Answer) -> str | None:
    """The target that reached the application, nothing if none did."""
    if answer.status != "200" or not answer.body.startswith(b"[["):
        return None
    return str(dict(json.loads(answer.body))[":target"])


def over_http1(client: Client, targets: Iterable[str]) -> Iterator[Answer]:
    tls = client.tls()
    for target in targets:
        tls.sendall(f"GET {target} HTTP/1.1\r\nHost: {SHOP}\r\n\r\n".encode("latin-1"))
        with HTTPResponse(tls) as response:
            response.begin()
            yield Answer(str(response.status), response.read())
            if response.will_close:
                tls.close()
                tls = client.tls()
    tls.close()


def text(value: str) -> bytes:
    """A string of RFC 7541, 5.2: its length, then its octets."""
    octets, more = value.encode("latin-1"), b""
    if len(octets) < 127:
        return bytes([len(octets)]) + octets
    rest = len(octets) - 127
    while rest >= 128:
        more += bytes([rest % 128 + 128])
        rest //= 128
    return b"\x7f" + more + bytes([rest]) + octets


class Http2:
    """One connection. Fields are written by hand, since a library would not send most of these paths."""

    def __init__(self, client: Client) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        self.socket = client.tls(context)
        self.file = self.socket.makefile("rb")
        self.stream = -1
        # SETTINGS, and a window that is never full.
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(4, 0, 0) + self.frame(8, 0, 0, struct.pack(">I", 2**30)))

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def ask(self, target: str) -> Answer:
        """Raises EOFError where the connection ends without an answer."""
        self.stream += 2
        pairs = {":method": "GET", ":scheme": "https", ":path": target, ":authority": SHOP}
        block = b"".join(b"\x10" + text(name) + text(value) for name, value in pairs.items())
        self.socket.sendall(self.frame(1, 5, self.stream, block))
        status, body = "", b""
        while True:
            head = self.file.read(9)
            if len(head) < 9:
                raise EOFError
            length, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
            payload = self.file.read(length)
            if stream != self.stream:
                continue
            if kind == 3:
                return Answer("reset")
            if kind == 1:
                field = payload.lstrip(b"\x20\x3f")
                # 200, 204, 206, 304, 400, 404 and 500 have numbers (RFC 7541, appendix A).
                status = {0x88: "200", 0x8C: "400", 0x8D: "404", 0x8E: "500"}.get(field[0]) or field[2:5].decode("latin-1")
            if kind == 0:
                body += payload
            if kind in {0, 1} and flags & 1:
                return Answer(status, body)


def over_http2(client: Client, targets: Iterable[str]) -> Iterator[Answer]:
    connection = Http2(client)
    for target in targets:
        try:
            answer = connection.ask(target)
        except (EOFError, OSError):
            answer = Answer("closed")
        # nginx ends a connection after a thousand requests.
        if answer.status == "closed" or connection.stream > 1500:
            connection.close()
            connection = Http2(client)
        yield answer
    connection.close()


def over_http3(client: Client, targets: Iterable[str]) -> Iterator[Answer]:
    program = ["uv", "run", "--no-project", "--quiet", "--with", "aioquic==1.7.2", "python", Path(__file__).with_name("http3.py")]
    done = subprocess.run(
        [*program, client.address, "paths"], input=json.dumps(list(targets)), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for status, body in json.loads(done.stdout):
        yield Answer(status, body.encode())


OVER = {"HTTP/1.1": over_http1, "HTTP/2": over_http2, "HTTP/3": over_http3}


# The older nginx has no HTTP/3.
VERSIONS = [pytest.param(version, marks=[pytest.mark.once] if version == "HTTP/3" else []) for version in OVER]


def bypasses(target: str, answer: Answer) -> list[str]:
    """What is wrong with this answer."""
    found = []
    if SECRET in answer.body:
        found.append(f"{target!r} got what is not for us")
    seen = reached(answer)
    if seen is not None:
        # nginx takes more than one space between the method and the target.
        written = re.sub("^https?://[^/?]*", "", target.lstrip(" "), flags=re.IGNORECASE)
        written = written if written.startswith("/") else f"/{written}"
        if seen != written:
            found.append(f"{target!r} reached the application as {seen!r}")
        # As uvicorn, gunicorn and hypercorn make scope["path"] of it.
        path = unquote(seen.partition("?")[0])
        found += [f"{target!r} reached the application, for which it is {each!r}" for each in sorted(understood(path)) if guarded(each)]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_no_way_past_a_location(client: Client, version: str) -> None:
    """Whoever is let in by no rule gets nowhere, however the path is written."""
    assert len(WAYS) > 60
    targets = [target for path in GUARDED.values() for target in ways(path)]
    answers = list(OVER[version](client, targets))
    assert len(answers) == len(targets)
    problems = [problem for target, answer in zip(targets, answers, strict=True) for problem in bypasses(target, answer)]
    assert not problems, "\n".join(problems)
    # Those that nobody writes in good faith are answered, and not by the application.
    odd = {
        target: answer.status for target, answer in zip(targets, answers, strict=True) if re.search(r"/\.\.(/|$)", target.partition("?")[0])
    }
    assert set(odd.values()) <= {"400", "404", "reset", "closed"}, odd


CLOSE = "Connection: close\r\n\r\n"
# Other ways to ask for a path that is closed, which HTTP/1.1 has.
REQUESTS = {
    "upper case": f"GET /metrics HTTP/1.1\r\nHost: SHOP.EXAMPLE\r\n{CLOSE}",
    "a trailing dot": f"GET /metrics HTTP/1.1\r\nHost: shop.example.\r\n{CLOSE}",
    "a port": f"GET /metrics HTTP/1.1\r\nHost: shop.example:8443\r\n{CLOSE}",
    "a host in the target": f"GET https://shop.example/metrics HTTP/1.1\r\nHost: unknown.example\r\n{CLOSE}",
    "another host in the target": f"GET https://unknown.example/metrics HTTP/1.1\r\nHost: {SHOP}\r\n{CLOSE}",
    "another site's host": f"GET /metrics HTTP/1.1\r\nHost: www.shop.example\r\n{CLOSE}",
    "an unknown host": f"GET /metrics HTTP/1.1\r\nHost: unknown.example\r\n{CLOSE}",
    "no host": "GET /metrics HTTP/1.0\r\n\r\n",
    "two hosts": f"GET /metrics HTTP/1.1\r\nHost: {SHOP}\r\nHost: unknown.example\r\n{CLOSE}",
    "HTTP/0.9": "GET /metrics\r\n",
    "HTTP/2.0 on HTTP/1.1": f"GET /metrics HTTP/2.0\r\nHost: {SHOP}\r\n{CLOSE}",
    "a line before": f"\r\nGET /metrics HTTP/1.1\r\nHost: {SHOP}\r\n{CLOSE}",
    "line feeds": f"GET /metrics HTTP/1.1\nHost: {SHOP}\nConnection: close\n\n",
    "the second of two": f"GET /missing HTTP/1.1\r\nHost: {SHOP}\r\n\r\nGET /metrics HTTP/1.1\r\nHost: {SHOP}\r\n{CLOSE}",
    "a method of its own": f"PURGE /metrics HTTP/1.1\r\nHost: {SHOP}\r\n{CLOSE}",
    "a websocket": f"GET /metrics HTTP/1.1\r\nHost: {SHOP}\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n",
    "CONNECT": f"CONNECT {SHOP}:443 HTTP/1.1\r\nHost: {SHOP}\r\n{CLOSE}",
    "a header with the path": f"GET / HTTP/1.1\r\nHost: {SHOP}\r\nX-Original-URL: /metrics\r\nX-Rewrite-URL: /metrics\r\n{CLOSE}",
}


@pytest.mark.parametrize("name", [SHOP, "www.shop.example", None], ids=["the site", "another name", "no name"])
def test_no_request_gets_past_a_closed_path(client: Client, name: str | None) -> None:
    """Whichever site the handshake was with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for request in REQUESTS.values():
        with context.wrap_socket(client.tcp(443), server_hostname=name) as tls:
            tls.sendall(request.encode())
            said = b"".join(iter(lambda tls=tls: tls.recv(65536), b""))  # type: ignore[misc]
        assert b'"/metrics"' not in said, request
        # The application answers with what reached it.
        assert not re.search(rb'":target", "[^"]*metrics', said), request


@pytest.mark.parametrize("version", VERSIONS)
def test_other_paths_reach_the_application_as_they_are(client: Client, version: str) -> None:
    answers = OVER[version](client, LEGITIMATE)
    assert [(reached(answer) or answer.status) for answer in answers] == LEGITIMATE
