"""The whole site with each of the other servers, one after the other on the same host; so each also begins with a change of server.

On one release of Debian: what differs between them is in the units, which the role asgi_service starts on both with each server, and
writes a second time. tests/load/test_servers.py replaces a release under each of them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.molecule.stack.tests.conftest import client, slot  # noqa: F401 (fixtures)
from ansible_collections.steadfast.asgi.molecule.stack.tests.test_site import (  # noqa: F401 (the tests of every site)
    test_a_client_cannot_forge_its_address,
    test_static_files,
    test_the_application_answers_over_https,
    test_the_application_is_ready,
    test_websockets,
    test_what_is_written_can_be_read,
)
from ansible_collections.steadfast.asgi.molecule.support import ansible

testinfra_hosts = ["ansible://debian13"]

SERVERS: dict[str, dict[str, Any]] = {
    "uvicorn": {"asgi_service_server": "uvicorn"},
    "uvicorn-alone": {"asgi_service_server": "uvicorn", "asgi_service_workers": 1},
    "hypercorn": {"asgi_service_server": "hypercorn"},
    "granian": {"asgi_service_server": "granian"},
    "gunicorn-asgi": {"asgi_service_worker_class": "asgi"},
}


@pytest.fixture(scope="session", params=SERVERS, autouse=True)
def server(request: pytest.FixtureRequest) -> str:
    """Put one of the servers in place."""
    given = f"--extra-vars={json.dumps(SERVERS[request.param])}"
    done = ansible("ansible-playbook", given, "--limit=debian13,localhost", "converge.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return request.param
