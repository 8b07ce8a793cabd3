"""What a build may leave in a release, and what it may not: each attempt fails by name, or has no effect."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import admission
from ansible_collections.steadfast.asgi.plugins.module_utils.admission import Admission, check_records, read, shown
from ansible_collections.steadfast.asgi.plugins.module_utils.execute import BuildError

ROOT = os.geteuid() == 0
BUILDER = 61234 if ROOT else os.geteuid()

needs_root = pytest.mark.skipif(not ROOT, reason="only root can make files of others")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release with an environment as a build leaves it, all of it the builder's."""
    venv = tmp_path / "releases/1.0/.venv"
    site = venv / "lib/python3.13/site-packages"
    (site / "shop/__pycache__").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to("/usr/bin/python3")
    (venv / "bin/python3").symlink_to("python")
    (venv / "lib64").symlink_to("lib")
    (venv / "bin/tool").write_text("#!/bin/sh\n")
    (venv / "bin/tool").chmod(0o777)
    (site / "shop/__init__.py").write_text("x = 1\n")
    (site / "shop/__init__.py").chmod(0o666)
    (site / "shop/__pycache__/__init__.cpython-313.pyc").write_bytes(b"forged")
    own(venv)
    return tmp_path / "releases/1.0"


def own(path: Path) -> None:
    for root, directories, files in os.walk(path):
        for name in ("", *directories, *files):
            os.lchown(os.path.join(root, name), BUILDER, BUILDER if ROOT else -1)


def site_of(release: Path) -> Path:
    return release / ".venv/lib/python3.13/site-packages"


def admit(release: Path) -> Admission:
    walk = Admission(str(release), BUILDER, "/usr/bin/python3")
    walk.admit(str(release / ".venv"))
    return walk


def test_what_was_built_is_root_s_and_nobody_else_can_write_it(release: Path) -> None:
    walk = admit(release)
    tree = release / ".venv"
    for path in [tree, *tree.rglob("*")]:
        status = path.lstat()
        assert status.st_uid == os.geteuid()
        assert path.is_symlink() or not status.st_mode & 0o022
    assert os.access(tree / "bin/tool", os.X_OK)
    module = site_of(release) / "shop/__init__.py"
    assert stat.S_IMODE(module.stat().st_mode) == 0o644
    assert walk.digests[str(module)] == hashlib.sha256(b"x = 1\n").hexdigest()


