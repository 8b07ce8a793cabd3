"""The host is restarted."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import httpx
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import Client, name_of


def test_the_site_is_back_by_itself(host: Host, client: Client, figure: Callable[[str], None]) -> None:
    version = client.ask("/").json()["version"]
    release = host.check_output("realpath /opt/notes/slots/live/release")
    note = client.ask("/notes", "POST", json={"text": "kept"}).headers["location"]

    subprocess.run(["docker", "restart", name_of(host)], check=True, capture_output=True, timeout=120)
    started = time.monotonic()
    answers = []
    while time.monotonic() - started < 60:
        try:
            client.locate()
            answers.append(client.ask("/"))
        except (httpx.TransportError, AssertionError):
            # nginx, or the host itself, is not there yet.
            time.sleep(0.2)
            continue
        if answers[-1].status_code == 200:
            break
    figure(f"over HTTPS again {time.monotonic() - started:.1f} s after the restart")
    assert answers
    assert answers[-1].status_code == 200
    assert answers[-1].json()["version"] == version
    assert host.check_output("realpath /opt/notes/slots/live/release") == release
    assert client.ask(note).json()["text"] == "kept"
    assert host.run("systemctl is-system-running --wait").stdout.strip() == "running"
