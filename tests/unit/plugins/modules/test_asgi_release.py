from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.source import pack, source_files
from ansible_collections.steadfast.asgi.plugins.modules import asgi_release

# Does what uv would, as far as this module can see: sync makes an environment with the packages of the lock (here a
# list of names), pip install adds what the requirements file names. FAIL names the command that fails.
UV = r"""#!/bin/sh
echo "$PWD: $*" >>"$UV_LOG"; echo "with $UV_PYTHON" >>"$UV_LOG"
[ "$1" = "$FAIL" ] || [ "$1 $2" = "$FAIL" ] && { echo "error: no solution for $FAIL" >&2; exit 2; }
case "$*" in *--compile-bytecode*) exit 0; esac
site=$UV_PROJECT_ENVIRONMENT/lib/python3.13/site-packages
case "$1 $2" in
    "python install")
        for last; do :; done
        bin=$UV_PYTHON_INSTALL_DIR/cpython-$last.7-linux-x86_64-gnu/bin
        mkdir -p "$bin" && ln -s /bin/true "$bin/python$last"
        echo "mirror $UV_PYTHON_INSTALL_MIRROR" >>"$UV_LOG"
    ;;
    sync*) mkdir -p "$site"; for name in $(cat uv.lock); do mkdir "$site/$name.dist-info"; done;;
    "pip install")
        for last; do :; done
        for name in $(sed -n 's/==.*//p' "$last"); do mkdir "$site/$name-9.dist-info"; done
    ;;
esac
"""

SERVER = """\
# made by uv pip compile
gunicorn==27.0.1 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via -r server-requirements.in
h11==0.16.0 \\
    --hash=sha256:cc
Uvicorn_Worker==0.4.0 ; python_version < '4' \\
    --hash=sha256:dd
"""

RECIPE = {"lock": "source/uv.lock", "format": "uv", "options": ["--extra", "fast"], "install": [], "hashes": True, "wheelhouse": False}

Build = Callable[..., dict[str, Any]]


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    path = tmp_path / "releases"
    path.mkdir()
    return path


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What uv was called with; empty if it was not."""
    path = tmp_path / "uv.log"
    path.write_text("")
    monkeypatch.setenv("UV_LOG", str(path))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> str:
    source = tmp_path / "source"
    (source / "app").mkdir(parents=True)
    (source / "app/main.py").write_text("app = 1\n")
    (source / "uv.lock").write_text("fastapi-0.1 h11-0.14.0 typing_extensions-4")
    with open(tmp_path / "source.tar.gz", "wb") as stream:
        pack([("source", str(source), source_files(str(source)))], stream)
    return str(tmp_path / "source.tar.gz")


@pytest.fixture
def build(
    run_module: Callable[..., dict[str, Any]],
    tmp_path: Path,
    releases: Path,
    archive: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Build:
    request.getfixturevalue("log")
    uv = tmp_path / "uv"
    uv.write_text(UV)
    uv.chmod(0o755)

    def run(fail: str = "", **arguments: Any) -> dict[str, Any]:
        monkeypatch.setenv("FAIL", fail)
        given = {
            "source": "/controller",
            "releases": str(releases),
            "uv": str(uv),
            "cache": str(tmp_path / "cache"),
            "import_path": "app.main:app",
            "server_requirements": SERVER,
            "id": "1.0-abc",
            "archive": archive,
            "recipe": RECIPE,
            "python": sys.executable,
            "build_user": "",
        }
        return run_module(asgi_release.main, **{**given, **arguments})

    return run


def packages(release: Path) -> set[str]:
    found = release.glob(".venv/lib/python3.13/site-packages/*.dist-info")
    return {path.name.removesuffix(".dist-info") for path in found}


def test_a_release_is_built_once(build: Build, releases: Path, log: Path) -> None:
    release = releases / "1.0-abc"
    first = build()
    assert (first["changed"], first["id"], first["path"]) == (True, "1.0-abc", str(release))
    assert [step["step"] for step in first["steps"]] == [
        "prepare",
        "interpreter",
        "unpack",
        "install",
        "server",
        "admit",
        "compile",
        "finish",
    ]
    assert (release / "app/app/main.py").read_text() == "app = 1\n"
    assert json.loads((release / "release.json").read_text())["id"] == "1.0-abc"
    assert f"{release}/build/source: sync --frozen --no-dev --no-editable --inexact --extra fast" in log.read_text()
    calls = log.read_text()

    second = build()
    assert (second["changed"], second["path"]) == (False, str(release))
    assert log.read_text() == calls


def test_the_server_brings_only_what_the_lock_does_not_have(build: Build, releases: Path, log: Path) -> None:
    build()
    release = releases / "1.0-abc"
    locked = {"fastapi-0.1", "h11-0.14.0", "typing_extensions-4"}
    assert packages(release) == locked | {"gunicorn-9", "Uvicorn_Worker-9"}
    install = next(line for line in log.read_text().splitlines() if "pip install" in line)
    assert "--require-hashes" in install
    assert "--no-deps" in install
    assert "pip check" in log.read_text()


def test_a_lock_with_the_server_in_it_is_left_alone(build: Build, log: Path) -> None:
    build(server_requirements="fastapi==1\nH11==2\nTyping.Extensions==3\n")
    assert "pip install" not in log.read_text()
    assert "pip check" in log.read_text()


@pytest.mark.parametrize("fail", ["sync", "pip install", "pip check"])
def test_nothing_is_left_of_a_build_that_failed(build: Build, releases: Path, fail: str) -> None:
    failed = build(fail=fail)
    assert failed["failed"] is True
    assert f"error: no solution for {fail}" in failed["msg"]
    assert "nothing is left" in failed["msg"]
    assert not (releases / "1.0-abc").exists()
    assert build()["changed"] is True


def test_an_application_that_is_not_there_fails_the_build(build: Build, releases: Path) -> None:
    failed = build(import_path="app.main:application")
    assert failed["failed"] is True
    assert "app.main:application" in failed["msg"]
    assert "defines no 'application'" in failed["msg"]
    assert not (releases / "1.0-abc").exists()
    assert build(import_path="")["changed"] is True


def test_what_an_interrupted_build_left_is_cleared_away(build: Build, releases: Path) -> None:
    (releases / "1.0-abc/app").mkdir(parents=True)
    (releases / "1.0-abc/app/old.py").write_text("")
    assert build(check=True)["changed"] is True
    assert (releases / "1.0-abc/app/old.py").exists()
    done = build()
    assert done["changed"] is True
    assert not (releases / "1.0-abc/app/old.py").exists()
    assert (releases / "1.0-abc/release.json").exists()


def test_the_mark_comes_last(build: Build, releases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that dies in the middle of any step leaves no release that looks complete."""
    real = os.replace

    def replace(old: str, new: str, **options: Any) -> None:
        if new.endswith("release.json"):
            assert "gunicorn-9" in packages(releases / "1.0-abc")
            raise KeyboardInterrupt
        real(old, new, **options)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        build()
    assert not (releases / "1.0-abc/release.json").exists()


