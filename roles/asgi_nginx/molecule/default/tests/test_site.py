"""What clients get, asked over the network as they would ask."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

import pytest
from testinfra.host import Host
from websockets.sync.client import connect

if TYPE_CHECKING:
    from .conftest import Client

SHOP = "shop.example"
HSTS = "max-age=63072000"
FORGED = "6.6.6.6"


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
        ("/static/css/", 403),
        ("/%zz", 400),
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


@pytest.mark.parametrize("path", ["/static/site.css", "/robots.txt"])
def test_static_is_not_the_application(client: Client, path: str) -> None:
    answer = client.ask(path)
    expected = {"/static/site.css": "public, max-age=3600", "/robots.txt": "public, max-age=60"}
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


def test_gzip(client: Client) -> None:
    accept = {"Accept-Encoding": "gzip"}
    assert client.ask("/static/site.css", accept).headers["Content-Encoding"] == "gzip"
    assert client.ask("/static/site.css").headers["Content-Encoding"] is None


def test_forged_headers_do_not_reach_the_application(client: Client) -> None:
    forged = dict.fromkeys(["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto"], FORGED)
    forged |= dict.fromkeys(["X-Real-IP", "X-Request-ID"], FORGED)
    unwanted = dict.fromkeys(["X-Forwarded-Prefix", "X-Forwarded-Protocol", "X-Forwarded-Ssl", "X_Forwarded_For"], FORGED)
    unwanted |= dict.fromkeys(["Forwarded", "Proxy"], FORGED)
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
    assert seen["connection"] == "close"


def test_trusted_proxy_tells_the_client_but_the_client_does_not(client: Client) -> None:
    seen = client.plain("/", {"X-Forwarded-For": f"{FORGED}, 198.51.100.7", "X-Forwarded-Proto": "https"}).seen()
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == ("198.51.100.7", "198.51.100.7")
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"], seen["host"]) == ("https", "443", "plain.example")
    assert client.plain("/", {"X-Forwarded-Proto": "gopher"}).seen()["x-forwarded-proto"] == "http"


def test_websocket(client: Client) -> None:
    with connect(f"wss://{SHOP}/websocket", sock=client.tcp(443), ssl=client.context, server_hostname=SHOP) as secure:
        assert secure.response is not None
        assert secure.response.status_code == 101
        assert secure.recv(timeout=5) == "hello"
    with connect("ws://plain.example:8080/websocket", sock=client.tcp(8080)) as plain:
        assert plain.recv(timeout=5) == "hello"


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
