"""A client of the two sites of converge.yml, which speaks to a host over the network."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection

import pytest
from testinfra.host import Host

SHOP = "shop.example"


@dataclass
class Answer:
    status: int
    headers: Message
    body: bytes

    def seen(self) -> dict[str, str]:
        """The headers that reached the application, which answers with them. Fails if one came twice."""
        pairs = json.loads(self.body)
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)


class Client:
    def __init__(self, host: Host) -> None:
        self.address = host.check_output("hostname -I").split()[0]
        self.trust(host)

    def trust(self, host: Host) -> None:
        """Trust the certificate that the host has now."""
        certificate = host.file("/etc/asgi-certificates/shop/fullchain.pem").content_string
        self.context = ssl.create_default_context(cadata=certificate)

    def tcp(self, port: int) -> socket.socket:
        return socket.create_connection((self.address, port), timeout=10)

    def tls(self, context: ssl.SSLContext | None = None, name: str = SHOP) -> ssl.SSLSocket:
        return (context or self.context).wrap_socket(self.tcp(443), server_hostname=name)

    def ask(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        name: str = SHOP,
        port: int = 443,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Answer:
        connection = HTTPConnection(name, port)
        # The path goes out as it is: no client library tidies it up on the way.
        connection.sock = self.tls() if port == 443 else self.tcp(port)
        try:
            connection.request(method, path, body, {"Host": name} | (headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def plain(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """Ask the second site, which trusts this machine as its proxy."""
        return self.ask(path, headers, name="plain.example", port=8080)


ClientOf = Callable[[Host], Client]


@pytest.fixture(scope="session")
def client_of() -> ClientOf:
    """The client of a host; the same one each time."""
    clients: dict[str, Client] = {}

    def find(host: Host) -> Client:
        name = host.backend.get_hostname()
        if name not in clients:
            clients[name] = Client(host)
        return clients[name]

    return find


@pytest.fixture
def client(host: Host, client_of: ClientOf) -> Client:
    return client_of(host)
