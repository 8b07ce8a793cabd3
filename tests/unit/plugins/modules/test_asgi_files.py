from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import acl
from ansible_collections.steadfast.asgi.plugins.module_utils.credentials import Credentials
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import fingerprint
from ansible_collections.steadfast.asgi.plugins.modules import asgi_files

Files = Callable[..., dict[str, Any]]

# A validate command that refuses, in its own words, after it saw the new files.
REFUSE = ["sh", "-c", "echo unknown directive >&2; exit 3"]


@pytest.fixture
def files(run_module: Callable[..., dict[str, Any]]) -> Files:
    """Run asgi_files with entries that belong to whoever runs the tests."""

    def run(*entries: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        mine = {"owner": str(os.getuid()), "group": str(os.getgid())}
        named = [{**mine, **entry, "path": str(entry["path"])} for entry in entries]
        return run_module(asgi_files.main, files=named, **arguments)

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def snapshot(directory: Path) -> dict[str, tuple[int, str]]:
    """Everything below `directory`: mode, and content or target. Hidden leftovers included."""
    found = {}
    for path in directory.rglob("*"):
        what = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else path.name
        found[str(path.relative_to(directory))] = (stat.S_IFMT(path.lstat().st_mode) | mode(path), what)
    return found


def test_a_tree_is_made_in_one_call_and_found_unchanged_by_the_next(files: Files, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("")
    entries = (
        {"path": tmp_path / "etc", "state": "directory"},
        {"path": tmp_path / "etc/site.conf", "content": "server { grüße }\n"},
        {"path": tmp_path / "etc/secret", "content": "", "mode": "0640"},
        {"path": tmp_path / "etc/live", "state": "link", "target": "../nowhere yet"},
        {"path": tmp_path / "old", "state": "absent"},
    )
    first = files(*entries)
    assert first["changed"] is True
    assert first["changed_paths"] == [str(entry["path"]) for entry in entries]
    made = snapshot(tmp_path)
    assert made == {
        "etc": (stat.S_IFDIR | 0o755, "etc"),
        "etc/site.conf": (stat.S_IFREG | 0o644, "server { grüße }\n"),
        "etc/secret": (stat.S_IFREG | 0o640, ""),
        "etc/live": (stat.S_IFLNK | 0o777, "../nowhere yet"),
    }
    inodes = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}

    second = files(*entries)
    assert (second["changed"], second["changed_paths"], second["diff"]) == (False, [], [])
    assert {path: path.lstat().st_ino for path in tmp_path.rglob("*")} == inodes


def test_files_that_match_a_directory_s_pattern_and_are_not_wanted_go(files: Files, tmp_path: Path) -> None:
    for name in ("credential.old", "credential.kept", "env"):
        (tmp_path / name).write_text(name)
    (tmp_path / "credential.d").mkdir()
    entries = (
        {"path": tmp_path, "state": "directory", "purge": "credential.*"},
        {"path": tmp_path / "credential.kept", "content": "new"},
    )
    assert files(*entries, check=True)["changed"] is True
    assert (tmp_path / "credential.old").exists()
    assert files(*entries, validate=REFUSE)["failed"] is True
    assert (tmp_path / "credential.old").read_text() == "credential.old", "put back"
    assert str(tmp_path / "credential.old") in files(*entries)["changed_paths"]
    assert sorted(os.listdir(tmp_path)) == ["credential.d", "credential.kept", "env"]
    assert files(*entries)["changed"] is False
    # A directory that is not there yet has nothing in it.
    assert files({"path": tmp_path / "new", "state": "directory", "purge": "*"})["changed"] is True


def test_files_can_be_told_from_those_that_somebody_else_writes_later(files: Files, tmp_path: Path) -> None:
    def write(environment: str, **arguments: Any) -> Any:
        entries = [
            {"path": tmp_path / "next", "state": "directory"},
            {"path": tmp_path / "next/service", "content": "[Service]"},
            {"path": tmp_path / "next/stale", "state": "absent"},
            {"path": tmp_path / "elsewhere", "content": environment},
        ]
        secrets = [{"path": str(tmp_path / "next/env"), "content": environment, "owner": str(os.getuid()), "group": str(os.getgid())}]
        return files(*entries, secrets=secrets, fingerprint=str(tmp_path / "next"), **arguments).get("fingerprint")

    first = write("a")
    assert (first["directory"], first["names"]) == (str(tmp_path / "next"), ["env", "service"])
    read = [(name, (tmp_path / "next" / name).read_bytes()) for name in first["names"]]
    assert first["fingerprint"] == fingerprint(read)
    assert write("a") == first
    assert write("b")["fingerprint"] != first["fingerprint"]
    assert "fingerprint" not in files({"path": tmp_path / "next/service", "content": "[Service]"})
    # In check mode it is what would be written.
    assert write("a", check=True) == first
    assert (tmp_path / "next/env").read_text() == "b"


def test_a_diff_names_what_it_is_not_to_show(files: Files, tmp_path: Path) -> None:
    program = {"path": tmp_path / "program.py", "content": "long\n", "diff": False}
    assert files(program, check=True)["diff"] == [{"prepared": f"{tmp_path}/program.py changes (it is not shown)\n"}]
    files(program)
    assert files(program)["diff"] == []


def test_secrets_are_in_nothing_that_is_returned(files: Files, tmp_path: Path) -> None:
    mine = {"owner": str(os.getuid()), "group": str(os.getgid())}
    secret = {**mine, "path": str(tmp_path / "secret"), "content": "first\nsecond"}
    directory = {"path": tmp_path, "state": "directory", "purge": "s*"}
    refused = files(directory, secrets=[secret], validate=REFUSE)
    assert refused["failed"] is True
    assert not (tmp_path / "secret").exists()
    made = files(directory, secrets=[secret])
    assert (made["changed"], mode(tmp_path / "secret")) == (True, 0o600)
    assert (tmp_path / "secret").read_text() == "first\nsecond"
    assert made["diff"][-1] == {"prepared": f"{tmp_path}/secret changes (it is not shown)\n"}
    assert not [result for result in (refused, made) if "second" in str(result)]
    assert files(directory, secrets=[secret])["changed"] is False


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A machine whose key can be lost. It writes the bytes backwards, with a number in front that is another each time."""
    state: dict[str, Any] = {"key": b"key", "made": 0}

    def run(command: Sequence[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
        mark = state["key"] + command[-3].encode()
        if command[1] == "encrypt":
            state["made"] += 1
            made = b"%d %s %s" % (state["made"], mark, given[::-1])
            return subprocess.CompletedProcess(command, 0 if state["key"] else 1, made, b"no key")
        words = given.split(b" ", 2)
        known = len(words) == 3 and words[1] == mark
        return subprocess.CompletedProcess(command, 0 if known else 1, words[-1][::-1], b"")

    monkeypatch.setattr(asgi_files, "Credentials", lambda: Credentials(run, str(tmp_path / "key")))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return state


def test_a_credential_is_encrypted_and_found_unchanged(files: Files, tmp_path: Path, machine: dict[str, Any]) -> None:
    path = tmp_path / "credential.token"
    # What was there before, not encrypted.
    path.write_text("sesame")
    path.chmod(0o600)
    mine = {"owner": str(os.getuid()), "group": str(os.getgid())}
    secret = {**mine, "path": str(path), "content": "sesame", "credential": "token"}
    foretold = files(check=True, secrets=[secret])
    assert (foretold["changed"], path.read_text(), machine["made"]) == (True, "sesame", 0)
    made = files(secrets=[secret])
    assert made["changed"] is True
    kept = path.read_text()
    assert "sesame" not in kept
    for check in (True, False):
        again = files(check=check, secrets=[secret])
        assert (again["changed"], path.read_text()) == (False, kept)
    # Another secret, another name, and a lost key are changes.
    assert files(check=True, secrets=[{**secret, "content": "open"}])["changed"] is True
    assert files(check=True, secrets=[{**secret, "credential": "other"}])["changed"] is True
    # A check that refuses puts the old one back, to the byte.
    refused = files(secrets=[{**secret, "content": "open"}], validate=REFUSE)
    assert (refused["failed"], path.read_text()) == (True, kept)
    machine["key"] = b"new"
    assert files(secrets=[secret])["changed"] is True
    assert files(secrets=[secret])["changed"] is False
    assert not [result for result in (foretold, made, refused) if "sesame" in str(result) or "emases" in str(result)]


def test_a_credential_that_cannot_be_encrypted_changes_nothing(files: Files, tmp_path: Path, machine: dict[str, Any]) -> None:
    machine["key"] = b""
    mine = {"owner": str(os.getuid()), "group": str(os.getgid())}
    secret = {**mine, "path": str(tmp_path / "credential.token"), "content": "sesame", "credential": "token"}
    refused = files({"path": tmp_path / "other", "content": "x"}, secrets=[secret])
    assert refused["failed"] is True
    assert "the credential token cannot be encrypted on this host: no key" in refused["msg"]
    assert "sesame" not in str(refused)
    assert snapshot(tmp_path) == {}


def test_whether_credentials_can_be_encrypted_is_found_out(files: Files, machine: dict[str, Any]) -> None:
    assert "can_encrypt" not in files()
    told = files(find_can_encrypt=True)
    assert (told["can_encrypt"], told["cannot_encrypt_because"]) == (True, "")
    machine["key"] = b""
    told = files(find_can_encrypt=True)
    assert told["can_encrypt"] is False
    assert told["cannot_encrypt_because"].endswith("no key")
    # Nothing was ever encrypted here: it is guessed.
    assert files(check=True, find_can_encrypt=True)["can_encrypt"] is True


def test_the_umask_has_no_say_in_the_mode(files: Files, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files({"path": tmp_path / "d", "state": "directory"}, {"path": tmp_path / "d/f", "content": "x"})
    finally:
        os.umask(before)
    assert (mode(tmp_path / "d"), mode(tmp_path / "d/f")) == (0o755, 0o644)


def test_a_reader_of_the_old_file_never_sees_the_new_one(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old content")
    with path.open() as reader:
        assert reader.read(3) == "old"
        files({"path": path, "content": "new"})
        assert reader.read() == " content"
    assert path.read_text() == "new"


def test_only_what_differs_is_named(files: Files, tmp_path: Path) -> None:
    for name in ("same", "other", "wide"):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(0o644)
    (tmp_path / "wide").chmod(0o666)
    result = files(
        {"path": tmp_path / "same", "content": "same"},
        {"path": tmp_path / "other", "content": "changed"},
        {"path": tmp_path / "wide", "content": "wide"},
    )
    assert result["changed_paths"] == [str(tmp_path / "other"), str(tmp_path / "wide")]
    content, attributes = result["diff"]
    assert (content["before"], content["after"]) == ("other", "changed")
    assert "0666" in attributes["before"]
    assert "0644" in attributes["after"]
    assert mode(tmp_path / "wide") == 0o644


def test_a_link_gives_way_to_a_file_and_its_target_stays(files: Files, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "f").symlink_to("target")
    (tmp_path / "dangling").symlink_to("nowhere")
    files({"path": tmp_path / "f", "content": "mine"}, {"path": tmp_path / "dangling", "state": "absent"})
    assert (tmp_path / "target").read_text() == "kept"
    assert (tmp_path / "f").read_text() == "mine"
    assert not (tmp_path / "f").is_symlink()
    assert not (tmp_path / "dangling").is_symlink()


def test_a_link_to_a_directory_is_as_good_as_one(files: Files, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir(mode=0o700)
    (tmp_path / "d").symlink_to("volume")
    entries = ({"path": tmp_path / "d", "state": "directory"}, {"path": tmp_path / "d/f", "content": "x"})
    refused = files(*entries, validate=REFUSE)
    assert refused["failed"] is True
    assert mode(tmp_path / "volume") == 0o700
    assert files(*entries)["changed_paths"] == [str(tmp_path / "d"), str(tmp_path / "d/f")]
    assert (tmp_path / "d").is_symlink()
    assert mode(tmp_path / "volume") == 0o755
    assert (tmp_path / "volume/f").read_text() == "x"
    assert files(*entries)["changed"] is False


def test_a_mode_may_be_the_number_that_yaml_makes_of_it(files: Files, tmp_path: Path) -> None:
    files({"path": tmp_path / "f", "content": "x", "mode": 0o640})
    assert mode(tmp_path / "f") == 0o640
    assert files({"path": tmp_path / "f", "content": "x", "mode": "0640"})["changed"] is False


def test_a_name_may_be_as_long_as_names_can_be(files: Files, tmp_path: Path) -> None:
    files({"path": tmp_path / ("x" * 255), "content": "y"}, {"path": tmp_path / ("z" * 255), "state": "link", "target": "y"})
    assert len(list(tmp_path.iterdir())) == 2


def test_a_directory_can_be_removed_with_all_that_is_in_it_by_name(files: Files, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d/f").write_text("old")
    file, directory = {"path": tmp_path / "d/f", "state": "absent"}, {"path": tmp_path / "d", "state": "absent"}
    assert "empty it first" in files(directory, file)["msg"]
    before = snapshot(tmp_path)
    assert files(file, directory, validate=REFUSE)["failed"] is True
    assert snapshot(tmp_path) == before
    assert files(file, directory, check=True)["changed_paths"] == [str(tmp_path / "d/f"), str(tmp_path / "d")]
    assert files(file, directory)["changed"] is True
    assert list(tmp_path.iterdir()) == []
    assert files(file, directory)["changed"] is False


def everything(directory: Path) -> tuple[dict[str, Any], ...]:
    """One entry for each way in which a path can change, on what the test below has put there."""
    return (
        {"path": directory / "new", "content": "new"},
        {"path": directory / "new.d", "state": "directory"},
        {"path": directory / "new.d/inner", "content": "new"},
        {"path": directory / "changed", "content": "new"},
        {"path": directory / "chmod", "content": "same", "mode": "0644"},
        {"path": directory / "repointed", "state": "link", "target": "new"},
        {"path": directory / "was-link", "content": "new"},
        {"path": directory / "was-file", "state": "link", "target": "new"},
        {"path": directory / "gone", "state": "absent"},
        {"path": directory / "gone.d", "state": "absent"},
        {"path": directory / "gone.link", "state": "absent"},
        {"path": directory / "chmod.d", "state": "directory", "mode": "0755"},
    )


@pytest.fixture
def old_tree(tmp_path: Path) -> Path:
    return make_old_tree(tmp_path / "tree")


def make_old_tree(directory: Path) -> Path:
    directory.mkdir()
    for name, permissions in (("changed", 0o600), ("chmod", 0o640), ("was-file", 0o644), ("gone", 0o604)):
        (directory / name).write_text("same" if name == "chmod" else f"old {name}")
        (directory / name).chmod(permissions)
    for name in ("repointed", "was-link", "gone.link"):
        (directory / name).symlink_to(f"old target of {name}")
    for name in ("gone.d", "chmod.d"):
        (directory / name).mkdir(mode=0o700)
    return directory


def test_a_refused_configuration_is_put_back_in_every_kind(files: Files, old_tree: Path) -> None:
    before = snapshot(old_tree)
    refused = files(*everything(old_tree), validate=["sh", "-c", f"ls {old_tree}/new.d && exit 3"])
    assert refused["failed"] is True
    assert refused["changed"] is False
    assert refused["rc"] == 3
    assert refused["stdout"] == "inner\n", "the command has to see the new files"
    assert snapshot(old_tree) == before
    assert sorted(refused["restored"]) == sorted(str(entry["path"]) for entry in everything(old_tree))

    accepted = files(*everything(old_tree), validate=["true"])
    # Each of them was a change, so each was put back above.
    assert accepted["changed_paths"] == [str(entry["path"]) for entry in everything(old_tree)]


def test_content_that_is_no_text_is_put_back_too(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xff\xfe\0")
    files({"path": tmp_path / "f", "content": "text"}, validate=REFUSE)
    assert (tmp_path / "f").read_bytes() == b"\xff\xfe\0"


def test_on_a_full_disk_only_what_was_written_has_to_be_put_back(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = asgi_files.place, [str(tmp_path / "g")]

    def place(entry: asgi_files.Entry) -> None:
        if entry.path in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), entry.path)
        real(entry)

    monkeypatch.setattr(asgi_files, "place", place)
    for name in ("f", "g"):
        (tmp_path / name).write_text("old")
    entries = [{"path": tmp_path / name, "content": "new"} for name in ("f", "g")]
    refused = files(*entries)
    assert "No space left on device" in refused["msg"]
    assert refused["msg"].endswith("everything was put back as it was")
    assert refused["restored"] == [str(tmp_path / "f")]
    assert files(*reversed(entries))["msg"].endswith("no file was changed")
    assert [(tmp_path / name).read_text() for name in ("f", "g")] == ["old", "old"]


def test_what_cannot_be_put_back_is_named_and_stops_nothing_else(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    validate = ["sh", "-c", f"touch {tmp_path}/d/cache; echo unknown directive >&2; exit 1"]
    refused = files({"path": tmp_path / "f", "content": "new"}, {"path": tmp_path / "d", "state": "directory"}, validate=validate)
    assert (tmp_path / "f").read_text() == "old"
    assert refused["restored"] == [str(tmp_path / "f")]
    assert f"could NOT be put back as they were: {tmp_path}/d" in refused["msg"]
    assert "unknown directive" in refused["msg"]


def test_a_check_that_is_not_installed_is_a_refusal(files: Files, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    refused = files({"path": tmp_path / "f", "content": "new"}, validate=["/nonexistent/nginx", "-t"])
    assert refused["failed"] is True
    assert "No such file" in refused["msg"]
    assert (tmp_path / "f").read_text() == "old"


def test_the_words_of_a_check_are_taken_literally(files: Files, tmp_path: Path) -> None:
    assert files({"path": tmp_path / "f", "content": "x"}, validate=["echo", "$HOME", "~", "*"])["stdout"] == "$HOME ~ *\n"


def test_the_message_of_a_refusal_holds_the_command_and_its_words(files: Files, tmp_path: Path) -> None:
    message = files({"path": tmp_path / "f", "content": "x"}, validate=REFUSE)["msg"]
    assert "unknown directive" in message
    assert "sh -c" in message


def test_what_is_refused_with_and_without_the_new_files_is_said_to_be(files: Files, tmp_path: Path) -> None:
    """As with `nginx -t` where another site's certificate cannot be loaded."""
    (tmp_path / "f").write_text("old")
    refused = files({"path": tmp_path / "f", "content": "new"}, validate=["sh", "-c", f"cat {tmp_path}/f >&2; exit 1"])
    assert "it refuses the one that was there before as well; everything was put back as it was" in refused["msg"]
    assert "It said: new" in refused["msg"]
    assert refused["msg"].endswith("Of the one that was there before it said: old")
    assert refused["refused_before"] is True
    alone = files({"path": tmp_path / "f", "content": "new"}, validate=["sh", "-c", f"! grep new {tmp_path}/f"])
    assert "refused the new configuration; everything was put back" in alone["msg"]
    assert alone["refused_before"] is False


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("replace", errno.ENOSPC),
        ("symlink", errno.EROFS),
        ("unlink", errno.EPERM),
        ("mkdir", errno.ENOSPC),
        ("rmdir", errno.EPERM),
        ("chmod", errno.EROFS),
        ("chown", errno.EPERM),
        ("fsync", errno.EIO),
        # While things are put back.
        ("refused", errno.EROFS),
    ],
)
def test_what_is_said_of_the_old_files_is_true(
    files: Files, old_tree: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: int, number: int, lasting: bool
) -> None:
    """A full disk, one that is read-only, an immutable file, a broken disk: at any call."""
    before = snapshot(old_tree)
    name = what if what != "refused" else "replace"
    plain, real = getattr(os, name), asgi_files.judge
    calls, broken = 0, what != "refused"

    def act(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += broken
        if calls == number or (lasting and calls > number):
            raise OSError(error, os.strerror(error))
        return plain(*arguments, **named)

    def judge(module: Any, command: list[str]) -> tuple[int, str, str]:
        nonlocal broken
        broken = True
        return real(module, command)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, act)
        patch.setattr(asgi_files, "judge", judge)
        result = files(*everything(old_tree), validate=REFUSE)
    assert result["failed"] is True
    said, same = result["msg"], snapshot(old_tree) == before
    if "everything was put back as it was" in said or "no file was changed" in said:
        assert same, said
    else:
        assert "could NOT be put back as they were" in said
        assert not same, said