def test_check_mode_and_the_question_without_an_archive_build_nothing(build: Build, releases: Path, log: Path) -> None:
    assert build(check=True)["changed"] is True
    assert build(archive=None)["changed"] is True
    assert list(releases.iterdir()) == []
    assert log.read_text() == ""
    build()
    assert build(check=True)["changed"] is False
    assert build(archive=None)["changed"] is False


def test_check_mode_works_before_the_directories_are_there(build: Build, tmp_path: Path) -> None:
    assert build(check=True, releases=str(tmp_path / "not yet"))["changed"] is True


def test_two_builds_of_one_release_wait_for_each_other(build: Build, releases: Path, log: Path) -> None:
    """The second finds it complete once the first is done, and does not tear it down."""
    release = releases / "1.0-abc"
    result: dict[str, Any] = {}
    # Its owner's alone; another one would not be taken for a lock.
    with open(os.open(releases / ".lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=lambda: result.update(build()))
        other.start()
        other.join(0.2)
        assert other.is_alive()
        release.mkdir()
        (release / "release.json").write_text("{}")
    other.join(10)
    assert "failed" not in result
    assert log.read_text() == ""


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_releases_can_be_read_by_the_service(build: Build, releases: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        build()
    finally:
        os.umask(before)
    for path in (releases / "1.0-abc", releases / "1.0-abc/app", releases / "1.0-abc/app/app"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_the_module_alone_says_how_it_is_to_be_used(build: Build) -> None:
    assert "action plugin" in build(id=None)["msg"]


def test_a_version_that_the_host_does_not_have_is_installed_once(build: Build, tmp_path: Path, log: Path) -> None:
    arguments = {"python": "3.99", "python_root": str(tmp_path / "python"), "python_mirror": "https://mirror.example.org/python"}
    for number in ("1", "12"):
        (tmp_path / f"python/cpython-3.9.{number}-linux-x86_64-gnu/bin").mkdir(parents=True)
    assert build(check=True, **arguments)["changed"] is True
    assert build(**arguments)["changed"] is True
    assert "python install --no-bin --no-config 3.99\nwith \nmirror https://mirror.example.org/python\n" in log.read_text()
    assert build(id="1.1-def", server_requirements="", **arguments)["changed"] is True
    assert log.read_text().count("python install") == 1


def test_of_several_interpreters_the_newest_is_taken(build: Build, tmp_path: Path, log: Path) -> None:
    for version in ("3.99.2", "3.99.10", "3.9.1"):
        path = tmp_path / f"python/cpython-{version}-linux-x86_64-gnu/bin/python3.99"
        path.parent.mkdir(parents=True)
        path.symlink_to("/bin/true")
    build(python="3.99", python_root=str(tmp_path / "python"))
    assert "python install" not in log.read_text()
    assert f"{tmp_path}/python/cpython-3.99.10-" in log.read_text()
