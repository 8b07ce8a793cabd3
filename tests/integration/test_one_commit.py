"""Somebody pushes to a branch while a run deploys it: all hosts get the same commit."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VALIDATE: dict[str, Any] = {"ansible.builtin.import_role": {"name": "steadfast.asgi.asgi_release", "tasks_from": "validate"}}
LOOK = {
    "steadfast.asgi.asgi_release": {"inspect": True, "source": "{{ asgi_release_source }}", "releases": "/opt/shop/releases"},
    "register": "look",
}


@pytest.mark.parametrize("serial", [1, 2])
def test_all_hosts_get_the_commit_that_was_found_first(tmp_path: Path, serial: int) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "app.py").write_text("app = 1\n", encoding="utf-8")
    (repository / "requirements.txt").write_text("", encoding="utf-8")
    commit = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "--allow-empty", "--message=x"]
    for command in (["git", "init", "--quiet", "--initial-branch=main"], ["git", "add", "."], commit):
        subprocess.run(command, cwd=repository, check=True)
    first = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True).stdout.strip()
    # In each batch, but not for each of its hosts at the same time.
    push = {"ansible.builtin.command": {"argv": commit, "chdir": str(repository)}, "run_once": True}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "serial": serial,
        "vars": {
            "ansible_connection": "local",
            "asgi_release_app": "shop",
            "asgi_release_source": f"git+file://{repository}@main",
            "asgi_release_import_path": "app:app",
        },
        "tasks": [VALIDATE, push, LOOK, {"ansible.builtin.debug": {"msg": "{{ inventory_hostname }} has {{ look.id }}"}}],
    }
    path = tmp_path / "play.json"
    path.write_text(json.dumps([play]), encoding="utf-8")
    done = subprocess.run(
        ["ansible-playbook", "-i", "one,two,", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(re.findall(r"(one|two) has ([0-9a-f]{12})", done.stdout))
    assert found == {"one": first[:12], "two": first[:12]}
