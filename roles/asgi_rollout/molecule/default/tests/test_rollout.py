"""A good release goes live through the idle slot, a bad one never does.

Each deployment goes to both hosts at once, and each test builds on what the one before it left on its host.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

PLAIN = Path(__file__).resolve().parents[5] / "tests/apps/plain"
ROLES = ["asgi_release", "asgi_service", "asgi_rollout"]

Deploy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["debian12", "debian13"])
def host(request: pytest.FixtureRequest) -> Host:
    """Each host in turn, test by test; testinfra's own fixture would take all tests on one host before the next."""
    [found] = testinfra.get_hosts([request.param], connection="ansible", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
    return found


def name_of(host: Host) -> str:
    return host.backend.get_hostname()


def said(done: subprocess.CompletedProcess[str], host: Host) -> str:
    """Return what the deployment failed with on this host, empty if it did not."""
    # Molecule has Ansible write failures to stderr.
    _before, _, rest = (done.stdout + "\n" + done.stderr).partition(f"fatal: [{name_of(host)}]: ")
    return " ".join(re.split(r"\nfatal: \[|\nPLAY RECAP", rest)[0].replace("\\n", " ").split())


def recap(done: subprocess.CompletedProcess[str], host: Host) -> dict[str, int]:
    """Return how many tasks did what on this host."""
    found = re.search(rf"^{name_of(host)} +: (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", found[1])}


def ask(host: Host, path: str) -> dict[str, Any]:
    return json.loads(host.check_output(f"runuser -u www-data -- curl -sS --unix-socket /run/plain/live.sock http://localhost{path}"))


def live(host: Host) -> str:
    return host.check_output("readlink /opt/plain/slots/live")


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory, apply_roles: Deploy) -> Deploy:
    """Deploy the application on the hosts, with another version in it and the given variables."""

    def run(version: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        folder = tmp_path_factory.mktemp("source")
        shutil.copytree(PLAIN, folder, dirs_exist_ok=True)
        code = (folder / "plain.py").read_text(encoding="utf-8")
        (folder / "plain.py").write_text(code.replace('VERSION = "1"', f'VERSION = "{version}"'), encoding="utf-8")
        common = {"asgi_app": "plain", "asgi_source": str(folder), "asgi_import_path": "plain:app"}
        return apply_roles(ROLES, common | variables)

    return run


@pytest.fixture(scope="module")
def second(deploy: Deploy) -> subprocess.CompletedProcess[str]:
    return deploy("2")


@pytest.fixture(scope="module")
def broken(second: subprocess.CompletedProcess[str], deploy: Deploy) -> dict[str, subprocess.CompletedProcess[str]]:
    """Releases that must not go live, each in its own way."""
    assert second.returncode == 0, second.stdout
    return {
        way: deploy(f"broken-{way}", asgi_service_environment={"PLAIN_BROKEN": way}, asgi_service_boot_timeout=timeout)
        for way, timeout in (("import", 30), ("lifespan", 30), ("ready", 4), ("hang", 4))
    }


@pytest.fixture(scope="module")
def third(broken: dict[str, subprocess.CompletedProcess[str]], deploy: Deploy) -> subprocess.CompletedProcess[str]:
    assert all(done.returncode != 0 for done in broken.values())
    return deploy("3")


def test_the_first_release_is_live(host: Host) -> None:
    assert ask(host, "/")["version"] == "1"
    assert live(host) == "blue"


def test_a_new_release_goes_live_in_the_other_slot(host: Host, second: subprocess.CompletedProcess[str]) -> None:
    assert second.returncode == 0, second.stdout
    assert live(host) == "green"
    assert ask(host, "/")["version"] == "2"
    assert host.service("plain@green").is_enabled
    assert not host.service("plain@blue").is_enabled
    # The drain has nothing to wait for.
    host.check_output("timeout 20 sh -c 'while systemctl is-active --quiet plain@blue; do sleep 0.2; done'")
    assert not host.file("/run/plain/blue.sock").exists


MESSAGES = {
    "import": "RuntimeError: this release cannot be imported",
    "lifespan": "this release cannot start",
    "ready": "this release has lost its database",
    "hang": "boot_timeout",
}


@pytest.mark.parametrize("way", MESSAGES)
def test_a_broken_release_never_goes_live(host: Host, broken: dict[str, subprocess.CompletedProcess[str]], way: str) -> None:
    assert recap(broken[way], host)["failed"] == 1
    assert MESSAGES[way] in said(broken[way], host)
    assert "The live slot serves on as before." in said(broken[way], host)
    assert live(host) == "green"
    assert ask(host, "/")["version"] == "2"


@pytest.mark.usefixtures("broken")
def test_nothing_of_a_broken_release_keeps_running(host: Host) -> None:
    assert not host.service("plain@blue").is_running
    assert not host.service("plain@blue").is_enabled
    assert not host.file("/run/plain/blue.sock").exists


@pytest.mark.usefixtures("broken")
def test_what_was_tried_does_not_reach_the_live_slot_by_a_crash(host: Host) -> None:
    """The environment that broke the last release is on the host. The live slot has its own."""
    assert "PLAIN_BROKEN" in host.file("/etc/plain/next/env").content_string
    host.check_output("systemctl kill --signal=KILL plain@green.service")
    assert ask(host, "/")["version"] == "2"
    assert ask(host, "/environment") == {}


def test_the_next_good_release_works(host: Host, third: subprocess.CompletedProcess[str]) -> None:
    assert third.returncode == 0, third.stdout
    assert live(host) == "blue"
    assert ask(host, "/")["version"] == "3"


@pytest.mark.usefixtures("third")
def test_the_history_tells_it_all(host: Host) -> None:
    lines = [json.loads(line) for line in host.file("/opt/plain/history.jsonl").content_string.splitlines()]
    assert [line["result"] == "ok" for line in lines] == [True, True, False, False, False, False, True]
    assert lines[-1]["previous"] == lines[1]["release"]


@pytest.fixture(scope="module")
def interrupted(third: subprocess.CompletedProcess[str], deploy: Deploy) -> subprocess.CompletedProcess[str]:
    assert third.returncode == 0, third.stdout
    return deploy("3")


def test_a_second_run_changes_nothing(host: Host, interrupted: subprocess.CompletedProcess[str]) -> None:
    assert recap(interrupted, host)["changed"] == 0, interrupted.stdout


@pytest.mark.usefixtures("interrupted")
def test_after_a_power_cut_the_link_decides(host: Host) -> None:
    """What an interrupted rollout leaves at worst: both slots enabled, and only one of them named by the link."""
    host.check_output("systemctl enable --quiet plain@green.service plain@green.socket")
    host.check_output("systemctl stop plain@blue.socket plain@blue.service && systemctl start plain@blue.socket plain@green.socket")
    # The first request starts the service behind the link.
    assert ask(host, "/")["version"] == "3"


@pytest.fixture(scope="module")
def settled(interrupted: subprocess.CompletedProcess[str], deploy: Deploy) -> subprocess.CompletedProcess[str]:
    assert interrupted.returncode == 0, interrupted.stdout
    return deploy("3")


def test_the_next_run_puts_the_rest_in_order(host: Host, settled: subprocess.CompletedProcess[str]) -> None:
    assert settled.returncode == 0, settled.stdout
    assert not host.service("plain@green").is_enabled
    assert host.service("plain@blue").is_enabled
