"""Whether a slot that serves TLS itself still has connections: seen in the kernel's own tables."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import drain, processes


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        yield sock


@pytest.fixture(autouse=True)
def this_process_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "children", lambda pid: [os.getpid()] if pid == 7 else [])


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
def test_a_connection_counts_from_when_it_was_accepted_until_it_ends(listener: socket.socket, family: str, short_path: Path) -> None:
    port = listener.getsockname()[1]
    here = str(short_path / "blue.sock")

    def busy(master: int = 7, *ports: int) -> bool:
        return drain.busy(here, ports or (port,), master)

    assert not busy()
    client = socket.create_connection((family, port))
    assert not busy(), "it waits in the queue, for whoever is live"
    accepted, _ = listener.accept()
    assert busy()
    assert not busy(8), "it is another slot's"
    assert not busy(7, port + 1), "it is to another port"
    client.close()
    accepted.close()
    assert not busy()


def test_what_the_application_has_itself_is_no_client(listener: socket.socket, short_path: Path) -> None:
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as outgoing:
        local = outgoing.getsockname()[1]
        assert not drain.busy(str(short_path / "blue.sock"), (port,), 7)
        assert drain.busy(str(short_path / "blue.sock"), (local,), 7), "the test sees it by its own port"


def test_connections_to_the_unix_socket_count_too(short_path: Path) -> None:
    path = str(short_path / "blue.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        assert not drain.busy(path, (1,), 7)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert drain.busy(path, (1,), 7), "it waits in the queue"
            accepted, _ = sock.accept()
            assert drain.busy(path, (1,), 7)
            assert not drain.busy(f"{path}2", (1,), 7)
            accepted.close()
        assert not drain.busy(path, (1,), 7)


@pytest.mark.parametrize(("connected", "least", "most"), [(False, 0.4, 1.0), (True, 1.1, 2.0)])
def test_it_waits_until_there_is_none_or_the_time_is_over(
    listener: socket.socket, short_path: Path, connected: bool, least: float, most: float
) -> None:
    port = listener.getsockname()[1]
    begun = time.monotonic()
    if connected:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = listener.accept()
    assert drain.main(["--pid", "7", "--socket", str(short_path / "x"), "--ports", f"1,{port}", "--timeout", "1.2"]) == 0
    assert least < time.monotonic() - begun < most
    if connected:
        client.close()
        accepted.close()
