"""The site that molecule.yml describes, seen from the controller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import Client, name_of


def client_of(host: Host) -> Client:
    """A client that trusts the authority which the role asgi_certificate has exported for this host."""
    exported = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"{name_of(host)}-ca.pem")
    return Client(host, "notes.example", exported.read_text(encoding="utf-8"))


@pytest.fixture
def client(host: Host) -> Client:
    return client_of(host)


@pytest.fixture
def slot(host: Host) -> str:
    """The slot that serves."""
    return host.check_output("readlink /opt/notes/slots/live")
