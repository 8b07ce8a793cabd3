"""An interpreter that the host's system does not have is installed by uv, for all applications, from a list of one's own.

The archive is Debian 12's Python, which runs on Debian 13 too; those that uv knows by itself are far away.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://debian13"]

PLAIN = f"{Path(__file__).resolve().parents[4]}/tests/apps/plain"
FILES = Path(__file__).resolve().parents[1] / "files"
VERSION = "3.11"


@pytest.fixture(scope="module")
def runs(play: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What two runs of the role said."""
    folder = tmp_path_factory.mktemp("python")
    copy = {"ansible.builtin.copy": {"src": f"{FILES}/mirror.py", "dest": "/usr/local/lib/", "mode": "0644"}}
    fetched = [
        {"ansible.builtin.fetch": {"src": f"/srv/python/{name}", "dest": f"{folder}/", "flat": True}}
        for name in ("python.tar.gz", "downloads.json")
    ]
    made = play("debian12", [copy, {"ansible.builtin.command": "python3 /usr/local/lib/mirror.py /srv/python"}, *fetched])
    assert made.returncode == 0, made.stdout + made.stderr
    variables: dict[str, Any] = {
        "asgi_release_app": "managed",
        "asgi_release_source": PLAIN,
        "asgi_release_import_path": "plain:app",
        "asgi_release_python": VERSION,
        "asgi_release_python_downloads": "file:///srv/python/downloads.json",
    }
    role = {"ansible.builtin.include_role": {"name": "steadfast.asgi.asgi_release"}, "vars": variables}
    there = {
        "ansible.builtin.file": {"path": "{{ item }}", "state": "directory", "mode": "0755"},
        "loop": ["/srv", "/opt/managed/releases"],
    }
    mirror = {"ansible.builtin.copy": {"src": f"{folder}/", "dest": "/srv/python/", "mode": "0644", "directory_mode": "0755"}}
    said = []
    for tasks in ([there, mirror, role], [role]):
        done = play("debian13", tasks)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    return said


def test_the_application_runs_with_it(host: Host, runs: list[str]) -> None:
    assert "changed=0" in runs[1]
    path = host.check_output("dirname /opt/managed/releases/*/release.json")
    code = "import plain, uvloop, ssl, sys; print(sys.base_prefix)"
    said = host.check_output(f"cd {path}/app && runuser -u plain -- {path}/.venv/bin/python -c '{code}'")
    assert said.startswith(f"/opt/uv/python/cpython-{VERSION}.")


@pytest.mark.usefixtures("runs")
def test_a_newer_patch_does_not_change_a_release(host: Host) -> None:
    """uv's link from the minor version to the newest patch is in no release."""
    path = host.check_output("dirname /opt/managed/releases/*/release.json")
    assert f"/cpython-{VERSION}." in host.check_output(f"readlink {path}/.venv/bin/python")
    assert f"/cpython-{VERSION}." in host.check_output(f"grep ^home {path}/.venv/pyvenv.cfg")


@pytest.mark.usefixtures("runs")
def test_it_belongs_to_root(host: Host) -> None:
    assert host.check_output("find /opt/uv/python ! -type l '(' ! -user root -o -perm /022 ')'") == ""
