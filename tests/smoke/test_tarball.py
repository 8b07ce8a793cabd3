"""The built collection as a user meets it: installed from its tarball, with the oldest ansible-core, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOST = f"smoke-{os.environ['STEADFAST_CHECKOUT']}"
DOMAIN = "shop.example"
ROLES = sorted(path.name for path in (ROOT / "roles").glob("asgi_*"))

INVENTORY = f"""\
[web]
{HOST}

[web:vars]
ansible_connection=community.docker.docker
asgi_app=shop
asgi_source={{{{ inventory_dir }}}}/shop
asgi_import_path=app.main:app
asgi_domain={DOMAIN}
asgi_certificate_ca_export={{{{ inventory_dir }}}}/ca.pem
"""


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a command and return its output; fails with all of that if the command does."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(run(ROOT / "tools" / "build", tmp_path_factory.mktemp("build") / "dist").splitlines()[-1])


@pytest.fixture(scope="module")
def oldest() -> Path:
    """A virtual environment with the oldest supported ansible-core, made once in a checkout; returns its bin folder."""
    environment = ROOT / ".build" / "oldest-ansible"
    requirements = Path(__file__).with_name("requirements.txt")
    python = environment / "bin" / "python"
    if not python.exists():
        run("uv", "venv", "--quiet", "--python", sys.executable, environment)
    run("uv", "pip", "sync", "--quiet", "--python", python, "--require-hashes", requirements)
    return python.parent


class User:
    """Somebody with a folder of their own, who has never seen this repository."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        inherited = ("HOME", "LANG", "SSL_CERT_FILE", "DOCKER_HOST", "TMPDIR")
        self.environment = {name: os.environ[name] for name in inherited if name in os.environ} | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "ANSIBLE_HOME": str(folder / ".ansible"),
            # The second one only for the connection to the container: other users' hosts are reached with ssh.
            "ANSIBLE_COLLECTIONS_PATH": f"{folder}/collections:{sysconfig.get_path('purelib')}",
        }

    def run(self, *command: str | Path) -> str:
        return run(*command, cwd=self.folder, env=self.environment)


@pytest.fixture(scope="module")
def user(tarball: Path, oldest: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    user = User(tmp_path_factory.mktemp("user"), oldest)
    user.run("ansible-galaxy", "collection", "install", "--offline", "--collections-path", "collections", tarball)
    (user.folder / "my-inventory").write_text(INVENTORY, encoding="utf-8")
    run(ROOT / "tools" / "example-lock")
    shutil.copytree(
        ROOT / "examples" / "fastapi-app",
        user.folder / "shop",
        ignore=shutil.ignore_patterns(".venv", "__pycache__", ".*_cache", "tests", ".gitignore"),
    )
    return user


def test_within_a_checkout_it_is_installed_for_the_user(user: User, tarball: Path) -> None:
    """As README.md tells it; the repository's own settings must not catch it."""
    home = user.folder / "home"
    home.mkdir()
    without = {name: value for name, value in user.environment.items() if name not in ("ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_HOME")}
    run("ansible-galaxy", "collection", "install", "--offline", "--no-deps", tarball, cwd=ROOT, env=without | {"HOME": str(home)})
    assert (home / ".ansible/collections/ansible_collections/steadfast/asgi/MANIFEST.json").is_file()


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    run(ROOT / "tools" / "start-host", HOST, "steadfast-asgi-test:debian12")
    yield HOST
    run("docker", "rm", "--force", "--volumes", HOST)


@pytest.fixture(scope="module")
def deployed(user: User, host: str) -> str:
    """The host after a first run; returns what Ansible said."""
    return user.run("ansible-playbook", "steadfast.asgi.site", "-i", "my-inventory", "--limit", host)


def recap(output: str) -> dict[str, int]:
    line = next(line for line in output.splitlines() if line.startswith(HOST) and "changed=" in line)
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}


def test_the_tarball_holds_what_users_need(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        names = set(archive.getnames())
    needed = {"README.md", "LICENSE", "CHANGELOG.md", "meta/runtime.yml", "playbooks/site.yml", "examples/fastapi-app/pyproject.toml"}
    needed |= {f"roles/{role}/{file}" for role in ROLES for file in ("README.md", "meta/argument_specs.yml", "tasks/main.yml")}
    assert needed - names == set()


def test_the_tarball_holds_nothing_of_the_workbench(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
    workbench = re.compile(
        r"(tests|tools|molecule|\.\w[^/]*|Makefile|ansible\.cfg|pyproject\.toml|requirements-dev\.\w+)(/|$)"
        r"|(.*/)?(molecule|__pycache__|\.venv|uv\.lock|conftest\.py|\.\w+_cache)(/|$)"
    )
    examples_own_tests = "examples/fastapi-app/tests/"
    assert [name for name in names if workbench.match(name) and not name.startswith(examples_own_tests)] == []


def test_the_oldest_ansible_is_the_one_that_is_promised(user: User) -> None:
    promised = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))["requires_ansible"]
    version = user.run("ansible", "--version").split("[core ", 1)[1].split("]", 1)[0]
    assert promised == f">={version}"


@pytest.mark.parametrize("role", ROLES)
def test_ansible_doc_describes_each_role(user: User, role: str) -> None:
    assert f"steadfast.asgi.{role}" in user.run("ansible-doc", "--type", "role", f"steadfast.asgi.{role}")


def test_the_site_playbook_deploys(deployed: str) -> None:
    assert recap(deployed)["failed"] == 0
    assert recap(deployed)["changed"] > 0


def test_no_deprecated_feature_is_used(deployed: str) -> None:
    assert [line for line in deployed.splitlines() if "DEPRECATION" in line] == []


@pytest.mark.usefixtures("deployed")
def test_https_with_a_verified_certificate(user: User) -> None:
    address = run("docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", HOST).strip()
    answer = user.run(
        "curl", "--silent", "--show-error", "--fail", "--cacert", "ca.pem",
        "--resolve", f"{DOMAIN}:443:{address}", f"https://{DOMAIN}/ready",
    )  # fmt: skip
    assert '"status":"ready"' in answer


@pytest.mark.usefixtures("deployed")
def test_a_second_run_changes_nothing(user: User) -> None:
    again = user.run("ansible-playbook", "steadfast.asgi.site", "-i", "my-inventory")
    assert recap(again)["changed"] == 0, again
    assert recap(again)["failed"] == 0, again
