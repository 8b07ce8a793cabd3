"""The whole site with each of the other servers, one after the other on the same host; so each also begins with a change of server.

On one release of Debian: what differs between them is in the units, which the role asgi_service starts on both with each server.
"""

from __future__ import annotations

import dataclasses
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
from testinfra import get_hosts
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.stack.tests.conftest import client, client_of, slot  # noqa: F401 (fixtures)
from ansible_collections.steadfast.asgi.molecule.stack.tests.test_site import (  # noqa: F401 (the tests of every site)
    test_a_client_cannot_forge_its_address,
    test_static_files,
    test_the_application_answers_over_https,
    test_the_application_is_ready,
    test_websockets,
    test_what_is_written_can_be_read,
)
from ansible_collections.steadfast.asgi.molecule.support import Client, ansible, changed, name_of, play

testinfra_hosts = ["ansible://debian13"]

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/fastapi-app"
SERVERS: dict[str, dict[str, Any]] = {
    "uvicorn": {"asgi_service_server": "uvicorn"},
    "uvicorn-alone": {"asgi_service_server": "uvicorn", "asgi_service_workers": 1},
    "hypercorn": {"asgi_service_server": "hypercorn"},
    "granian": {"asgi_service_server": "granian"},
    "gunicorn-asgi": {"asgi_service_worker_class": "asgi"},
}


@pytest.fixture(scope="session")
def where() -> str:
    """The hosts of this file."""
    return "debian13"


@pytest.fixture(scope="session", params=SERVERS, autouse=True)
def options(request: pytest.FixtureRequest, where: str) -> str:
    """Put one of the servers in place; the value is what a run of a playbook has to be given for it."""
    given = f"--extra-vars={json.dumps(SERVERS[request.param])}"
    done = ansible("ansible-playbook", given, f"--limit={where},localhost", "converge.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return given


@dataclasses.dataclass
class Deployment:
    """A new release, what clients of each host were answered meanwhile, and what Ansible told."""

    version: str
    statuses: dict[str, list[int | str]]
    told: dict[str, Any] = dataclasses.field(default_factory=dict)


# The hosts are taken together, as a user's are: each test then looks at what was found on its own.
@pytest.fixture(scope="session")
def deployment(options: str, where: str, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    hosts = get_hosts([where], connection="ansible", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
    source = tmp_path_factory.mktemp("deployment") / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    done = Deployment(f"1.0.{time.time_ns()}", {name_of(host): [] for host in hosts})
    code = source / "app/__init__.py"
    text = re.sub(r'__version__ = ".*"', f'__version__ = "{done.version}"', code.read_text(encoding="utf-8"))
    code.write_text(text, encoding="utf-8")
    over = threading.Event()

    def ask(site: Client, statuses: list[int | str]) -> None:
        while not over.is_set():
            try:
                statuses.append(site.ask("/").status_code)
                statuses.append(site.ask("/notes", "POST", json={"text": "meanwhile"}).status_code)
            except httpx.HTTPError as error:
                statuses.append(repr(error))
            # As fast as they can, they would take the processors that the deployment needs.
            time.sleep(0.1)

    clients = [threading.Thread(target=ask, args=(client_of(host), done.statuses[name_of(host)])) for host in hosts for _ in range(3)]
    for thread in clients:
        thread.start()
    try:
        done.told = play("../../playbooks/deploy.yml", None, options, f"--limit={where},localhost", f"--extra-vars=asgi_source={source}")
        # Until the old slot has drained.
        time.sleep(6)
    finally:
        over.set()
        for thread in clients:
            thread.join()
    return done


def test_a_second_run_changes_nothing_but_the_release(host: Host, deployment: Deployment) -> None:
    assert set(changed(deployment.told, host)) <= {
        "steadfast.asgi.asgi_release : Make the release where the host does not have it",
        "steadfast.asgi.asgi_rollout : Boot the release in the idle slot, prove it ready and make it live",
        "steadfast.asgi.asgi_release : Remove releases that nothing needs",
    }


def test_a_new_release_costs_no_request(host: Host, deployment: Deployment, client: Client) -> None:  # noqa: F811
    assert client.ask("/").json()["version"] == deployment.version
    statuses = deployment.statuses[name_of(host)]
    assert len(statuses) > 50
    assert {status for status in statuses if status not in (200, 201)} == set()
