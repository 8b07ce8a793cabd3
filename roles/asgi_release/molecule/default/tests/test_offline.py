"""Hosts without a network: the controller fetches the wheels for each host's own interpreter, once."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

DJANGO = f"{Path(__file__).resolve().parents[5]}/tests/apps/django"
NOWHERE = "http://127.0.0.1:9/simple"

Play = Callable[..., subprocess.CompletedProcess[str]]
Wheel = Callable[[Path, str, str, str], Path]


def role(name: str, source: object, import_path: str, **variables: Any) -> dict[str, Any]:
    given = {
        "asgi_release_app": name,
        "asgi_release_source": str(source),
        "asgi_release_import_path": import_path,
        "asgi_release_offline": True,
        "asgi_release_server_requirements": "",
    }
    return {"ansible.builtin.include_role": {"name": "steadfast.asgi.asgi_release"}, "vars": {**given, **variables}}


def cut_off(*tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Tasks while the host has no way out."""
    route = {"ansible.builtin.command": "ip route show default", "register": "route"}
    restore = {"ansible.builtin.command": "ip route add {{ route.stdout }}"}
    return [route, {"ansible.builtin.command": "ip route delete default"}, {"block": list(tasks), "always": [restore]}]


def directory(*names: str) -> dict[str, Any]:
    return {
        "ansible.builtin.file": {"path": "{{ item }}", "state": "directory", "mode": "0755"},
        "loop": [f"/opt/{x}/releases" for x in names],
    }


@pytest.fixture(scope="module")
def deployed(play: Play) -> subprocess.CompletedProcess[str]:
    """Django and the server on all hosts, from the controller's index; then once more, while the index does not answer."""
    server = "{{ lookup('ansible.builtin.file', '" + DJANGO + "/../../../roles/asgi_release/files/server-requirements.txt') }}"
    django = role("cutoff", DJANGO, "site_asgi:application", asgi_release_server_requirements=server)
    gone = {"ansible.builtin.shell": "rm -r /opt/cutoff/releases/* /opt/uv/cache/users/*/*"}
    again = role("cutoff", DJANGO, "site_asgi:application", asgi_release_server_requirements=server, asgi_release_index_url=NOWHERE)
    return play("all", [directory("cutoff"), *cut_off(django, gone, again)])


def test_the_wheels_are_for_the_host_s_own_interpreter(host: Host, deployed: subprocess.CompletedProcess[str]) -> None:
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    path = host.check_output("dirname /opt/cutoff/releases/*/release.json")
    code = "import site_asgi, gunicorn, uvicorn_worker, uvloop, httptools, websockets; print(uvloop.loop.__file__)"
    loaded = host.check_output(f"cd {path}/app && {path}/.venv/bin/python -c '{code}'")
    minor = host.check_output("python3 -c 'import sys; print(sys.version_info.minor)'")
    assert f"cpython-3{minor}" in loaded


def sdist(folder: Path, version: str) -> Path:
    """A source distribution that is built by a backend which only the wheelhouse has, and needs a package of it."""
    path = folder / f"shop-{version}.tar.gz"
    files = {
        "PKG-INFO": f"Metadata-Version: 2.2\nName: shop\nVersion: {version}\nRequires-Dist: steadfast-probe\n",
        "pyproject.toml": '[build-system]\nrequires = ["steadfast-backend"]\nbuild-backend = "steadfast_backend"\n',
        "shop.py": "import steadfast_probe\napp = 1\n",
    }
    with tarfile.open(path, "w:gz") as stream:
        for name, content in files.items():
            info = tarfile.TarInfo(f"shop-{version}/{name}")
            info.size = len(content)
            stream.addfile(info, io.BytesIO(content.encode()))
    return path


BACKEND = """
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    with open("PKG-INFO") as stream:
        metadata = stream.read()
    version = metadata.split("Version: ")[2].split()[0]
    files = {
        "shop.py": open("shop.py").read() + "BUILT = True\\n",
        f"shop-{version}.dist-info/METADATA": metadata,
        f"shop-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    name = f"shop-{version}-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as zipped:
        for each, content in files.items():
            zipped.writestr(each, content)
        zipped.writestr(f"shop-{version}.dist-info/RECORD", "".join(f"{each},,\\n" for each in files))
    return name
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory, wheel: Wheel) -> Path:
    folder = tmp_path_factory.mktemp("offline")
    wheel(folder, "steadfast_backend", "1.0", BACKEND)
    wheel(folder, "steadfast_probe", "1.0", "app = 1\n")
    wheel(folder, "steadfast_probe", "1.1", "app = 2\n")
    return folder


@pytest.mark.once
def test_a_source_distribution_is_built_on_the_host(host: Host, play: Play, wheels: Path) -> None:
    shop = role("sdist", sdist(wheels, "1.4"), "shop:app", asgi_release_wheelhouse=str(wheels))
    done = play(host.backend.get_hostname(), [directory("sdist"), *cut_off(shop, shop)], "--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "+ shop 1.4" in done.stdout
    assert "+ steadfast-probe 1.1" in done.stdout
    [path] = host.check_output("dirname /opt/sdist/releases/*/release.json").split()
    assert host.check_output(f"{path}/.venv/bin/python -c 'import shop; print(shop.BUILT)'") == "True"


def locked(folder: Path, path: Path) -> Path:
    """A source whose lock names the package of a wheel."""
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name, version = path.name.split("-")[:2]
    (folder / "main.py").write_text(f"from {name} import app\n", encoding="utf-8")
    (folder / "requirements.txt").write_text(f"{name}=={version} --hash=sha256:{digest}\n", encoding="utf-8")
    return folder


@pytest.mark.once
def test_a_package_without_a_wheel_is_named_with_the_host_s_python(host: Host, play: Play, wheels: Path, tmp_path: Path) -> None:
    path = tmp_path / "steadfast_probe-1.0-cp39-cp39-win_amd64.whl"
    path.write_bytes((wheels / "steadfast_probe-1.0-py3-none-any.whl").read_bytes())
    source = locked(tmp_path / "source", path)
    done = play(host.backend.get_hostname(), [directory("sdist"), role("sdist", source, "main:app", asgi_release_wheelhouse=str(tmp_path))])
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert "asgi_release_offline: the index has no wheel of steadfast-probe==1.0 for Python 3." in said
    assert "asgi_release_wheelhouse" in said


@pytest.mark.once
def test_check_mode_says_which_packages_would_change(host: Host, play: Play, wheels: Path, tmp_path: Path) -> None:
    me = host.backend.get_hostname()
    old = locked(tmp_path / "old", wheels / "steadfast_probe-1.0-py3-none-any.whl")
    new = locked(tmp_path / "new", wheels / "steadfast_probe-1.1-py3-none-any.whl")
    links = "mkdir -p blue; ln -sfn blue live; ln -sfn {{ asgi_release_path }} blue/release"
    live = {"ansible.builtin.shell": f"mkdir -p /opt/diff/slots; cd /opt/diff/slots; {links}"}
    own = {"asgi_release_wheelhouse": str(wheels)}
    host.check_output("rm -rf /opt/diff")
    done = play(me, [directory("diff"), role("diff", old, "main:app", **own), live])
    assert done.returncode == 0, done.stdout + done.stderr
    change = role("diff", new, "main:app", **own)
    for options in (["--check", "--diff"], ["--diff"]):
        done = play(me, [change], *options)
        assert "~ steadfast-probe 1.0 -> 1.1" in done.stdout, done.stdout + done.stderr
