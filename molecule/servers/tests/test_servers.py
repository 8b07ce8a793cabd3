"""The whole site with each of the other servers, one after the other on the same hosts; so each also begins with a change of server."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.stack.tests.conftest import client, slot  # noqa: F401 (fixtures)
from ansible_collections.steadfast.asgi.molecule.stack.tests.test_site import (  # noqa: F401 (the tests of every site)
    test_a_client_cannot_forge_its_address,
    test_static_files,
    test_the_application_answers_over_https,
    test_the_application_is_ready,
    test_websockets,
    test_what_is_written_can_be_read,
)
from ansible_collections.steadfast.asgi.molecule.support import Client, ansible, changed, play

EXAMPLE = Path(os.environ["STEADFAST_ROOT"]) / "examples/fastapi-app"
SERVERS: dict[str, dict[str, Any]] = {
    "uvicorn": {"asgi_service_server": "uvicorn"},
    "uvicorn-alone": {"asgi_service_server": "uvicorn", "asgi_service_workers": 1},
    "hypercorn": {"asgi_service_server": "hypercorn"},
    "granian": {"asgi_service_server": "granian"},
    "gunicorn-asgi": {"asgi_service_worker_class": "asgi"},
}


@pytest.fixture(scope="session", params=SERVERS, autouse=True)
def options(request: pytest.FixtureRequest) -> str:
    """Put one of the servers in place on all hosts; the value is what a run of a playbook has to be given for it."""
    given = f"--extra-vars={json.dumps(SERVERS[request.param])}"
    done = ansible("ansible-playbook", given, "converge.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return given


def test_a_second_run_changes_nothing(host: Host, options: str) -> None:
    assert changed(play("converge.yml", host, options), host) == []


def test_a_new_release_costs_no_request(host: Host, options: str, client: Client, tmp_path: Path) -> None:  # noqa: F811
    source = shutil.copytree(EXAMPLE, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    version = f"1.0.{time.time_ns()}"
    code = source / "app/__init__.py"
    code.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', code.read_text(encoding="utf-8")), encoding="utf-8")
    statuses: list[int | str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                statuses.append(client.ask("/").status_code)
                statuses.append(client.ask("/notes", "POST", json={"text": "meanwhile"}).status_code)
            except httpx.HTTPError as error:
                statuses.append(repr(error))

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for thread in clients:
        thread.start()
    try:
        play("../../playbooks/deploy.yml", host, options, f"--extra-vars=asgi_source={source}")
        # Until the old slot has drained.
        time.sleep(6)
    finally:
        over.set()
        for thread in clients:
            thread.join()
    assert client.ask("/").json()["version"] == version
    assert len(statuses) > 50
    assert {status for status in statuses if status not in (200, 201)} == set()