def test_what_was_never_written_is_bounded_and_not_read(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(release)
    for name in ("first", "second"):
        with open(site / name, "wb") as stream:
            stream.truncate(600 << 20)
    own(release / ".venv")
    read: list[int] = []
    blocks = Admission._blocks

    def noted(self: Admission, source: int) -> Iterator[bytes]:
        read.append(os.fstat(source).st_size)
        return blocks(self, source)

    monkeypatch.setattr(Admission, "_blocks", noted)
    with pytest.raises(BuildError, match=r"more than 1 GiB that were never written, at last .*/second\. Have it write"):
        admit(release)
    assert read.count(600 << 20) == 1


def test_a_path_that_is_too_long_is_refused_by_its_beginning(release: Path) -> None:
    here = os.getcwd()
    os.chdir(site_of(release))
    try:
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    own(release / ".venv") if not ROOT else os.system(f"chown -R {BUILDER} {release}/.venv")  # noqa: S605 (deeper than a path can be)
    with pytest.raises(BuildError, match=r"a path of more than 4000 bytes: .*ddd…$") as refused:
        admit(release)
    assert len(str(refused.value)) < 500


def test_a_file_with_a_hole_is_admitted_as_it_reads(release: Path) -> None:
    module = site_of(release) / "hole.bin"
    with open(module, "wb") as stream:
        stream.write(b"begin")
        stream.truncate(1 << 20)
        stream.seek(1 << 20)
        stream.write(b"end")
    content = module.read_bytes()
    own(release / ".venv")
    walk = admit(release)
    assert module.read_bytes() == content
    assert walk.digests[str(module)] == hashlib.sha256(content).hexdigest()


def outside(release: Path) -> Path:
    path = release.parents[1] / "outside"
    path.mkdir(exist_ok=True)
    (path / "file").write_text("root's")
    return path


def deep(site: Path) -> None:
    for _number in range(admission.DEEPEST + 1):
        site = site / "d"
        site.mkdir()


def unix_socket(site: Path) -> None:
    here = os.getcwd()
    os.chdir(site)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket")
    finally:
        os.chdir(here)


def relink(path: Path, target: Path | str) -> None:
    path.unlink()
    path.symlink_to(target)


def by_way_of_another(site: Path, _out: Path) -> None:
    (site / "a/b").mkdir(parents=True)
    (site / "a/b/up").symlink_to("../../../../..")
    (site / "x").symlink_to("a/b/up/../..")


def pipe_as_metadata(site: Path, _out: Path) -> None:
    (site / "a-1.dist-info").mkdir()
    os.mkfifo(site / "a-1.dist-info/RECORD")


# What is tried in site-packages, and what the refusal says.
REFUSED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a link to a file outside": (lambda site, out: (site / "x.py").symlink_to(out / "file"), "x.py, a link to .*outside of the release"),
    "a link to /etc/shadow": (lambda site, _out: (site / "x").symlink_to("/etc/shadow"), "a link to /etc/shadow"),
    "a link to a directory outside": (lambda site, out: (site / "x").symlink_to(out), "outside of the release"),
    "a relative link that leaves": (lambda site, _out: (site / "x").symlink_to("../../../../../x"), "outside of the release"),
    "a link to /dev/zero": (lambda site, _out: (site / "x").symlink_to("/dev/zero"), "a link to /dev/zero"),
    "a link to /proc": (lambda site, _out: (site / "x").symlink_to("/proc/1/root/etc"), "a link to /proc"),
    "a dangling link that leaves": (lambda site, _out: (site / "x").symlink_to("/nowhere/at/all"), "outside of the release"),
    "a link that leaves by way of another": (by_way_of_another, "outside of the release"),
    "the interpreter's link elsewhere": (lambda site, _out: (site / "python").symlink_to("/usr/bin/python3"), "outside of the release"),
    "an interpreter of its own": (lambda site, out: relink(site.parents[2] / "bin/python", out / "file"), "bin/python, a link to"),
    "a pipe": (lambda site, _out: os.mkfifo(site / "x.py"), "x.py, which is a pipe"),
    "a pipe as metadata": (pipe_as_metadata, "RECORD, which is a pipe"),
    "a socket": (lambda site, _out: unix_socket(site), "socket, which is a socket"),
    "a name with a line break": (lambda site, _out: (site / "a\nb").write_text(""), r"control characters.*a\\nb"),
    "a name that clears the screen": (lambda site, _out: (site / "a\x1b[2Jb").write_text(""), r"a\\x1b\[2Jb"),
    "a name that is written backwards": (lambda site, _out: (site / "a\u202eb").write_text(""), r"a\\u202eb"),
    "a name that is no text": (lambda site, _out: Path(os.fsdecode(os.fsencode(site) + b"/\xff")).write_text(""), r"no text.*\\udcff"),
    "a directory of such a name": (lambda site, _out: (site / "a\rb").mkdir(), r"a\\rb"),
    "directories without end": (lambda site, _out: deep(site), "more than 100 deep"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_place_in_a_release_is_refused(release: Path, case: str) -> None:
    attempt, said = REFUSED[case]
    there = outside(release)
    before = (there / "file").stat()
    attempt(site_of(release), there)
    own(release / ".venv")
    with pytest.raises(BuildError, match=said) as caught:
        admit(release)
    assert str(caught.value).isprintable()
    after = (there / "file").stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (before.st_uid, before.st_mode, before.st_mtime_ns)


def cache_link(site: Path, out: Path) -> None:
    """The bytecode's directory leads elsewhere: what root puts into it would be there."""
    for path in (site / "shop/__pycache__").iterdir():
        path.unlink()
    (site / "shop/__pycache__").rmdir()
    (site / "shop/__pycache__").symlink_to(out)


def cache_file(site: Path, _out: Path) -> None:
    (site / "__pycache__").write_text("no directory")


WITHOUT_EFFECT: dict[str, Callable[[Path, Path], object]] = {
    "bytecode": lambda site, _out: (site / "shop/x.cpython-313.pyc").write_bytes(b"forged"),
    "bytecode without a source": lambda site, _out: (site / "evil.pyc").write_bytes(b"forged"),
    "bytecode that is a link": lambda site, out: (site / "shop/__pycache__/x.cpython-313.pyc").symlink_to(out / "file"),
    "bytecode that is a pipe": lambda site, _out: os.mkfifo(site / "shop/__pycache__/x.cpython-313.pyc"),
    "a link in place of the bytecode's directory": cache_link,
    "a file in place of the bytecode's directory": cache_file,
    "setuid": lambda site, _out: (site / "shop/__init__.py").chmod(0o6777),
    "sticky and writable directories": lambda site, _out: (site / "shop").chmod(0o3777),
    "an attribute": lambda site, _out: os.setxattr(site / "shop/__init__.py", "user.x", b"y"),
    "two names of one file": lambda site, _out: os.link(site / "shop/__init__.py", site / "shop/other.py"),
    "a name outside of one file": lambda site, out: os.link(site / "shop/__init__.py", out / "kept"),
    "no mode at all": lambda site, _out: (site / "shop/__init__.py").chmod(0),
    "a dangling link inside": lambda site, _out: (site / "x").symlink_to("shop/nothing"),
    "a link in a circle": lambda site, _out: (site / "x").symlink_to("x"),
    "a name of other letters": lambda site, _out: (site / "größe 👩‍💻.txt").write_text(""),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_what_has_no_effect(release: Path, case: str) -> None:
    there = outside(release)
    try:
        WITHOUT_EFFECT[case](site_of(release), there)
    except OSError as error:
        pytest.skip(f"cannot be done here: {error}")
    own(release / ".venv")
    admit(release)
    tree = release / ".venv"
    for path in [tree, *tree.rglob("*")]:
        status = path.lstat()
        assert not path.name.endswith(".pyc")
        assert path.name != "__pycache__"
        if path.is_symlink():
            continue
        assert status.st_uid == os.geteuid()
        assert stat.S_IMODE(status.st_mode) in (0o644, 0o755)
        assert path.is_dir() or status.st_nlink == 1
        assert os.listxattr(path, follow_symlinks=False) == []
    assert (there / "file").read_text() == "root's"
    if (there / "kept").exists() and ROOT:
        assert (there / "kept").stat().st_uid == BUILDER


@needs_root
@pytest.mark.parametrize("links", [1, 2])
def test_a_file_of_somebody_else_s_is_not_taken_over(release: Path, links: int) -> None:
    """As a hard link to a secret would be: taking it over would open it to everybody."""
    secret = site_of(release) / "data"
    secret.write_text("secret")
    secret.chmod(0o600)
    os.chown(secret, 61235, 61235)
    if links == 2:
        os.link(secret, outside(release) / "secret")
    with pytest.raises(BuildError, match="belongs to another user"):
        admit(release)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@needs_root
def test_a_hard_link_to_a_file_of_root_s_is_refused(release: Path) -> None:
    """Where the kernel lets anybody make one (fs.protected_hardlinks)."""
    secret = outside(release) / "file"
    secret.chmod(0o600)
    os.link(secret, site_of(release) / "data")
    with pytest.raises(BuildError, match="a link to a file that belongs to another user"):
        admit(release)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@needs_root
def test_a_device_is_refused(release: Path) -> None:
    os.mknod(site_of(release) / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    own(release / ".venv")
    with pytest.raises(BuildError, match="zero, which is a device"):
        admit(release)


def test_files_of_another_release_stay_as_they_are(release: Path) -> None:
    other = outside(release) / "module.py"
    other.write_text("x = 2\n")
    os.link(other, site_of(release) / "module.py")
    status = other.stat()
    walk = Admission(str(release), BUILDER, "/usr/bin/python3")
    walk.known = {(status.st_dev, status.st_ino): str(other)}
    walk.admit(str(release / ".venv"))
    path = str(site_of(release) / "module.py")
    assert (walk.digests[path], walk.twins[path]) == ("", str(other))


def test_too_many_files_are_refused(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_ENTRIES", 5)
    with pytest.raises(BuildError, match="more than 5 files"):
        admit(release)


@pytest.mark.parametrize("moment", ["stat", "open"])
@pytest.mark.parametrize("what", ["link", "pipe", "directory link"])
def test_what_changes_during_the_walk_is_never_followed(release: Path, monkeypatch: pytest.MonkeyPatch, moment: str, what: str) -> None:
    """Nobody should be there to change it; if somebody is, the walk fails and touches nothing else."""
    there = outside(release)
    victim = site_of(release) / ("shop" if what == "directory link" else "shop/__init__.py")
    real = getattr(os, moment)
    swapped: list[object] = []

    def swap(path: object, *arguments: object, **options: object) -> object:
        if path == victim.name and options.get("dir_fd") is not None and not swapped:
            swapped.append(path)
            found = real(path, *arguments, **options) if moment == "stat" else None
            victim.rename(there / "moved")
            if what == "pipe":
                os.mkfifo(victim)
            else:
                victim.symlink_to(there / "file" if what == "link" else there)
            if found:
                return found
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, moment, swap)
    before = (there / "file").stat()
    with pytest.raises((BuildError, OSError)):
        admit(release)
    monkeypatch.undo()
    assert swapped
    after = (there / "file").stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (before.st_uid, before.st_mode, before.st_mtime_ns)


# What root reads.


def test_only_a_regular_file_of_a_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert read(str(tmp_path / "file"), 4) == b"1234"
    with pytest.raises(BuildError, match="more than 0 MiB"):
        read(str(tmp_path / "file"), 3)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    for name in ("pipe", "link", "zero", "nothing", "sparse"):
        with pytest.raises(BuildError, match=name):
            read(str(tmp_path / name))
    with pytest.raises(BuildError, match="no regular file"):
        read("/dev/zero")


def test_what_is_shown_means_nothing_to_a_terminal() -> None:
    assert shown("/a/größe") == "/a/größe"
    assert shown("/a\x1b]52;c;x\x07") == r"/a\x1b]52;c;x\x07"


# What packages say of their own files.


def package(site: Path, name: str, files: dict[str, str], **record: str) -> None:
    """Install a package; `record` is what its list says otherwise."""
    lines = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f'"{path}",sha256={digest},{len(text)}')
    folder = site / f"{name}-1.dist-info"
    folder.mkdir()
    (folder / "RECORD").write_text("\n".join([*lines, f"{folder.name}/RECORD,,", *record.values()]))


def checked(release: Path) -> None:
    own(release / ".venv")
    check_records(str(site_of(release)), admit(release).digests)


RECORDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda site: (site / "lib/a.py").write_text("evil"), "lib/a.py is not what the package lib-1 brings"),
    "removed": (lambda site: (site / "lib/a.py").unlink(), "lib/a.py of the package lib-1 is missing"),
    "a link": (lambda site: relink(site / "lib/a.py", "b.py"), ""),
    "a script": (lambda site: (site.parents[2] / "bin/run").write_text("evil"), "bin/run is not what the package lib-1"),
    "pth": (lambda site: (site / "evil.pth").write_text("import os"), "evil.pth, which every start of the interpreter would run"),
    "sitecustomize": (lambda site: (site / "sitecustomize.py").write_text("evil"), "sitecustomize.py, which every start"),
    "usercustomize": (lambda site: (site / "usercustomize.cpython-313-x86_64-linux-gnu.so").write_text("evil"), "usercustomize"),
    "no list": (lambda site: (site / "lib-1.dist-info/RECORD").write_text("lib/a.py,sha256=A,1"), "RECORD is no list of files"),
}


@pytest.mark.parametrize("content", ["for this environment", "evil"])
def test_a_script_that_root_has_written_for_this_environment_is_no_stranger(release: Path, content: str) -> None:
    """The list of its package has the digest that it had in the environment that this one began with."""
    site = site_of(release)
    package(site, "lib", {"lib/a.py": "a", "../../../bin/run": "for another environment"})
    script = site.parents[2] / "bin/run"
    script.write_text(content)
    own(release / ".venv")
    scripts = {str(script): hashlib.sha256(b"for this environment").hexdigest()}
    digests = admit(release).digests
    if content == "evil":
        with pytest.raises(BuildError, match="bin/run is not what the package lib-1"):
            check_records(str(site), digests, scripts)
    else:
        check_records(str(site), digests, scripts)


@pytest.mark.parametrize("case", RECORDS)
def test_packages_are_what_their_lists_say(release: Path, case: str) -> None:
    site = site_of(release)
    package(site, "lib", {"lib/a.py": "a", "lib/b.py": "a", "../../../bin/run": "#!/bin/sh", "lib.pth": "# its own"})
    (site / "_virtualenv.pth").write_text("import _virtualenv")
    checked(release)
    attempt, said = RECORDS[case]
    attempt(site)
    if not said:
        checked(release)
        return
    with pytest.raises(BuildError, match=re.escape(said) if "(" in said else said):
        checked(release)


def test_two_packages_may_bring_the_same_file(release: Path) -> None:
    """Whichever was installed last: many bring tests/__init__.py."""
    package(site_of(release), "one", {"tests/__init__.py": "1"})
    package(site_of(release), "two", {"tests/__init__.py": "2"})
    checked(release)
    package(site_of(release), "bare", {"bare.py": ""}, other="elsewhere.py,,")
    (site_of(release) / "elsewhere.py").write_text("without a digest")
    checked(release)
