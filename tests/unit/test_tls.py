"""TLS that a worker speaks itself: who may come in when, and what the application is told of them."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / "roles/asgi_service/files/asgi_tls.py"
CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256"

Headers = list[tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def tls() -> ModuleType:
    spec = importlib.util.spec_from_file_location("asgi_tls", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        # Its dataclass looks for its module here.
        patch.setitem(sys.modules, "asgi_tls", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings(tls: ModuleType, tmp_path: Path, issue: Callable[[Path], None]) -> Any:
    issue(tmp_path)
    pair = tmp_path / "pair.pem"
    pair.write_bytes((tmp_path / "privkey.pem").read_bytes() + (tmp_path / "fullchain.pem").read_bytes())
    return tls.Settings(str(pair), ciphers=CIPHERS)


# The application behind it


def ask(tls: ModuleType, headers: Headers, client: Any = ("192.0.2.7", 4711), with_certificates: bool = False, peer: Any = None) -> Any:
    """Return the scope as the application gets it."""
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], _receive: Any, _send: Any) -> None:
        seen.append(scope)

    direct = tls.Direct(with_certificates)
    direct.app = app
    direct.protocol = SimpleNamespace(transport=SimpleNamespace(get_extra_info=lambda name: peer if name == "peercert" else None))
    scope = {"type": "http", "client": client, "server": ("::ffff:198.51.100.1", 443), "headers": headers}
    asyncio.run(direct(scope, None, None))
    return seen[0]


FORGED = (
    "forwarded", "proxy", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto",
    "x-forwarded-ssl", "x-real-ip", "x-request-id", "x-ssl-client-verify", "x-ssl-client-s-dn", "x_forwarded_for", "x-ssl-client_verify",
)  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("with_certificates", [False, True])
def test_what_a_proxy_would_say_a_client_cannot(tls: ModuleType, name: str, with_certificates: bool) -> None:
    scope = ask(tls, [(b"host", b"shop.example"), (name.encode(), b"forged")], with_certificates=with_certificates)
    assert b"forged" not in [value for _, value in scope["headers"]]


def test_the_application_is_told_what_nginx_would_tell(tls: ModuleType) -> None:
    scope = ask(tls, [(b"host", b"shop.example"), (b"accept", b"*/*")], client=("::ffff:192.0.2.7", 4711))
    assert scope["client"] == ("192.0.2.7", 4711)
    assert scope["server"] == ("198.51.100.1", 443)
    headers = dict(scope["headers"])
    assert len(headers.pop(b"x-request-id")) == 32
    assert headers == {
        b"host": b"shop.example",
        b"accept": b"*/*",
        b"x-forwarded-for": b"192.0.2.7",
        b"x-forwarded-host": b"shop.example",
        b"x-forwarded-port": b"443",
        b"x-forwarded-proto": b"https",
        b"x-real-ip": b"192.0.2.7",
    }


def test_an_ipv6_address_stays_what_it_is(tls: ModuleType) -> None:
    assert ask(tls, [], client=("2001:db8::7", 4711))["client"] == ("2001:db8::7", 4711)
    assert ask(tls, [], client=("::ffff:0:1", 4711))["client"] == ("::ffff:0:1", 4711)


def test_the_application_is_told_of_the_client_s_certificate(tls: ModuleType) -> None:
    subject = ((("countryName", "DE"),), (("organizationName", "Tea, Ltd"),), (("commonName", "J\u00fcrgen"),))
    headers = dict(ask(tls, [], with_certificates=True, peer={"subject": subject, "serialNumber": "0A1B"})["headers"])
    assert headers[b"x-ssl-client-verify"] == b"SUCCESS"
    assert headers[b"x-ssl-client-s-dn"] == b"CN=J\\C3\\BCrgen,O=Tea\\, Ltd,C=DE"
    assert headers[b"x-ssl-client-serial"] == b"0A1B"
    headers = dict(ask(tls, [], with_certificates=True)["headers"])
    assert headers[b"x-ssl-client-verify"] == b"NONE"
    assert headers[b"x-ssl-client-s-dn"] == b""


@pytest.mark.parametrize(
    ("value", "written"),
    [(" a ", "\\ a\\ "), ("#1", "\\#1"), ("a\r\nX: y", "a\\0D\\0AX: y"), ('"<>;+=\\', '\\"\\<\\>\\;\\+=\\\\'), ("", "")],
)
def test_a_name_cannot_break_out_of_its_place(tls: ModuleType, value: str, written: str) -> None:
    assert tls.distinguished_name(((("commonName", value),),)) == f"CN={written}"


# The door


def test_tls_is_of_today(settings: Any) -> None:
    context = settings.context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"} == {CIPHERS}
    assert context.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(("required", "mode"), [(True, ssl.CERT_REQUIRED), (False, ssl.CERT_OPTIONAL)])
def test_clients_are_asked_for_certificates(tls: ModuleType, settings: Any, tmp_path: Path, required: bool, mode: ssl.VerifyMode) -> None:
    ca = str(tmp_path / "fullchain.pem")
    assert tls.Settings(settings.pair, ca, required, CIPHERS).context().verify_mode == mode


class Protocol(asyncio.Protocol):
    """What uvicorn makes for a connection."""

    def __init__(self, _direct: Any) -> None:
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"welcome")

    def connection_lost(self, _error: Exception | None) -> None:
        pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_it_opens_and_shuts_and_refuses_nobody(tls: ModuleType, settings: Any, tmp_path: Path) -> None:
    """Of two workers with the same socket the live one serves, and who comes while there is none waits."""

    async def run() -> None:
        context = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            doors = {slot: tls.Door(settings, [listener], 10) for slot in ("blue", "green")}
            served: list[str] = []

            def make(name: str) -> Callable[[Any], Protocol]:
                return lambda direct: served.append(name) or Protocol(direct)  # type: ignore[func-returns-value]

            async def live(slot: str) -> None:
                for name, door in doors.items():
                    await door.follow(name == slot, make(name))

            async def visit() -> bytes:
                reader, writer = await asyncio.open_connection(*listener.getsockname(), ssl=context, server_hostname="localhost")
                said = await reader.readexactly(7)
                writer.transport.abort()
                return said

            await live("")
            waiting = asyncio.create_task(visit())
            await asyncio.sleep(0.3)
            assert served == []
            await live("blue")
            assert await waiting == b"welcome"
            for slot in ("green", "blue"):
                await live(slot)
                assert await visit() == b"welcome"
            assert served == ["blue", "green", "blue"]
            for door in doors.values():
                door.close()

    asyncio.run(run())


def test_a_client_that_was_accepted_is_known_before_tls_is_agreed_on(tls: ModuleType, settings: Any, tmp_path: Path) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            door = tls.Door(settings, [listener], 10)
            await door.follow(True, Protocol)
            assert not door.shaking_hands
            slow = socket.create_connection(listener.getsockname())
            await until(lambda: door.shaking_hands)
            door.close()
            # The handshake is completed with a door that is closed.
            context = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
            reader, writer = await asyncio.open_connection(sock=slow, ssl=context, server_hostname="localhost")
            assert await reader.readexactly(7) == b"welcome"
            assert not door.shaking_hands
            writer.transport.abort()

    asyncio.run(run())


def test_of_a_client_that_gives_up_nothing_is_left(tls: ModuleType, settings: Any) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            door = tls.Door(settings, [listener], 10)
            await door.follow(True, Protocol)
            for farewell in (b"", b"GET / HTTP/1.1\r\n\r\n"):
                client = socket.create_connection(listener.getsockname())
                await until(lambda: door.shaking_hands)
                client.sendall(farewell)
                client.close()
                await until(lambda: not door.shaking_hands)
            door.close()

    asyncio.run(run())


def test_an_idle_client_that_never_looks_is_not_waited_for(tls: ModuleType, settings: Any, tmp_path: Path) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            door = tls.Door(settings, [listener], 10)
            made: list[Protocol] = []
            await door.follow(True, lambda direct: made.append(Protocol(direct)) or made[-1])  # type: ignore[func-returns-value]
            context = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
            raw = socket.create_connection(listener.getsockname())
            client = await asyncio.to_thread(context.wrap_socket, raw, server_hostname="localhost")
            assert await asyncio.to_thread(client.recv, 7) == b"welcome"
            [connection] = made
            assert not tls.is_closing(connection)
            connection.transport.close()
            assert tls.is_closing(connection)
            await asyncio.sleep(0.2)
            inner = connection.transport.get_extra_info("socket")
            assert inner.fileno() >= 0, "asyncio waits for the client's farewell"
            tls.hang_up(connection)
            await until(lambda: inner.fileno() < 0)
            client.close()
            door.close()

    asyncio.run(run())
