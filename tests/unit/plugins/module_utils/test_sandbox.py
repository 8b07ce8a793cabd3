"""The sandbox of what root runs, and that nothing which starts a unit goes without one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.steadfast.asgi.plugins.filter.sandbox import FilterModule
from ansible_collections.steadfast.asgi.plugins.module_utils.sandbox import helper, sandbox

ROOT = Path(__file__).resolve().parents[4]
# What starts units, or is one: every one of them is rated by a test on real hosts (exposures() in molecule/support.py). Whatever is added
# here has to be seen there.
STARTS = {
    "plugins/module_utils/builder.py",
    "plugins/module_utils/command.py",
    "plugins/module_utils/rollout.py",
    "roles/asgi_certificate/templates/asgi-acme.service.j2",
    "roles/asgi_service/templates/slot.service.j2",
    "roles/asgi_service/templates/tls.service.j2",
    "roles/asgi_service/templates/tls_address.service.j2",
}


def test_changes_replace_add_and_leave_out() -> None:
    assert "ProtectSystem=strict" in sandbox()
    changed = sandbox({"ProtectSystem": "full", "PrivateNetwork": None, "ReadWritePaths": ["/a", "/b"]})
    assert "ProtectSystem=full" in changed
    assert not [line for line in changed if line.startswith("PrivateNetwork")]
    assert changed[-2:] == ["ReadWritePaths=/a", "ReadWritePaths=/b"]
    assert FilterModule().filters()["sandbox"]({}) == sandbox()
    with pytest.raises(AnsibleFilterError, match="needs a mapping"):
        FilterModule().filters()["sandbox"]("strict")


def test_no_place_that_starts_a_unit_is_forgotten() -> None:
    found = set()
    for path in [*ROOT.glob("plugins/**/*.py"), *ROOT.glob("roles/*/[tfvdh]*/**/*"), *ROOT.glob("playbooks/**/*.yml")]:
        if path.is_file() and "molecule" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace")
            if re.search(r"^\[Service\]$|\"\[Service\]\"|[\"'/]systemd-run\b", text, re.MULTILINE):
                found.add(str(path.relative_to(ROOT)))
    assert found == STARTS


def test_a_helper_has_nothing_of_its_caller_s_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a Python program can be made to load by whoever has set its environment or owns the directory that it starts in."""
    app = tmp_path / "opt"
    (app / "lib").mkdir(parents=True)
    program = (
        "import argparse, json, os, sys\n\ndef main():\n    print(json.dumps([dict(os.environ), sys.path, os.getcwd(), sys.argv[1:]]))\n"
    )
    (app / "lib/show.py").write_text(program, encoding="utf-8")
    trap = tmp_path / "trap"
    (trap / "lib").mkdir(parents=True)
    for name in ("argparse", "json", "lib/__init__", "lib/show", "sitecustomize", "usercustomize"):
        (trap / f"{name}.py").write_text("raise SystemExit('trapped')", encoding="utf-8")
    for name in (
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONPYCACHEPREFIX",
        "PYTHONUSERBASE",
        "PYTHONSTARTUP",
        "HOME",
        "TMPDIR",
        "LOCPATH",
        "GCONV_PATH",
    ):
        monkeypatch.setenv(name, str(trap))
    monkeypatch.setenv("PYTHONINSPECT", "1")
    command = [word.replace("/opt/shop", str(app)) for word in helper("shop", "show")]
    if not os.path.exists(command[command.index("-I") - 1]):
        command[command.index("-I") - 1] = shutil.which("python3") or ""
    done = subprocess.run([*command, "--pid", "1"], cwd=trap, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    environment, path, directory, arguments = json.loads(done.stdout)
    # Python's own, of a host without a locale.
    assert set(environment) <= {"LC_CTYPE"}
    assert not [each for each in path if str(trap) in each or "packages" in each or not each]
    assert (directory, arguments) == ("/", ["--pid", "1"])
    assert not list(app.rglob("*.pyc"))
