"""TLS that the server speaks itself, with no nginx to try again: under load no deployment and no certificate costs a request."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from client import Record
from harness import NAME, ROOT, Host, in_thread, under_load
from harness import lost_nothing as answered_all


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host("steadfast-direct-tls", tmp_path_factory.mktemp("direct"), boot_seconds=1.0)
    host.variables |= {"asgi_service_tls_listen": ["443"], "asgi_nginx_state": "absent"}
    host.set_up("one")
    host.build("two")
    yield host
    host.remove()


def lost_nothing(record: Record) -> None:
    answered_all(record)
    assert {code for _, code in record.websockets_cut} <= {1012}, record.websockets_cut


def served(host: Host) -> str:
    """Return the certificate that a client is shown."""
    context = ssl.create_default_context(cafile=str(host.work / "ca.pem"))
    with socket.create_connection((host.address, 443), timeout=10) as raw, context.wrap_socket(raw, server_hostname=NAME) as tls:
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")


def renew(host: Host) -> None:
    """Have the role issue another certificate and put it into service."""
    host.playbook(ROOT / "tests/load/certificate.yml", asgi_certificate_names=[NAME, "also.example.org"])


def pid_1_is_idle(host: Host) -> bool:
    """Return whether systemd works for less than a tenth of a second in one second."""
    ticks = "awk '{ print $14 + $15 }' /proc/1/stat"
    before, after = host.execute(f"{ticks}; sleep 1; {ticks}").split()
    return int(after) - int(before) < 10


def test_rollouts(host: Host) -> None:
    async def act() -> None:
        for name in ("two", "one", "two"):
            done = await in_thread(host.roll_out, name)
            assert not done["failed"], done
            assert done["way"] == "rollout"
        # The last old slot keeps its websockets until its time is over.
        await asyncio.sleep(4)

    record = under_load(host, act)
    lost_nothing(record)
    assert set(record.versions) == {"one", "two"}
    host.settled()


def test_reloads_and_a_new_certificate(host: Host) -> None:
    before = served(host)

    async def act() -> None:
        done = await in_thread(host.reload)
        assert not done["failed"], done
        assert await in_thread(served, host) == before
        await in_thread(renew, host)
        assert await in_thread(served, host) != before
        done = await in_thread(host.reload)
        assert not done["failed"], done

    lost_nothing(under_load(host, act))
    host.settled()


def test_a_broken_certificate_is_not_served(host: Host) -> None:
    """Its reload fails, by systemd and by the module, and what was served before goes on."""
    before, workers = served(host), host.worker_pids()
    pair = "/etc/asgi-certificates/plain"
    host.execute(f"cp -r {pair}/live/ /root/pair && cd {pair}/live/ && openssl ecparam -name prime256v1 -genkey -noout -out privkey.pem")

    async def act() -> None:
        unit = f"plain@{host.slot()}.service"
        said = await in_thread(host.execute, f"systemctl reload {unit} && echo reloaded || journalctl -u {unit} -n 5 -o cat")
        assert "reloaded" not in said.split()
        assert "is not the key of the first certificate in" in said
        done = await in_thread(host.reload)
        assert done["failed"]
        assert "is not the key of the first certificate in" in done["msg"]
        done = await in_thread(host.roll_out, "two")
        assert done["failed"]
        assert "asgi_service_tls_certificate" in done["msg"]

    lost_nothing(under_load(host, act))
    assert (served(host), host.worker_pids()) == (before, workers)
    host.execute(f"cp -p /root/pair/* {pair}/live/")
    assert host.roll_out("two")["way"] == "nothing"


def test_a_killed_server(host: Host) -> None:
    """Nobody is refused: who comes waits in the queue until there is a server again. Lost is what the workers held."""
    unit = f"plain@{host.slot()}.service"
    idle = {"blue": "green", "green": "blue"}[host.slot()]
    main = host.execute(f"systemctl show --property=MainPID --value {unit}")

    async def act() -> None:
        await in_thread(host.execute, f"systemctl kill --signal=KILL {unit}")
        await asyncio.sleep(1)
        assert await in_thread(pid_1_is_idle, host), "somebody waits, and systemd must not be woken by it again and again"
        await asyncio.sleep(6)

    record = under_load(host, act, websockets=0)
    # Each of the 16 clients had at most one request, or one handshake, at a worker.
    assert sum(record.failed().values()) <= 16, record.failed()
    assert not [kind for kind in record.failed() if "Refused" in kind or "timeout" in kind], record.failed()
    assert record.longest() < 10
    assert host.execute(f"systemctl show --property=MainPID --value {unit}") != main
    assert host.execute(f"systemctl show --property=ActiveState --value plain@{idle}.service").strip() == "inactive"
    assert pid_1_is_idle(host)


def test_a_restart_refuses_nobody(host: Host) -> None:
    async def act() -> None:
        done = await in_thread(host.roll_out, "one", strategy="restart")
        assert not done["failed"], done
        assert done["way"] == "restart"

    record = under_load(host, act)
    lost_nothing(record)
    assert 1 < record.longest() < 10


def test_a_client_in_the_middle_of_its_handshake_is_served(host: Host) -> None:
    """One with a slow line, which the old workers have accepted and do not yet know."""
    context = ssl.create_default_context(cafile=str(host.work / "ca.pem"))
    for replace in (host.reload, lambda: host.roll_out("two")):
        clients = [socket.create_connection((host.address, 443), timeout=15) for _ in range(8)]
        with ThreadPoolExecutor() as pool:
            replacing = pool.submit(replace)
            time.sleep(5)
            for client in clients:
                with context.wrap_socket(client, server_hostname=NAME) as tls:
                    tls.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
                    assert tls.recv(12) == b"HTTP/1.1 200"
            done = replacing.result()
        assert not done["failed"], done
    host.settled()


def test_idle_clients_do_not_hold_up_a_stop(host: Host) -> None:
    """They keep their connections and do not look at them, so they never answer the farewell of TLS."""
    context = ssl.create_default_context(cafile=str(host.work / "ca.pem"))
    with ExitStack() as stack:
        for _ in range(8):
            raw = stack.enter_context(socket.create_connection((host.address, 443), timeout=15))
            tls = stack.enter_context(context.wrap_socket(raw, server_hostname=NAME))
            tls.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
            assert tls.recv(12) == b"HTTP/1.1 200"
        begun = time.monotonic()
        host.execute(f"systemctl restart plain@{host.slot()}.service")
        # With the boot of a second; the server's graceful timeout is 30 s.
        assert time.monotonic() - begun < 10
