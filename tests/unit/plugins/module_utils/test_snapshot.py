"""One run, one release: what the first process of a run has read is what all of them get."""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.origin import Options
from ansible_collections.steadfast.asgi.plugins.module_utils.snapshot import Run, Snapshot
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError, digest, read_entry

NONE = Options()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


def directory(top: Path) -> str:
    (top / "app").mkdir(parents=True, exist_ok=True)
    (top / "app/main.py").write_text("app = 1\n")
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "uv.lock").write_text("version = 1\n")
    (top / "link").symlink_to("app/main.py")
    return str(top)


def spoil_directory(top: Path) -> None:
    (top / "app/main.py").write_text("app = 2\n")
    (top / "new.py").write_text("")
    (top / "run.sh").unlink()


def repository(top: Path) -> str:
    directory(top)
    for arguments in (["init", "-qb", "main"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *arguments], cwd=top, check=True)
    return f"git+file://{top}@main"


def spoil_repository(top: Path) -> None:
    spoil_directory(top)
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qam", "y"], cwd=top, check=True)


def archive(top: Path, content: str = "app = 1\n") -> str:
    path = top.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz") as stream:
        for name, text in (("shop/uv.lock", "version = 1\n"), ("shop/app/main.py", content)):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            stream.addfile(info, io.BytesIO(text.encode()))
    return str(path)


def wheel(top: Path, content: str = "app = 1\n") -> str:
    path = top.parent / "shop-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("app.py", content)
    return str(path)


