"""Plays of the tests' own, and packages that no index has."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run tasks on the hosts of a pattern; returns Ansible's result, whether it went well or not."""

    def run(hosts: str, tasks: list[dict[str, Any]], *options: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path_factory.mktemp("play") / "playbook.json"
        path.write_text(json.dumps([{"hosts": hosts, "become": True, "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
        environment = os.environ | {"ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
        argv = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], *options, str(path)]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.fixture(scope="session")
def wheel() -> Callable[[Path, str, str, str], Path]:
    """Make a wheel of one module."""

    def make(folder: Path, name: str, version: str, code: str) -> Path:
        path = folder / f"{name}-{version}-py3-none-any.whl"
        files = {
            f"{name}.py": code,
            f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = f"{name}-{version}.dist-info/RECORD"
        files[record] = "".join(f"{each},,\n" for each in [*files, record])
        with zipfile.ZipFile(path, "w") as zipped:
            for each, content in files.items():
                zipped.writestr(zipfile.ZipInfo(each), content)
        return path

    return make
