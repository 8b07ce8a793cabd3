# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS that a hand-over worker speaks itself, on sockets that systemd listens on and both slots have.

- `Door` accepts from those sockets for as long as the live link names the worker's own slot. The others leave what comes to it: all
  wait in one queue, which no change of slots touches, so nobody is refused and nobody is lost.
- `Direct` stands between uvicorn and the application in place of nginx: what nginx would say of the client is said by it, and what
  the client says of itself is left out.
"""

from __future__ import annotations

import asyncio
import fcntl
import ssl
import struct
import termios
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# Seconds that a client has from its connection until TLS is agreed on.
HANDSHAKE_TIMEOUT = 10.0

# What nginx overwrites or leaves out, as asgi_nginx has it (and every header with an underscore in its name).
_SAID_BY_PROXIES = frozenset({b"forwarded", b"proxy", b"x-real-ip", b"x-request-id"})
_PREFIXES_OF_PROXIES = (b"x-forwarded-", b"x-ssl-client-")

# The short names of RFC 4514, by those that Python uses.
_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


@dataclass(frozen=True)
class Settings:
    """What the configuration file says. `pair` holds the key and the certificate; `client_ca` is '' where clients need none."""

    pair: str
    client_ca: str = ""
    client_required: bool = True
    ciphers: str = ""

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises OSError, of which ssl.SSLError is one, for those that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(self.ciphers)
        context.set_alpn_protocols(["http/1.1"])
        # Each worker would have keys of its own for them, so hardly any could ever be used.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.load_cert_chain(self.pair)
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if self.client_required else ssl.CERT_OPTIONAL
        return context


class Door:
    """Where the clients of one worker come in. `make_protocol` makes uvicorn's protocol with a Direct in the application's place."""

    def __init__(self, settings: Settings, sockets: Iterable[Any], backlog: int) -> None:
        self.settings = settings
        self.context = settings.context()
        self.sockets = list(sockets)
        self.backlog = backlog
        self.servers: list[asyncio.Server] = []
        # uvicorn knows a connection only when TLS is agreed on.
        self._made: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    async def follow(self, live: bool, make_protocol: Callable[[Any], Any]) -> None:
        """Accept if this slot is live, and do not if it is not."""
        if live and not self.servers:
            await self._open(make_protocol)
        elif not live and self.servers:
            self._shut()

    async def _open(self, make_protocol: Callable[[Any], Any]) -> None:
        loop = asyncio.get_running_loop()

        def accepted() -> Any:
            direct = Direct(bool(self.settings.client_ca))
            protocol = make_protocol(direct)
            direct.protocol = protocol
            self._made[protocol] = time.monotonic()
            return protocol

        for sock in self.sockets:
            # A copy, since a server closes its socket when it ends, and this one may become live again.
            server = await loop.create_server(
                accepted, sock=sock.dup(), ssl=self.context, backlog=self.backlog, ssl_handshake_timeout=HANDSHAKE_TIMEOUT
            )
            self.servers.append(server)

    def _shut(self) -> None:
        for server in self.servers:
            server.close()
        self.servers = []

    def close(self) -> None:
        """Accept no more, and let go of the sockets."""
        self._shut()
        for sock in self.sockets:
            sock.close()

    @property
    def shaking_hands(self) -> bool:
        """Return whether a client that was accepted has not yet agreed on TLS.

        Of one that gave up asyncio leaves nothing; uvloop may, until the garbage is collected.
        """
        recent = time.monotonic() - HANDSHAKE_TIMEOUT
        return any(made > recent and getattr(protocol, "transport", self) is None for protocol, made in list(self._made.items()))


class Direct:
    """The application as the clients of one connection get it."""

    app: ASGIApp
    protocol: Any = None

    def __init__(self, with_certificates: bool) -> None:
        self._with_certificates = with_certificates
        self._said: list[tuple[bytes, bytes]] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if self._said is None:
            self._said = self._what_is_known(scope)
        scope["client"] = _plain(scope["client"])
        scope["server"] = _plain(scope["server"])
        headers = [(name, value) for name, value in scope["headers"] if not _is_for_proxies(name)]
        host = [(b"x-forwarded-host", value) for name, value in headers if name == b"host"][:1]
        scope["headers"] = [*headers, *self._said, *host, (b"x-request-id", uuid.uuid4().hex.encode())]
        await self.app(scope, receive, send)

    def _what_is_known(self, scope: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        """Return the headers that are the same for all requests of the connection."""
        client, server = _plain(scope["client"]), _plain(scope["server"])
        address = client[0].encode() if client else b""
        said = [(b"x-forwarded-for", address), (b"x-real-ip", address), (b"x-forwarded-proto", b"https")]
        if server:
            said.append((b"x-forwarded-port", str(server[1]).encode()))
        if self._with_certificates:
            found = self.protocol.transport.get_extra_info("peercert") or {}
            said += [
                (b"x-ssl-client-verify", b"SUCCESS" if found else b"NONE"),
                (b"x-ssl-client-s-dn", distinguished_name(found.get("subject", ())).encode()),
                (b"x-ssl-client-serial", found.get("serialNumber", "").encode()),
            ]
        return said


def _is_for_proxies(name: bytes) -> bool:
    return name in _SAID_BY_PROXIES or name.startswith(_PREFIXES_OF_PROXIES) or b"_" in name


def _plain(address: Any) -> Any:
    """Return an address as people write it: a socket for both families has IPv4's as ::ffff:192.0.2.7."""
    if address and address[0].startswith("::ffff:") and "." in address[0]:
        return (address[0].removeprefix("::ffff:"), address[1])
    return address


def distinguished_name(subject: Any) -> str:
    """Return a subject, in the form of ssl.SSLSocket.getpeercert(), as nginx writes it (RFC 4514)."""
    return ",".join("+".join(f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in part) for part in reversed(subject))


def _escaped(value: str) -> str:
    """Return a value without what has a meaning in a distinguished name, and in ASCII."""
    last = len(value.encode()) - 1
    found = ""
    for number, byte in enumerate(value.encode()):
        char = chr(byte)
        if char in ',+"\\<>;' or (char == "#" and number == 0) or (char == " " and number in (0, last)):
            found += f"\\{char}"
        else:
            found += char if " " <= char <= "~" else f"\\{byte:02X}"
    return found


def is_closing(connection: Any) -> bool:
    """Return whether a connection with TLS is closed on this side, and waits for the other one."""
    transport = getattr(connection, "transport", None)
    return transport is not None and bool(transport.get_extra_info("sslcontext")) and transport.is_closing()


def hang_up(connection: Any) -> None:
    """End a connection that is closed on this side, if all that was sent has arrived.

    A client that does not look at its idle connections never answers the farewell of TLS, and asyncio would wait for that.
    """
    transport = connection.transport
    with suppress(OSError, AttributeError):
        unsent = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        if struct.unpack("i", unsent) == (0,) and transport.get_write_buffer_size() == 0:
            transport.abort()
