from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import source as source_module
from ansible_collections.steadfast.asgi.plugins.module_utils.source import (
    Entry,
    SourceError,
    digest,
    find_app,
    pack,
    read_entry,
    source_files,
    unpack,
)

Git = Callable[..., None]


def write(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")


def read(directory: Path) -> list[Entry]:
    return [read_entry(str(directory), name) for name in source_files(str(directory))]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@pytest.fixture
def git(source: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Make the source a git work tree and return a way to run git in it, without the settings of the user."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)

    def run(*arguments: str) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        subprocess.run(command, cwd=source, check=True, capture_output=True)

    run("init", "--quiet")
    return run


# Which files


def test_without_git_the_usual_litter_is_left_out(source: Path) -> None:
    write(source, "app/main.py", "uv.lock", "templates/venv.html", ".python-version", "env/x.py")
    write(source, ".venv/bin/python", "app/__pycache__/main.cpython-313.pyc", "app/old.pyc", ".env")
    write(source, "node_modules/x/y.js")
    write(
        source,
        "app/main.py~",
        "frontend/node_modules/x.js",
        ".ruff_cache/x",
        "app/.DS_Store",
        "web/.env",
    )
    (source / "link.txt").symlink_to("uv.lock")
    (source / "linked").symlink_to("app")
    assert source_files(str(source)) == sorted(
        ["app/main.py", "uv.lock", "templates/venv.html", ".python-version", "env/x.py", "link.txt", "linked"]
    )


@pytest.mark.parametrize("target", ["/nonexistent/venv", "/"])
def test_a_linked_virtual_environment_is_litter_too(source: Path, target: str) -> None:
    write(source, "app.py", "bin/venv")
    (source / ".venv").symlink_to(target)
    assert source_files(str(source)) == ["app.py", "bin/venv"]


def test_with_git_the_source_is_what_git_tracks_or_would_track(source: Path, git: Git) -> None:
    write(
        source,
        "app/main.py",
        "app/ü ☂.py",
        "deleted.py",
        "tracked.log",
        "untracked.py",
        "noise.log",
        "uv.lock",
        "build/out.js",
    )
    (source / ".gitignore").write_text("*.log\nuv.lock\nbuild/\n")
    (source / "linked").symlink_to("app")
    git("add", "app", ".gitignore", "deleted.py", "linked")
    git("add", "--force", "tracked.log")
    (source / "deleted.py").unlink()
    assert source_files(str(source)) == sorted(
        [".gitignore", "app/main.py", "app/ü ☂.py", "linked", "tracked.log", "untracked.py", "uv.lock"]
    )


def test_a_directory_below_the_top_of_the_work_tree_stands_alone(source: Path, git: Git) -> None:
    write(source, "service/app.py", "service/uv.lock", "other/secret.py")
    git("add", ".")
    assert source_files(str(source / "service")) == ["app.py", "uv.lock"]


def test_a_directory_that_git_ignores_as_a_whole_is_not_empty(source: Path, git: Git) -> None:
    write(source, "generated/app.py", "generated/uv.lock", "generated/.env")
    (source / ".gitignore").write_text("generated/\n")
    git("add", ".")
    assert source_files(str(source / "generated")) == ["app.py", "uv.lock"]


def test_a_submodule_is_part_of_the_source(source: Path, git: Git, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, "lib/code.py")
    for arguments in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *arguments], cwd=other, check=True, capture_output=True)
    write(source, "app.py")
    git("-c", "protocol.file.allow=always", "submodule", "add", str(other), "vendor")
    assert {".gitmodules", "app.py", "vendor/lib/code.py"} <= set(source_files(str(source)))


@pytest.mark.usefixtures("git")
def test_a_file_of_secrets_that_git_does_not_know_stays_here(source: Path) -> None:
    write(source, "app.py", ".env", "deep/.env")
    assert source_files(str(source)) == ["app.py"]


