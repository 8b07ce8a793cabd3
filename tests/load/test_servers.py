"""Under each server that the role knows, a rollout costs no request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from bench import SERVERS, server_requirements
from client import Load
from harness import NAME, Host, in_thread, stayed


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host("steadfast-servers", tmp_path_factory.mktemp("servers"), boot_seconds=0.5)
    every = {"asgi_release_server_requirements": server_requirements()}
    host.set_up("one", **every)
    host.build("two", **every)
    yield host
    host.remove()


# A request whose body looks like another one, on a connection that is used again, to an application that does not read it.
KEPT = """
import socket
smuggled = b"GET /whoami HTTP/1.1\\r\\nHost: smuggled\\r\\n\\r\\n"
connection = socket.socket(socket.AF_UNIX)
connection.connect("/run/plain/live.sock")
connection.settimeout(2)
heads = [b"GET /unread HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(smuggled) + smuggled]
heads += [b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n"]
answers = b""
try:
    for head in heads:
        connection.sendall(head)
        answers += connection.recv(65536)
    while part := connection.recv(65536):
        answers += part
except OSError:
    pass
print(answers.decode())
"""


# Server-sent events through nginx: says by how much the first one comes before the last one.
EVENTS = f"""
import http.client, ssl, time
connection = http.client.HTTPSConnection("127.0.0.1", context=ssl._create_unverified_context(), timeout=10)
connection.request("GET", "/events", headers={{"Host": "{NAME}"}})
answer = connection.getresponse()
times = [time.monotonic() for line in answer if line.startswith(b"data: ")]
print(len(times), times[-1] - times[0])
print(answer.headers)
"""


# Large requests that the application answers before it has read them: says how often which status came.
EARLY = f"""
import collections, http.client, ssl
statuses = collections.Counter()
for number in range(60):
    connection = http.client.HTTPSConnection("127.0.0.1", context=ssl._create_unverified_context(), timeout=20)
    connection.request("POST", "/heard" if number % 2 else "/unread", b"x" * 3_000_000, {{"Host": "{NAME}"}})
    statuses[connection.getresponse().status] += 1
    connection.close()
print(dict(statuses))
"""


@pytest.mark.parametrize(("name", "server", "workers", "settings"), SERVERS)
def test_rollouts(host: Host, name: str, server: str, workers: int, settings: dict[str, str]) -> None:
    host.settings(asgi_service_server=server, asgi_service_workers=workers, **settings)
    done = host.roll_out("two", workers=0)
    assert not done["failed"], done
    # A single one is the main process itself.
    host.settled(workers if workers > 1 else 0)

    async def run() -> Load:
        # So many messages that some are under way when their websocket is closed.
        async with Load(host.site(), clients=16, websockets=20, echo=0.03) as load:
            await asyncio.sleep(1)
            for release in ("one", "two"):
                done = await in_thread(host.roll_out, release, workers=0)
                assert not done["failed"], done
            # The drain deadline, after which the old slot is stopped and closes its websockets.
            await asyncio.sleep(5)
        return load

    record = asyncio.run(run()).record
    assert record.failed() == {}, name
    assert len(record.requests) > 500
    assert set(record.versions) == {"one", "two"}
    # nginx keeps connections, and their requests go to the slot that has them.
    assert stayed(record, "one", host.switched()) < 0.5
    codes = {code for _, code in record.websockets_cut}
    assert codes == {1012}, record.websockets_cut
    assert [step for step in done["steps"] if step["seconds"] >= 15] == []

    number, seconds, headers = host.execute(f"python3 - <<'END'\n{EVENTS}END").split(maxsplit=2)
    assert (number, float(seconds) > 1.5) == ("3", True), headers
    assert "accel" not in headers.lower(), headers

    # nginx keeps connections: what is left of one request must never be taken for the next one, or be answered in its place.
    said = host.execute(f"python3 - <<'END'\n{KEPT}END")
    assert "/unread" in said, said
    assert "smuggled" not in said, said
    assert said.count("HTTP/1.1 200") <= 2, said

    # The server must not close the connection while nginx still sends.
    assert host.execute(f"python3 - <<'END'\n{EARLY}END").strip() == "{200: 60}"
