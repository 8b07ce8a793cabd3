"""What a release is made of on the host: beginning with another one's files, and what is left of one that was interrupted."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.tree import BUILDING, clone, is_interrupted, remove_release


def test_a_clone_is_the_same_files_and_scripts_of_its_own(tmp_path: Path) -> None:
    builder = SimpleNamespace(uid=61234 if os.geteuid() == 0 else os.geteuid(), gid=os.getegid())
    old, new = tmp_path / "1.0/.venv", tmp_path / "1.1/.venv"
    (old / "bin").mkdir(parents=True)
    (old / "lib/site/__pycache__").mkdir(parents=True)
    (old / "bin/tool").write_text(f"#!{old}/bin/python\n")
    (old / "bin/tool").chmod(0o755)
    (old / "bin/python").symlink_to("/usr/bin/python3")
    (old / "lib/site/module.py").write_text("x = 1\n")
    (old / "lib/site/__pycache__/module.cpython-313.pyc").write_text("of a module that may be replaced")
    new.mkdir(parents=True)
    shared, scripts = clone(str(old), str(new), builder)
    status = (old / "lib/site/module.py").stat()
    assert (new / "lib/site/module.py").samefile(old / "lib/site/module.py")
    assert shared == {(status.st_dev, status.st_ino): str(old / "lib/site/module.py")}
    assert (new / "bin/tool").read_text() == f"#!{new}/bin/python\n"
    assert scripts == {str(new / "bin/tool"): hashlib.sha256((new / "bin/tool").read_bytes()).hexdigest()}
    assert os.access(new / "bin/tool", os.X_OK)
    assert (old / "bin/tool").read_text() == f"#!{old}/bin/python\n"
    assert (new / "bin/python").is_symlink()
    assert (new / "lib/site").stat().st_uid == builder.uid
    assert not (new / "lib/site/__pycache__").exists()


def test_what_is_deeper_than_python_goes_is_removed_too(tmp_path: Path) -> None:
    """A build could leave something that keeps every later one from clearing up."""
    release = tmp_path / "1.0"
    release.mkdir()
    there = os.open(release, os.O_RDONLY)
    for _number in range(3000):
        os.mkdir("deep", dir_fd=there)
        below = os.open("deep", os.O_RDONLY, dir_fd=there)
        os.close(there)
        there = below
    os.close(there)
    remove_release(str(release))
    assert not release.exists()
    assert shutil.rmtree.avoids_symlink_attacks


class Cut(BaseException):
    """The process is killed."""


def test_a_removal_that_is_cut_off_anywhere_can_be_told_from_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "1.0-0a1b"

    def cut_at(number: int, real: Callable[..., None]) -> Callable[..., None]:
        def act(*arguments: Any, **options: Any) -> None:
            if next(count) >= number:
                raise Cut
            real(*arguments, **options)

        return act

    for number in itertools.count():
        for name in ("app/static/site.css", "app/main.py", ".venv/bin/python", "notes", BUILDING):
            (release / name).parent.mkdir(parents=True, exist_ok=True)
            (release / name).touch()
        (release / ".venv/lib64").symlink_to("lib")
        count = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", cut_at(number, os.unlink))
            patch.setattr(os, "rmdir", cut_at(number, os.rmdir))
            try:
                remove_release(str(release))
                break
            except Cut:
                assert is_interrupted(str(release)), f"after {number} steps"
        remove_release(str(release))
    assert number > 8
    assert not release.exists()


def test_what_is_not_interrupted(tmp_path: Path) -> None:
    (tmp_path / "by-hand").mkdir()
    (tmp_path / "by-hand/README").touch()
    (tmp_path / "link").symlink_to("by-hand")
    (tmp_path / "file").touch()
    assert not [path.name for path in tmp_path.iterdir() if is_interrupted(str(path))]