@pytest.mark.usefixtures("git")
def test_a_name_that_is_not_utf_8_is_a_name(source: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (source / name).write_text("")
    assert source_files(str(source)) == [name]
    assert digest(read(source), [])
    sent(source, tmp_path / "target")
    assert (tmp_path / "target" / name).exists()


def test_a_bare_repository_is_no_work_tree(source: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare"], cwd=source, check=True)
    write(source, "app.py")
    assert "app.py" in source_files(str(source))


def test_inside_of_a_git_hook_the_source_is_still_the_source(
    source: Path, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, "app.py", "tracked.log", "noise.log")
    (source / ".gitignore").write_text("*.log\n")
    git("add", "--force", "tracked.log")
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=other, check=True)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert source_files(str(source)) == [".gitignore", "app.py", "tracked.log"]


def test_git_is_understood_whatever_the_user_speaks(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = '[ "$LC_ALL" = C ] && echo "fatal: not a git repository" >&2 || echo "Schwerwiegend: Kein Git-Repository" >&2'
    write(tmp_path, "bin/git")
    (tmp_path / "bin/git").write_text(f"#!/bin/sh\n{said}\nexit 128\n")
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    write(source, "app.py")
    assert source_files(str(source)) == ["app.py"]


@pytest.mark.usefixtures("git")
def test_a_work_tree_that_git_refuses_is_not_taken_for_none(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(source, "app.py", "uv.lock")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(SourceError, match="ownership"):
        source_files(str(source))


REMEDY = "Name a copy that has only what is to be deployed"


@pytest.mark.usefixtures("git")
@pytest.mark.parametrize("below", [".", "service/api"])
def test_a_work_tree_on_a_controller_without_git_is_refused(
    source: Path, below: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ignored files would go into the release: keys, dumps."""
    write(source, "app.py", "secret.key", "service/api/app.py", "service/api/dump.sql")
    (source / ".gitignore").write_text("*.key\n*.sql\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=rf"the controller has no git. Install it.*{REMEDY}"):
        source_files(str(source / below))


def test_a_controller_without_git_walks_what_is_no_work_tree(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(source, "app.py", "noise.log", ".venv/x")
    (source / ".gitignore").write_text("*.log\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_files(str(source)) == [".gitignore", "app.py", "noise.log"]


def broken(source: Path, how: str) -> None:
    """Spoil a repository, so that git does not say what is ignored in it."""
    git = source / ".git"
    if how == "a directory of something else":
        shutil.rmtree(git)
        write(git, "config")
    elif how == "no head":
        (git / "HEAD").unlink()
    elif how == "a work tree whose repository has gone":
        shutil.rmtree(git)
        git.write_text(f"gitdir: {source.parent}/gone/.git/worktrees/shop\n")
    elif how == "a file of something else":
        shutil.rmtree(git)
        git.write_text("nothing\n")
    elif how == "a link to nowhere":
        shutil.rmtree(git)
        git.symlink_to("/nowhere/.git")
    elif how == "a work tree elsewhere":
        subprocess.run(["git", "config", "core.worktree", str(source.parent)], cwd=source, check=True)
    elif how == "bare":
        subprocess.run(["git", "config", "core.bare", "true"], cwd=source, check=True)
    elif how == "an index that is none":
        (git / "index").write_bytes(b"DIRC nothing at all")
    elif how == "empty":
        shutil.rmtree(git)
        git.mkdir()


@pytest.mark.usefixtures("git")
@pytest.mark.parametrize(
    "how",
    [
        "a directory of something else",
        "no head",
        "a work tree whose repository has gone",
        "a file of something else",
        "a link to nowhere",
        "a work tree elsewhere",
        "bare",
        "an index that is none",
        "empty",
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_repository_that_git_does_not_understand_is_not_taken_for_none(source: Path, how: str, inside: bool) -> None:
    """Nor is that of a directory above it, which ignores other files."""
    if inside:
        subprocess.run(["git", "init", "--quiet", source.parent], check=True)
    write(source, "app.py", "secret.key", "service/app.py")
    (source / ".git/info/exclude").write_text("*.key\n")
    broken(source, how)
    for directory in (source, source / "service"):
        with pytest.raises(SourceError, match=rf"a git work tree, and git .*{REMEDY}"):
            source_files(str(directory))


@pytest.mark.parametrize(
    ("mark", "kind"), [(".hg", "Mercurial"), (".svn", "Subversion"), (".jj", "Jujutsu"), (".bzr", "Bazaar"), ("_darcs", "Darcs")]
)
def test_the_work_tree_of_another_tool_is_refused(source: Path, mark: str, kind: str) -> None:
    write(source, f"{mark}/x", "app/app.py", "secret.key")
    for directory in (source, source / "app"):
        with pytest.raises(SourceError, match=rf"a {kind} work tree .*only git's are understood.*{REMEDY}"):
            source_files(str(directory))


def test_jujutsu_beside_git_is_git(source: Path, git: Git) -> None:
    write(source, "app.py", "secret.key")
    (source / ".gitignore").write_text("*.key\n/.jj/\n")
    write(source, ".jj/x")
    git("add", "app.py")
    assert source_files(str(source)) == [".gitignore", "app.py"]


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CEILING_DIRECTORIES", "GIT_COMMON_DIR", "GIT_NAMESPACE"]
)
def test_the_environment_does_not_decide_what_is_ignored(
    source: Path, git: Git, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, "app.py", "secret.key")
    (source / ".gitignore").write_text("*.key\n")
    git("add", ".")
    monkeypatch.setenv(name, str(tmp_path))
    assert source_files(str(source)) == [".gitignore", "app.py"]


@pytest.mark.usefixtures("git")
def test_a_work_tree_that_ignores_all_has_nothing(source: Path) -> None:
    write(source, "app.py", "secret.key")
    (source / ".git/info/exclude").write_text("*\n")
    assert source_files(str(source)) == []


@pytest.mark.parametrize("outer", [True, False])
def test_a_repository_in_the_source_ignores_its_own(source: Path, outer: bool) -> None:
    write(source, "app.py", "vendor/lib/code.py", "vendor/lib/secret.key")
    (source / "vendor/lib/.gitignore").write_text("*.key\n")
    subprocess.run(["git", "init", "--quiet"], cwd=source / "vendor/lib", check=True)
    for arguments in (["add", "code.py"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=source / "vendor/lib", check=True)
    if outer:
        subprocess.run(["git", "init", "--quiet"], cwd=source, check=True)
    assert source_files(str(source)) == ["app.py", "vendor/lib/.gitignore", "vendor/lib/code.py"]


def test_what_is_behind_a_link_is_not_the_source_s(source: Path, git: Git, tmp_path: Path) -> None:
    """The index names app/secret, and since then a link to another directory has come there."""
    write(source, "app/secret", "main.py")
    git("add", ".")
    shutil.rmtree(source / "app")
    write(tmp_path / "elsewhere", "secret")
    (source / "app").symlink_to(tmp_path / "elsewhere")
    assert source_files(str(source)) == ["app", "main.py"]


# What identifies them


def test_the_digest_depends_on_names_contents_and_recipe_only(source: Path) -> None:
    write(source, "a.py", "b.py")
    (source / "link").symlink_to("a.py")
    names = source_files(str(source))

    def now(*recipe: str) -> str:
        return digest([read_entry(str(source), name) for name in names], recipe or ("1",))

    first = now()
    os.utime(source / "a.py", (1, 1))
    (source / "a.py").chmod(0o600)
    assert now() == first
    seen = {first, now("2"), now("1", ""), now("", "1"), now("1", "/usr/bin/python3")}
    (source / "a.py").chmod(0o755)
    seen.add(now())
    (source / "a.py").write_text("other")
    seen.add(now())
    (source / "link").unlink()
    (source / "link").symlink_to("b.py")
    seen.add(now())
    (source / "link").unlink()
    (source / "link").write_text("b.py")
    seen.add(now())
    (source / "b.py").rename(source / "c.py")
    names = source_files(str(source))
    seen.add(now())
    assert len(seen) == 10


def test_the_same_source_elsewhere_has_the_same_digest(source: Path, tmp_path: Path) -> None:
    write(source, "app/a.py", "uv.lock")
    write(tmp_path / "copy", "uv.lock", "app/a.py")
    assert digest(read(source), []) == digest(read(tmp_path / "copy"), [])


def test_content_does_not_move_between_files_unnoticed(source: Path) -> None:
    def of(**contents: str) -> str:
        for name, content in contents.items():
            (source / name).write_text(content)
        return digest([read_entry(str(source), name) for name in sorted(contents)], [])

    assert len({of(a="xy", b=""), of(a="x", b="y"), of(a="", b="xy"), of(ab="xy")}) == 4


# On the way to the host


def sent(source: Path, target: Path) -> None:
    stream = io.BytesIO()
    pack([("", str(source), source_files(str(source)))], stream)
    stream.seek(0)
    unpack(stream, str(target))


def test_what_is_packed_arrives(source: Path, tmp_path: Path) -> None:
    write(source, "app/main.py", "app/deep/er/ü.py", "manage.py", "private.py")
    (source / "image.png").write_bytes(bytes(range(256)) * 8000)
    (source / "manage.py").chmod(0o700)
    (source / "private.py").chmod(0o600)
    write(source, "a" * 200 + "/" + "ü" * 100 + ".py")
    (source / "current").symlink_to("app/main.py")
    (source / "broken").symlink_to("../nowhere")
    os.link(source / "app/main.py", source / "same.py")
    target = tmp_path / "target"
    sent(source, target)
    assert source_files(str(target)) == source_files(str(source))
    assert digest(read(target), []) == digest(read(source), [])
    # The service's user has to read it all, and must not have to be told how the controller's umask was.
    modes = {name: stat.S_IMODE((target / name).stat().st_mode) for name in ("manage.py", "private.py", "app/deep")}
    assert modes == {"manage.py": 0o755, "private.py": 0o644, "app/deep": 0o755}
    assert (target / "manage.py").stat().st_uid == os.getuid()
    (target / "same.py").write_text("")
    assert (target / "app/main.py").read_text(), "hard links become files of their own"


def test_what_is_neither_file_nor_link_is_refused(source: Path) -> None:
    os.mkfifo(source / "pipe")
    assert source_files(str(source)) == ["pipe"]
    with pytest.raises(SourceError, match="pipe is neither a file nor a link"):
        pack([("", str(source), ["pipe"])], io.BytesIO())
    # Reading it would wait for a writer for ever.
    with pytest.raises(SourceError, match="pipe is neither a file nor a link"):
        read_entry(str(source), "pipe")


@pytest.mark.parametrize("name", ["../evil", "/evil", "app/../../evil", "app/.."])
def test_an_archive_cannot_write_outside(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    stream.seek(0)
    with pytest.raises(SourceError, match="outside"):
        unpack(stream, str(tmp_path / "target"))
    assert not list(tmp_path.rglob("evil"))


def test_an_archive_with_a_device_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo("null")
        info.type = tarfile.CHRTYPE
        archive.addfile(info)
    stream.seek(0)
    with pytest.raises(SourceError, match="null"):
        unpack(stream, str(tmp_path / "target"))


# Is the app in there


def module(directory: Path, code: str, name: str = "app/main.py") -> str:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return str(directory)


@pytest.mark.parametrize(
    "code",
    [
        "app = 1",
        "app: int = 1",
        "app, other = 1, 2",
        "[other, *app] = 1, 2",
        "def app(scope): ...",
        "async def app(scope, receive, send): ...",
        "class app: ...",
        "import app",
        "import app.deep",
        "import something as app",
        "from elsewhere import create as app",
        "from elsewhere import *",
        "try:\n    import fast\nexcept ImportError:\n    app = 1",
        "try: pass\nfinally:\n    app = 1",
        "try:\n    import fast\nexcept ImportError:\n    def app(): ...",
        "if True:\n    pass\nelif False:\n    def app(): ...",
        "with open('x') as app: pass",
        "for app in range(3): pass",
        "while (app := 1): break",
        "def __getattr__(name): ...",
        "globals()['app'] = 1",
        "vars()['app'] = 1",
        "exec('app = 1')",
        "import sys\nsetattr(sys.modules[__name__], 'app', 1)",
        "def setup():\n    global app\n    app = 1\nsetup()",
        "match 1:\n    case 1:\n        def app(): ...",
    ],
)
def test_a_name_that_import_would_or_may_bind_is_found(tmp_path: Path, code: str) -> None:
    assert find_app("app.main:app", [module(tmp_path, code)]) == ""


@pytest.mark.parametrize(
    "code",
    [
        "",
        "application = 1",
        "print(app)",
        "def create():\n    app = 1\n    return app",
        "class Factory:\n    app = 1",
        "from elsewhere import app as application",
        "# app = 1",
        "'app = 1'",
        "other.app = 1",
    ],
)
def test_a_name_that_import_would_not_bind_is_missed(tmp_path: Path, code: str) -> None:
    missing = find_app("app.main:app", [module(tmp_path, code)])
    assert missing.endswith("app/main.py defines no 'app'")


def test_of_a_dotted_name_the_first_part_has_to_be_there(tmp_path: Path) -> None:
    root = module(tmp_path, "service = make()")
    assert find_app("app.main:service.asgi", [root]) == ""
    assert "'asgi'" in find_app("app.main:asgi.service", [root])


def test_invalid_python_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "sys", SimpleNamespace(version_info=(3, 12)))
    said = find_app("app.main:app", [module(tmp_path, "x = 1\napp = (\n")])
    assert "app/main.py is not valid Python" in said
    assert "(line 2)" in said


def test_an_old_python_does_not_judge_what_may_be_newer_syntax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = module(tmp_path, "try:\n    app = 1\nexcept ValueError, TypeError:\n    pass\n")
    monkeypatch.setattr(source_module, "sys", SimpleNamespace(version_info=(3, 11)))
    assert find_app("app.main:app", [root]) == ""
    monkeypatch.setattr(source_module, "sys", SimpleNamespace(version_info=(3, 13)))
    assert "(line 2)" in find_app("app.main:app", [module(tmp_path, "x = 1\napp = (\n")])


def test_none_of_the_code_is_run(tmp_path: Path) -> None:
    assert find_app("app.main:app", [module(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\napp = 1")]) == ""
    assert not (tmp_path / "ran").exists()


def test_a_package_has_its_names_in_its_init(tmp_path: Path) -> None:
    assert find_app("shop:app", [module(tmp_path, "app = 1", "shop/__init__.py")]) == ""


def test_a_package_is_imported_rather_than_a_module_of_its_name(tmp_path: Path) -> None:
    module(tmp_path, "other = 1", "shop.py")
    assert find_app("shop:app", [module(tmp_path, "app = 1", "shop/__init__.py")]) == ""
    assert "'other'" in find_app("shop:other", [str(tmp_path)])


def test_any_root_that_has_the_application_will_do(tmp_path: Path) -> None:
    first, second = module(tmp_path / "1", "other = 1"), module(tmp_path / "2", "app = 1")
    assert find_app("app.main:app", [str(tmp_path / "0"), second, first]) == ""
    assert find_app("app.main:app", [first, second]) == ""
    assert "'app'" in find_app("app.main:app", [str(tmp_path / "0"), first])


def test_a_compiled_module_is_taken_on_trust(tmp_path: Path) -> None:
    root = module(tmp_path, "", "app/main.cpython-311-x86_64-linux-gnu.so")
    assert find_app("app.main:app", [root]) == ""
    assert find_app("app.mai:app", [root]) != ""


def test_a_module_that_is_nowhere_is_named_with_the_places(tmp_path: Path) -> None:
    said = find_app("app.main:app", [str(tmp_path / "a"), str(tmp_path / "b")])
    assert "no module app.main" in said
    assert f"{tmp_path}/a/app/main.py" in said
    assert f"{tmp_path}/b/app/main/__init__.py" in said


@pytest.mark.parametrize("target", ["/etc", "..", "inside", "nowhere"])
def test_an_archive_writes_nothing_by_way_of_a_link(tmp_path: Path, target: str) -> None:
    """As git names them where a directory that it tracks was replaced by a link."""
    with (tmp_path / "packed").open("wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("source/inside/x", "source/link", "source/link/passwd"):
            info = tarfile.TarInfo(name)
            if name == "source/link":
                info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    with (tmp_path / "packed").open("rb") as packed, pytest.raises(SourceError, match="below source/link, which is a link"):
        unpack(packed, str(tmp_path / "unpacked"))
    assert not (tmp_path / "unpacked/source/inside/passwd").exists()
