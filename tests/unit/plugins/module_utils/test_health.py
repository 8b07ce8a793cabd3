"""What a request passes through, damaged in every way that a saboteur thought of: it is mended, replaced or refused by name."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import health as health_module
from ansible_collections.steadfast.asgi.plugins.module_utils.health import Health, missing_interpreter, unusable_release, value_of
from ansible_collections.steadfast.asgi.plugins.module_utils.readiness import Target
from ansible_collections.steadfast.asgi.plugins.module_utils.rollout import RolloutError
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import read_history
from ansible_collections.steadfast.asgi.tests.unit.fake_host import APP, FakeSystemd, Host, Roll, Server

Corrupt = Callable[[Host], object]


def relink(path: Callable[[Host], str], target: str) -> Corrupt:
    def corrupt(host: Host) -> None:
        os.unlink(path(host))
        os.symlink(target, path(host))

    return corrupt


def replace(path: Callable[[Host], str], kind: str) -> Corrupt:
    """Put something of another kind to the place of a file, link or directory, which goes aside."""

    def corrupt(host: Host) -> None:
        place = path(host)
        os.rename(place, f"{place}.aside")
        if kind == "directory":
            os.mkdir(place)
        elif kind == "file":
            Path(place).write_text("no link\n")
        elif kind == "pipe":
            os.mkfifo(place)
        elif kind == "link":
            os.symlink(f"{place}.aside", place)

    return corrupt


def remove(path: Callable[[Host], str]) -> Corrupt:
    def corrupt(host: Host) -> None:
        place = path(host)
        shutil.rmtree(place) if os.path.isdir(place) and not os.path.islink(place) else os.unlink(place)

    return corrupt


def mode(path: Callable[[Host], str], bits: int) -> Corrupt:
    return lambda host: os.chmod(path(host), bits)


def write(path: Callable[[Host], str], text: bytes) -> Corrupt:
    return lambda host: Path(path(host)).write_bytes(text)


def append(path: Callable[[Host], str], text: bytes) -> Corrupt:
    return lambda host: Path(path(host)).write_bytes(Path(path(host)).read_bytes() + text)


def at(text: str) -> Callable[[Host], str]:
    return lambda host: str(host.root / text.format(app=APP))


def library(bits: int) -> Corrupt:
    def corrupt(host: Host) -> None:
        os.makedirs(f"{HOME(host)}/lib")
        os.chmod(f"{HOME(host)}/lib", bits)

    return corrupt


def library_with_a_link(host: Host) -> None:
    library(0o755)(host)
    os.symlink("/nowhere/x.py", f"{HOME(host)}/lib/boot.py")


def shut_out(host: Host) -> None:
    """The application's directory is its group's, and nginx's group is not in the access list."""
    Path(f"{SETTINGS(host)}/socket").write_text("[Socket]\nSocketGroup=4321\n")
    Path(f"{host.layout.next}/socket").write_text("[Socket]\nSocketGroup=4321\n")
    Path(host.layout.unit_file("blue", "socket")).write_text("[Socket]\nSocketGroup=4321\n")
    mode(HOME, 0o750)(host)


def of_another_group(host: Host) -> None:
    for path in (f"{SETTINGS(host)}/service", f"{host.layout.next}/service", host.layout.unit_file("blue", "service")):
        text = Path(path).read_text()
        Path(path).write_text(f"{text}[Service]\nGroup={os.getegid()}\n")
    os.chown(HOME(host), -1, 4322)
    mode(HOME, 0o750)(host)


def readable_kept_settings(host: Host) -> None:
    os.makedirs(host.layout.old_settings, exist_ok=True)
    mode(at("etc/{app}/kept"), 0o755)(host)


def another_release(host: Host) -> None:
    host.release("B")
    relink(SLOT_RELEASE, "../../releases/B")(host)


def no_interpreter(host: Host) -> None:
    os.makedirs(f"{RELEASE(host)}/.venv/bin")
    os.symlink("/usr/bin/python2.2", f"{RELEASE(host)}/.venv/bin/python")


def shows(**properties: str) -> Corrupt:
    """Have systemd show other properties of the live slot's service."""
    return lambda host: host.state["shop@blue.service"].update(properties)


