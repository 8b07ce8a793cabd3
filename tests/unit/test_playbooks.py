"""What all playbooks have in common, and the inventories to start from."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = sorted(path.name for path in (ROOT / "playbooks").glob("*.yml"))


def plays(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks" / name).read_text(encoding="utf-8"))
    return found


def run(*command: str | Path, folder: Path = ROOT / "playbooks") -> tuple[int, str]:
    """Return the exit code of one of Ansible's programs, and what it said in one line."""
    environment = os.environ | {"ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
    done = subprocess.run(
        [str(each) for each in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_every_play_checks_what_it_is_over(name: str) -> None:
    for play in plays(name):
        assert "steadfast.asgi.keyword('asgi_hosts', groups)" in play["hosts"]
        for keyword in ("serial", "max_fail_percentage"):
            assert f"steadfast.asgi.keyword('asgi_{keyword}')" in play.get(keyword, f"steadfast.asgi.keyword('asgi_{keyword}')")
        # Batches end where too many hosts are lost.
        assert ("serial" in play) == ("tasks_from': 'batch'" in str(play.get("post_tasks", [])[-1:]))
    text = json.dumps(plays(name))
    assert "asgi_check" in text or "steadfast.asgi.asgi_rollout" in text


@pytest.mark.parametrize("name", ["site.yml", "status.yml"])
def test_an_inventory_without_hosts_is_answered_with_where_to_write_them(name: str) -> None:
    code, said = run("ansible-playbook", name, "-i", "inventory")
    assert code != 0
    assert "inventory/hosts.yml under 'hosts:' of the group app" in said
    assert "inventory/group_vars/app.yml" in said
    assert "no hosts matched" not in said
    assert "localhost :" not in said


def test_a_limit_counts_as_before(tmp_path: Path) -> None:
    code, said = run("ansible-playbook", ROOT / "playbooks/site.yml", "-i", "web1,web2,", "--limit=web2", "--list-hosts", folder=tmp_path)
    assert code == 0
    assert said.endswith("hosts (1): web2")


@pytest.mark.parametrize(
    "inventory", ["playbooks/inventory/group_vars/app.yml", "examples/inventories/starter/group_vars/shop.yml", "ansible.cfg"]
)
def test_ssh_gives_up_a_silent_connection(inventory: str) -> None:
    if inventory == "ansible.cfg":
        settings = configparser.ConfigParser()
        settings.read(ROOT / "playbooks/ansible.cfg")
        arguments = settings["ssh_connection"]["ssh_common_args"]
    else:
        arguments = yaml.safe_load((ROOT / inventory).read_text(encoding="utf-8"))["ansible_ssh_common_args"]
    done = subprocess.run(["ssh", "-F", "none", "-G", *arguments.split(), "host"], check=True, capture_output=True, text=True, timeout=20)
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert (told["serveraliveinterval"], told["serveralivecountmax"], told["connecttimeout"]) == ("15", "4", "15")


# The variables of a host's groups come from files beside the inventory, as users write them.
HOSTS = {
    "all": {
        "children": {
            "blog": {"hosts": {"both": {}, "own": {}, "only": {}}},
            "shop": {"hosts": {"both": {}, "own": {}, "chosen": {}}, "children": {"canary": {"hosts": {"child": {}}}}},
            "batches": {"hosts": {"batches": {}}},
        },
        "vars": {"ansible_connection": "local"},
    }
}
FILES = {
    "group_vars/blog.yml": {"asgi_app": "blog", "asgi_domain": "blog.example"},
    "group_vars/shop.yml": {"asgi_app": "shop", "asgi_domain": "shop.example"},
    "group_vars/canary.yml": {"asgi_domain": "canary.example"},
    "group_vars/batches.yml": {"asgi_serial": 2, "asgi_max_fail_percentage": 0},
    "host_vars/own.yml": {"asgi_app": "blog", "asgi_domain": "own.example"},
}


def check(folder: Path, *options: str, **keywords: Any) -> tuple[int, str]:
    for name, variables in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(variables), encoding="utf-8")
    (folder / "hosts.yml").write_text(json.dumps(HOSTS), encoding="utf-8")
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"steadfast.asgi.asgi_check": {}}], **keywords}
    (folder / "play.json").write_text(json.dumps([play]), encoding="utf-8")
    return run("ansible-playbook", "-i", folder / "hosts.yml", folder / "play.json", *options, folder=ROOT)


def test_what_is_ambiguous_in_an_inventory_is_refused_by_name(tmp_path: Path) -> None:
    code, said = check(tmp_path)
    assert code != 0
    assert 'host both is in the groups blog and shop, which have different values for asgi_app (blog: "blog", shop: "shop")' in said
    assert "asgi_serial is 2 in the variables of host batches" in said
    assert "asgi_max_fail_percentage is 0 in the variables of host batches" in said
    for host in ("own", "only", "chosen", "child"):
        assert f"{host} : ok=1" in said


@pytest.mark.parametrize("where", ["command line", "play"])
def test_what_is_set_for_all_is_not_ambiguous(tmp_path: Path, where: str) -> None:
    given = {"asgi_app": "blog", "asgi_domain": "blog.example", "asgi_serial": 2, "asgi_max_fail_percentage": 0}
    options, keywords = (["--extra-vars", json.dumps(given)], {}) if where == "command line" else ([], {"vars": given})
    code, said = check(tmp_path, *options, **keywords)
    assert code == 0, said
