"""Taking over what a build has made, and sharing it."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.build import (
    BUILDING,
    Builder,
    BuildError,
    Store,
    clone,
    is_interrupted,
    remove_release,
    take_over,
)


class Nobody(Builder):
    """The builder of tests that run as root: a user that owns nothing else."""

    def __init__(self) -> None:
        super().__init__(lambda *_args, **_options: (0, "", ""), "")
        if os.geteuid() == 0:
            self.uid = self.gid = 61234

    def give(self, path: str) -> None:
        for root, directories, files in os.walk(path):
            for name in ("", *directories, *files):
                os.lchown(os.path.join(root, name), self.uid, self.gid)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(str(tmp_path / "store"))


def built(path: Path, builder: Nobody) -> Path:
    """What a build leaves: a script, a module, bytecode, a link, and modes of its own."""
    (path / "bin").mkdir(parents=True)
    (path / "lib/site").mkdir(parents=True)
    (path / "bin/tool").write_text(f"#!{path}/bin/python\n")
    (path / "bin/tool").chmod(0o777)
    (path / "lib/site/module.py").write_text("x = 1\n")
    (path / "lib/site/module.py").chmod(0o666)
    (path / "lib/site/empty.py").write_text("")
    (path / "lib/site/module.pyc").write_bytes(b"code")
    (path / "bin/python").symlink_to("/usr/bin/python3")
    builder.give(str(path))
    return path


def test_what_was_built_is_root_s_and_nobody_else_can_write_it(tmp_path: Path, store: Store) -> None:
    builder = Nobody()
    tree = built(tmp_path / "venv", builder)
    take_over(str(tree), builder, store, final=False)
    assert (tree / "lib/site").stat().st_uid == builder.uid, "more can be added"
    take_over(str(tree), builder, store, final=True)
    for path in [tree, *tree.rglob("*")]:
        status = path.lstat()
        assert status.st_uid == os.geteuid()
        assert path.is_symlink() or not status.st_mode & 0o022
    assert os.access(tree / "bin/tool", os.X_OK)
    assert stat.S_IMODE((tree / "lib/site/module.py").stat().st_mode) == 0o644


def test_the_same_content_is_one_file_with_one_time(tmp_path: Path, store: Store) -> None:
    builder = Nobody()
    trees = [built(tmp_path / name, builder) for name in ("one", "two")]
    for tree in trees:
        take_over(str(tree), builder, store, final=True)
    one, two = ((tree / "lib/site/module.py").stat() for tree in trees)
    assert (one.st_ino, one.st_nlink) == (two.st_ino, 3)
    (tmp_path / "other").mkdir()
    apart = Store(str(tmp_path / "other"))
    again = built(tmp_path / "three", builder)
    take_over(str(again), builder, apart, final=True)
    assert (again / "lib/site/module.py").stat().st_mtime == one.st_mtime


def test_what_no_release_has_is_pruned(tmp_path: Path, store: Store) -> None:
    builder = Nobody()
    tree = built(tmp_path / "venv", builder)
    take_over(str(tree), builder, store, final=True)
    (tree / "lib/site/module.py").unlink()
    assert store.prune() == len("x = 1\n")
    assert store.prune() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_a_file_of_somebody_else_s_is_not_taken_over(tmp_path: Path, store: Store) -> None:
    """As a hard link to a secret would be: taking it over would open it to everybody."""
    builder = Nobody()
    tree = built(tmp_path / "venv", builder)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    os.chown(secret, 61235, 61235)
    os.link(secret, tree / "lib/site/data")
    with pytest.raises(BuildError, match="belongs to another user"):
        take_over(str(tree), builder, store, final=True)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_what_is_no_file_is_refused(tmp_path: Path, store: Store) -> None:
    builder = Nobody()
    tree = built(tmp_path / "venv", builder)
    os.mkfifo(tree / "pipe")
    os.chown(tree / "pipe", builder.uid, builder.gid)
    with pytest.raises(BuildError, match="neither a file nor a link"):
        take_over(str(tree), builder, store, final=True)


def test_a_clone_is_the_same_files_and_scripts_of_its_own(tmp_path: Path, store: Store) -> None:
    builder = Nobody()
    old = built(tmp_path / "1.0/.venv", builder)
    take_over(str(old), builder, store, final=True)
    new = tmp_path / "1.1/.venv"
    new.mkdir(parents=True)
    clone(str(old), str(new), builder)
    assert (new / "lib/site/module.py").stat().st_ino == (old / "lib/site/module.py").stat().st_ino
    assert (new / "bin/tool").read_text() == f"#!{new}/bin/python\n"
    assert os.access(new / "bin/tool", os.X_OK)
    assert (old / "bin/tool").read_text() == f"#!{old}/bin/python\n"
    assert (new / "bin/python").is_symlink()
    assert (new / "lib/site").stat().st_uid == builder.uid


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