def another_program_listens(host: Host) -> None:
    """Somebody has bound another socket at the place of the slot's."""
    os.unlink(host.layout.socket("blue"))
    stranger = Server(host.layout.socket("blue"), 200, [])
    os.chmod(host.layout.socket("blue"), 0o660)
    host.ousted = "shop@blue.service"
    host.strangers.append(stranger)


def unready(host: Host) -> None:
    host.servers["blue"].end()
    host.servers["blue"] = Server(host.layout.socket("blue"), 503, [])
    os.chmod(host.layout.socket("blue"), 0o660)


LIVE, SLOT_SOCKET, SLOT_RELEASE = at("opt/{app}/slots/live"), at("opt/{app}/slots/blue/socket"), at("opt/{app}/slots/blue/release")
LIVE_SOCKET, SOCKET = at("run/{app}/live.sock"), at("run/{app}/blue.sock")
HOME, SLOTS, BLUE, RELEASES = at("opt/{app}"), at("opt/{app}/slots"), at("opt/{app}/slots/blue"), at("opt/{app}/releases")
ETC, NEXT, SETTINGS, RUN = at("etc/{app}"), at("etc/{app}/next"), at("etc/{app}/blue"), at("run/{app}")
ENV, SERVICE = at("etc/{app}/blue/env"), at("etc/systemd/system/{app}@blue.service")
HISTORY, TMPFILES = at("opt/{app}/history.jsonl"), at("etc/tmpfiles.d/{app}.conf")
RELEASE, MARK = at("opt/{app}/releases/A"), at("opt/{app}/releases/A/release.json")