@pytest.mark.parametrize("check", [False, True])
def test_what_somebody_else_has_broken_is_found_before_anything_changes(files: Files, tmp_path: Path, check: bool) -> None:
    site, other = tmp_path / "site.conf", tmp_path / "other.conf"
    look = ["sh", "-c", f"! grep --with-filename broken {tmp_path}/*.conf >&2"]
    ours: dict[str, Any] = {"validate": look, "own": [str(site)], "check": check}
    site.write_text("fine")
    other.write_text("broken")
    refused = files({"path": site, "content": "new"}, **ours)
    assert "refuses the configuration that is on this host already, and not for these files. Nothing was changed" in refused["msg"]
    assert f"{other}:broken" in refused["msg"]
    assert site.read_text() == "fine"
    assert files({"path": site, "content": "fine"}, **ours)["changed"] is False, "there is nothing to refuse"
    # What is ours may be replaced.
    other.write_text("fine")
    site.write_text("broken")
    assert files({"path": site, "content": "new"}, **ours)["changed"] is True
    assert site.read_text() == ("broken" if check else "new")


def test_a_write_that_fails_half_way_puts_everything_back(files: Files, old_tree: Path) -> None:
    before = snapshot(old_tree)
    ran = old_tree.parent / "ran"
    failed = files(*everything(old_tree), {"path": old_tree / "missing/f", "content": ""}, validate=["touch", str(ran)])
    assert failed["failed"] is True
    assert f"{old_tree}/missing/f" in failed["msg"]
    assert snapshot(old_tree) == before
    assert not ran.exists()


