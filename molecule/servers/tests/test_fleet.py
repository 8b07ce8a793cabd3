"""Several hosts, one after the other: a release that fails on the first never comes to the others."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from testinfra import get_hosts

from ansible_collections.steadfast.asgi.molecule.support import ansible

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/fastapi-app"


def test_a_failed_batch_is_the_last(tmp_path: Path) -> None:
    hosts = get_hosts(["all"], connection="ansible", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
    source = shutil.copytree(EXAMPLE, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    code = source / "app/__init__.py"
    code.write_text(code.read_text(encoding="utf-8") + '\nraise RuntimeError("not this one")\n', encoding="utf-8")
    before = [host.check_output("readlink -f /opt/notes/slots/live/release; ls /opt/notes/releases | wc -l") for host in hosts]
    batches = ["--extra-vars=asgi_serial=1", "--extra-vars=asgi_max_fail_percentage=0", f"--extra-vars=asgi_source={source}"]
    done = ansible("ansible-playbook", *batches, "../../playbooks/deploy.yml")
    assert done.returncode != 0
    assert "RuntimeError: not this one" in done.stdout + done.stderr
    after = [host.check_output("readlink -f /opt/notes/slots/live/release; ls /opt/notes/releases | wc -l") for host in hosts]
    assert [text.splitlines()[0] for text in after] == [text.splitlines()[0] for text in before]
    assert after[1] == before[1], "the second host has not even been given the release"
    assert len(re.findall(r"failed=1 ", done.stdout)) == 1
