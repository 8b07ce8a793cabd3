"""Molecule, typed in a role's folder by somebody who has installed it with pip: no variable is set, nothing of `make setup` is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["ansible-core", "molecule", "molecule-plugins[docker]", "pytest-testinfra", "jinja2"]
SCENARIOS = [ROOT / "roles" / name for name in sorted(os.listdir(ROOT / "roles")) if (ROOT / "roles" / name / "molecule").is_dir()]


class Developer:
    """Two checkouts in one home, and one environment for both, made with pip."""

    def __init__(self, home: Path, programs: Path) -> None:
        self.programs = programs
        inherited = ("LANG", "SSL_CERT_FILE", "DOCKER_HOST", "TMPDIR")
        self.environment = {name: os.environ[name] for name in inherited if name in os.environ} | {
            "HOME": str(home),
            "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        self.checkouts = [home / "one", home / "two"]
        for checkout in self.checkouts:
            subprocess.run([ROOT / "tools/copy-tree", checkout], check=True)
            # By this Molecule knows where to look for .config/molecule.
            subprocess.run(["git", "init", "--quiet", checkout], check=True)

    def start(self, *command: str, checkout: int = 0, role: str = "asgi_account") -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.checkouts[checkout] / "roles" / role,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, checkout: int = 0, role: str = "asgi_account") -> str:
        return finished(self.start(*command, checkout=checkout, role=role))


def finished(process: subprocess.Popen[str]) -> str:
    output, _nothing = process.communicate(timeout=1500)
    if process.returncode != 0:
        pytest.fail(f"{process.args!r}\n{output}")
    return output


@pytest.fixture(scope="module")
def developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Developer]:
    environment = ROOT / ".build" / "pip-molecule"
    programs = environment / "bin"
    if not (programs / "python").exists():
        subprocess.run(["uv", "venv", "--quiet", "--seed", "--python", sys.executable, environment], check=True)
    # `ansible` stands for `ansible-galaxy collection install -r requirements.yml`, which needs Galaxy.
    options = ["--quiet", "--python", str(programs / "python"), "--constraint", str(ROOT / "requirements-dev.txt")]
    subprocess.run(["uv", "pip", "install", *options, *PACKAGES, "ansible"], check=True)
    found = Developer(tmp_path_factory.mktemp("home"), programs)
    yield found
    for checkout in (0, 1):
        found.start("molecule", "destroy", checkout=checkout).communicate()


@pytest.mark.parametrize("folder", SCENARIOS, ids=lambda folder: folder.name)
def test_each_role_lists_its_hosts(developer: Developer, folder: Path) -> None:
    listed = developer.run("molecule", "list", "--format", "plain", role=folder.name)
    short = folder.name.removeprefix("asgi_")
    assert [f"{short}-0000-debian{release}" in listed for release in (12, 13)] == [True, True], listed
    assert "docker" in listed


def test_two_checkouts_test_the_same_role_at_once(developer: Developer) -> None:
    # Molecule keeps its notes by the name of the folder, so one waits for the other.
    runs = [developer.start("molecule", command, checkout=checkout) for checkout, command in enumerate(("test", "converge"))]
    # At once: a run whose output nobody reads stops when the pipe is full.
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(finished, runs))
    for each in said:
        assert "Molecule executed 1 scenario (1 successful)" in each, each


def test_hosts_that_are_gone_are_made_again(developer: Developer) -> None:
    developer.run("molecule", "create")
    # As an aborted run leaves them: Molecule notes that they are created, and one is not there.
    subprocess.run(["docker", "rm", "--force", "--volumes", "account-0000-debian12"], check=True, stdout=subprocess.DEVNULL)
    developer.run("molecule", "create")
    # It asks a terminal for its size.
    login = developer.start("script", "--quiet", "--return", "--command", "molecule login --host account-0000-debian13", "/dev/null")
    said, _nothing = login.communicate("cat /etc/hostname\nexit\n", timeout=60)
    assert (login.returncode, "account-0000-debian13:/#" in said) == (0, True), said
    # The other checkout's hosts would have the same names; it takes them over, and its own notes are no obstacle.
    developer.run("molecule", "create", checkout=1)
    labelled = ["docker", "ps", "--quiet", "--filter", f"label=steadfast.checkout={developer.checkouts[1].resolve()}"]
    assert len(subprocess.run(labelled, capture_output=True, text=True, check=True).stdout.split()) == 2
    developer.run("molecule", "destroy", checkout=1)
    assert subprocess.run(labelled, capture_output=True, text=True, check=True).stdout == ""
    # Nothing is there, and that is as good.
    developer.run("molecule", "destroy", checkout=0)
