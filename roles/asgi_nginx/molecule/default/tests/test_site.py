"""What clients get, asked over the network as they would ask."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from testinfra.host import Host
from websockets.asyncio.client import connect

if TYPE_CHECKING:
    from .conftest import Client

SHOP = "shop.example"
HSTS = "max-age=63072000"
FORGED = "6.6.6.6"


def logged(host: Host, app: str) -> list[dict[str, str]]:
    """Return the access log, once everything that was asked before is in it (asgi_nginx_access_log_flush)."""
    time.sleep(1.2)
    return [json.loads(line) for line in host.file(f"/var/log/nginx/{app}.access.log").content_string.splitlines()]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/missing", 404),
        ("/moved", 307),
        ("/broken", 502),
        ("/own-headers", 200),
        ("/robots.txt", 200),
        ("/static/site.css", 200),
        ("/static/missing.css", 404),
        ("/static/css", 301),
        ("/static/old.0123456789ab.js", 200),
        ("/static/old", 404),
        ("/static/old/", 404),
        ("/static/css/", 403),
        ("/static/.env", 404),
        ("/one-page/deep/link", 200),
        ("/metrics", 404),
        ("/metrics/of/all", 404),
        ("/office", 403),
        ("/desk", 401),
        ("/%zz", 400),
        ("/a/..", 400),
    ],
)
def test_every_answer_has_the_headers(client: Client, path: str, status: int) -> None:
    answer = client.ask(path)
    assert answer.status == status
    assert answer.headers.get_all("Strict-Transport-Security") == [HSTS]
    assert answer.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert answer.headers.get_all("Referrer-Policy") == ["strict-origin-when-cross-origin"]
    # The application's own header wins, and is there once.
    assert answer.headers.get_all("X-Frame-Options") == ["DENY" if path == "/own-headers" else "SAMEORIGIN"]
    assert answer.headers.get_all("Content-Security-Policy") == ["default-src 'self'; object-src 'none'"]
    assert answer.headers["Server"] == "nginx"


def test_body_too_large(client: Client) -> None:
    answer = client.ask("/", method="POST", body=b"x" * 1025)
    assert answer.status == 413
    assert answer.headers["Strict-Transport-Security"] == HSTS


def test_unavailable_page(client: Client) -> None:
    answer = client.ask("/broken")
    assert answer.headers["Retry-After"] == "5"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers.get_content_type() == "text/html"
    assert b"does not answer" in answer.body


def test_not_modified(client: Client) -> None:
    tag = client.ask("/static/site.css").headers["ETag"]
    answer = client.ask("/static/site.css", {"If-None-Match": tag})
    assert answer.status == 304
    assert answer.headers["Strict-Transport-Security"] == HSTS


def test_too_many_requests(client: Client) -> None:
    answers = [client.ask("/login") for _ in range(3)]
    assert answers[-1].status == 429
    assert answers[-1].headers["Strict-Transport-Security"] == HSTS
    assert client.ask("/login/else").status == 200


def test_redirect_from_another_name(client: Client) -> None:
    with client.tls(name="www.shop.example"):
        pass
    answer = client.ask("/a?b", name="www.shop.example")
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{SHOP}/a?b")
    assert answer.headers["Strict-Transport-Security"] == HSTS
    assert client.ask("/a?b", name="www.shop.example", port=80).headers["Location"] == f"https://{SHOP}/a?b"


@pytest.fixture
def maintenance(host: Host) -> Iterator[None]:
    host.check_output("touch /etc/nginx/asgi-shop.maintenance")
    yield
    host.check_output("rm /etc/nginx/asgi-shop.maintenance")


@pytest.mark.usefixtures("maintenance")
@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/", "POST"), ("/static/site.css", "GET"), ("/desk", "GET")])
def test_maintenance(client: Client, path: str, method: str) -> None:
    answer = client.ask(path, method=method)
    assert answer.status == 503
    assert b"down for maintenance" in answer.body
    assert (answer.headers["Retry-After"], answer.headers["Cache-Control"]) == ("120", "no-store")
    assert answer.headers["Strict-Transport-Security"] == HSTS


def test_rules_of_a_path(client: Client) -> None:
    # "ada:lovelace"
    assert client.ask("/desk", {"Authorization": "Basic YWRhOmxvdmVsYWNl"}).status == 200
    assert client.ask("/desk", {"Authorization": "Basic YWRhOmJ5cm9u"}).status == 401
    assert client.ask("/office").body == b"our own page\n"


@pytest.mark.parametrize(("path", "at_once"), [("/events/stream", True), ("/stream", False)])
def test_unbuffered_where_asked(client: Client, path: str, at_once: bool) -> None:
    with client.tls() as tls:
        tls.sendall(f"GET {path} HTTP/1.1\r\nHost: {SHOP}\r\nConnection: close\r\n\r\n".encode())
        start, seen = time.monotonic(), b""
        while b"data: 1" not in seen:
            seen += tls.recv(4096)
        assert (time.monotonic() - start < 0.8) == at_once
        while part := tls.recv(4096):
            seen += part
    assert b"data: 2" in seen


def test_slow_client(client: Client) -> None:
    with client.tls() as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: ")
        start = time.monotonic()
        # Closed, with or without a word.
        assert tls.recv(4096)[:12] in (b"", b"HTTP/1.1 408")
        assert 0.5 < time.monotonic() - start < 5


def test_slow_body(client: Client) -> None:
    with client.tls() as tls:
        tls.sendall(f"POST / HTTP/1.1\r\nHost: {SHOP}\r\nContent-Length: 1000\r\n\r\nx".encode())
        start = time.monotonic()
        assert tls.recv(4096)[:12] in (b"", b"HTTP/1.1 408")
        assert 0.5 < time.monotonic() - start < 5


def test_connections_of_one_address(client: Client) -> None:
    with client.tls() as tls:
        # It takes a second to answer.
        tls.sendall(f"GET /stream HTTP/1.1\r\nHost: {SHOP}\r\nConnection: close\r\n\r\n".encode())
        answer = client.ask("/stream")
        assert (answer.status, answer.headers["Strict-Transport-Security"]) == (429, HSTS)
        assert tls.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("method", "tries"), [("GET", "502, 502"), ("POST", "502")])
def test_only_what_can_be_repeated_is_asked_twice(host: Host, client: Client, method: str, tries: str) -> None:
    """The application closes the connection instead of answering."""
    path = f"/broken?{method}"
    assert client.ask(path, method=method).status == 502
    assert {line["upstream_status"] for line in logged(host, "shop") if line["uri"] == path} == {tries}


@pytest.mark.parametrize(
    ("method", "headers", "body", "kept"),
    [
        ("GET", {}, None, True),
        ("GET", {}, b"body", False),
        ("GET", {"Upgrade": "h2c"}, None, False),
        ("POST", {}, b"body", False),
        ("DELETE", {}, None, False),
    ],
)
def test_connections_to_the_application_are_kept_for_what_can_be_repeated(
    client: Client, method: str, headers: dict[str, str], body: bytes | None, kept: bool
) -> None:
    answers = [client.ask("/connection", headers, method=method, body=body) for _ in range(8)]
    assert {answer.status for answer in answers} == {200}
    # Each process of nginx has connections of its own.
    assert (max(json.loads(answer.body)["served"] for answer in answers) > 1) == kept


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_request_is_lost_on_a_connection_that_the_application_closes(client: Client, method: str) -> None:
    """As it does with idle ones when it is replaced: here just as the next request comes on it."""
    for _ in range(3):
        # Until nginx has let go of all that it kept; then twice through the same process of it.
        time.sleep(2.1)
        connection = HTTPConnection(SHOP, 443)
        connection.sock = client.tls()
        for _ in range(2):
            connection.request(method, "/once", headers={"Host": SHOP})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        connection.close()


def test_kept_connections_follow_the_live_socket(host: Host, client: Client) -> None:
    """The same rename that a rollout does, in the midst of requests."""

    def sockets(seconds: float) -> list[str]:
        until = time.monotonic() + seconds
        found = []
        while time.monotonic() < until:
            found.append(json.loads(client.ask("/connection").body)["socket"])
        return found

    assert set(sockets(0.5)) == {"blue"}
    try:
        host.check_output("ln -s green.sock /run/shop/next.sock && mv -T /run/shop/next.sock /run/shop/live.sock")
        sockets(2)
        assert set(sockets(0.5)) == {"green"}
    finally:
        host.check_output("ln -s blue.sock /run/shop/next.sock && mv -T /run/shop/next.sock /run/shop/live.sock")
        sockets(2)
    assert set(sockets(0.5)) == {"blue"}


def test_oversized_header(client: Client) -> None:
    answer = client.ask("/", {"X-Large": "x" * 9000})
    assert answer.status == 400
    assert answer.headers["Strict-Transport-Security"] == HSTS


def test_access_log(host: Host, client: Client) -> None:
    assert client.ask("/ready").status == 200
    request = client.ask("/whoami?x=%22").seen()["x-request-id"]
    lines = logged(host, "shop")
    (line,) = [line for line in lines if line["request_id"] == request]
    assert (line["method"], line["uri"], line["status"], line["tls"]) == ("GET", "/whoami?x=%22", "200", "TLSv1.3")
    assert 0 <= float(line["upstream_seconds"]) <= float(line["seconds"]) + 0.01
    assert not [line for line in lines if line["uri"] == "/ready" and line["status"] == "200"]
    for file in ("/var/log/nginx/shop.access.log", "/var/log/nginx/shop.error.log"):
        assert host.file(file).mode == 0o640
        assert host.file(file).group == "adm"


def test_http3(host: Host, client: Client) -> None:
    sockets = host.check_output("ss --udp --listening --numeric --no-header")
    offer = client.ask("/").headers["Alt-Svc"]
    if "http_v3_module" not in host.run("/usr/sbin/nginx -V").stderr:
        assert (":443 " in sockets, offer) == (False, None)
        return
    assert (":443 " in sockets, offer) == (True, 'h3=":443"; ma=86400')
    aioquic = ["uv", "run", "--no-project", "--quiet", "--with", "aioquic==1.7.2", "python"]
    done = subprocess.run(
        [*aioquic, Path(__file__).with_name("http3.py"), client.address], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for method, status in {"GET": "200", "POST": "200", "too large": "413"}.items():
        assert found[method]["status"] == status
        assert found[method]["headers"]["strict-transport-security"] == HSTS
    seen = dict(json.loads(found["GET"]["body"]))
    assert FORGED not in found["GET"]["body"]
    assert (seen["host"], seen["x-forwarded-proto"], seen.get("connection")) == (SHOP, "https", None)
    # 0-RTT is not offered, and not taken from who tries.
    assert found["tickets"] > 0
    assert set(found["early data offered"]) == {0}
    assert found["early data taken"] == [False]
    # See the tables there.
    assert found["wrong"] == {}
    assert found["checks"] > 20


@pytest.mark.parametrize(("signature", "kind"), [("ecdsa_secp256r1_sha256", "ECDSA"), ("rsa_pss_rsae_sha256", "RSA.PSS")])
def test_each_client_gets_the_certificate_that_it_can_check(host: Host, signature: str, kind: str) -> None:
    said = host.run(f"openssl s_client -connect 127.0.0.1:443 -servername {SHOP} -sigalgs {signature} </dev/null")
    assert re.search(rf"^Peer signature type: {kind}", said.stdout, re.MULTILINE | re.IGNORECASE), said


def test_redirect_to_https(client: Client) -> None:
    answer = client.ask("/a/path?and=query", port=80)
    assert answer.status == 301
    assert answer.headers["Location"] == f"https://{SHOP}/a/path?and=query"
    # RFC 6797, 7.2: not over plain HTTP.
    assert "Strict-Transport-Security" not in answer.headers


def test_site_without_tls(client: Client) -> None:
    answer = client.plain("/")
    assert answer.status == 200
    assert "Strict-Transport-Security" not in answer.headers
    # Unset for this site.
    assert "X-Frame-Options" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/static/site.css", "/robots.txt", "/static/site.0123456789ab.css"])
def test_static_is_not_the_application(client: Client, path: str) -> None:
    answer = client.ask(path)
    expected = {
        "/static/site.css": "public, max-age=3600",
        "/robots.txt": "public, max-age=60",
        "/static/site.0123456789ab.css": "public, max-age=31536000, immutable",
    }
    assert answer.headers.get_all("Cache-Control") == [expected[path]]
    assert answer.body.startswith((b"body {", b"User-agent"))
    # An error must not be kept.
    assert "Cache-Control" not in client.ask("/static/missing.css").headers


@pytest.mark.parametrize(
    "path",
    [
        "/static../secret.txt",
        "/static/../secret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/..%2fsecret.txt",
        "/static/css/..%2f..%2f..%2fsecret.txt",
        "/static//../../secret.txt",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/robots.txt/../../secret.txt",
    ],
)
def test_no_way_out_of_the_static_folder(client: Client, path: str) -> None:
    answer = client.ask(path)
    assert b"not for you" not in answer.body
    assert b"root:" not in answer.body


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/static/passwd", 404, None),
        ("/static/etc/passwd", 404, None),
        ("/static/up/secret.txt", 404, None),
        # What asgi_release has put into the second folder is the file itself.
        ("/static/inside.css", 200, b"the file itself\n"),
        ("/one-page/passwd", 200, b"one page\n"),
        ("/media/own.txt", 200, b"my own\n"),
        ("/media/mine", 200, b"my own\n"),
        ("/media/theirs", 403, None),
    ],
)
def test_links_lead_nowhere_else(client: Client, path: str, status: int, body: bytes | None) -> None:
    answer = client.ask(path)
    assert answer.status == status
    assert body in {None, answer.body}
    assert b"root:" not in answer.body
    assert b"not for you" not in answer.body


def test_gzip(client: Client) -> None:
    accept = {"Accept-Encoding": "gzip"}
    assert client.ask("/static/site.css", accept).headers["Content-Encoding"] == "gzip"
    assert client.ask("/static/site.css").headers["Content-Encoding"] is None
    # Compressed before.
    assert client.ask("/static/ready.css", accept).body == b"compressed before\n"
    assert client.ask("/static/ready.css").body == b"body {}\n"


def test_one_page_application(client: Client) -> None:
    answer = client.ask("/one-page/deep/link")
    assert (answer.body, answer.headers["Cache-Control"]) == (b"one page\n", "no-cache")
    assert client.ask("/one-page/site.css").headers["Cache-Control"] == "public, max-age=3600"


def test_second_folder(client: Client) -> None:
    old = client.ask("/static/old.0123456789ab.js")
    assert (old.status, old.body) == (200, b"old\n")
    # By the rules of the first.
    assert old.headers.get_all("Cache-Control") == ["public, max-age=31536000, immutable"]
    assert old.headers["Strict-Transport-Security"] == HSTS
    assert client.ask("/static/old.0123456789ab.js", {"Accept-Encoding": "gzip"}).body == b"old and compressed\n"
    # The first folder comes first, and the page last.
    assert client.ask("/static/site.css").body.startswith(b"body")
    assert client.ask("/one-page/old.0123456789ab.js").body == b"old\n"
    # It has no address of its own.
    assert client.ask("/.asgi-fallback/static/old.0123456789ab.js").status == 404
    assert client.ask("/static/old.0123456789ab.js", method="POST", body=b"").status == 405


def test_forged_headers_do_not_reach_the_application(client: Client) -> None:
    forged = dict.fromkeys(["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto"], FORGED)
    forged |= dict.fromkeys(["X-Real-IP", "X-Request-ID"], FORGED)
    unwanted = dict.fromkeys(["X-Forwarded-Prefix", "X-Forwarded-Protocol", "X-Forwarded-Ssl", "X_Forwarded_For"], FORGED)
    unwanted |= dict.fromkeys(["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "SCRIPT_NAME", "PATH_INFO"], FORGED)
    unwanted |= dict.fromkeys(["Forwarded", "Proxy", "X-SSL-Client-Verify", "X-SSL-Client-S-DN"], FORGED)
    answer = client.ask("/", forged | unwanted)
    seen = answer.seen()
    assert FORGED not in answer.body.decode()
    assert not {name.lower() for name in unwanted} & set(seen)
    with client.tls() as tls:
        us = tls.getsockname()[0]
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == (us, us)
    assert (seen["host"], seen["x-forwarded-host"]) == (SHOP, SHOP)
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("https", "443")
    assert re.fullmatch("[0-9a-f]{32}", seen["x-request-id"])
    assert "connection" not in seen


def test_trusted_proxy_tells_the_client_but_the_client_does_not(client: Client) -> None:
    seen = client.plain("/", {"X-Forwarded-For": f"{FORGED}, 198.51.100.7", "X-Forwarded-Proto": "https"}).seen()
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == ("198.51.100.7", "198.51.100.7")
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"], seen["host"]) == ("https", "443", "plain.example")
    assert client.plain("/", {"X-Forwarded-Proto": "gopher"}).seen()["x-forwarded-proto"] == "http"


def ask_balanced(client: Client, introduction: bytes, path: str = "/") -> tuple[int, bytes]:
    """Ask the third site as a balancer would, which says first who the client is. Nothing, if there is no answer."""
    with client.tcp(8082) as tcp:
        # In one piece: nginx closes the connection as soon as the first line is not what it has to be.
        tcp.sendall(introduction + f"GET {path} HTTP/1.1\r\nHost: balanced.example\r\nX-Forwarded-For: {FORGED}\r\n\r\n".encode())
        answer = HTTPResponse(tcp)
        try:
            answer.begin()
        except (RemoteDisconnected, ConnectionResetError):
            return 0, b""
        return answer.status, answer.read()


VERSION_1 = "PROXY TCP4 {} 203.0.113.1 5555 80\r\n"
# The signature, version 2 and PROXY, TCP over IPv4, 12 octets: two addresses and two ports.
VERSION_2 = b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11\0\x0c" + bytes([198, 51, 100, 9, 203, 0, 113, 1]) + b"\x15\xb3\0\x50"


@pytest.mark.parametrize("introduction", [VERSION_1.format("198.51.100.9").encode(), VERSION_2], ids=["version 1", "version 2"])
def test_balancer_introduces_the_client(client: Client, introduction: bytes) -> None:
    status, body = ask_balanced(client, introduction)
    seen = dict(json.loads(body))
    assert status == 200
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == ("198.51.100.9", "198.51.100.9")
    # Whoever comes without an introduction gets nothing.
    assert ask_balanced(client, b"") == (0, b"")


def test_nobody_else_is_believed(host: Host) -> None:
    """The host itself is not among the balancers."""
    introduction = VERSION_1.format(FORGED).strip() + r"\r\nGET / HTTP/1.0\r\nHost: balanced.example\r\n\r\n"
    said = host.check_output(f"bash -c \"exec 3<>/dev/tcp/127.0.0.1/8082; printf '{introduction}' >&3; cat <&3\"")
    assert '["x-forwarded-for", "127.0.0.1"]' in said
    assert FORGED not in said


def test_metrics_are_for_those_who_scrape(client: Client) -> None:
    assert ask_balanced(client, VERSION_1.format("192.0.2.7").encode(), "/metrics")[0] == 200
    assert ask_balanced(client, VERSION_1.format("192.0.2.8").encode(), "/metrics")[0] == 403
    assert ask_balanced(client, VERSION_1.format("192.0.2.8").encode(), "/metrics/all")[0] == 403


def test_what_went_well_is_left_out_of_the_log(host: Host, client: Client) -> None:
    introduction = VERSION_1.format("198.51.100.9").encode()
    assert ask_balanced(client, introduction, "/well")[0] == 200
    assert ask_balanced(client, introduction, "/missing")[0] == 404
    lines = logged(host, "balanced")
    assert "404" in {line["status"] for line in lines if line["uri"] == "/missing"}
    assert not [line for line in lines if line["status"].startswith("2")]


def test_websocket(client: Client) -> None:
    async def listen() -> None:
        async with (
            asyncio.timeout(20),
            connect(f"wss://{SHOP}/websocket", sock=client.tcp(443), ssl=client.context, server_hostname=SHOP, proxy=None) as secure,
            connect("ws://plain.example:8080/websocket", sock=client.tcp(8080), proxy=None) as plain,
        ):
            assert secure.response is not None
            assert secure.response.status_code == 101
            assert await secure.recv() == "hello"
            assert await plain.recv() == "hello"

    asyncio.run(listen())


def test_no_other_upgrade(client: Client) -> None:
    upgrade = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQAAP"}
    seen = client.ask("/", upgrade).seen()
    assert "upgrade" not in seen
    assert seen["connection"] == "close"


def test_http2(client: Client) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with client.tls(context) as tls:
        assert tls.selected_alpn_protocol() == "h2"
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        frame = tls.recv(9)
    # RFC 9113, 4.1: the fourth byte is the type of a frame, 4 is SETTINGS.
    assert frame[3] == 4


def handshake(client: Client, version: ssl.TLSVersion, name: str = SHOP) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # Everything that OpenSSL still can do, so that it is the server that refuses.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with client.tls(context, name) as tls:
        return tls.version()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_versions(client: Client) -> None:
    with pytest.raises(ssl.SSLError, match=r"TLSV1_ALERT_PROTOCOL_VERSION"):
        handshake(client, ssl.TLSVersion.TLSv1_1)
    assert handshake(client, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert handshake(client, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"


def test_foreign_site_keeps_serving(client: Client) -> None:
    assert client.ask("/", port=8081).body == b"not ours"
    # Debian's welcome page is not ours either.
    assert b"Welcome to nginx" in client.ask("/", name="unknown.example", port=80).body


def test_service(host: Host) -> None:
    nginx = host.service("nginx")
    assert nginx.is_running
    assert nginx.is_enabled
    assert host.run("nginx -t").stderr.count("warn") == 0
