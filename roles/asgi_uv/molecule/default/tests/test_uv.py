"""The uv that the role installed, put to work on the hosts."""

from __future__ import annotations

from testinfra.host import Host

UV = "/opt/uv/0.13.8/bin/uv"


def test_nothing_else_is_installed(host: Host) -> None:
    found = host.check_output("find /opt/uv/0.13.8 | sort")
    assert found.splitlines() == ["/opt/uv/0.13.8", "/opt/uv/0.13.8/bin", UV, UV + "x"]
    owned = host.check_output("stat --format '%U:%G %a' /opt/uv /opt/uv/0.13.8 /opt/uv/0.13.8/bin /opt/uv/0.13.8/bin/*")
    assert owned.splitlines() == ["root:root 755"] * 5
    assert not host.file("/root/.cache/pip").exists


def test_it_is_the_version_and_everybody_may_run_it(host: Host) -> None:
    assert host.check_output(f"runuser -u nobody -- {UV} --version").startswith("uv 0.13.8")
    assert host.check_output(f"runuser -u nobody -- {UV}x --version").startswith("uvx 0.13.8")


def test_it_makes_an_environment_and_resolves_a_package(host: Host) -> None:
    host.check_output(f"rm -rf /tmp/try && {UV} venv --quiet --python /usr/bin/python3 /tmp/try")
    host.check_output(f"{UV} pip install --quiet --no-cache --python /tmp/try 'anyio>=4'")
    # anyio needs idna: that it is there is the resolver's work.
    host.check_output("/tmp/try/bin/python -c 'import anyio, idna'")