CHANGES: dict[str, tuple[Callable[[Path], str], Callable[[Path], object]]] = {
    "a directory": (directory, spoil_directory),
    "a directory that goes": (directory, lambda top: top.rename(top.parent / "away")),
    "a branch": (repository, spoil_repository),
    "an archive": (archive, lambda top: archive(top, "app = 2\n")),
    "a wheel": (wheel, lambda top: wheel(top, "app = 2\n")),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_run_has_one_release_whatever_happens_to_the_source(tmp_path: Path, kind: str) -> None:
    make, change = CHANGES[kind]
    source = make(tmp_path / "shop")

    def look(run: str) -> tuple[str, str, bytes]:
        # Each host has a process of its own.
        here = Run(str(tmp_path / run))
        found = here.source(source, NONE, "", "")
        with open(here.archive([("source", found.directory, found.names)]), "rb") as stream:
            return found.origin.commit, digest(found.entries, []), stream.read()

    first = look("run")
    change(tmp_path / "shop")
    assert look("run") == first
    if kind != "a directory that goes":
        assert look("next run")[:2] != first[:2]


def test_what_is_sent_is_what_was_read(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    found = run.source(directory(tmp_path / "shop"), NONE, "", "")
    assert [(entry.name, entry.kind) for entry in found.entries] == [
        ("app/main.py", "file"),
        ("link", "link"),
        ("run.sh", "executable"),
        ("uv.lock", "file"),
    ]
    with tarfile.open(run.archive([("source", found.directory, found.names)])) as packed:
        for entry in found.entries:
            member = packed.getmember(f"source/{entry.name}")
            assert {"link": member.issym(), "executable": member.mode == 0o755, "file": member.mode == 0o644}[entry.kind]
            stream = packed.extractfile(member) if member.isreg() else None
            assert entry.content == (hashlib.sha256(stream.read()).hexdigest() if stream else member.linkname)


def test_the_same_files_have_the_same_digest_as_where_they_came_from(tmp_path: Path) -> None:
    source = directory(tmp_path / "shop")
    found = Run(str(tmp_path / "run")).source(source, NONE, "", "")
    assert digest(found.entries, []) == digest([read_entry(source, name) for name in found.names], [])


def test_wheels_and_a_lock_beside_the_source_stay_too(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "elsewhere.txt").write_text("six==1.0\n")
    (tmp_path / "wheels/lock.txt").symlink_to(tmp_path / "elsewhere.txt")

    def look() -> Snapshot:
        return Run(str(tmp_path / "run")).files(str(tmp_path / "wheels"), "all", lambda: sorted(os.listdir(tmp_path / "wheels")))

    first = look()
    (tmp_path / "elsewhere.txt").write_text("six==2.0\n")
    (tmp_path / "wheels/other.txt").write_text("")
    assert look() == first
    assert Path(first.directory, "lock.txt").read_text() == "six==1.0\n"
    assert not Path(first.directory, "lock.txt").is_symlink()


def test_messages_name_the_source_and_not_the_copy(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    found = run.source(directory(tmp_path / "shop"), NONE, "app", "")
    assert run.original(f"{found.directory}/x is wrong") == f"{tmp_path}/shop/app/x is wrong"


def _look(place: str, source: str) -> tuple[str, str]:
    found = Run(place).source(source, NONE, "", "")
    return digest(found.entries, []), Path(found.directory, "app/main.py").read_text()


def test_who_looks_at_once_agrees(tmp_path: Path) -> None:
    """While somebody edits; who is unlucky is refused. The lock is an open file's, so threads are as good as processes."""
    source = directory(tmp_path / "shop")
    done = threading.Event()

    def edit() -> None:
        number = 0
        while not done.wait(0.002):
            number += 1
            (tmp_path / "shop/.new").write_text(f"app = {number}\n")
            (tmp_path / "shop/.new").replace(tmp_path / "shop/app/main.py")

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(_look, str(tmp_path / "run"), source) for _ in range(12)]
            found = [future.result() for future in futures if not isinstance(future.exception(), SourceError)]
            refused = [str(future.exception()) for future in futures if future.exception()]
    finally:
        done.set()
        editor.join()
    assert len(set(found)) <= 1
    assert all("at rest" in each for each in refused)
    assert found or refused


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (grow, "changed while"),
        (lambda path: path.write_bytes(b""), "changed while"),
        (lambda path: os.utime(path, (1, 1)), "changed while"),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, change: Callable[[Path], object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(3 << 20))
    real = hashlib.sha256

    def interfering(*arguments: bytes) -> object:
        change(path)
        return real(*arguments)

    monkeypatch.setattr(hashlib, "sha256", interfering)
    with pytest.raises(SourceError, match=rf"data\.bin has {said} it was read\. Run this again"):
        read_entry(str(tmp_path), "data.bin", str(tmp_path / "copy"))


def test_a_file_that_goes_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="gone has gone while it was read"):
        read_entry(str(tmp_path), "gone")


def test_a_file_that_cannot_be_read_is_named() -> None:
    # Not below tmp_path, into which only its owner comes: root can read everything, so it is somebody else meanwhile.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "key").write_text("")
        (Path(folder) / "key").chmod(0)
        before = os.geteuid()
        os.seteuid(before or 65534)
        try:
            with pytest.raises(SourceError, match="key cannot be read: Permission denied"):
                read_entry(folder, "key")
        finally:
            os.seteuid(before)


def test_what_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    source = directory(tmp_path / "shop")
    os.mkfifo(tmp_path / "shop/pipe")
    for _ in range(2):
        with pytest.raises(SourceError, match="pipe is neither a file nor a link"):
            Run(str(tmp_path / "run")).source(source, NONE, "", "")
    assert [each for each in (tmp_path / "run").iterdir() if each.is_dir()] == []
    (tmp_path / "shop/pipe").unlink()
    assert Run(str(tmp_path / "run")).source(source, NONE, "", "").names


PLAY = """
- hosts: all
  gather_facts: false
  serial: 2
  tasks:
    - steadfast.asgi.asgi_release: {source: SOURCE, releases: /opt/x, uv: /x, inspect: true, import_path: app.main:app}
      register: look
    - set_fact: {edited: "{{ lookup('ansible.builtin.pipe', 'echo app = 2 >>SOURCE/app/main.py') }}"}
    - steadfast.asgi.asgi_release: {source: SOURCE, releases: /opt/x, uv: /x, inspect: true, import_path: app.main:app}
      register: again
    - debug: {msg: "FOUND {{ look.id }} FOUND {{ again.id }} FOUND"}
"""


def test_the_processes_of_a_playbook_are_one_run(tmp_path: Path) -> None:
    """Batches, forks and tasks. The next playbook is another one."""
    source = directory(tmp_path / "shop")
    (tmp_path / "shop/pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n')
    (tmp_path / "play.yml").write_text(PLAY.replace("SOURCE", source))
    (tmp_path / "hosts").write_text("[all:vars]\nansible_connection=local\n[all]\na\nb\nc\n")
    command = [os.path.join(os.path.dirname(sys.executable), "ansible-playbook"), "-i", f"{tmp_path}/hosts", f"{tmp_path}/play.yml"]
    seen: list[str] = []
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.findall(r"FOUND (\S+) (?=FOUND)", done.stdout)
        assert (len(found), len(set(found))) == (6, 1), done.stdout
        seen += found
    assert len(set(seen)) == 2
