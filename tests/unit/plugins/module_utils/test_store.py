"""Files that several releases share, and bytecode that nobody but root chooses."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.admission import Admission
from ansible_collections.steadfast.asgi.plugins.module_utils.execute import BuildError
from ansible_collections.steadfast.asgi.plugins.module_utils.store import TEMPORARY, Bytecode, Store

TAG = f"cpython-3{sys.version_info.minor}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(str(tmp_path / "store"))


def environment(path: Path, **modules: str) -> Path:
    site = path / f".venv/lib/python3.{sys.version_info.minor}/site-packages"
    site.mkdir(parents=True)
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)
    return site


def admit(path: Path, store: Store) -> Admission:
    walk = Admission(str(path), os.geteuid(), "", store)
    walk.admit(str(path / ".venv"))
    return walk


def run_alone(command: list[str], data: bytes, output: IO[bytes]) -> tuple[int, str]:
    done = subprocess.run(command, input=data, stdout=output, stderr=subprocess.PIPE, check=False)
    return done.returncode, done.stderr.decode()


def test_the_same_content_is_one_file_with_one_time(tmp_path: Path, store: Store) -> None:
    one, two = environment(tmp_path / "one", module="x = 1\n", empty=""), environment(tmp_path / "two", module="x = 1\n")
    before = (one / "module.py").stat().st_ino
    for name in ("one", "two"):
        admit(tmp_path / name, store)
    first, second = ((site / "module.py").stat() for site in (one, two))
    assert (first.st_ino, first.st_nlink) == (second.st_ino, 3)
    assert first.st_ino != before, "somebody may have the builder's open"
    (tmp_path / "other").mkdir()
    three = environment(tmp_path / "three", module="x = 1\n")
    admit(tmp_path / "three", Store(str(tmp_path / "other")))
    assert (three / "module.py").stat().st_mtime == first.st_mtime


def test_who_has_a_file_open_changes_neither_the_release_nor_the_store(tmp_path: Path, store: Store) -> None:
    site = environment(tmp_path / "one", module="x = 1\n")
    with (site / "module.py").open("r+b") as accomplice:
        walk = admit(tmp_path / "one", store)
        accomplice.write(b"evil!!")
        accomplice.flush()
    assert (site / "module.py").read_text() == "x = 1\n"
    assert Path(store.path_of(walk.digests[str(site / "module.py")], False)).read_text() == "x = 1\n"


def test_what_no_release_has_is_pruned(tmp_path: Path, store: Store) -> None:
    site = environment(tmp_path / "one", module="x = 1\n")
    admit(tmp_path / "one", store)
    (site / "module.py").unlink()
    assert store.prune() == len("x = 1\n")
    assert store.prune() == 0


def test_a_name_that_root_uses_is_refused(tmp_path: Path, store: Store) -> None:
    (environment(tmp_path / "one") / TEMPORARY).mkdir()
    with pytest.raises(BuildError, match="used for the release itself"):
        admit(tmp_path / "one", store)


def test_bytecode_is_compiled_once_of_what_lies_there(tmp_path: Path, store: Store) -> None:
    modules = {"good": "app = 1\n", "bad": "def (", "empty": ""}
    one = environment(tmp_path / "one", **modules)
    (one / "__pycache__").mkdir()
    (one / f"__pycache__/good.{TAG}.pyc").write_bytes(b"forged")
    walk = admit(tmp_path / "one", store)
    bytecode = Bytecode(store, sys.executable)
    bytecode.add(str(tmp_path / "one/.venv"), walk.digests, walk.twins, run_alone)
    made = (one / f"__pycache__/good.{TAG}.pyc").read_bytes()
    status = (one / "good.py").stat()
    assert made[4:16] == struct.pack("<III", 0, int(status.st_mtime), status.st_size)
    assert sorted(path.name for path in (one / "__pycache__").iterdir()) == [f"empty.{TAG}.pyc", f"good.{TAG}.pyc"]
    code = "import good, sys; print(good.__cached__)"
    said = subprocess.run([sys.executable, "-v", "-c", code], cwd=one, capture_output=True, text=True, check=True)
    assert f"matches {one}/good.py" in said.stderr

    two = environment(tmp_path / "two", **modules)
    walk = admit(tmp_path / "two", store)

    def nothing_new(_command: list[str], data: bytes, _output: IO[bytes]) -> tuple[int, str]:
        assert data == os.fsencode(two / "bad.py")
        return 0, ""

    bytecode.add(str(tmp_path / "two/.venv"), walk.digests, walk.twins, nothing_new)
    assert (two / f"__pycache__/good.{TAG}.pyc").samefile(one / f"__pycache__/good.{TAG}.pyc")


def test_a_module_that_another_release_has_too_gets_its_bytecode(tmp_path: Path, store: Store) -> None:
    one, two = environment(tmp_path / "one", module="x = 1\n"), environment(tmp_path / "two")
    walk = admit(tmp_path / "one", store)
    Bytecode(store, sys.executable).add(str(tmp_path / "one/.venv"), walk.digests, walk.twins, run_alone)
    os.link(one / "module.py", two / "module.py")
    status = (one / "module.py").stat()
    walk = Admission(str(tmp_path / "two"), os.geteuid(), "", store)
    walk.known = {(status.st_dev, status.st_ino): str(one / "module.py")}
    walk.admit(str(tmp_path / "two/.venv"))
    Bytecode(store, sys.executable).add(str(tmp_path / "two/.venv"), walk.digests, walk.twins, run_alone)
    assert (two / f"__pycache__/module.{TAG}.pyc").samefile(one / f"__pycache__/module.{TAG}.pyc")


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0", struct.pack("<II", 0, 1 << 31) + b"x", struct.pack("<II", 0, 100) + b"short"],
    ids=["nothing", "a byte", "huge", "cut"],
)
def test_a_compiler_that_answers_nonsense_leaves_a_module_without(tmp_path: Path, store: Store, answer: bytes) -> None:
    site = environment(tmp_path / "one", module="x = 1\n")
    walk = admit(tmp_path / "one", store)

    def says(_command: list[str], _data: bytes, output: IO[bytes]) -> tuple[int, str]:
        output.write(answer)
        return 0, ""

    Bytecode(store, sys.executable).add(str(tmp_path / "one/.venv"), walk.digests, walk.twins, says)
    assert list((site / "__pycache__").iterdir()) == []


def test_a_compiler_that_fails_fails_the_build(tmp_path: Path, store: Store) -> None:
    environment(tmp_path / "one", module="x = 1\n")
    walk = admit(tmp_path / "one", store)
    with pytest.raises(BuildError, match=r"bytecode cannot be compiled.*no memory"):
        Bytecode(store, sys.executable).add(str(tmp_path / "one/.venv"), walk.digests, walk.twins, lambda *_: (1, "no memory"))


def test_the_store_is_by_content(tmp_path: Path, store: Store) -> None:
    site = environment(tmp_path / "one", module="x = 1\n")
    (site / "tool.py").write_text("x = 1\n")
    (site / "tool.py").chmod(0o755)
    admit(tmp_path / "one", store)
    digest = hashlib.sha256(b"x = 1\n").hexdigest()
    assert Path(store.path_of(digest, False)).samefile(site / "module.py")
    assert Path(store.path_of(digest, True)).samefile(site / "tool.py")
    assert os.access(site / "tool.py", os.X_OK)
    assert not os.access(site / "module.py", os.X_OK) or not (site / "module.py").stat().st_mode & 0o111
