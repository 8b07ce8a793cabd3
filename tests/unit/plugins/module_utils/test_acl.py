"""Access lists of directories, on the file system of the tests' own directory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import acl


@pytest.fixture
def place(tmp_path: Path) -> str:
    try:
        acl.read(str(tmp_path))
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        pytest.skip("this file system knows no access lists")
    path = tmp_path / "home"
    path.mkdir(0o755)
    return str(path)


def test_a_group_gets_through_and_the_mode_changes_at_once(place: str) -> None:
    assert acl.read(place) == b""
    wanted = acl.letting_through(b"", 0o750, {33})
    acl.write(place, wanted)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o750
    # As the kernel has it; so the next look finds no difference.
    assert acl.read(place) == wanted
    assert acl.text(wanted) == "user::rwx group::r-x group:33:--x mask::r-x other::---"
    assert acl.lets_through(wanted, 33)
    assert not acl.lets_through(wanted, 34)
    acl.write(place, b"")
    assert acl.read(place) == b""
    acl.write(place, b"")


def test_entries_of_others_are_kept(place: str) -> None:
    theirs = acl.letting_through(b"", 0o750, {4711, 33})
    acl.write(place, theirs)
    again = acl.letting_through(acl.read(place), 0o750, {33})
    assert again == theirs
    acl.write(place, acl.letting_through(acl.read(place), 0o750, {12}))
    assert [acl.lets_through(acl.read(place), group) for group in (12, 33, 4711)] == [True, True, True]


def test_what_the_mask_takes_away_is_not_there(place: str) -> None:
    acl.write(place, acl.letting_through(b"", 0o750, {33}))
    os.chmod(place, 0o700)
    assert not acl.lets_through(acl.read(place), 33)
    os.chmod(place, 0o710)  # noqa: S103
    assert acl.lets_through(acl.read(place), 33)


@pytest.mark.parametrize("value", [b"", b"\x02", b"\x02\0\0\0", b"\x03\0\0\0", b"\x02\0\0\0\1\0"])
def test_what_is_no_list_lets_nobody_through(value: bytes) -> None:
    assert not acl.lets_through(value, 33)
    assert acl.text(value) == ""
