"""Locks: who can take them, and what the one who cannot is told."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError, locked
from ansible_collections.steadfast.asgi.tests.unit.fake_host import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lock_path(tmp_path: Path) -> str:
    return str(tmp_path / "app.lock")


def test_the_lock_keeps_others_out_and_names_its_holder(lock_path: str, clock: Clock) -> None:
    with locked(lock_path, 0, {"pid": 4711, "release": "1.2-abc"}, clock, clock.sleep):
        with pytest.raises(LockedError) as refused, locked(lock_path, 0, {"pid": 1}, clock, clock.sleep):
            pytest.fail("two hold the lock")
        assert "4711" in str(refused.value)
        assert "1.2-abc" in str(refused.value)
    assert clock() == 1000.0, "no timeout is no waiting"
    with locked(lock_path, 0, {"pid": 2}, clock, clock.sleep):
        pass


def test_the_lock_is_waited_for_as_long_as_asked(lock_path: str, clock: Clock) -> None:
    with locked(lock_path, 0, {}, clock, clock.sleep):
        with pytest.raises(LockedError), locked(lock_path, 7, {}, clock, clock.sleep):
            pytest.fail("two hold the lock")
        assert 1007 <= clock() < 1009

    holder = open(os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600), "r+")  # noqa: SIM115 - closed while the other waits
    fcntl.flock(holder, fcntl.LOCK_EX)
    clock.while_asleep = holder.close
    with locked(lock_path, 7, {}, clock, clock.sleep):
        assert clock() < 1010


def test_a_lock_whose_holder_was_killed_is_free(lock_path: str, clock: Clock) -> None:
    code = (
        "import fcntl, os, sys, time; f = open(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600), 'r+'); fcntl.flock(f, fcntl.LOCK_EX);"
        'f.write(\'{"pid": 99999, "note": "the holder"}\'); f.flush(); print(\'held\', flush=True); time.sleep(60)'
    )
    with subprocess.Popen([sys.executable, "-I", "-c", code, lock_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="the holder"), locked(lock_path, 0, {}, clock, clock.sleep):
            pytest.fail("two hold the lock")
        holder.kill()
        holder.wait()
        with locked(lock_path, 0, {"pid": 1}, clock, clock.sleep):
            assert json.loads(Path(lock_path).read_text()) == {"pid": 1}, "nothing of the dead holder is left"


def test_only_the_owner_may_open_the_lock(lock_path: str, clock: Clock) -> None:
    # Whoever can open it can hold it.
    before = os.umask(0)
    try:
        with locked(lock_path, 0, {}, clock, clock.sleep):
            assert stat.S_IMODE(os.stat(lock_path).st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_lock_is_released_by_an_error(lock_path: str, clock: Clock) -> None:
    with pytest.raises(KeyError), locked(lock_path, 0, {"pid": 1}, clock, clock.sleep):
        raise KeyError
    with locked(lock_path, 0, {}, clock, clock.sleep):
        pass


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o640, 0o666])
def test_a_lock_that_others_can_open_is_replaced(lock_path: str, clock: Clock, mode: int) -> None:
    # flock(2) asks for no permission to write, so whoever can read the file can hold it.
    Path(lock_path).touch()
    os.chmod(lock_path, mode)
    with open(lock_path, "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with locked(lock_path, 0, {"pid": 1}, clock, clock.sleep):
            assert stat.S_IMODE(os.stat(lock_path).st_mode) == 0o600


def test_a_lock_that_was_removed_meanwhile_is_not_taken_for_one(lock_path: str, clock: Clock) -> None:
    holder = open(os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600), "r+")  # noqa: SIM115 - closed while the other waits
    fcntl.flock(holder, fcntl.LOCK_EX)

    def remove_and_release() -> None:
        Path(lock_path).unlink(missing_ok=True)
        holder.close()
        clock.while_asleep = lambda: None

    clock.while_asleep = remove_and_release
    with (
        locked(lock_path, 7, {"pid": 1}, clock, clock.sleep),
        pytest.raises(LockedError, match='"pid": 1'),
        locked(lock_path, 0, {"pid": 2}, clock, clock.sleep),
    ):
        pytest.fail("two hold the lock")


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory"])
def test_what_is_no_file_is_no_lock(tmp_path: Path, lock_path: str, clock: Clock, kind: str) -> None:
    target = tmp_path / "precious"
    if kind == "link":
        target.write_text("kept")
    {
        "link": lambda: os.symlink(target, lock_path),
        "dangling": lambda: os.symlink(target, lock_path),
        "fifo": lambda: os.mkfifo(lock_path, 0o600),
        "directory": lambda: os.mkdir(lock_path),
    }[kind]()
    with pytest.raises(OSError, match=r"no regular file.*remove it"), locked(lock_path, 0, {"pid": 1}, clock, clock.sleep):
        pytest.fail(f"a {kind} was taken for a lock")
    assert (target.read_text() if kind == "link" else not target.exists()) in ("kept", True)
