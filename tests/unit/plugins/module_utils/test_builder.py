"""The user that builds: its name, its cache, and that none of its processes is left."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import builder
from ansible_collections.steadfast.asgi.plugins.module_utils.builder import Builder, processes_of, remove_tree, user_of
from ansible_collections.steadfast.asgi.plugins.module_utils.execute import BuildError, StoppedError

ROOT = os.geteuid() == 0


@pytest.mark.parametrize(
    ("app", "user"),
    [
        ("shop", "asgi-build-shop"),
        ("a" * 20, "asgi-build-" + "a" * 20),
        ("a" * 21, "asgi-build-" + "a" * 11 + "-9f2cdf7e"),
    ],
)
def test_each_application_has_a_user_of_its_own(app: str, user: str) -> None:
    found = user_of(app)
    assert len(found) <= 31
    assert found.startswith(user[:22])
    if len(app) <= 20:
        assert found == user
    others = {user_of(app[:-1] + letter) for letter in "bcd"}
    assert len(others | {found}) == 4


@pytest.mark.parametrize(
    ("uid", "gecos", "said"),
    [(0, "", "which is root"), (123, "blog (ASGI application)", "which an application of this host runs as")],
)
def test_some_users_do_not_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, gecos: str, said: str) -> None:
    entry = pwd.struct_passwd(("blog", "x", uid, uid, gecos, "/", "/"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: entry)
    monkeypatch.setattr(builder, "run_command", lambda *_: pytest.fail("nothing is to be changed"))
    with pytest.raises(BuildError, match=said):
        Builder("blog", "shop", str(tmp_path)).prepare()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A host whose user that builds is 61234."""
    calls: list[list[str]] = []

    def command(words: list[str]) -> Any:
        calls.append(words)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(builder, "run_command", command)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd((name, "x", 61234, 61234, "", "/", "/")))
    return calls


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
@pytest.mark.parametrize("before", ["nothing", "its own", "another's", "a link", "a file"])
def test_the_cache_is_the_user_s_and_nobody_else_s(played: list[list[str]], tmp_path: Path, before: str) -> None:
    builds = Builder("asgi-build-shop", "shop", str(tmp_path / "cache"))
    path = tmp_path / "cache/users/asgi-build-shop"
    (tmp_path / "elsewhere").mkdir()
    path.parent.mkdir(parents=True)
    if before in ("its own", "another's"):
        path.mkdir(mode=0o777)
        (path / "kept").touch()
        os.chown(path, 61234 if before == "its own" else 61235, 61234)
    elif before == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    elif before == "a file":
        path.touch()
    builds.prepare()
    status = path.lstat()
    assert path.is_dir()
    assert not path.is_symlink()
    assert (status.st_uid, status.st_mode & 0o777) == (61234, 0o700)
    assert (path / "kept").exists() == (before == "its own")
    assert (tmp_path / "elsewhere").stat().st_uid == 0
    assert (path.parent.stat().st_uid, path.parent.stat().st_mode & 0o022) == (0, 0)
    assert ["systemctl", "stop", "asgi-build-shop.service", "asgi-build-shop-guard.scope"] in played


@pytest.mark.skipif(not ROOT, reason="only root can be others")
@pytest.mark.usefixtures("played")
def test_a_process_that_is_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    builds = Builder("asgi-build-shop", "shop", str(tmp_path / "cache"))
    assert processes_of(61234) == []
    # The first thread has ended and counts as dead; another goes on.
    code = "import os, threading, time; os.setuid(61234); threading.Thread(target=time.sleep, args=(60,)).start(); print(1, flush=True); "
    code += "import ctypes; ctypes.CDLL(None).syscall(60, 0)"
    left = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert left.stdout
        left.stdout.readline()
        with pytest.raises(BuildError, match=rf"has processes outside of the build: {left.pid} \("):
            builds.prepare()
    finally:
        left.kill()
        left.communicate()
    builds.prepare()


def test_commands_end_with_the_time_of_the_build(tmp_path: Path) -> None:
    builds = Builder("", "shop", str(tmp_path))
    with builds.guarded(1), pytest.raises(StoppedError, match="has taken 1 seconds"):
        builds.run(["sleep", "60"], "/", {}, [])
    with builds.guarded(60):
        assert builds.run(["sh", "-c", "echo $A; exit 3"], "/", {"A": "b"}, []) == (3, "b\n", "")


def test_the_unit_gets_its_environment_where_nobody_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def execute(command: list[str], _environment: Any, _cwd: str, data: bytes, *_: Any) -> tuple[int, str, str]:
        seen.extend([command, data.decode()])
        return 0, "", ""

    monkeypatch.setattr(builder, "execute", execute)
    monkeypatch.setattr(builder, "processes_of", lambda _uid: [])
    monkeypatch.setenv("SSH_CONNECTION", "1.2.3.4")
    monkeypatch.setenv("all_proxy", "http://proxy:1")
    builds = Builder("asgi-build-shop", "shop", str(tmp_path))
    builds.deadline = time.monotonic() + 100
    builds.run(["uv", "sync"], "/", {"TOKEN": "it's; secret"}, [])
    command, told = seen
    assert "secret" not in " ".join(command)
    assert command[-2:] == ["uv", "sync"]
    assert "--unit=asgi-build-shop.service" in command
    assert {"--property=BindsTo=asgi-build-shop-guard.scope", "--property=User=asgi-build-shop"} <= set(command)
    assert "SSH_CONNECTION" not in told
    assert "all_proxy=http://proxy:1" in told
    said = subprocess.run(["sh", "-c", 'eval "$(cat)"; echo "$TOKEN"'], input=told, capture_output=True, text=True, check=True).stdout
    assert said == "it's; secret\n"


def test_a_tree_is_removed_and_no_link_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("tree", "link", "nothing"):
        remove_tree(str(tmp_path / name))
        assert not os.path.lexists(tmp_path / name)
    assert (tmp_path / "kept").is_dir()


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize("damage", ["none", "link", "bucket is a file", "lock is a directory", "pipe"])
def test_a_cache_that_a_build_has_damaged_is_made_anew(tmp_path: Path, damage: str) -> None:
    """uv would fail on it in every build that follows."""
    builds = Builder("asgi-build-shop", "shop", str(tmp_path / "cache"))
    builds.prepare()
    cache = Path(builds.cache)
    (cache / "wheels-v5").mkdir()
    for name in (".lock", "CACHEDIR.TAG", ".gitignore", "uv.toml"):
        (cache / name).touch()
    if damage == "link":
        (cache / "archive-v0").symlink_to("/etc")
    elif damage == "bucket is a file":
        (cache / "archive-v0").touch()
    elif damage == "lock is a directory":
        (cache / ".lock").unlink()
        (cache / ".lock").mkdir()
    elif damage == "pipe":
        os.mkfifo(cache / "x")
    builds.prepare()
    assert (cache / "wheels-v5").exists() is (damage == "none")
    assert cache.is_dir()
    assert Path("/etc").is_dir()
