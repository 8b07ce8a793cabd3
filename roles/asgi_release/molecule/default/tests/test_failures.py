"""Builds that are killed, that run out of disk, that have no network, and that need a password."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://debian13"]

PLAIN = f"{Path(__file__).resolve().parents[4]}/tests/apps/plain"
FILES = Path(__file__).resolve().parents[1] / "files"
RELEASES = "/opt/other/releases"
UNIT = "asgi-build-other.service"
VARIABLES = {"asgi_release_app": "other", "asgi_release_source": PLAIN, "asgi_release_import_path": "plain:app"}
SERVER = "{{ lookup('ansible.builtin.file', '" + PLAIN + "/../../../roles/asgi_release/files/server-requirements.txt') }}"

Play = Callable[..., subprocess.CompletedProcess[str]]


def role(**variables: Any) -> dict[str, Any]:
    return {"ansible.builtin.include_role": {"name": "steadfast.asgi.asgi_release"}, "vars": {**VARIABLES, **variables}}


def incomplete(host: Host) -> list[str]:
    found = host.check_output(f"for each in {RELEASES}/*; do test -e $each/release.json || echo $each; done")
    return found.split()


@pytest.fixture(scope="module")
def killed(host: Host, play: Play) -> subprocess.CompletedProcess[str]:
    """Twenty builds, each of another release, each killed at some moment; then one that is left alone."""
    host.check_output(f"mkdir -p {RELEASES}")
    tasks: list[dict[str, Any]] = [{"ansible.builtin.copy": {"src": f"{FILES}/kill_build.py", "dest": "/usr/local/lib/", "mode": "0644"}}]
    for number in range(20):
        moment = random.uniform(0, 2.2)  # noqa: S311
        kill = f"systemd-run --quiet --collect python3 /usr/local/lib/kill_build.py {moment:.3f}"
        tasks.append({"ansible.builtin.command": kill})
        module = {
            "source": PLAIN,
            "releases": RELEASES,
            "import_path": "plain:app",
            "uv": "/opt/uv/0.13.8/bin/uv",
            "server_requirements": f"{SERVER}\n# {number}\n",
        }
        tasks.append({"steadfast.asgi.asgi_release": module, "ignore_errors": True, "no_log": True})
        # Nothing of a build outlives the process that is in charge of it.
        ended = f"while systemctl is-active --quiet {UNIT} || pgrep --uid asgi-build-other; do sleep 0.1; done"
        tasks.append({"ansible.builtin.command": {"argv": ["timeout", "10", "sh", "-c", ended]}})
    tasks.append(role())
    return play("debian13", tasks)


def test_after_twenty_kills_there_are_whole_releases_only(host: Host, killed: subprocess.CompletedProcess[str]) -> None:
    assert killed.returncode == 0, killed.stdout
    print(killed.stdout.count("...ignoring"), "builds were killed before they were complete")
    assert killed.stdout.count("...ignoring") >= 5
    assert incomplete(host) == []
    code = "import plain, gunicorn, uvicorn, uvicorn_worker, uvloop, httptools, websockets"
    host.check_output(f"for each in {RELEASES}/*; do cd $each/app && $each/.venv/bin/python -c '{code}' || exit 1; done")
    assert host.run(f"systemctl is-active {UNIT}").stdout.strip() == "inactive"
    assert host.check_output(f"find {RELEASES} ! -type l '(' ! -user root -o -perm /022 ')'") == ""


@pytest.fixture(scope="module")
def full(host: Host, play: Play) -> subprocess.CompletedProcess[str]:
    """A disk that is full in the middle of a build, and one that is too full to begin with."""
    host.check_output("mkdir -p /opt/full/releases && mount -t tmpfs -o size=12M none /opt/full/releases")
    cases = [role(asgi_release_app="full", asgi_release_min_free=0), role(asgi_release_app="full")]
    said = {"ansible.builtin.debug": {"var": "ansible_failed_result.msg"}}
    return play("debian13", [{"block": [case], "rescue": [said]} for case in cases])


def test_a_full_disk_is_a_clean_failure(host: Host, full: subprocess.CompletedProcess[str]) -> None:
    assert "No space left on device" in full.stdout
    assert " ".join(full.stdout.split()).count("The release was not built, and nothing is left of it.") >= 2
    assert "asgi_release_min_free" in full.stdout
    assert host.check_output("ls -A /opt/full/releases") == ".lock"
    assert host.check_output("find /opt/full/releases -type f -size +0") == ""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory, wheel: Callable[[Path, str, str, str], Path]) -> Path:
    """A source with requirements, and the wheel that they ask for beside it."""
    folder = tmp_path_factory.mktemp("wheels")
    path = wheel(folder, "steadfast_probe", "1.0", "app = 1\n")
    (folder / "source").mkdir()
    (folder / "source/main.py").write_text("from steadfast_probe import app\n", encoding="utf-8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "source/requirements.txt").write_text(f"steadfast-probe==1.0 --hash=sha256:{digest}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def private(host: Host, play: Play, wheels: Path) -> subprocess.CompletedProcess[str]:
    """A deployment out of an index with a password, with all that Ansible can say of it."""
    index = "systemd-run --quiet --unit=index --property=RuntimeDirectory=index python3 /usr/local/lib/index.py"
    tasks = [
        {"ansible.builtin.copy": {"src": f"{FILES}/index.py", "dest": "/usr/local/lib/", "mode": "0644"}},
        {"ansible.builtin.copy": {"src": f"{wheels}/steadfast_probe-1.0-py3-none-any.whl", "dest": "/srv/wheels/", "mode": "0644"}},
        {"ansible.builtin.command": index},
        {"ansible.builtin.wait_for": {"port": 8124}},
        role(
            asgi_release_source=f"{wheels}/source",
            asgi_release_import_path="main:app",
            asgi_release_indexes=[{"url": "http://127.0.0.1:8124/simple", "username": "deploy", "password": "hunter2-of-the-index"}],
        ),
    ]
    assert host.run("systemctl stop index").rc in (0, 5)
    return play("debian13", tasks, "-vvv", "--diff")


def test_a_private_index_is_used(host: Host, private: subprocess.CompletedProcess[str]) -> None:
    assert private.returncode == 0, private.stdout
    assert "+ steadfast-probe 1.0" in private.stdout
    assert host.check_output(f"find {RELEASES} -name steadfast_probe.py | wc -l") == "1"


def test_nobody_sees_the_password(host: Host, private: subprocess.CompletedProcess[str]) -> None:
    seen = host.file("/run/index/processes").content_string
    assert "uv pip install" in seen
    for text in [seen, private.stdout, private.stderr]:
        assert "hunter2" not in text
    places = "/etc /opt /root /home /run /srv /tmp /var"
    found = host.run(f"grep --recursive --files-with-matches --devices=skip hunter2 {places}").stdout
    assert found == ""
    assert host.run("journalctl --no-pager | grep hunter2").stdout == ""


def test_a_host_without_a_network_is_deployed_from_the_wheelhouse(host: Host, play: Play, wheels: Path) -> None:
    route = host.check_output("ip route show default")
    variables = {"asgi_release_source": f"{wheels}/source", "asgi_release_import_path": "main:app", "asgi_release_server_requirements": ""}
    tasks = [
        {"ansible.builtin.command": "ip route delete default"},
        {
            "block": [role(asgi_release_wheelhouse=str(wheels), **variables)],
            "always": [{"ansible.builtin.command": f"ip route add {route}"}],
        },
    ]
    done = play("debian13", tasks, "--diff")
    assert done.returncode == 0, done.stdout
    assert "+ steadfast-probe 1.0" in done.stdout
