"""Commands around a rollout: migrations once for both hosts of the scenario, and others on each, before and after the switch.

The application is one of its own, since the other tests count on what they have left. Each test builds on the one before it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra import get_hosts
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[5]
PLAIN = ROOT / "tests/apps/plain"
ROLES = ["asgi_account", "asgi_release", "asgi_service", "asgi_rollout"]

# Says where it runs and as whom, and tries what the sandbox forbids.
TELL = """
import os, sys
from plain import VERSION

def may_write(path):
    try:
        open(path, "a").close()
    except OSError:
        return False
    return True

with open("/var/lib/fleet/told", "a") as told:
    forbidden = [path for path in (__file__, "/etc/fleet.conf", "/var/lib/others") if may_write(path)]
    print(*sys.argv[1:], VERSION, os.environ["PLAIN_GREETING"], os.getuid(), forbidden, sep="|", file=told)
print("told by", sys.argv[1])
"""

Deploy = Callable[..., "subprocess.CompletedProcess[str]"]


def words(done: subprocess.CompletedProcess[str]) -> str:
    """Return all that Ansible said. It folds long lines, and writes failures to standard error."""
    return " ".join((done.stdout + done.stderr).replace("\\n", " ").split())


def told(host: Host) -> list[str]:
    return host.check_output("cat /var/lib/fleet/told 2>/dev/null || true").splitlines()


def version(host: Host) -> str:
    answer = host.check_output("runuser -u www-data -- curl -sS --unix-socket /run/fleet/live.sock http://localhost/")
    return str(re.search(r'"version": "(\w+)"', answer).group(1))


@pytest.fixture(scope="module")
def hosts() -> list[Host]:
    """Both hosts of the scenario: what is tested here is what they do together."""
    found = get_hosts(["all"], connection="ansible", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory, apply_roles: Deploy) -> Deploy:
    def run(version: str, *options: str, serial: int = 0, **variables: Any) -> subprocess.CompletedProcess[str]:
        folder = tmp_path_factory.mktemp("source")
        shutil.copytree(PLAIN, folder, dirs_exist_ok=True)
        code = (folder / "plain.py").read_text(encoding="utf-8")
        (folder / "plain.py").write_text(code.replace('VERSION = "1"', f'VERSION = "{version}"'), encoding="utf-8")
        (folder / "tell.py").write_text(TELL, encoding="utf-8")
        common = {
            "asgi_app": "fleet",
            "asgi_source": str(folder),
            "asgi_import_path": "plain:app",
            "asgi_service_environment": {"PLAIN_GREETING": "it's 5% of $HOME"},
            "asgi_rollout_migrate": ["python tell.py 'migrate it'"],
            "asgi_rollout_drain_timeout": 1,
        }
        keywords = {"serial": serial} if serial else {}
        return apply_roles(ROLES, common | variables, *options, **keywords)

    return run


def test_migrations_run_on_one_host_as_the_application(hosts: list[Host], deploy: Deploy) -> None:
    done = deploy("1")
    assert done.returncode == 0, words(done)
    uid = hosts[0].check_output("id -u fleet")
    assert [told(host) for host in hosts] == [[f"migrate it|1|it's 5% of $HOME|{uid}|[]"], []]
    assert [version(host) for host in hosts] == ["1", "1"]


def test_they_do_not_run_again(hosts: list[Host], deploy: Deploy) -> None:
    done = deploy("1")
    assert done.stdout.count("changed=0 ") == 2, words(done)
    assert sum(len(told(host)) for host in hosts) == 1


def test_check_mode_runs_nothing(hosts: list[Host], deploy: Deploy) -> None:
    done = deploy("2", "--check")
    assert done.returncode == 0, words(done)
    assert sum(len(told(host)) for host in hosts) == 1


@pytest.mark.parametrize("serial", [0, 1])
def test_migrations_that_fail_let_no_host_roll_out(hosts: list[Host], deploy: Deploy, serial: int) -> None:
    commands = ["python tell.py first", "python -c 'raise SystemExit(\"no such table: notes\")'"]
    done = deploy("2", serial=serial, asgi_rollout_migrate=commands)
    assert done.returncode != 0
    assert "no such table: notes" in words(done)
    assert "it ended with 1" in words(done)
    assert "Boot the release" not in done.stdout
    assert [version(host) for host in hosts] == ["1", "1"]
    for host in hosts:
        host.run_expect([1], "systemctl list-units --all --plain --no-legend 'fleet-command-*' | grep .")
        host.run_expect([1], "ls /run/systemd/system/ | grep fleet-command")


def test_a_command_that_takes_too_long_is_stopped(hosts: list[Host], deploy: Deploy) -> None:
    done = deploy("2", asgi_rollout_migrate=["sleep 40"], asgi_rollout_command_timeout=1)
    assert "it was not done after 1 s" in words(done)
    hosts[0].run_expect([1], "pgrep --full 'sleep 4[0]'")
    assert [version(host) for host in hosts] == ["1", "1"]


def test_an_unknown_program_is_named(deploy: Deploy) -> None:
    assert "there is no program alembic in /opt/fleet/releases/" in words(deploy("2", asgi_rollout_migrate=["alembic upgrade head"]))


def test_a_command_before_the_switch_can_stop_it(hosts: list[Host], deploy: Deploy) -> None:
    done = deploy("2", asgi_rollout_before_activate=[["sh", "-c", "echo the shelf is empty; exit 7"]])
    assert done.returncode != 0
    assert "the shelf is empty" in words(done)
    assert "The live slot serves on as before" in words(done)
    assert [version(host) for host in hosts] == ["1", "1"]


def test_a_command_after_the_switch_can_take_it_back(hosts: list[Host], deploy: Deploy) -> None:
    done = deploy("2", asgi_rollout_after_activate=["false"])
    assert done.returncode != 0
    assert "Slot blue is live again" in words(done)
    assert [version(host) for host in hosts] == ["1", "1"]
    history = hosts[1].check_output("tail --lines=1 /opt/fleet/history.jsonl")
    assert '"action": "flip back"' in history


def test_all_of_them_run_in_their_order(hosts: list[Host], deploy: Deploy) -> None:
    for host in hosts:
        host.check_output("rm -f /var/lib/fleet/told")
    commands = {f"asgi_rollout_{when}_activate": [f"python tell.py {when}"] for when in ("before", "after")}
    # In batches of one host: the second has to know that the first has migrated.
    done = deploy("3", serial=1, **commands)
    assert done.returncode == 0, words(done)
    assert [[line.partition("|")[0] for line in told(host)] for host in hosts] == [["migrate it", "before", "after"], ["before", "after"]]
    assert [version(host) for host in hosts] == ["3", "3"]


def test_the_way_back_runs_none(hosts: list[Host], deploy: Deploy) -> None:
    done = deploy("3", asgi_rollout_rollback=True, asgi_rollout_release="", asgi_rollout_after_activate=["false"])
    assert done.returncode == 0, words(done)
    assert [version(host) for host in hosts] == ["1", "1"]
    assert [len(told(host)) for host in hosts] == [3, 2]


def test_a_command_by_hand(hosts: list[Host], tmp_path: Path) -> None:
    playbook = ROOT / "playbooks/command.yml"
    argv = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], "--extra-vars", "asgi_app=fleet"]
    command = tmp_path / "command.json"
    command.write_text('{"asgi_command": "python tell.py \'by hand\'"}', encoding="utf-8")
    done = subprocess.run([*argv, "--extra-vars", f"@{command}", str(playbook)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, words(done)
    assert words(done).count("told by by hand") == 2
    assert [told(host)[-1].partition("|")[0] for host in hosts] == ["by hand", "by hand"]


def test_each_host_migrates_its_own_database_where_that_is_asked_for(hosts: list[Host], deploy: Deploy) -> None:
    before = [len(told(host)) for host in hosts]
    done = deploy("4", asgi_rollout_migrate_once=False)
    assert done.returncode == 0, words(done)
    assert [len(told(host)) for host in hosts] == [number + 1 for number in before]
    assert [told(host)[-1].partition("|")[0] for host in hosts] == ["migrate it", "migrate it"]
    assert deploy("4", asgi_rollout_migrate_once=False).stdout.count("changed=0 ") == 2


def test_a_rollback_takes_back_what_the_last_run_did(hosts: list[Host], deploy: Deploy) -> None:
    """The host where that run failed was taken back by one more release, with exit code 0."""
    hosts[1].check_output("touch /var/lib/fleet/refuses")
    done = deploy("5", asgi_rollout_before_activate=["test ! -e /var/lib/fleet/refuses"])
    hosts[1].check_output("rm /var/lib/fleet/refuses")
    assert done.returncode != 0
    assert [version(host) for host in hosts] == ["5", "4"]
    playbook = ROOT / "playbooks/rollback.yml"
    # In batches too: the second one does not know the last run.
    argv = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], "-e", "asgi_app=fleet", "-e", "asgi_serial=1"]
    done = subprocess.run([*argv, str(playbook)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, words(done)
    assert [version(host) for host in hosts] == ["4", "4"]
    assert f"{hosts[1].backend.get_hostname()} stays as it is: run" in words(done)
