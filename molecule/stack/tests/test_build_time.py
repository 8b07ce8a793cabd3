"""How long a build takes, of the example application: with everything fetched before, and with nothing but its code changed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.molecule.support import ansible

testinfra_hosts = ["ansible://debian13"]
pytestmark = pytest.mark.timed

ROOT = Path(__file__).resolve().parents[3]
RELEASES = "/opt/timed/releases"
# Seconds in the module. Other things run on this machine too, so it has three chances.
WARM, CHANGED, CHANCES = 3.0, 1.5, 3


@pytest.fixture(scope="module")
def times(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """For both kinds of build what each step took, as often as there are chances."""
    folder = tmp_path_factory.mktemp("timed")
    subprocess.run([ROOT / "tools/example-lock"], check=True, capture_output=True)
    shutil.copytree(ROOT / "examples/fastapi-app", folder / "source", ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    server = "{{ lookup('ansible.builtin.file', '" + str(ROOT / "roles/asgi_release/files/server-requirements.txt") + "') }}"
    module = {"releases": RELEASES, "import_path": "app.main:app", "uv": "/opt/uv/0.13.8/bin/uv"}

    def build(source: str) -> dict[str, Any]:
        return {
            "steadfast.asgi.asgi_release": module | {"source": f"{folder}/{source}", "server_requirements": server},
            "register": "built",
        }

    tasks: list[dict[str, Any]] = [{"ansible.builtin.file": {"path": RELEASES, "state": "directory", "mode": "0755"}}, build("source")]
    for number in range(CHANCES):
        # A directory of its own: one run reads a source once.
        changed = shutil.copytree(folder / "source", folder / f"changed-{number}")
        (changed / "app/changed.py").write_text(f"NUMBER = {number}\n", encoding="utf-8")
        for kind, source, before in (("warm", "source", [{"ansible.builtin.shell": f"rm -r {RELEASES}/*"}]), ("changed", changed.name, [])):
            kept = {"content": "{{ built.steps | to_json }}", "dest": f"{folder}/{kind}-{number}.json", "mode": "0600"}
            tasks += [*before, build(source), {"ansible.builtin.copy": kept, "delegate_to": "localhost", "become": False}]
    play = {"hosts": "debian13", "become": True, "gather_facts": False, "tasks": tasks}
    (folder / "playbook.json").write_text(json.dumps([play]), encoding="utf-8")
    done = ansible("ansible-playbook", str(folder / "playbook.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[dict[str, float]]] = {}
    for kind in ("warm", "changed"):
        read = [json.loads((folder / f"{kind}-{number}.json").read_text(encoding="utf-8")) for number in range(CHANCES)]
        found[kind] = [{step["step"]: step["seconds"] for step in steps} for steps in read]
    return found


@pytest.mark.parametrize(("kind", "bar"), [("warm", WARM), ("changed", CHANGED)])
def test_a_build_takes_no_longer_than_that(
    times: dict[str, list[dict[str, float]]], kind: str, bar: float, figure: Callable[[str], None]
) -> None:
    quickest = min(times[kind], key=lambda steps: sum(steps.values()))
    figure(f"a build with {kind} takes {sum(quickest.values()):.2f} s: {quickest}")
    assert sum(quickest.values()) <= bar