# What happens, how the next run answers, and what it says.
CASES: dict[str, tuple[Corrupt, str, str]] = {
    "the live link is gone": (remove(LIVE), "settle", "slots/live is missing, and has to be a link to blue"),
    "the live link names no slot": (relink(LIVE, "../releases/A"), "refused", "make it a link to blue or green"),
    "the live link dangles": (relink(LIVE, "purple"), "refused", "make it a link to blue or green"),
    "the live link is a file": (replace(LIVE, "file"), "refused", "make it a link to blue or green"),
    "the live link is a directory": (replace(LIVE, "directory"), "refused", "make it a link to blue or green"),
    "the slot's socket link leads elsewhere": (relink(SLOT_SOCKET, "/run/other.sock"), "settle", "leads to /run/other.sock, and not to"),
    "the slot's socket link leads to the other slot": (
        relink(SLOT_SOCKET, "/run/shop/green.sock"),
        "settle",
        "leads to /run/shop/green.sock",
    ),
    "the slot's socket link is gone": (remove(SLOT_SOCKET), "settle", "blue/socket is missing, and has to be a link to"),
    "the slot's socket link is a file": (replace(SLOT_SOCKET, "file"), "settle", "blue/socket is a file, and has to be a link to"),
    "the slot's socket link is a directory": (
        replace(SLOT_SOCKET, "directory"),
        "refused",
        "blue/socket is a directory, and has to be a link",
    ),
    "the live socket leads elsewhere": (relink(LIVE_SOCKET, "/run/shop/green.sock"), "settle", "live.sock leads to /run/shop/green.sock"),
    "the live socket names the slot": (relink(LIVE_SOCKET, "blue.sock"), "settle", "live.sock leads to blue.sock, and not to"),
    "the live socket is gone": (remove(LIVE_SOCKET), "settle", "live.sock is missing"),
    "the live socket is a file": (replace(LIVE_SOCKET, "file"), "settle", "live.sock is a file"),
    "the live socket is a directory": (replace(LIVE_SOCKET, "directory"), "refused", "live.sock is a directory"),
    "the release link leads to another release": (
        another_release,
        "rollout",
        "another release",
    ),
    "the release link is gone": (remove(SLOT_RELEASE), "rollout", "another release"),
    "the release link dangles": (relink(SLOT_RELEASE, "../../releases/gone"), "rollout", "another release"),
    "the release link is a directory": (replace(SLOT_RELEASE, "directory"), "refused", "blue/release is a directory"),
    "the socket is gone": (remove(SOCKET), "rollout", "nobody listens on"),
    "the socket is a file": (replace(SOCKET, "file"), "rollout", "nobody listens on"),
    "the socket is a link to another": (replace(SOCKET, "link"), "rollout", "blue.sock is a link, and not slot blue's socket"),
    "another program has the socket's place": (another_program_listens, "rollout", "somebody else than slot blue answers on"),
    "the application is not ready": (unready, "rollout", "slot blue does not answer as it has to on"),
    "nginx may not use the socket": (mode(SOCKET, 0o600), "settle", "blue.sock has mode 0600, and not 0660"),
    "anybody may use the socket": (mode(SOCKET, 0o666), "settle", "blue.sock has mode 0666, and not 0660"),
    "nobody gets through to the slots": (mode(HOME, 0o700), "settle", "opt/shop has mode 0700, and not 0750"),
    "nginx does not get through to the slots": (shut_out, "settle", "opt/shop does not let group 4321 through, which nginx has"),
    "another group gets through to the slots": (of_another_group, "settle", "opt/shop is of group 4322, and not of"),
    "anybody may replace the live link": (mode(SLOTS, 0o777), "settle", "slots has mode 0777, and not 0755"),
    "anybody may replace a slot's links": (mode(BLUE, 0o775), "settle", "slots/blue has mode 0775, and not 0755"),
    "anybody may add a release": (mode(RELEASES, 0o757), "settle", "releases has mode 0757, and not 0755"),
    "nobody gets through to the sockets": (mode(RUN, 0o700), "settle", "run/shop has mode 0700, and not 0755"),
    "anybody may replace the settings": (mode(ETC, 0o777), "settle", "etc/shop has mode 0777, and not 0755"),
    "anybody may replace a slot's settings": (mode(SETTINGS, 0o777), "settle", "etc/shop/blue has mode 0777, and not 0755"),
    "anybody may replace the next settings": (mode(NEXT, 0o777), "settle", "etc/shop/next has mode 0777, and not 0755"),
    "anybody may read the environment": (mode(ENV, 0o644), "settle", "blue/env has mode 0644, and not 0640"),
    "nobody may read the environment": (mode(ENV, 0o000), "settle", "blue/env has mode 0000, and not 0640"),
    "anybody may write the unit": (mode(SERVICE, 0o666), "settle", "shop@blue.service has mode 0666, and not 0644"),
    "the slots are behind a link": (replace(SLOTS, "link"), "refused", "slots is a link, and has to be a directory"),
    "a slot is behind a link": (replace(BLUE, "link"), "refused", "slots/blue is a link, and has to be a directory"),
    "the other slot is a file": (
        replace(at("opt/{app}/slots/green"), "file"),
        "refused",
        "slots/green is a file, and has to be a directory",
    ),
    "the other slot's directory is gone": (remove(at("opt/{app}/slots/green")), "settle", "slots/green is missing"),
    "the settings are behind a link": (replace(ETC, "link"), "refused", "etc/shop is a link, and has to be a directory"),
    "a slot's settings are behind a link": (replace(SETTINGS, "link"), "refused", "etc/shop/blue is a link, and has to be a directory"),
    "the sockets are behind a link": (replace(RUN, "link"), "refused", "run/shop is a link, and has to be a directory"),
    "the slot's settings are gone": (remove(SETTINGS), "rollout", "changed since slot blue was started"),
    "one of the slot's settings is gone": (remove(ENV), "rollout", "next/env"),
    "one of the slot's settings was edited": (append(ENV, b"x"), "rollout", "next/env"),
    "one of the slot's settings is a link": (replace(ENV, "link"), "refused", "blue/env is a link, and has to be a file"),
    "one of the slot's settings is a pipe": (replace(ENV, "pipe"), "refused", "blue/env is a something else"),
    "the unit was edited": (append(SERVICE, b"x"), "rollout", "next/service"),
    "the unit is gone": (remove(SERVICE), "rollout", "next/service"),
    "the unit is masked": (relink(SERVICE, "/dev/null"), "rollout", "next/service"),
    "the unit is a link": (replace(SERVICE, "link"), "settle", "shop@blue.service is a link to"),
    "the unit is a directory": (replace(SERVICE, "directory"), "refused", "shop@blue.service is a directory"),
    "the unit is a pipe": (replace(SERVICE, "pipe"), "rollout", "next/service"),
    "systemd has another unit": (shows(FragmentPath="/run/systemd/system.control/x"), "refused", "from /run/systemd/system.control/x"),
    "systemd cannot use the unit": (shows(LoadState="bad-setting"), "refused", "systemd cannot use shop@blue.service: it is bad-setting"),
    "systemd has not read the unit": (lambda host: setattr(host, "stale", True), "settle", "systemd has not read shop@blue.service"),
    "the slot is not enabled": (lambda host: host.enabled.clear(), "settle", "slot blue is not started at boot"),
    "the slot was stopped": (lambda host: host.stop("shop@blue.service"), "rollout", "the live slot blue is inactive"),
    "a mark says that the slot is not proven": (write(at("opt/{app}/slots/blue/unproven"), b""), "rollout", "an earlier run was cut off"),
    "tmpfiles are gone": (remove(TMPFILES), "settle", "tmpfiles.d/shop.conf does not make /run/shop at boot"),
    "tmpfiles lead elsewhere": (append(TMPFILES, b"L+ /run/shop/live.sock - - - - /x\n"), "settle", "tmpfiles.d/shop.conf does not make"),
    "tmpfiles are a directory": (replace(TMPFILES, "directory"), "refused", "tmpfiles.d/shop.conf is a directory"),
    "the release's mark is garbage": (write(MARK, b"\x00\xff{"), "refused", "release.json is damaged"),
    "the release's mark is a list": (write(MARK, b"[]"), "refused", "release.json is damaged"),
    "the release's mark is another's": (write(MARK, b'{"id": "B"}'), "refused", "release.json is that of release B"),
    "the release's mark is a link": (replace(MARK, "link"), "refused", "release.json is a link, and has to be a file"),
    "anybody may write the release": (mode(RELEASE, 0o777), "settle", "releases/A has mode 0777, and not 0755"),
    "anybody may write the release's mark": (mode(MARK, 0o666), "settle", "release.json has mode 0666, and not 0644"),
    "nobody may read the release": (mode(RELEASE, 0o700), "settle", "releases/A has mode 0700, and not 0755"),
    "the release is a link": (replace(RELEASE, "link"), "refused", "releases/A is a link, and has to be a directory"),
    "the interpreter is gone": (
        no_interpreter,
        "refused",
        "the interpreter of .*/releases/A is gone",
    ),
    "the history has garbage in it": (append(HISTORY, b"\x00\xff\xfe garbage\n"), "settle", "history.jsonl has lines that are none"),
    "the history ends in half a line": (append(HISTORY, b'{"release": "B", "res'), "settle", "history.jsonl has lines that are none"),
    "the history has a list in it": (append(HISTORY, b"[1]\n"), "settle", "history.jsonl has lines that are none"),
    "the history is deeply nested": (append(HISTORY, b"[" * 100_000 + b"\n"), "settle", "history.jsonl has lines that are none"),
    "anybody may write the history": (mode(HISTORY, 0o666), "settle", "history.jsonl has mode 0666, and not 0644"),
    "the history is a directory": (replace(HISTORY, "directory"), "settle", "history.jsonl is a directory, and has to be a file"),
    "the history is a link": (replace(HISTORY, "link"), "settle", "history.jsonl is a link, and has to be a file"),
    "the history is a pipe": (replace(HISTORY, "pipe"), "settle", "history.jsonl is a something else, and has to be a file"),
    "the history is huge": (append(HISTORY, b'{"release": "B", "result": "no"}\n' * 150_000), "settle", "history.jsonl has 4 MiB"),
    "the kept settings are readable": (
        readable_kept_settings,
        "settle",
        "etc/shop/kept has mode 0755, and not 0700",
    ),
    "anybody may write what root runs": (
        library(0o777),
        "settle",
        "opt/shop/lib has mode 0777, and not 0755",
    ),
    "what root runs is a link": (
        library_with_a_link,
        "refused",
        "lib/boot.py is a link",
    ),
}


