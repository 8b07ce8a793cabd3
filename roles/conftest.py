"""Fixtures for the tests in roles/*/molecule/*/tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# What one host said to each case, by the case's name; a case that was not refused is missing.
Refusals = dict[str, dict[str, str]]

# One number for everything that a role could have written: names, owners, modes and the time of the last change.
FINGERPRINT = "find /etc /opt /srv /home /var/lib /usr/local -printf '%p %i %m %U %G %C@\\n' | sort | sha256sum"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out on the older Debian what is to be tried once, which is no test that was skipped."""
    left_out = [item for item in items if item.get_closest_marker("once") and "debian12" in item.name]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def run_playbook(path: Path, plays: list[dict[str, Any]]) -> None:
    """Run `plays` on the hosts of this scenario; fails with Ansible's output."""
    path.write_text(json.dumps(plays), encoding="utf-8")
    # Molecule's own settings for the provisioner do not reach the verifier.
    environment = os.environ | {"ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
    argv = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], str(path)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr)


@pytest.fixture(scope="session")
def apply_role(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, dict[str, Any], str], None]:
    """Run a shell script on all hosts of the scenario, to bring them out of shape, and then apply a role."""

    def apply(role: str, variables: dict[str, Any], script: str) -> None:
        tasks = [
            {"ansible.builtin.shell": script},
            {"ansible.builtin.include_role": {"name": f"steadfast.asgi.{role}"}, "vars": variables},
        ]
        play = {"hosts": "all", "become": True, "gather_facts": False, "tasks": tasks}
        run_playbook(tmp_path_factory.mktemp("apply") / "playbook.json", [play])

    return apply


@pytest.fixture(scope="session")
def refusals_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Refusals]:
    """Apply a role once for each case, a set of variables that it has to refuse, and return what it said on each host.

    One run of Ansible for all of them. Fails if anything on a host was changed by it. `hosts` is a pattern: values that
    are refused without a look at the host need no second one.
    """

    def refusals(role: str, cases: dict[str, dict[str, Any]], hosts: str = "all") -> Refusals:
        folder = tmp_path_factory.mktemp("refusals")
        fingerprint = {"ansible.builtin.shell": FINGERPRINT, "changed_when": False}
        tasks: list[dict[str, Any]] = [{**fingerprint, "register": "before"}]
        for case, variables in cases.items():
            # A loop fails with one result for each item.
            results = "(ansible_failed_result.results | default([ansible_failed_result])) | map(attribute='msg', default='')"
            said = "{{ refused | default({}) | combine({'" + case + "': " + results + " | join(' ')}) }}"
            tasks.append(
                {
                    "block": [{"ansible.builtin.include_role": {"name": f"steadfast.asgi.{role}"}, "vars": variables}],
                    "rescue": [{"ansible.builtin.set_fact": {"refused": said}}],
                }
            )
        tasks.append({**fingerprint, "register": "after"})
        result = "{{ {'refused': refused | default({}), 'unchanged': before.stdout == after.stdout} | to_json }}"
        copy = {"content": result, "dest": f"{folder}/{{{{ inventory_hostname }}}}.result", "mode": "0600"}
        tasks.append({"ansible.builtin.copy": copy, "delegate_to": "localhost", "become": False})
        play = {"hosts": hosts, "become": True, "gather_facts": False, "tasks": tasks}
        run_playbook(folder / "playbook.json", [play])
        outcomes = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.result")}
        if not outcomes or not all(outcome["unchanged"] for outcome in outcomes.values()):
            pytest.fail(f"{role} changed a host before it refused: {outcomes}")
        return {name: outcome["refused"] for name, outcome in outcomes.items()}

    return refusals


@pytest.fixture(scope="session")
def apply_roles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Apply roles in a play of their own, as site.yml does; returns Ansible's result, whether it went well or not.

    `keywords` are more of the play's, such as serial.
    """

    def apply(roles: list[str], variables: dict[str, Any], *options: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
        path = tmp_path_factory.mktemp("roles") / "playbook.json"
        names = [{"role": f"steadfast.asgi.{role}"} for role in roles]
        play = {"hosts": "all", "become": True, "gather_facts": False, "vars": variables, "roles": names, **keywords}
        path.write_text(json.dumps([play]), encoding="utf-8")
        environment = os.environ | {
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_FORCE_COLOR": "false",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        }
        argv = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], *options, str(path)]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)

    return apply
