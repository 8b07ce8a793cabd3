"""Sources that are brought to the controller: repositories, archives, downloads, packages."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import lzma
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.origin import Options, is_path, opened
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError

Git = Callable[..., str]
NONE = Options()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A repository with a commit, a tag v1 on it, another commit, and a way to run git in it."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    directory = tmp_path / "repository"
    directory.mkdir()

    def run(*arguments: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "--quiet", "--initial-branch=main")
    (directory / "app.py").write_text("app = 1\n")
    run("add", ".")
    run("commit", "-qm", "one")
    run("tag", "-a", "v1", "-m", "one")
    (directory / "app.py").write_text("app = 2\n")
    run("commit", "-qam", "two")
    return run


def url(tmp_path: Path, ref: str = "") -> str:
    return f"git+file://{tmp_path}/repository{ref and '@'}{ref}"


def content(source: str, options: Options = NONE) -> str:
    with opened(source, options) as origin:
        return Path(origin.directory, "app.py").read_text()


def test_a_repository_at_a_branch_a_tag_or_a_commit(git: Git, tmp_path: Path) -> None:
    first, second = git("rev-parse", "v1^{}"), git("rev-parse", "HEAD")
    for ref, commit, expected in [
        ("", second, "app = 2\n"),
        ("main", second, "app = 2\n"),
        ("v1", first, "app = 1\n"),
        ("refs/tags/v1", first, "app = 1\n"),
        (first, first, "app = 1\n"),
        (second, second, "app = 2\n"),
    ]:
        with opened(url(tmp_path, ref), NONE) as origin:
            assert (origin.commit, Path(origin.directory, "app.py").read_text()) == (commit, expected)
            assert origin.pinned == url(tmp_path, commit)


def test_a_branch_that_moves_is_followed_and_nothing_is_left_of_before(git: Git, tmp_path: Path) -> None:
    assert content(url(tmp_path, "main")) == "app = 2\n"
    with opened(url(tmp_path, "main"), NONE) as origin:
        Path(origin.directory, "litter").write_text("")
    (tmp_path / "repository/app.py").write_text("app = 3\n")
    git("commit", "-qam", "three")
    with opened(url(tmp_path, "main"), NONE) as origin:
        assert Path(origin.directory, "app.py").read_text() == "app = 3\n"
        assert not Path(origin.directory, "litter").exists()


def test_a_commit_that_is_here_needs_no_network(git: Git, tmp_path: Path) -> None:
    commit = git("rev-parse", "HEAD")
    content(url(tmp_path, commit))
    (tmp_path / "repository").rename(tmp_path / "away")
    assert content(url(tmp_path, commit)) == "app = 2\n"


def test_submodules_are_part_of_it_when_they_are_asked_for(git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COUNT", "1"), ("KEY_0", "protocol.file.allow"), ("VALUE_0", "always")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "--quiet", tmp_path / "repository", other], check=True)
    git("submodule", "--quiet", "add", str(other), "vendor")
    git("commit", "-qm", "with a submodule")
    for wanted in (False, True):
        with opened(url(tmp_path, "main"), Options(git_submodules=wanted)) as origin:
            assert Path(origin.directory, "vendor/app.py").exists() is wanted


def test_a_submodule_may_be_beside_its_repository(git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COUNT", "1"), ("KEY_0", "protocol.file.allow"), ("VALUE_0", "always")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    subprocess.run(["git", "clone", "--quiet", tmp_path / "repository", tmp_path / "other"], check=True)
    git("submodule", "--quiet", "add", str(tmp_path / "other"), "vendor")
    git("config", "--file", ".gitmodules", "submodule.vendor.url", "../other")
    git("commit", "-qam", "with a submodule")
    with opened(url(tmp_path, "main"), Options(git_submodules=True)) as origin:
        assert Path(origin.directory, "vendor/app.py").exists()


@pytest.mark.usefixtures("git")
def test_the_key_and_the_server_s_key_reach_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "ssh.log"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(
        f'#!/bin/sh\necho "$@" >>{log}\nfor one; do case $one in -oUserKnown*) cat "${{one#*=}}" >>{log};; esac; done\nexit 1\n'
    )
    (tmp_path / "bin/ssh").chmod(0o755)
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    options = Options(git_key=str(tmp_path / "key"), git_known_hosts="git.example.org ssh-ed25519 AAAA")
    with pytest.raises(SourceError, match="asgi_release_git_key"), opened("git+ssh://git@git.example.org/shop.git@main", options):
        pass
    said = log.read_text()
    assert f"-oIdentityFile={tmp_path}/key -oIdentitiesOnly=yes" in said
    assert "-oStrictHostKeyChecking=yes" in said
    assert "git.example.org ssh-ed25519 AAAA" in said


def test_a_name_that_is_a_branch_and_a_tag_is_not_guessed(git: Git, tmp_path: Path) -> None:
    git("branch", "v1")
    with pytest.raises(SourceError, match=r"@refs/heads/v1 or @refs/tags/v1"):
        content(url(tmp_path, "v1"))


def archive(path: Path, files: dict[str, str], kind: str) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name, text in files.items():
                zipped.writestr(name, text)
        return path
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archived:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archived.addfile(info, io.BytesIO(text.encode()))
    packed = data.getvalue()
    path.write_bytes(gzip.compress(packed) if kind == "gz" else lzma.compress(packed) if kind == "xz" else packed)
    return path


@pytest.mark.parametrize(("name", "kind"), [("a.tar.gz", "gz"), ("a.tgz", "gz"), ("a.tar.xz", "xz"), ("a.tar", ""), ("a.zip", "zip")])
@pytest.mark.parametrize("top", ["", "shop-1.0/"])
def test_an_archive_is_a_directory_without_its_only_folder(tmp_path: Path, name: str, kind: str, top: str) -> None:
    path = archive(tmp_path / name, {f"{top}app.py": "app = 1\n", f"{top}uv.lock": ""}, kind)
    assert content(str(path)) == "app = 1\n"
    good = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert content(str(path), Options(checksum=good)) == "app = 1\n"


@pytest.mark.parametrize("name", ["../evil", "/evil"])
@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_an_archive_cannot_write_outside(tmp_path: Path, name: str, kind: str) -> None:
    path = archive(tmp_path / f"a.{'zip' if kind == 'zip' else 'tar.gz'}", {name: "x", "uv.lock": ""}, kind)
    try:
        with opened(str(path), NONE) as origin:
            assert Path(origin.directory, "evil").exists()
    except SourceError as error:
        assert "cannot be unpacked" in str(error)
    assert not Path("/evil").exists()
    assert not (tmp_path / "evil").exists()


def test_packages_are_known_by_their_names_and_contents(tmp_path: Path) -> None:
    wheel = archive(tmp_path / "shop-1.2-py3-none-any.whl", {"shop.py": ""}, "zip")
    sdist = archive(tmp_path / "my_shop-1.3.tar.gz", {"my_shop-1.3/PKG-INFO": "", "my_shop-1.3/pyproject.toml": ""}, "gz")
    for path, version in ((wheel, "1.2"), (sdist, "1.3")):
        with opened(str(path), NONE) as origin:
            assert (os.path.basename(origin.artifact), origin.version, origin.directory) == (path.name, version, "")
            assert Path(origin.artifact).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("text", "version"), [("datasette==0.65.5", "0.65.5"), ("Foo.Bar[a,b] == 1.0rc1", "1.0rc1")])
def test_a_requirement_is_pinned(text: str, version: str) -> None:
    with opened(text, NONE) as origin:
        assert (origin.requirement, origin.version) == (text.replace(" ", ""), version)
    assert not is_path(text)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_is_checked_and_kept(tmp_path: Path, server: str, cache: Path) -> None:
    path = archive(tmp_path / "www/shop-1.0.tar.gz", {"shop/app.py": "app = 1\n", "shop/uv.lock": ""}, "gz")
    good = Options(checksum="sha256:" + hashlib.sha256(path.read_bytes()).hexdigest())
    bad = Options(checksum="sha256:" + 64 * "0")
    with pytest.raises(SourceError, match="correct the checksum"):
        content(f"{server}/shop-1.0.tar.gz", bad)
    assert not [each for each in cache.rglob("*") if each.is_file()]
    assert content(f"{server}/shop-1.0.tar.gz", good) == "app = 1\n"
    path.unlink()
    assert content(f"{server}/shop-1.0.tar.gz", good) == "app = 1\n"
    with pytest.raises(SourceError, match=r"cannot be fetched.*Check the address"):
        content(f"{server}/nothing.tar.gz", bad)


BAD: dict[str, tuple[str, Options, str]] = {
    "a directory that is not there": ("/nowhere", NONE, "not a directory on the controller.*It can be"),
    "nothing": ("", NONE, "not a directory on the controller"),
    "a requirement that is not pinned": ("datasette>=0.65", NONE, "a requirement such as datasette==0.65.5"),
    "a name": ("datasette", NONE, "a requirement such as"),
    "a wildcard": ("datasette==0.*", NONE, "a requirement such as"),
    "two requirements": ("a==1 b==2", NONE, "a requirement such as"),
    "git without a scheme": ("git+git@example.org:shop.git", NONE, r"git\+https://"),
    "git with another scheme": ("git+ext::sh -c id", NONE, r"git\+https://"),
    "a ref that is an option": ("git+https://example.org/shop.git@--upload-pack=id", NONE, "a branch, a tag"),
    "a repository that is not there": ("git+file:///nowhere/shop.git@main", NONE, "Check the address"),
    "a password": ("git+https://me:hunter2@example.org/shop.git", NONE, "asgi_release_git_key"),
    "a password for a file": ("https://me:hunter2@example.org/shop.tar.gz", NONE, "not shown"),
    "a key that is not there": ("git+file:///nowhere", Options(git_key="/nowhere/key"), "asgi_release_git_key is /nowhere/key"),
    "a page": ("https://example.org/shop", NONE, r"write git\+ in front"),
    "no checksum": ("https://example.org/shop.tar.gz", NONE, "asgi_release_checksum is empty"),
    "a file of another kind": ("{file}", NONE, "neither an archive nor a wheel"),
    "a wheel that is none": ("{wheel}", NONE, "uv build --wheel"),
    "an archive that is none": ("{archive}", NONE, "cannot be unpacked"),
    "another checksum": ("{file}", Options(checksum="sha256:" + 64 * "0"), "correct the checksum"),
    "half a checksum": ("{file}", Options(checksum="sha256:abc"), "sha256sum prints it"),
    "a checksum of another kind": ("{file}", Options(checksum="md5:" + 32 * "0"), "Write sha256:"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_source_is_refused_with_the_remedy(tmp_path: Path, case: str) -> None:
    source, options, said = BAD[case]
    for kind, name in (("file", "shop.txt"), ("wheel", "shop-1.whl"), ("archive", "shop.tar.gz")):
        (tmp_path / name).write_text("text")
        source = source.replace(f"{{{kind}}}", str(tmp_path / name))
    with pytest.raises(SourceError, match=said) as refused, opened(source, options):
        pass
    assert "asgi_" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_tag_that_is_not_there_is_named(git: Git, tmp_path: Path) -> None:
    for ref, said in (("v9", "no branch or tag v9"), (40 * "a", "git fetch failed|no commit aaaa")):
        with pytest.raises(SourceError, match=said):
            content(url(tmp_path, ref))
    assert git("status", "--porcelain") == ""