def test_what_cannot_be_given_away_does_not_stay(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "chown", refuse)
    failed = files({"path": tmp_path / "f", "content": ""}, {"path": tmp_path / "d", "state": "directory"})
    assert "not yours" in failed["msg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", [{"content": "x"}, {"state": "link", "target": "x"}], ids=["file", "link"])
def test_what_cannot_take_its_place_leaves_nothing_behind(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: dict[str, str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refuse)
    assert "no space left" in files({"path": tmp_path / "f", **entry})["msg"]
    assert list(tmp_path.iterdir()) == []


def test_the_check_runs_only_if_something_changed_or_when_asked(files: Files, tmp_path: Path) -> None:
    entry = {"path": tmp_path / "f", "content": "x"}
    count = tmp_path / "count"
    validate = ["sh", "-c", f"echo . >> {count}; echo fine"]
    first = files(entry, validate=validate)
    assert (first["rc"], first["stdout"], first["cmd"]) == (0, "fine\n", validate)
    assert "rc" not in files(entry, validate=validate)
    assert count.read_text() == ".\n"
    assert files(entry, validate=validate, validate_always=True)["changed"] is False
    assert count.read_text() == ".\n.\n"


def test_a_check_that_refuses_what_was_there_before_blames_no_file(files: Files, tmp_path: Path) -> None:
    entry = {"path": tmp_path / "f", "content": "x"}
    files(entry)
    refused = files(entry, validate=REFUSE, validate_always=True)
    assert refused["failed"] is True
    assert "no file was changed" in refused["msg"]
    assert refused["restored"] == []
    assert (tmp_path / "f").read_text() == "x"


def test_check_mode_foretells_and_does_nothing(files: Files, old_tree: Path) -> None:
    before = snapshot(old_tree)
    ran = old_tree.parent / "ran"
    foretold = files(*everything(old_tree), validate=["touch", str(ran)], validate_always=True, check=True)
    assert snapshot(old_tree) == before
    assert not ran.exists()
    assert foretold["changed"] is True
    done = files(*everything(old_tree))
    assert foretold["changed_paths"] == done["changed_paths"]
    assert foretold["diff"] == done["diff"]
    assert files(*everything(old_tree), check=True)["changed"] is False


def test_an_unknown_account_is_a_change_in_check_mode_and_an_error_otherwise(files: Files, tmp_path: Path) -> None:
    for kind, option in (("user", "owner"), ("group", "group")):
        entry = {"path": tmp_path / "f", "content": "x", option: "nobody-has-this"}
        assert files(entry, check=True)["changed"] is True
        refused = files(entry)
        assert refused["failed"] is True
        assert f"{kind} 'nobody-has-this'" in refused["msg"]
        assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"path": "etc/f", "content": ""}, "must be absolute"),
        ({"path": "{tmp}/../f", "content": ""}, "must be absolute"),
        ({"path": "{tmp}/d/", "state": "directory"}, "trailing slashes"),
        ({"path": "{tmp}/f"}, "needs 'content'"),
        ({"path": "{tmp}/l", "state": "link"}, "needs 'target'"),
        ({"path": "{tmp}/f", "content": "", "mode": "rw-r--r--"}, "octal"),
        ({"path": "{tmp}/f", "content": "", "mode": "0888"}, "octal"),
        ({"path": "{tmp}/f", "content": "", "mode": "77777"}, "octal"),
        ({"path": "{tmp}/f", "content": "", "mode": "-1"}, "octal"),
        ({"path": "{tmp}/full", "content": ""}, "is a directory"),
        ({"path": "{tmp}/full", "state": "link", "target": "x"}, "is a directory"),
        ({"path": "{tmp}/full", "state": "absent"}, "empty it first"),
        ({"path": "{tmp}/full/kept", "state": "directory"}, "is a file"),
        ({"path": "{tmp}/dangling", "state": "directory"}, "is a link"),
        ({"path": "{tmp}/pipe", "content": ""}, "neither a file"),
        ({"path": "{tmp}/first", "content": "again"}, "named twice"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_first_write(
    files: Files,
    tmp_path: Path,
    entry: dict[str, str],
    said: str,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept").write_text("kept")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    asked = {**entry, "path": entry["path"].format(tmp=tmp_path)}
    for check in (True, False):
        refused = files({"path": tmp_path / "first", "content": "x"}, asked, check=check)
        assert refused["failed"] is True
        assert said in refused["msg"]
        assert asked["path"] in refused["msg"]
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "full/kept").read_text() == "kept"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_and_group_are_set_kept_in_step_and_put_back(files: Files, tmp_path: Path) -> None:
    entries = (
        {"path": tmp_path / "d", "state": "directory", "owner": "daemon", "group": "daemon"},
        {"path": tmp_path / "f", "content": "x", "owner": "root", "group": "daemon", "mode": "0640"},
    )
    files(*entries)
    directory, file = (tmp_path / "d").stat(), (tmp_path / "f").stat()
    assert directory.st_uid == directory.st_gid == file.st_gid != 0
    assert file.st_uid == 0
    assert files(*entries)["changed"] is False

    os.chown(tmp_path / "f", 12, 13)
    refused = files(*entries, validate=REFUSE)
    assert refused["restored"] == [str(tmp_path / "f")]
    put_back = (tmp_path / "f").stat()
    assert (put_back.st_uid, put_back.st_gid) == (12, 13)
    files(*entries)
    assert (tmp_path / "f").stat().st_uid == 0


def test_what_is_read_is_what_was_there_before(files: Files, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("before\n")
    result = files({"path": tmp_path / "old", "content": "after\n"}, read=[str(tmp_path / "old"), str(tmp_path / "missing"), str(tmp_path)])
    assert result["contents"] == {str(tmp_path / "old"): "before\n"}
    assert (tmp_path / "old").read_text() == "after\n"
    assert "contents" not in files({"path": tmp_path / "old", "content": "after\n"})


@pytest.fixture
def lists(tmp_path: Path) -> None:
    if asgi_files.access_list(str(tmp_path)) is None:
        pytest.skip("this file system knows no access lists")


@pytest.mark.usefixtures("lists")
def test_groups_are_let_through_a_directory(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "home"
    gate = {"path": path, "state": "directory", "mode": "0750", "let_through": ["4321"]}
    told = files(gate, check=True)
    assert (told["changed"], path.exists()) == (True, False)
    assert "group:4321:--x" in told["diff"][0]["after"]
    assert files(gate)["changed"] is True
    assert mode(path) == 0o750
    assert acl.lets_through(acl.read(str(path)), 4321)
    assert files(gate)["changed"] is False
    assert files(gate, check=True)["changed"] is False
    # Whoever else was let through stays so; and who does not ask for it changes nothing of it.
    acl.write(str(path), acl.letting_through(acl.read(str(path)), 0o750, {4322}))
    assert files(gate)["changed"] is False
    assert files({**gate, "let_through": None})["changed"] is False


@pytest.mark.usefixtures("lists")
def test_a_directory_that_was_open_is_never_shut_to_those_who_are_let_through(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "home"
    path.mkdir(mode=0o755)
    seen = []

    def watched(name: str) -> Callable[..., None]:
        call = getattr(os, name)

        def run(*arguments: Any) -> None:
            call(*arguments)
            if str(arguments[0]) == str(path):
                seen.append(bool(mode(path) & 1) or acl.lets_through(acl.read(str(path)), 4321))

        return run

    for name in ("chown", "chmod", "setxattr"):
        monkeypatch.setattr(os, name, watched(name))
    gate = {"path": path, "state": "directory", "mode": "0750", "let_through": ["4321"]}
    assert files(gate)["changed"] is True
    assert seen == [True] * 3
    assert mode(path) == 0o750


@pytest.mark.usefixtures("lists")
def test_an_access_list_is_put_back(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "home"
    path.mkdir(mode=0o755)
    gate = {"path": path, "state": "directory", "mode": "0750", "let_through": ["4321"]}
    assert files(gate, validate=REFUSE)["restored"] == [str(path)]
    assert (mode(path), acl.read(str(path))) == (0o755, b"")
    files(gate)
    before = acl.read(str(path))
    assert files({**gate, "let_through": ["4321", "4322"]}, validate=REFUSE)["restored"] == [str(path)]
    assert (mode(path), acl.read(str(path))) == (0o750, before)


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("no such group", "this host has no group no-such-group yet"),
        ("no access lists", "its file system knows no access lists (acl(5))"),
    ],
)
def test_a_directory_stays_open_where_nobody_could_be_let_through(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, why: str
) -> None:
    if reason == "no access lists":
        monkeypatch.setattr(asgi_files, "access_list", lambda _path: None)
    group = "no-such-group" if reason == "no such group" else "4321"
    path = tmp_path / "home"
    gate = {"path": path, "state": "directory", "mode": "0750", "let_through": [group]}
    said: list[str] = []
    monkeypatch.setattr(Module, "warn", lambda _self, text: said.append(text))
    files(gate)
    assert said == [f"Every user of this host may read what is in {path}, for {why}. Its mode becomes 0755, not 0750."]
    assert mode(path) == 0o755
    assert files(gate)["changed"] is False
