"""What another user of the host, without privileges, cannot do."""

from __future__ import annotations

import pytest
from testinfra.host import Host

SECRET = "what nobody else may see"  # in molecule.yml
CONNECT = "import socket; socket.socket(socket.AF_UNIX).connect('/run/notes/{}.sock')"


def connect(host: Host, user: str, name: str) -> str:
    return host.run(f'runuser -u {user} -- python3 -c "{CONNECT.format(name)}"').stderr


@pytest.mark.parametrize("name", ["live", "slot"])
def test_the_socket_is_nginx_s_alone(host: Host, slot: str, name: str) -> None:
    name = slot if name == "slot" else name
    assert "Permission denied" in connect(host, "mallory", name)
    assert connect(host, "www-data", name) == ""


@pytest.mark.parametrize("name", ["live", "next"])
def test_the_environment_file_cannot_be_read(host: Host, slot: str, name: str) -> None:
    path = f"/etc/notes/{slot if name == 'live' else name}/env"
    assert SECRET in host.check_output(f"cat {path}")
    assert "Permission denied" in host.run(f"runuser -u mallory -- cat {path}").stderr


def test_systemd_tells_no_secret(host: Host, slot: str) -> None:
    told = host.check_output(f"runuser -u mallory -- systemctl show notes@{slot}.service notes@{slot}.socket")
    # It does tell about the service, so it would tell a secret as well.
    assert f"/etc/notes/{slot}/env" in told
    assert SECRET not in told


def test_processes_tell_no_secret(host: Host) -> None:
    look = "sh -c 'cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr \\\\0 \\\\n'"
    assert SECRET in host.run(look).stdout
    told = host.run(f"runuser -u mallory -- {look}").stdout
    assert "app.main:app" in told
    assert SECRET not in told


def test_systemd_rates_the_sandbox(host: Host, slot: str) -> None:
    rating = host.check_output(f"systemd-analyze security --no-pager notes@{slot}.service").splitlines()[-1]
    assert float(rating.split()[-3]) <= 1.3, rating