def snapshot(root: Path) -> dict[str, tuple[Any, ...]]:
    """What is on the host: kind, owner and mode, and what is in each file and link."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = f"{folder}/{name}"
            status = os.lstat(path)
            inside = os.readlink(path) if os.path.islink(path) else Path(path).read_bytes() if os.path.isfile(path) else b""
            found[path] = (status.st_mode, status.st_uid, inside)
    return found


@pytest.fixture
def damaged(at_rest: Host) -> Iterator[Host]:
    """A host on which something has happened."""
    at_rest.unit_file.with_name("socket").write_text("[Socket]\nSocketMode=0660\n")
    yield at_rest
    for stranger in at_rest.strangers:
        stranger.end()


def answers(host: Host) -> bool:
    return Target(host.layout.live_socket, path="/ready", host="localhost").ask(5, [os.getpid()]).status == 200


@pytest.mark.parametrize("name", CASES)
def test_what_is_damaged_is_mended_or_refused_by_name(damaged: Host, roll: Roll, name: str) -> None:
    corrupt, way, said = CASES[name]
    host = damaged
    roll("A", strategy="restart").run()
    if os.path.exists(f"{RELEASE(host)}/.venv"):
        shutil.rmtree(f"{RELEASE(host)}/.venv")
    assert roll("A").preview()["changed"] is False
    host.events.clear()
    release = host.release("A")
    corrupt(host)
    before = snapshot(host.root)
    if way == "refused":
        acts: list[Callable[[], object]] = [roll(release=release).preview, roll(release=release).run]
        for act in acts:
            with pytest.raises((RolloutError, OSError), match=said):
                act()
        assert host.events == []
        assert snapshot(host.root) == before
        assert host.runs("blue")
        return
    foretold = roll(release=release).preview()
    assert (foretold["changed"], foretold["way"]) == (True, way)
    assert said in foretold["reason"]
    assert snapshot(host.root) == before
    result = roll(release=release).run()
    assert (result["changed"], result["way"]) == (True, way)
    assert said in result["reason"]
    if way == "settle" and "at boot" not in said:
        assert any(said in what for what in result["reconciled"])
    host.processes = [os.getpid()]
    assert (host.serving(), answers(host)) == ("A", True)
    if host.drains("blue"):
        host.end_drain("blue")
    assert roll(release=release).run()["reason"] == "the live slot runs what is wanted"


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 60


def test_what_is_damaged_is_mended_before_anything_else_is_done(at_rest: Host, roll: Roll) -> None:
    """Users get errors until it is. A rollout may take a while, and may fail."""
    relink(SLOT_SOCKET, "/run/other.sock")(at_rest)
    at_rest.status = 503
    with pytest.raises(RolloutError, match="migrations are missing"):
        roll("B", boot_timeout=1).run()
    assert answers(at_rest)
    at_rest.status = 200
    relink(SLOT_SOCKET, "/run/other.sock")(at_rest)
    result = roll("B").run()
    assert (result["way"], len(result["reconciled"])) == ("rollout", 1)


def test_what_is_refused_is_told_all_at_once(at_rest: Host, roll: Roll) -> None:
    replace(LIVE_SOCKET, "directory")(at_rest)
    replace(SLOT_SOCKET, "directory")(at_rest)
    with pytest.raises(RolloutError, match=r"(?s)live.sock is a directory.*blue/socket is a directory"):
        roll("A").run()


def test_what_comes_back_at_once_is_no_success(at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch) -> None:
    relink(SLOT_SOCKET, "/run/other.sock")(at_rest)
    monkeypatch.setattr(health_module, "replace_link", lambda *_: None)
    with pytest.raises(RolloutError, match="could not be reconciled"):
        roll("A").run()


def test_the_garbage_of_a_history_is_left_beside_it(at_rest: Host, roll: Roll) -> None:
    append(HISTORY, b"garbage\n")(at_rest)
    roll("A").run()
    assert Path(f"{at_rest.layout.history}.damaged").read_bytes().endswith(b"garbage\n")
    assert [entry["release"] for entry in at_rest.history()] == ["A"]


def test_both_slots_run_and_the_live_link_is_gone(at_rest: Host, roll: Roll) -> None:
    """The one that drains is not started at boot."""
    roll("B").run()
    os.unlink(at_rest.layout.live)
    result = roll("B").run()
    assert (result["way"], at_rest.live, at_rest.serving()) == ("settle", "green", "B")


def test_both_slots_are_enabled_and_the_live_link_is_gone(at_rest: Host, roll: Roll) -> None:
    """Nobody can know."""
    roll("B").run()
    at_rest.enabled |= {"shop@blue.service", "shop@blue.socket"}
    os.unlink(at_rest.layout.live)
    assert roll("B").run()["reason"] == "nothing is live yet"
    assert at_rest.serving() == "B"


def test_a_process_of_another_release_than_the_link_says_is_replaced(at_rest: Host, roll: Roll) -> None:
    at_rest.release("B")
    rollout = roll("A")
    rollout.cwd = lambda pid: f"{os.path.realpath(at_rest.layout.releases)}/B/app" if pid else ""
    result = rollout.run()
    assert (result["way"], result["reason"]) == ("rollout", "slot blue runs B, and not the release that its link names")


def test_the_way_back_reconciles_too(at_rest: Host, roll: Roll) -> None:
    roll("B").run()
    os.unlink(at_rest.layout.live_socket)
    result = roll(rollback=True).run()
    assert (result["way"], len(result["reconciled"]), answers(at_rest)) == ("rollout", 1, True)


def test_drop_ins_are_seen_and_left_alone(at_rest: Host, roll: Roll) -> None:
    folder = at_rest.root / "etc/systemd/system/shop@blue.service.d"
    folder.mkdir()
    (folder / "override.conf").write_text("[Service]\nExecStart=\nExecStart=/bin/false\nNice=5\n")
    (folder / "nice.conf").write_text("[Service]\nNice=5\n")
    own = "/run/systemd/system.control/shop@blue.service.d/50-CPUWeight.conf"
    at_rest.state["shop@blue.service"]["DropInPaths"] = f"{folder}/override.conf {folder}/nice.conf {own}"
    rollout = roll("A")
    assert rollout.run()["changed"] is False
    assert rollout.warnings == [f"{folder}/override.conf sets ExecStart for slot blue, which is not what the role asgi_service wrote"]
    found = Health(at_rest.layout, FakeSystemd(at_rest), "blue").drop_ins()
    assert found == {f"{folder}/override.conf": ["ExecStart"], f"{folder}/nice.conf": []}


@pytest.mark.parametrize(
    ("content", "said"),
    [("{}", ""), ('{"id": "A"}', ""), ('{"id": "B"}', "that of release B"), ("", "damaged"), ("1", "damaged"), ("[" * 9999, "damaged")],
)
def test_a_release_by_its_mark(tmp_path: Path, content: str, said: str) -> None:
    release = tmp_path / "A"
    release.mkdir()
    (release / "release.json").write_text(content)
    assert (said in unusable_release(str(release))) if said else unusable_release(str(release)) == ""


def test_an_interpreter_that_cannot_be_executed(tmp_path: Path) -> None:
    assert missing_interpreter(str(tmp_path)) == ""
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    assert "is gone" in missing_interpreter(str(tmp_path))
    python.write_text("")
    python.chmod(0o644)
    assert "cannot be executed" in missing_interpreter(str(tmp_path))
    python.chmod(0o755)
    assert missing_interpreter(str(tmp_path)) == ""


def test_the_last_of_a_directive_counts() -> None:
    unit = b"[Service]\nGroup=shop\n# Group=x\nGroup=other\nUserX=1\n"
    assert (value_of(unit, "Group"), value_of(unit, "User")) == ("other", "")


def test_the_history_is_read_whatever_it_is(tmp_path: Path) -> None:
    """A pipe would be waited for for ever."""
    path = tmp_path / "history.jsonl"
    os.mkfifo(path)
    assert read_history(str(path)) == []
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path)
        listening.bind("history.jsonl")
        assert read_history(str(path)) == []
    path.unlink()
    path.write_bytes(b"\xff\n" + json.dumps({"release": "A"}).encode() + b"\n")
    assert read_history(str(path)) == [{"release": "A"}]


def test_nobody_s_link_is_followed_by_what_mends_a_mode(tmp_path: Path) -> None:
    """It may be put there between the look and the mending."""
    (tmp_path / "shadow").write_text("")
    (tmp_path / "shadow").chmod(0o600)
    (tmp_path / "slot").symlink_to("shadow")
    with pytest.raises(OSError, match="symbolic links"):
        health_module.give(str(tmp_path / "slot"), -1, -1, 0o755)
    assert (tmp_path / "shadow").stat().st_mode & 0o777 == 0o600


def test_what_a_rollout_leaves_unread_is_no_damage(at_rest: Host, roll: Roll) -> None:
    """systemd says of all units that it has to read them, once one was enabled without that."""
    at_rest.outdated = True
    assert roll("A").preview()["changed"] is False
    result = roll("A").run()
    assert (result["changed"], result["reconciled"], at_rest.outdated) == (False, [], False)
