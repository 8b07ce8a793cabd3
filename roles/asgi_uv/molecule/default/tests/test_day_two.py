"""Later runs: a broken installation, a second version, and a private index with a password."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from testinfra.host import Host

UV = "/opt/uv/0.13.8/bin/uv"


@pytest.fixture(scope="session")
def repaired(apply_role: Callable[..., None]) -> None:
    # What an interrupted copy and an interrupted run leave.
    script = f"truncate --size 1M {UV} && mkdir -p /opt/uv/.0.13.8.partial/venv/bin && ! {UV} --version"
    # Also with a list of authorities of one's own.
    apply_role("asgi_uv", {"asgi_uv_ca_bundle": "/etc/ssl/certs/ca-certificates.crt"}, script)


@pytest.mark.usefixtures("repaired")
def test_a_broken_installation_is_replaced(host: Host) -> None:
    assert host.check_output(f"{UV} --version").startswith("uv 0.13.8")
    assert ".0.13.8.partial" not in host.check_output("ls -A /opt/uv")


@pytest.fixture(scope="session")
def private(apply_roles: Callable[..., subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    variables = {
        "asgi_uv_version": "0.0.1",
        "asgi_uv_index_url": "http://deploy:hunter2@127.0.0.1:8123/simple",
        # Two kinds of machine; the second digest is that of the wheel in files/index.py.
        "asgi_uv_hashes": [
            "sha256:" + 64 * "0",
            "sha256:b1a1e5082b5a50c43db59ae2c453d314152cf056146ad8cd60c67c07b40ebf0f",
        ],
    }
    return apply_roles(["asgi_uv"], variables, "-vvv")


def test_a_private_index_is_used_and_other_versions_stay(host: Host, private: subprocess.CompletedProcess[str]) -> None:
    assert private.returncode == 0, private.stdout + private.stderr
    assert host.check_output("/opt/uv/0.0.1/bin/uv --version") == "uv 0.0.1"
    assert host.file(UV).exists


def test_nobody_sees_the_password(host: Host, private: subprocess.CompletedProcess[str]) -> None:
    seen = host.file("/run/index/processes").content_string
    assert "-m pip install" in seen
    for text in [seen, private.stdout, private.stderr]:
        assert "hunter2" not in text
    assert host.run("grep --recursive --files-with-matches hunter2 /etc /opt /root /var/log /var/tmp").stdout == ""
