"""A rollout on a host with real files, real links and a real ready check, but with a systemd and a clock of our own."""

from __future__ import annotations

import errno
import grp
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import memory as memory_module
from ansible_collections.steadfast.asgi.plugins.module_utils import rollout as rollout_module
from ansible_collections.steadfast.asgi.plugins.module_utils import slots as slots_module
from ansible_collections.steadfast.asgi.plugins.module_utils import wayback as wayback_module
from ansible_collections.steadfast.asgi.plugins.module_utils.command import CommandError
from ansible_collections.steadfast.asgi.plugins.module_utils.reload import Reload, ReloadError
from ansible_collections.steadfast.asgi.plugins.module_utils.rollout import Rollout, RolloutError
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import copy_settings, fingerprint, listens
from ansible_collections.steadfast.asgi.plugins.module_utils.units import UnitError
from ansible_collections.steadfast.asgi.tests.unit.fake_host import APP, JOURNAL, Clock, Cut, FakeSystemd, Host, Roll, Server

# The ordinary course


def test_the_first_rollout_makes_a_slot_live(host: Host, roll: Roll) -> None:
    result = roll("A").run()
    assert (result["changed"], result["slot"], result["reason"]) == (True, "blue", "nothing is live yet")
    assert result["release"] == host.release("A")
    assert result["previous"] == {"slot": "", "release": ""}
    assert host.serving() == "A"
    assert host.starts_at_boot("blue") == {"service", "socket"}
    assert host.starts_at_boot("green") == set()
    assert not host.runs("green")


def test_the_second_run_does_nothing(at_rest: Host, roll: Roll) -> None:
    assert roll("A").preview()["changed"] is False
    result = roll("A").run()
    assert (result["changed"], result["slot"], result["release"]) == (False, "blue", at_rest.release("A"))
    assert result["diff"]["before"] == result["diff"]["after"]
    assert at_rest.events == []


def test_another_release_goes_live_beside_the_old_one(at_rest: Host, roll: Roll) -> None:
    result = roll("B").run()
    assert (result["changed"], result["slot"], result["reason"]) == (True, "green", "another release")
    assert result["previous"] == {"slot": "blue", "release": at_rest.release("A")}
    assert at_rest.serving() == "B"
    assert at_rest.starts_at_boot("green") == {"service", "socket"}
    assert at_rest.starts_at_boot("blue") == set()
    # What the old slot still has to do, it does: it runs until it has drained, on the release that it was started with.
    assert at_rest.runs("blue")
    assert at_rest.drains("blue")
    assert at_rest.in_slot("blue") == "A"
    assert "A" in result["diff"]["before"]
    assert "B" in result["diff"]["after"]


def test_clients_find_the_socket_of_the_live_slot_through_the_link(at_rest: Host, roll: Roll) -> None:
    live_socket = Path(at_rest.layout.live) / "socket"
    assert os.path.realpath(live_socket) == at_rest.layout.socket("blue")
    roll("B").run()
    assert os.path.realpath(live_socket) == at_rest.layout.socket("green")


def test_nothing_goes_live_that_has_not_answered(at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[int] = []
    real = os.replace

    def replace(old: str, new: str) -> None:
        if new == at_rest.layout.live:
            answers.append(len(at_rest.seen["green"]))
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    roll("B", ready_successes=5, ready_path="/ready?deep=1", ready_host="example.org").run()
    (count,) = answers
    assert count >= 5
    assert set(at_rest.seen["green"]) == {("/ready?deep=1", "example.org")}


def test_while_the_old_slot_drains_a_run_changes_nothing(at_rest: Host, roll: Roll) -> None:
    roll("B").run()
    at_rest.events.clear()
    assert roll("B").run()["changed"] is False
    at_rest.end_drain("blue")
    assert roll("B").run()["changed"] is False
    assert at_rest.events == []


def test_the_next_rollout_waits_for_the_old_slot_to_drain(at_rest: Host, roll: Roll, clock: Clock) -> None:
    roll("B").run()
    begun = clock()
    clock.while_asleep = lambda: at_rest.end_drain("blue") if at_rest.drains("blue") and clock() > begun + 20 else None
    result = roll("C").run()
    assert at_rest.events.index("before stop shop@blue.socket shop@blue.service") > 0
    assert clock() > begun + 20
    assert (result["slot"], at_rest.serving()) == ("blue", "C")
    assert at_rest.drains("green")


def test_back_to_the_release_before(at_rest: Host, roll: Roll) -> None:
    roll("B").run()
    at_rest.end_drain("blue")
    result = roll("A").run()
    assert (result["slot"], result["previous"]["release"]) == ("blue", at_rest.release("B"))
    assert at_rest.serving() == "A"


def test_a_release_by_another_path_is_the_same_release(at_rest: Host, roll: Roll) -> None:
    (at_rest.root / "current").symlink_to(at_rest.release("A"))
    assert roll("A", release=str(at_rest.root / "current")).run()["changed"] is False


def test_the_result_tells_the_steps_and_the_last_answer(at_rest: Host, roll: Roll) -> None:
    result = roll("B").run()
    names = [step["step"] for step in result["steps"]]
    assert names.index("boot") < names.index("ready") < names.index("flip")
    assert all(step["result"] == "ok" and step["seconds"] >= 0 for step in result["steps"])
    assert result["answer"] == "200 ready"
    assert result["attempts"] == len(at_rest.seen["green"])


def test_each_rollout_leaves_a_line_in_the_history(at_rest: Host, roll: Roll) -> None:
    roll("B").run()
    roll("B").run()
    first, second = at_rest.history()
    assert (first["release"], first["previous"], first["result"]) == ("A", "", "ok")
    assert (second["release"], second["previous"], second["result"]) == ("B", "A", "ok")
    assert second["user"]
    assert time.strptime(second["time"], "%Y-%m-%dT%H:%M:%SZ")


# Why


def stopped(host: Host) -> None:
    host.stop("shop@blue.service")


def failed(host: Host) -> None:
    host.stop("shop@blue.service")
    host.state["shop@blue.service"] = {"ActiveState": "failed"}


def tidied(host: Host) -> None:
    shutil.rmtree(host.root / f"run/{APP}")
    (host.root / f"run/{APP}").mkdir()


def edited(host: Host) -> None:
    host.unit_file.write_text("[Service]\nLimitNOFILE=1\n")


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (stopped, "the live slot blue is inactive"),
        (failed, "the live slot blue is failed"),
        (edited, "changed since slot blue was started: {unit}"),
        (lambda host: (Path(host.layout.settings("blue")) / "env").write_text("x"), "changed since slot blue was started: {env}"),
        (lambda host: (Path(host.layout.settings("blue")) / "more").write_text("x"), "changed since slot blue was started: {more}"),
        (lambda host: Path(host.layout.unit_file("blue", "socket")).write_text("x"), "changed since slot blue was started: {socket}"),
        (lambda host: Path(host.layout.unproven("blue")).touch(), "cut off while it replaced what slot blue runs"),
        (lambda host: os.unlink(host.layout.live), "/slots/live is missing, and has to be a link to blue"),
        (lambda host: os.unlink(host.layout.socket("blue")), "nobody listens on {blue}"),
        (tidied, "nobody listens on {blue}"),
    ],
)
@pytest.mark.parametrize("release", ["A", ""])
def test_the_same_release_is_started_anew_where_that_is_needed(
    host: Host, roll: Roll, happens: Callable[[Host], object], reason: str, release: str
) -> None:
    roll(release).run()
    happens(host)
    host.events.clear()
    paths = {name: f"{host.layout.next}/{name}" for name in ("env", "more", "socket")}
    expected = reason.format(unit=host.unit_file, blue=host.layout.socket("blue"), **paths)
    foretold = roll(release).preview()
    assert host.events == []
    assert foretold["changed"] is True
    assert expected in foretold["reason"]
    result = roll(release).run()
    assert expected in result["reason"]
    assert (result["changed"], result["slot"], result["diff"]) == (True, foretold["slot"], foretold["diff"])
    assert host.runs(host.live)
    assert os.path.realpath(host.layout.live_socket) == host.layout.socket(host.live)
    assert listens(host.layout.live_socket)
    assert host.in_slot(host.live) == release
    if host.drains("blue"):
        host.end_drain("blue")
    assert roll(release).run()["changed"] is False


@pytest.mark.parametrize("strategy", ["auto", "rollout", "restart"])
def test_a_slot_that_somebody_reloads_is_no_reason_to_replace_it(at_rest: Host, roll: Roll, strategy: str) -> None:
    at_rest.state["shop@blue.service"]["ActiveState"] = "reloading"
    assert roll("A", strategy=strategy).run()["way"] == "nothing"
    assert at_rest.events == []


def test_a_slot_that_somebody_reloads_can_be_reloaded_as_well(at_rest: Host, roll: Roll, reloads: list[str]) -> None:
    at_rest.state["shop@blue.service"]["ActiveState"] = "reloading"
    assert roll("A", strategy="reload").run()["way"] == "reload"
    assert len(reloads) == 1


def test_a_slot_that_somebody_reloads_serves(at_rest: Host, roll: Roll) -> None:
    at_rest.state["shop@blue.service"]["ActiveState"] = "reloading"
    at_rest.status = 503
    with pytest.raises(RolloutError, match=r"The live slot serves on as before\."):
        roll("B", boot_timeout=1).run()


def test_without_a_release_no_slot_gets_one(host: Host, roll: Roll) -> None:
    result = roll().run()
    assert (result["slot"], result["release"]) == ("blue", "")
    assert sorted(os.listdir(f"{host.layout.slots}/blue")) == ["socket"]


def test_check_mode_foretells_a_rollout_and_touches_nothing(at_rest: Host, roll: Roll) -> None:
    foretold = roll("B").preview()
    assert at_rest.events == []
    result = roll("B").run()
    for name in ("changed", "slot", "release", "previous", "reason", "diff"):
        assert foretold[name] == result[name], name


def test_check_mode_works_on_a_clean_host(host: Host, roll: Roll) -> None:
    shutil.rmtree(host.root / "opt")
    foretold = roll("A").preview()
    assert (foretold["changed"], foretold["slot"]) == (True, "blue")
    assert host.events == []


def test_check_mode_foretells_a_rollout_of_what_is_not_built_yet(at_rest: Host, roll: Roll) -> None:
    unbuilt = f"{at_rest.layout.releases}/B"
    foretold = roll(release=unbuilt).preview()
    assert (foretold["changed"], foretold["slot"], foretold["release"]) == (True, "green", unbuilt)


# A release that does not come up


@pytest.mark.parametrize(
    ("behaviour", "said", "at_once"),
    [
        ({"status": 503}, "503 migrations are missing", False),
        ({"status": 404}, "404", False),
        ({"boots_into": {"ActiveState": "activating", "MainPID": "0"}}, "(boot_timeout)", False),
        ({"boots_into": {"SubState": "start"}}, "FileNotFoundError", False),
        ({"boots_into": {"ActiveState": "failed", "Result": "exit-code"}}, "exit-code", True),
        ({"boots_into": {"NRestarts": "1", "Result": "signal"}}, "signal", True),
        (
            {"boots_into": {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}},
            "exit-code",
            True,
        ),
    ],
)
def test_a_release_that_does_not_boot_leaves_the_live_slot_alone(
    at_rest: Host, roll: Roll, clock: Clock, behaviour: dict[str, Any], said: str, at_once: bool
) -> None:
    vars(at_rest).update(behaviour)
    begun = clock()
    with pytest.raises(RolloutError) as refused:
        roll("B", boot_timeout=3).run()
    assert said in str(refused.value)
    assert JOURNAL in str(refused.value)
    assert refused.value.details["journal"] == JOURNAL
    assert "The live slot serves on as before." in str(refused.value)
    assert clock() - begun < 1 if at_once else 3 <= clock() - begun < 5

    assert at_rest.serving() == "A"
    assert at_rest.starts_at_boot("blue") == {"service", "socket"}
    assert at_rest.starts_at_boot("green") == set()
    assert not at_rest.runs("green")
    assert at_rest.active("shop@green.service") != "active"
    assert not at_rest.listens("green")
    assert not at_rest.drains("blue")
    blamed = at_rest.history()[-1]
    assert (blamed["release"], blamed["previous"]) == ("B", "A")
    assert said in blamed["result"]
    assert "\n" not in blamed["result"]

    # Neither the old release nor the repaired one is troubled by it.
    assert roll("A").run()["changed"] is False
    at_rest.status, at_rest.boots_into = 200, {}
    assert roll("C").run()["slot"] == "green"
    assert at_rest.serving() == "C"


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (failed, "it is failed."),
        (lambda host: host.state["shop@blue.service"].update(ActiveState="activating"), "it is activating."),
        (tidied, "nobody listens on {blue}."),
    ],
)
def test_nobody_is_told_that_a_live_slot_serves_which_does_not(
    at_rest: Host, roll: Roll, happens: Callable[[Host], object], said: str
) -> None:
    happens(at_rest)
    at_rest.status = 503
    expected = f"Slot blue is live as before, but it does not serve: {said.format(blue=at_rest.layout.socket('blue'))}"
    with pytest.raises(RolloutError, match=re.escape(expected)):
        roll("B", boot_timeout=1).run()


def test_a_first_release_that_does_not_boot_leaves_nothing_live(host: Host, roll: Roll) -> None:
    host.status = 500
    with pytest.raises(RolloutError, match="Nothing was live before"):
        roll("A", boot_timeout=1).run()
    assert host.live == ""
    assert host.enabled == set()
    assert not host.runs("blue")


def test_every_worker_has_to_be_ready(at_rest: Host, roll: Roll) -> None:
    # One process answers here, however many are asked for.
    with pytest.raises(RolloutError, match="1 of 2 workers were ready"):
        roll("B", workers=2, boot_timeout=1).run()
    assert at_rest.serving() == "A"


def test_a_release_may_take_its_time_within_the_timeout(at_rest: Host, roll: Roll, clock: Clock) -> None:
    at_rest.boots_into = {"SubState": "start"}
    begun = clock()

    def boot() -> None:
        if clock() > begun + 8 and not at_rest.runs("green"):
            at_rest.servers["green"] = Server(at_rest.layout.socket("green"), 200, at_rest.seen["green"])

    clock.while_asleep = boot
    roll("B", boot_timeout=10).run()
    assert at_rest.serving() == "B"


def test_what_means_ready_can_be_said(at_rest: Host, roll: Roll) -> None:
    at_rest.status = 204
    with pytest.raises(RolloutError, match="204"):
        roll("B", boot_timeout=1).run()
    roll("B", ready_status=[200, 204]).run()
    assert at_rest.serving() == "B"


@pytest.mark.parametrize(
    "refused",
    [
        ("start", "shop@green.socket"),
        ("start", "shop@green.service"),
        ("enable", "shop@green.service"),
    ],
    ids=" ".join,
)
def test_what_systemd_refuses_leaves_the_live_slot_alone(at_rest: Host, roll: Roll, refused: tuple[str, ...]) -> None:
    at_rest.refused = refused
    with pytest.raises(RolloutError, match=r"refused.*serves on as before"):
        roll("B").run()
    assert (at_rest.serving(), at_rest.starts_at_boot("green")) == ("A", set())
    assert not at_rest.runs("green")
    assert not at_rest.listens("green")
    assert (at_rest.history()[-1]["release"], at_rest.history()[-1]["result"] != "ok") == ("B", True)


def test_a_disk_error_leaves_the_live_slot_alone(at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch) -> None:
    def symlink(_target: str, path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", symlink)
        with pytest.raises(RolloutError, match="Input/output error"):
            roll("B").run()
    assert at_rest.serving() == "A"
    assert at_rest.history()[-1]["release"] == "B"


@pytest.fixture
def unsure_link(host: Host, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have the disk refuse to make it durable that the live link names a slot."""

    def refuse(slot: str) -> None:
        def sync(path: str) -> None:
            if path == host.layout.slots and host.live == slot:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(slots_module, "sync_directory", sync)

    return refuse


def test_a_switch_that_may_not_last_is_taken_back_before_the_slot_is_stopped(
    at_rest: Host, roll: Roll, unsure_link: Callable[[str], None]
) -> None:
    unsure_link("green")
    with pytest.raises(RolloutError, match=r"Input/output error\. The live slot serves on as before"):
        roll("B").run()
    assert (at_rest.live, at_rest.serving()) == ("blue", "A")
    order = [event for event in at_rest.events if event.startswith(("after rename to opt/shop/slots/live", "before stop shop@green"))]
    assert [event.split()[1] for event in order] == ["rename", "rename", "stop"]
    assert not at_rest.runs("green")
    assert at_rest.history()[-1]["result"] != "ok"


def test_a_first_switch_that_may_not_last_leaves_nothing_live(host: Host, roll: Roll, unsure_link: Callable[[str], None]) -> None:
    unsure_link("blue")
    with pytest.raises(RolloutError, match=r"Input/output error\. Nothing was live before"):
        roll("A").run()
    assert (host.live, host.runs("blue"), host.enabled) == ("", False, set())


def test_a_slot_that_is_live_is_not_stopped_where_the_switch_cannot_be_taken_back(
    at_rest: Host, roll: Roll, unsure_link: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.symlink

    def symlink(target: str, path: str) -> None:
        if at_rest.live == "green":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        real(target, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", symlink)
        unsure_link("green")
        with pytest.raises(RolloutError, match=r"slot green is live .*Input/output error"):
            roll("B").run()
    assert (at_rest.live, at_rest.serving()) == ("green", "B")
    assert at_rest.starts_at_boot("green") == {"service", "socket"}
    assert (at_rest.history()[-1]["release"], at_rest.history()[-1]["result"]) == ("B", "ok")
    assert roll("B").run()["way"] == "settle"
    settled(at_rest)


@pytest.mark.parametrize("strategy", ["rollout", "restart"])
def test_a_full_disk_is_told_by_its_path_and_nothing_is_left_there(
    at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    def full(_old: object, new: Any) -> None:
        new.write(b"half of i")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at_rest.set_environment("b")
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises((RolloutError, OSError), match=r"No space left on device: '.*/(green|blue.before.new)/\w") as refused:
        roll("B", strategy=strategy).run()
    if strategy == "rollout":
        assert "'. The live slot serves on as before." in str(refused.value)
    assert at_rest.serving() == "A"
    directory = Path(at_rest.layout.next).parent
    assert sorted(set(os.listdir(directory)) - {"green"}) == ["blue", "next"]
    assert not list(directory.rglob("*.new"))


@pytest.mark.parametrize("strategy", ["rollout", "restart"])
def test_units_that_changed_are_read_before_they_are_started(at_rest: Host, roll: Roll, strategy: str) -> None:
    edited(at_rest)
    roll("A", strategy=strategy).run()
    verb, slot = {"rollout": ("start", "green"), "restart": ("restart", "blue")}[strategy]
    read = at_rest.events.index("after daemon-reload")
    assert read < next(number for number, event in enumerate(at_rest.events) if event.startswith(f"before {verb} shop@{slot}."))
    assert Path(at_rest.layout.unit_file(slot, "service")).read_bytes() == at_rest.unit_file.read_bytes()


@pytest.mark.parametrize("strategy", ["rollout", "restart"])
def test_units_that_a_killed_process_has_installed_are_read_too(at_rest: Host, roll: Roll, strategy: str) -> None:
    """They are on disk already, so the next run finds nothing to copy."""
    slot = {"rollout": "green", "restart": "blue"}[strategy]
    edited(at_rest)
    copy_settings(at_rest.layout.next, at_rest.layout, slot)
    Path(at_rest.layout.unproven(slot)).touch()
    at_rest.events.clear()
    roll("B", strategy=strategy).run()
    verb = "start" if slot == "green" else "restart"
    started = next(number for number, event in enumerate(at_rest.events) if event.startswith(f"before {verb} shop@{slot}."))
    assert "after daemon-reload" in at_rest.events[:started]


# Commands around the switch


@pytest.fixture
def commanded(at_rest: Host) -> Host:
    """A host whose unit has what a command's unit is made of."""
    at_rest.unit_file.write_text("[Service]\nExecStart=/bin/server\n")
    return at_rest


def test_commands_run_before_and_after_the_switch(commanded: Host, roll: Roll) -> None:
    result = roll("B", before_activate=["echo 1", ["echo", "2"]], after_activate=["echo 3"]).run()
    assert commanded.commands == [("1", "A"), ("2", "A"), ("3", "B")]
    assert [entry["command"] for entry in result["commands"]] == [["echo", "1"], ["echo", "2"], ["echo", "3"]]
    assert [step["step"] for step in result["steps"]][3:] == ["ready", "before activate", "enable", "flip", "after activate", "settle"]


def test_a_command_that_fails_before_the_switch_leaves_what_is_live(commanded: Host, roll: Roll) -> None:
    with pytest.raises(RolloutError, match=r"(?s)'false' failed.*The live slot serves on as before") as refused:
        roll("B", before_activate=["false", "echo never"], after_activate=["echo never"]).run()
    assert "journal of" not in str(refused.value), "the slot itself was ready"
    assert (commanded.serving(), commanded.runs("green"), commanded.starts_at_boot("green")) == ("A", False, set())
    assert [line for line, _ in commanded.commands] == ["/bin/false"]


def test_a_command_that_fails_after_the_switch_takes_it_back(commanded: Host, roll: Roll) -> None:
    with pytest.raises(RolloutError, match="Slot blue is live again"):
        roll("B", after_activate=["false"]).run()
    assert commanded.serving() == "A"
    assert commanded.starts_at_boot("blue") == {"socket", "service"}
    assert [entry["action"] for entry in commanded.history()] == ["rollout", "flip back"]


def test_the_first_release_stays_live_for_want_of_another(host: Host, roll: Roll) -> None:
    host.unit_file.write_text("[Service]\nExecStart=/bin/server\n")
    with pytest.raises(RolloutError, match="Slot blue is live all the same"):
        roll("A", after_activate=["false"]).run()
    assert (host.serving(), host.starts_at_boot("blue")) == ("A", {"socket", "service"})
    assert host.history()[-1]["result"] == "ok"


def test_a_restart_runs_them_too(commanded: Host, roll: Roll) -> None:
    roll("B", strategy="restart", before_activate=["echo 1"], after_activate=["echo 2"]).run()
    assert commanded.commands == [("1", "A"), ("2", "B")]
    with pytest.raises(RolloutError, match="nothing was restarted"):
        roll("C", strategy="restart", before_activate=["false"]).run()
    assert commanded.serving() == "B"
    with pytest.raises(RolloutError, match="started again on what it ran before"):
        roll("C", strategy="restart", after_activate=["false"]).run()
    assert commanded.serving() == "B"


def test_the_way_back_runs_no_commands(commanded: Host, roll: Roll) -> None:
    roll("B").run()
    commanded.end_drain("blue")
    roll(rollback=True, before_activate=["false"], after_activate=["false"]).run()
    assert (commanded.serving(), commanded.commands) == ("A", [])


def test_what_is_no_command_is_refused_before_anything_is_done(at_rest: Host, roll: Roll) -> None:
    with pytest.raises(CommandError, match="is not a command"):
        roll("B", after_activate=[{"cmd": "true"}])
    assert at_rest.serving() == "A"


# A slot has settings of its own


@pytest.mark.parametrize("strategy", ["rollout", "restart"])
def test_settings_that_did_not_make_it_never_reach_the_live_slot(at_rest: Host, roll: Roll, clock: Clock, strategy: str) -> None:
    at_rest.set_environment("broken")
    edited(at_rest)
    at_rest.status = 503

    def repaired() -> None:
        at_rest.status = 200 if at_rest.environment["blue"] == "a" else 503

    clock.while_asleep = repaired
    with pytest.raises(RolloutError):
        roll("B", strategy=strategy, boot_timeout=1).run()
    at_rest.status = 200
    # Not even when it has to be started again.
    at_rest.reboot()
    assert (at_rest.serving(), at_rest.environment["blue"]) == ("A", "a")
    assert Path(at_rest.layout.unit_file("blue", "service")).read_text() == "service\n"


def test_files_that_are_not_wanted_any_more_leave_the_slot(at_rest: Host, roll: Roll) -> None:
    os.unlink(Path(at_rest.layout.next) / "gunicorn.conf.py")
    assert roll("A").run()["way"] == "rollout"
    assert sorted(os.listdir(at_rest.layout.settings("green"))) == ["env", "service", "socket"]
    assert roll("A").run()["changed"] is False


def test_a_slot_that_boots_leaves_the_processors_to_the_live_one(at_rest: Host, roll: Roll) -> None:
    assert (at_rest.weight_at_start["blue"], at_rest.weight["shop@blue.service"]) == ("CPUWeight=20", "CPUWeight=")
    at_rest.unit_file.write_text("[Service]\nCPUWeight=300\n")
    roll("B").run()
    assert (at_rest.weight_at_start["green"], at_rest.weight["shop@green.service"]) == ("CPUWeight=20", "CPUWeight=300")
    at_rest.end_drain("blue")
    at_rest.refused = ("set-property",)
    assert roll("C").run()["slot"] == "blue"


def test_a_mode_that_changed_alone_reaches_the_slot_too(at_rest: Host, roll: Roll) -> None:
    """As the group does, with asgi_service_group: the server could not read its configuration."""
    roll("B").run()
    at_rest.end_drain("blue")
    os.chmod(Path(at_rest.layout.next) / "env", 0o640)
    roll("C").run()
    assert os.stat(Path(at_rest.layout.settings("blue")) / "env").st_mode & 0o7777 == 0o640


def test_what_a_killed_process_was_about_to_write_is_no_setting(at_rest: Host, roll: Roll) -> None:
    (Path(at_rest.layout.next) / ".asgi-x.tmp").write_text("half a secr")
    assert roll("A").run()["changed"] is False
    roll("B").run()
    assert ".asgi-x.tmp" not in os.listdir(at_rest.layout.settings("green"))


def test_a_slot_whose_unit_still_asks_for_itself_is_waited_for(at_rest: Host, roll: Roll, clock: Clock) -> None:
    """Or the next run would find a live slot that is not active yet."""
    begun = clock()

    def meanwhile() -> None:
        state = at_rest.state.get("shop@green.service", {})
        if state:
            state["ActiveState"] = "activating" if clock() < begun + 2 else "active"

    clock.while_asleep = meanwhile
    real = at_rest.start

    def start(unit: str) -> None:
        real(unit)
        meanwhile()

    at_rest.start = start  # type: ignore[method-assign]
    roll("B").run()
    assert clock() >= begun + 2
    assert at_rest.serving() == "B"


def test_a_slot_s_files_have_the_mode_of_the_originals(at_rest: Host, roll: Roll) -> None:
    os.chmod(Path(at_rest.layout.next) / "env", 0o640)
    os.chmod(at_rest.layout.next, 0o700)
    roll("B").run()
    assert os.stat(at_rest.layout.settings("green")).st_mode & 0o7777 == 0o700
    assert os.stat(Path(at_rest.layout.settings("green")) / "env").st_mode & 0o7777 == 0o640


def test_the_way_back_brings_the_settings_of_that_time(at_rest: Host, roll: Roll) -> None:
    at_rest.set_environment("b")
    roll("B").run()
    at_rest.end_drain("blue")
    at_rest.set_environment("c")
    assert at_rest.environment["green"] == "b"
    roll(rollback=True).run()
    assert (at_rest.serving(), at_rest.environment["blue"]) == ("A", "a")
    # It is no rollback that brings in new settings.
    assert roll("A", rollback=True).run()["changed"] is False
    assert "env" in roll("A").preview()["reason"]


def test_the_way_back_brings_no_settings_that_have_not_been_live(at_rest: Host, roll: Roll) -> None:
    at_rest.set_environment("b")
    roll("B").run()
    at_rest.end_drain("blue")
    # The slot in which A was is used for something that fails.
    at_rest.set_environment("broken")
    at_rest.status = 503
    for name in ("C", "A"):
        with pytest.raises(RolloutError):
            roll(name, boot_timeout=1).run()
    at_rest.status = 200
    roll(rollback=True).run()
    assert (at_rest.serving(), at_rest.environment["blue"]) == ("A", "a")


@pytest.mark.parametrize("strategy", ["rollout", "restart"])
def test_a_journal_that_cannot_be_read_keeps_nothing_from_being_put_in_order(
    at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    def unreadable(*_: object) -> str:
        at_rest.status = 200
        raise ValueError("no journal here")

    monkeypatch.setattr(FakeSystemd, "journal", unreadable)
    at_rest.status = 503
    with pytest.raises(RolloutError, match=r"(?s)503 migrations are missing.*no journal here"):
        roll("B", strategy=strategy, boot_timeout=1).run()
    assert at_rest.serving() == "A"
    assert not at_rest.runs("green")
    assert not at_rest.listens("green")


# A rollout is no less done, and no less failed, because a detail beside it failed


def test_a_history_that_cannot_be_written_is_a_warning(at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, _entry: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(rollout_module, "append_history", full)
    rollout = roll("B")
    assert (rollout.run()["changed"], at_rest.serving()) == (True, "B")
    assert at_rest.layout.history in rollout.warnings[0]
    at_rest.end_drain("blue")
    at_rest.status = 503
    with pytest.raises(RolloutError, match="migrations are missing"):
        roll("C", boot_timeout=1).run()


@pytest.mark.parametrize("refused", [("systemd-run",), ("disable", "shop@blue.service")], ids=" ".join)
def test_what_is_live_is_recorded_as_live_and_the_rest_is_done_by_the_next_run(at_rest: Host, roll: Roll, refused: tuple[str, ...]) -> None:
    at_rest.refused = refused
    with pytest.raises(UnitError, match="refused"):
        roll("B").run()
    assert at_rest.serving() == "B"
    assert (at_rest.history()[-1]["release"], at_rest.history()[-1]["result"]) == ("B", "ok")
    at_rest.refused = ()
    result = roll("B").run()
    assert (result["changed"], result["way"]) == (True, "settle")
    assert at_rest.drains("blue")
    settled(at_rest)


# Other ways


def test_a_live_link_made_by_hand_is_understood(at_rest: Host, roll: Roll) -> None:
    os.unlink(at_rest.layout.live)
    os.symlink(f"{at_rest.layout.slots}/blue", at_rest.layout.live)
    assert roll("A").run()["changed"] is False
    assert roll("B").run()["slot"] == "green"
    assert at_rest.serving() == "B"


def test_a_live_link_to_something_else_is_not_guessed_at(at_rest: Host, roll: Roll) -> None:
    os.unlink(at_rest.layout.live)
    os.symlink(at_rest.release("A"), at_rest.layout.live)
    with pytest.raises(OSError, match="make it a link to blue or green"):
        roll("B").run()
    assert at_rest.events == []
    assert at_rest.runs("blue")


def test_a_drain_of_an_earlier_rollout_does_not_stop_the_slot_that_is_live_again(at_rest: Host, roll: Roll, clock: Clock) -> None:
    roll("B", drain_timeout=3600).run()
    begun = clock()
    roll("C", drain_timeout=30).run()
    assert 30 <= clock() - begun < 60, "the patience of this rollout counts"
    assert (at_rest.live, at_rest.serving()) == ("blue", "C")
    assert not at_rest.drains("blue")


@pytest.mark.parametrize("name", ["", "A"])
def test_the_way_back_does_not_wait_for_a_drain(at_rest: Host, roll: Roll, clock: Clock, name: str) -> None:
    roll("B", drain_timeout=3600).run()
    begun = clock()
    roll(name, rollback=True, drain_timeout=3600).run()
    assert clock() - begun < 5
    assert (at_rest.live, at_rest.serving()) == ("blue", "A")
    # Left alone, it would stop the slot that is live again.
    assert not at_rest.drains("blue")
    ended = at_rest.events.index(f"after stop {APP}-drain-blue.service")
    assert at_rest.events[ended + 1] == "before stop shop@blue.socket shop@blue.service"


def test_a_rollback_to_what_is_live_is_no_change(at_rest: Host, roll: Roll) -> None:
    roll("B").run()
    at_rest.end_drain("blue")
    assert roll("B", rollback=True).run()["changed"] is False
    assert at_rest.history()[-1]["action"] == "rollout"


def test_a_release_that_is_not_complete_is_refused(at_rest: Host, roll: Roll) -> None:
    os.unlink(f"{at_rest.release('B')}/release.json")
    half = os.path.dirname(at_rest.release("C")) + "/B"
    with pytest.raises(RolloutError, match="not a complete release"):
        roll(release=half).run()
    assert at_rest.events == []
    assert at_rest.serving() == "A"


def test_a_slot_that_does_not_fit_is_not_started(at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "available_memory", lambda: 1 << 20)
    with pytest.raises(RolloutError, match="1 MiB are available"):
        roll("B", check_memory=True).run()
    assert at_rest.serving() == "A"
    assert not at_rest.listens("green")
    monkeypatch.setattr(memory_module, "available_memory", lambda: None)
    assert roll("B", check_memory=True).run()["slot"] == "green"


def test_a_rollback_needs_no_name(at_rest: Host, roll: Roll) -> None:
    roll("B").run()
    at_rest.end_drain("blue")
    foretold = roll(rollback=True).preview()
    assert (foretold["changed"], foretold["release"]) == (True, at_rest.release("A"))
    result = roll(rollback=True).run()
    assert (result["release"], result["previous"]["release"]) == (at_rest.release("A"), at_rest.release("B"))
    assert at_rest.serving() == "A"
    assert at_rest.history()[-1]["action"] == "rollback"
    with pytest.raises(RolloutError, match="no earlier release"):
        roll(rollback=True).run()
    assert at_rest.serving() == "A"


# The way back to settings


def environment_of_the_live_slot(host: Host) -> str:
    return host.environment[host.live]


@pytest.mark.parametrize("strategy", ["rollout", "restart"])
def test_a_deployment_of_nothing_but_settings_is_rolled_back(at_rest: Host, roll: Roll, strategy: str) -> None:
    at_rest.set_environment("b")
    roll("A", strategy=strategy).run()
    assert environment_of_the_live_slot(at_rest) == "b"
    foretold = roll(rollback=True).preview()
    assert (foretold["changed"], foretold["reason"]) == (True, "the settings of before")
    result = roll(rollback=True, strategy=strategy).run()
    assert (result["way"], result["reason"]) == (strategy, "the settings of before")
    assert (at_rest.serving(), environment_of_the_live_slot(at_rest)) == ("A", "a")
    with pytest.raises(RolloutError, match="no earlier settings"):
        roll(rollback=True).run()
    # What is in the inventory comes with the next deployment.
    roll("A", strategy=strategy).run()
    assert environment_of_the_live_slot(at_rest) == "b"


def test_a_rollback_by_reload_is_refused_where_settings_change(at_rest: Host, roll: Roll) -> None:
    at_rest.set_environment("b")
    roll("A").run()
    with pytest.raises(RolloutError, match="the settings of before, which takes a new process"):
        roll(rollback=True, strategy="reload").run()


def test_settings_are_gone_back_through_one_after_the_other(at_rest: Host, roll: Roll) -> None:
    for text in "bcd":
        at_rest.set_environment(text)
        roll("A").run()
    for text in "cba":
        roll(rollback=True).run()
        assert environment_of_the_live_slot(at_rest) == text
    with pytest.raises(RolloutError, match="no earlier release"):
        roll(rollback=True).run()


def test_the_way_back_is_to_a_release_and_its_settings(at_rest: Host, roll: Roll) -> None:
    for name, text in (("A", "b"), ("B", "b"), ("B", "c"), ("C", "d")):
        at_rest.set_environment(text)
        roll(name).run()
    for name, text in (("B", "c"), ("B", "b"), ("A", "b"), ("A", "a")):
        roll(rollback=True).run()
        assert (at_rest.serving(), environment_of_the_live_slot(at_rest)) == (name, text)
    # By name, with what it last ran with and was not gone back from.
    roll("C", rollback=True).run()
    assert (at_rest.serving(), environment_of_the_live_slot(at_rest)) == ("C", "d")
    roll("B", rollback=True).run()
    assert (at_rest.serving(), environment_of_the_live_slot(at_rest)) == ("B", "b")


def test_settings_that_a_reload_brought_are_gone_back_from(at_rest: Host, roll: Roll, reloads: list[str]) -> None:
    path = Path(at_rest.layout.next) / "gunicorn.conf.py"
    path.write_text("workers = 3")
    assert roll("A").run()["way"] == "reload"
    assert reloads == ["workers = 3"]
    assert roll(rollback=True).run()["way"] == "rollout"
    assert (Path(at_rest.layout.settings(at_rest.live)) / "gunicorn.conf.py").read_text() == "gunicorn.conf.py\n"
    assert at_rest.serving() == "A"


@pytest.mark.usefixtures("at_rest")
def test_a_reload_that_changed_nothing_is_nothing_to_go_back_from(roll: Roll, reloads: list[str]) -> None:
    roll("A", strategy="reload").run()
    assert len(reloads) == 1
    with pytest.raises(RolloutError, match="no earlier release"):
        roll(rollback=True).run()


def test_a_unit_that_changed_is_gone_back_from(at_rest: Host, roll: Roll) -> None:
    before = at_rest.unit_file.read_bytes()
    edited(at_rest)
    roll("A").run()
    roll("A", strategy="restart").run()
    roll(rollback=True).run()
    assert Path(at_rest.layout.unit_file(at_rest.live, "service")).read_bytes() == before


def test_a_rollback_that_fails_leaves_the_settings_live(at_rest: Host, roll: Roll) -> None:
    at_rest.set_environment("b")
    roll("A").run()
    at_rest.status = 503
    with pytest.raises(RolloutError, match="migrations are missing"):
        roll(rollback=True, boot_timeout=1).run()
    assert environment_of_the_live_slot(at_rest) == "b"
    at_rest.status = 200
    roll(rollback=True).run()
    assert environment_of_the_live_slot(at_rest) == "a"


def test_settings_that_could_not_be_kept_are_a_warning(at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full is no reason to refuse the rollout that may make room."""

    def full(_source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    monkeypatch.setattr(wayback_module, "copy_directory", full)
    at_rest.set_environment("b")
    rollout = roll("A")
    assert rollout.run()["changed"]
    assert "a rollback may not find them" in rollout.warnings[0]
    # The idle slot has them all the same.
    roll(rollback=True).run()
    assert environment_of_the_live_slot(at_rest) == "a"


def test_only_a_few_of_the_settings_of_before_are_kept(at_rest: Host, roll: Roll) -> None:
    for number in range(8):
        at_rest.set_environment(f"{number}")
        roll("A").run()
    assert len(os.listdir(at_rest.layout.old_settings)) <= 5


# The way back from what one run did


def test_a_rollback_of_a_run_goes_to_what_it_replaced_and_leaves_the_host_alone_where_it_failed(at_rest: Host, roll: Roll) -> None:
    roll("B", run="2").run()
    at_rest.status = 503
    with pytest.raises(RolloutError):
        roll("C", run="3", boot_timeout=1).run()
    at_rest.status = 200
    assert [entry.get("run") for entry in at_rest.history()] == ["", "2", "3"]
    at_rest.events.clear()
    for name in ("3", "never"):
        assert roll(rollback=True, rollback_run=name).preview()["changed"] is False
        result = roll(rollback=True, rollback_run=name, run="4").run()
        assert (result["changed"], result["way"], result["slot"]) == (False, "nothing", at_rest.live)
        assert result["reason"] == f"run {name} replaced nothing on this host"
    assert (at_rest.serving(), at_rest.events) == ("B", [])
    assert roll(rollback=True, rollback_run="2", run="4").preview()["release"] == at_rest.release("A")
    assert roll(rollback=True, rollback_run="2", run="4").run()["changed"]
    assert at_rest.serving() == "A"
    # Once more changes nothing.
    assert roll(rollback=True, rollback_run="2", run="4").run()["changed"] is False
    assert at_rest.history()[-1]["run"] == "4"


def test_a_rollback_of_a_run_is_refused_where_another_has_replaced_what_it_did(at_rest: Host, roll: Roll) -> None:
    roll("B", run="2").run()
    roll("C", run="3").run()
    with pytest.raises(RolloutError, match="run 3 has replaced it"):
        roll(rollback=True, rollback_run="2").run()
    assert at_rest.serving() == "C"


def written(host: Host) -> dict[str, Any]:
    """What asgi_files says of the settings that it wrote."""
    files = {path.name: path.read_bytes() for path in Path(host.layout.next).iterdir()}
    return {"directory": host.layout.next, "names": sorted(files), "fingerprint": fingerprint(files.items())}


def test_only_the_settings_that_the_same_run_wrote_are_brought_in(at_rest: Host, roll: Roll) -> None:
    ours = written(at_rest)
    at_rest.set_environment("of somebody else")
    with pytest.raises(RolloutError, match="another deployment has written its own since"):
        roll("B", settings=ours).run()
    assert at_rest.events == []
    assert at_rest.serving() == "A"
    # The way back brings none.
    theirs = written(at_rest)
    # Those of another application of the same play.
    assert roll("B", settings=ours | {"directory": "/etc/other/next"}).preview()["way"] == "rollout"
    assert roll("B", settings=theirs).run()["way"] == "rollout"
    assert roll(rollback=True, settings=ours).run()["way"] == "rollout"


def to_be_written(host: Host, **files: str) -> dict[str, Any]:
    """What asgi_files says in check mode of settings with these files in them, which it does not write."""
    contents = {path.name: path.read_bytes() for path in Path(host.layout.next).iterdir()}
    contents.update({name: text.encode() for name, text in files.items()})
    return {"directory": host.layout.next, "names": sorted(contents), "fingerprint": fingerprint(contents.items())}


@pytest.mark.parametrize(
    ("strategy", "way", "slot"), [("auto", "rollout", "green"), ("rollout", "rollout", "green"), ("restart", "restart", "blue")]
)
def test_check_mode_foretells_what_settings_lead_to_that_it_does_not_write(
    at_rest: Host, roll: Roll, strategy: str, way: str, slot: str
) -> None:
    foretold = roll("A", strategy=strategy, settings=to_be_written(at_rest, env="b")).preview()
    assert (foretold["changed"], foretold["way"], foretold["slot"]) == (True, way, slot)
    assert foretold["reason"] == f"other settings are to be written to {at_rest.layout.next} first"
    assert (foretold["release"], at_rest.events) == (at_rest.release("A"), [])
    # Also if it is a file more, with nothing in it.
    assert roll("A", strategy=strategy, settings=to_be_written(at_rest, more="")).preview()["way"] == way
    assert roll("A", strategy=strategy, settings=to_be_written(at_rest)).preview()["changed"] is False


def test_check_mode_does_not_promise_a_reload_for_settings_that_it_has_not_seen(at_rest: Host, roll: Roll, reloads: list[str]) -> None:
    unseen = to_be_written(at_rest, **{"gunicorn.conf.py": "workers = 3"})
    assert roll("A", settings=unseen).preview()["way"] == "rollout"
    # Nor does it refuse one.
    at_rest.set_environment("tried and failed")
    assert roll("A", strategy="reload", settings=unseen).preview()["way"] == "reload"
    with pytest.raises(RolloutError, match="another release"):
        roll("B", strategy="reload", settings=unseen).preview()
    # A rollback brings no settings.
    assert roll("A", rollback=True, settings=unseen).preview()["changed"] is False
    assert reloads == []


def test_settings_that_change_while_they_are_copied_are_not_brought_in(at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = written(at_rest)

    def copy(*arguments: Any) -> bool:
        at_rest.set_environment("of somebody else")
        return copy_settings(*arguments)

    monkeypatch.setattr(rollout_module, "copy_settings", copy)
    with pytest.raises(RolloutError, match="another deployment has written its own since"):
        roll("B", settings=ours).run()
    assert at_rest.serving() == "A"
    settled(at_rest)


def test_in_its_bake_time_a_good_release_stays_beside_the_old_one(at_rest: Host, roll: Roll, clock: Clock) -> None:
    begun = clock()
    warm: list[bool] = []
    clock.while_asleep = lambda: warm.append(at_rest.runs("blue") and not at_rest.drains("blue"))
    roll("B", bake_time=20).run()
    assert clock() - begun >= 20
    assert all(warm)
    assert at_rest.serving() == "B"
    assert at_rest.drains("blue")


def gone(host: Host) -> None:
    host.state["shop@green.service"].update(ActiveState="failed", Result="oom-kill")


def broken(host: Host) -> None:
    host.servers.pop("green").end()
    host.servers["green"] = Server(host.layout.socket("green"), 503, host.seen["green"])


def replaced(host: Host) -> None:
    """A worker has crashed, and the server has started another one at once."""
    host.processes = [1]


@pytest.mark.parametrize(
    ("happens", "said"),
    [(gone, "oom-kill"), (broken, "503 migrations are missing"), (replaced, f"a worker ended that had been ready (process {os.getpid()})")],
)
def test_a_release_that_fails_in_its_bake_time_is_taken_back(
    at_rest: Host, roll: Roll, clock: Clock, happens: Callable[[Host], None], said: str
) -> None:
    begun = clock()
    pending = [happens]

    def meanwhile() -> None:
        if at_rest.live == "green" and pending and clock() > begun + 10:
            pending.pop()(at_rest)

    clock.while_asleep = meanwhile
    with pytest.raises(RolloutError) as refused:
        roll("B", bake_time=30).run()
    assert said in str(refused.value)
    assert JOURNAL in str(refused.value)
    assert clock() - begun < 30
    assert at_rest.serving() == "A"
    settled(at_rest)
    assert at_rest.history()[-1]["release"] == "B"
    assert at_rest.history()[-1]["result"] != "ok"
    at_rest.processes = [os.getpid()]
    assert roll("A").run()["changed"] is False


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gunicorn.conf.py", "max_requests = 10\n"),
        ("granian.json", '{"workers_lifetime": 60}'),
        ("granian.json", '{"workers_max_rss": 200}'),
    ],
)
def test_in_the_bake_time_workers_may_end_that_are_told_to(at_rest: Host, roll: Roll, clock: Clock, name: str, content: str) -> None:
    (Path(at_rest.layout.next) / name).write_text(content)

    def meanwhile() -> None:
        if at_rest.live == "green":
            replaced(at_rest)

    clock.while_asleep = meanwhile
    roll("B", bake_time=10).run()
    assert at_rest.serving() == "B"


def test_an_old_slot_that_ended_in_the_bake_time_is_started_before_it_is_live_again(at_rest: Host, roll: Roll, clock: Clock) -> None:
    def meanwhile() -> None:
        if at_rest.live == "green" and at_rest.runs("blue"):
            at_rest.servers.pop("blue").end()
            at_rest.state["shop@blue.service"]["ActiveState"] = "failed"
            at_rest.servers.pop("green").end()

    clock.while_asleep = meanwhile
    with pytest.raises(RolloutError, match="Slot blue is live again"):
        roll("B", bake_time=30).run()
    assert at_rest.serving() == "A"


def ended_in_bake_time(host: Host, clock: Clock, *refused: str) -> None:
    """Have the new slot's process end in its bake time, and systemd refuse what has these words in it from then on."""

    def meanwhile() -> None:
        if host.live == "green":
            host.state["shop@blue.service"]["ActiveState"] = "failed"
            gone(host)
            host.refused = refused

    clock.while_asleep = meanwhile


def test_a_flip_back_that_fails_is_told_beside_the_reason_and_not_recorded(at_rest: Host, roll: Roll, clock: Clock) -> None:
    ended_in_bake_time(at_rest, clock, "start", "shop@blue.service")
    with pytest.raises(RolloutError) as refused:
        roll("B", bake_time=30).run()
    assert "in its bake time its process ended (oom-kill)." in str(refused.value)
    assert "Slot blue could not be made live again: 'systemctl start shop@blue.socket shop@blue.service' failed: " in str(refused.value)
    assert "Slot green is live, but it does not serve: it is failed." in str(refused.value)
    assert JOURNAL in str(refused.value)
    assert refused.value.details["journal"] == JOURNAL
    # What is live is not withdrawn.
    assert at_rest.live == "green"
    assert [(entry["action"], entry["release"], entry["result"]) for entry in at_rest.history()] == [
        ("rollout", "A", "ok"),
        ("rollout", "B", "ok"),
    ]
    at_rest.refused = ()
    clock.while_asleep = lambda: None
    assert roll(rollback=True).run()["release"] == at_rest.release("A")
    assert at_rest.serving() == "A"


def test_a_flip_back_that_took_place_is_recorded_whatever_was_left_to_do(at_rest: Host, roll: Roll, clock: Clock) -> None:
    ended_in_bake_time(at_rest, clock, "disable", "shop@green.service")
    with pytest.raises(RolloutError) as refused:
        roll("B", bake_time=30).run()
    assert "in its bake time its process ended (oom-kill). Slot blue is live again, but what is left could not be" in str(refused.value)
    assert "'systemctl --quiet --no-reload disable shop@green.service shop@green.socket' failed: refused." in str(refused.value)
    assert JOURNAL in str(refused.value)
    assert at_rest.serving() == "A"
    assert (at_rest.history()[-1]["action"], at_rest.history()[-1]["result"] == "ok") == ("flip back", False)
    at_rest.refused = ()
    clock.while_asleep = lambda: None
    assert roll("A").run()["way"] == "settle"
    settled(at_rest)


def test_a_command_that_fails_is_told_where_the_flip_back_fails_too(commanded: Host, roll: Roll) -> None:
    commanded.refused = ("enable", "shop@blue.service")
    with pytest.raises(RolloutError, match=r"(?s)'false' failed.*Slot blue could not be made live again.*Slot green is live and serves\."):
        roll("B", after_activate=["false"]).run()
    assert commanded.serving() == "B"
    assert [entry["action"] for entry in commanded.history()] == ["rollout", "rollout"]


def test_a_command_that_fails_is_told_where_the_rest_of_a_first_rollout_fails_too(
    host: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise UnitError("refused")

    host.unit_file.write_text("[Service]\nExecStart=/bin/server\n")
    monkeypatch.setattr(Rollout, "settle", refused)
    with pytest.raises(RolloutError, match=r"(?s)'false' failed.*Slot blue is live all the same"):
        roll("A", after_activate=["false"]).run()


def test_an_old_slot_that_somebody_reloads_is_not_started_once_more(at_rest: Host, roll: Roll, clock: Clock) -> None:
    def meanwhile() -> None:
        if at_rest.live == "green":
            at_rest.state["shop@blue.service"]["ActiveState"] = "reloading"
            gone(at_rest)

    clock.while_asleep = meanwhile
    with pytest.raises(RolloutError, match="Slot blue is live again"):
        roll("B", bake_time=30).run()
    assert "before start shop@blue.socket shop@blue.service" not in at_rest.events
    assert at_rest.serving() == "A"


def test_a_single_bad_answer_in_the_bake_time_is_forgiven(at_rest: Host, roll: Roll, clock: Clock) -> None:
    baked: list[int] = []

    def meanwhile() -> None:
        if at_rest.live == "green":
            baked.append(200 if len(baked) % 3 else 503)
            at_rest.servers.pop("green").end()
            at_rest.servers["green"] = Server(at_rest.layout.socket("green"), baked[-1], at_rest.seen["green"])

    clock.while_asleep = meanwhile
    roll("B", bake_time=10).run()
    assert baked.count(503) > 3
    assert at_rest.serving() == "B"


def test_a_restart_uses_one_slot_and_keeps_its_socket(at_rest: Host, roll: Roll) -> None:
    result = roll("B", strategy="restart").run()
    assert (result["changed"], result["slot"], at_rest.serving()) == (True, "blue", "B")
    assert at_rest.seen["green"] == []
    assert not any(event.startswith("before stop shop@blue.socket") for event in at_rest.events)
    assert roll("B", strategy="restart").run()["changed"] is False


def test_a_restart_brings_back_a_socket_that_was_removed(at_rest: Host, roll: Roll) -> None:
    os.unlink(at_rest.layout.socket("blue"))
    at_rest.events.clear()
    result = roll("A", strategy="restart").run()
    assert (result["way"], at_rest.serving(), listens(at_rest.layout.live_socket)) == ("restart", "A", True)
    assert "after restart shop@blue.socket shop@blue.service" in at_rest.events
    assert roll("A", strategy="restart").run()["changed"] is False


BOTH = "after restart shop@blue.socket shop@blue.service"
ALONE = "after restart shop@blue.service"


def restarts(host: Host) -> list[str]:
    return [event for event in host.events if event in (BOTH, ALONE)]


def repaired_meanwhile(host: Host, clock: Clock) -> None:
    """Have what runs answer 503 until somebody has waited for it."""

    def repaired() -> None:
        host.status = 200

    host.status = 503
    clock.while_asleep = repaired


@pytest.mark.parametrize("place", ["next", "installed"])
def test_a_restart_opens_a_socket_anew_that_is_to_be_another_one(at_rest: Host, roll: Roll, place: str) -> None:
    changed = Path(at_rest.layout.unit_file("blue", "socket")) if place == "installed" else Path(at_rest.layout.next) / "socket"
    changed.write_text("Backlog=4096\n")
    assert roll("A", strategy="restart").run()["way"] == "restart"
    assert restarts(at_rest) == [BOTH]
    assert at_rest.events.index("after daemon-reload") < at_rest.events.index(BOTH)
    assert roll("A", strategy="restart").run()["changed"] is False
    # Later ones keep it again.
    roll("B", strategy="restart").run()
    assert restarts(at_rest) == [BOTH, ALONE]


def test_a_restart_that_fails_brings_back_the_socket_of_before(at_rest: Host, roll: Roll, clock: Clock) -> None:
    (Path(at_rest.layout.next) / "socket").write_text("Backlog=4096\n")
    repaired_meanwhile(at_rest, clock)
    with pytest.raises(RolloutError, match="started again on what it ran before"):
        roll("B", strategy="restart", boot_timeout=2).run()
    assert restarts(at_rest) == [BOTH, BOTH]
    assert Path(at_rest.layout.unit_file("blue", "socket")).read_text() == "socket\n"
    assert at_rest.serving() == "A"


def test_a_restart_that_fails_before_it_opened_the_socket_anew_keeps_it(at_rest: Host, roll: Roll, speak_tls: Callable[..., None]) -> None:
    speak_tls("443")
    (Path(at_rest.layout.next) / "socket").write_text("Backlog=4096\n")
    at_rest.refused = ("start", f"{APP}-tls-443.socket")
    with pytest.raises(RolloutError, match="cannot listen"):
        roll("A", strategy="restart").run()
    assert restarts(at_rest) == [ALONE]


def test_a_restart_after_one_that_was_cut_off_opens_the_socket_anew(at_rest: Host, roll: Roll) -> None:
    """Its unit may have been installed by then, and nothing on disk tells whether it was also opened by it."""
    (Path(at_rest.layout.next) / "socket").write_text("Backlog=4096\n")
    copy_settings(at_rest.layout.next, at_rest.layout, "blue")
    Path(at_rest.layout.unproven("blue")).touch()
    roll("A", strategy="restart").run()
    assert restarts(at_rest) == [BOTH]


def test_a_restart_that_fails_starts_the_old_release_again(at_rest: Host, roll: Roll, clock: Clock) -> None:
    repaired_meanwhile(at_rest, clock)
    with pytest.raises(RolloutError, match="started again on what it ran before"):
        roll("B", strategy="restart", boot_timeout=2).run()
    assert at_rest.serving() == at_rest.in_slot("blue") == "A"
    assert roll("A").run()["changed"] is False


def test_a_restart_whose_way_back_fails_tells_both(at_rest: Host, roll: Roll, clock: Clock) -> None:
    at_rest.status = 503

    def broken() -> None:
        at_rest.refused = ("restart", "shop@blue.service")

    clock.while_asleep = broken
    with pytest.raises(RolloutError) as refused:
        roll("B", strategy="restart", boot_timeout=2).run()
    assert "503 migrations are missing" in str(refused.value)
    assert "could not be started again on what it ran before: 'systemctl restart shop@blue.service' failed: refused." in str(refused.value)
    assert "Slot blue is live" in str(refused.value)
    assert JOURNAL in str(refused.value)
    assert refused.value.details["journal"] == JOURNAL
    assert at_rest.history()[-1]["result"] != "ok"
    # The next run goes on from there.
    at_rest.refused, at_rest.status, clock.while_asleep = (), 200, lambda: None
    assert roll("A", strategy="restart").run()["changed"] is True
    assert at_rest.serving() == "A"


def test_a_restart_whose_way_back_finds_no_disk_tells_both(at_rest: Host, roll: Roll, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout, real = roll("B", strategy="restart", boot_timeout=2), copy_settings

    def copy(source: str, *arguments: Any) -> bool:
        if source != at_rest.layout.next:
            raise OSError(errno.EIO, os.strerror(errno.EIO), source)
        return real(source, *arguments)

    monkeypatch.setattr(rollout_module, "copy_settings", copy)
    at_rest.status = 503
    with pytest.raises(RolloutError, match=r"(?s)503 migrations.*what it ran before: .*Input/output error.*Slot blue is live.*ImportError"):
        rollout.run()


@pytest.mark.parametrize("power_fails", [False, True], ids=["killed", "power failure"])
@pytest.mark.parametrize("then", ["B", "A"], ids=["the same again", "back"])
def test_a_restart_that_is_interrupted_is_finished_by_the_next_run(host: Host, roll: Roll, power_fails: bool, then: str) -> None:
    for event in range(1000):
        roll("A", strategy="restart").run()
        assert host.serving() == "A"
        if not interrupted(host, roll("B", strategy="restart"), event):
            break
        where = f"cut at {event}, after {host.events[-1:]}"
        if power_fails:
            host.reboot()
        roll(then, strategy="restart").run()
        assert host.serving() == then, where
        assert roll(then, strategy="restart").run()["changed"] is False, where
    assert event > 5, "the events of a whole restart"


@pytest.mark.parametrize("power_fails", [False, True], ids=["killed", "power failure"])
def test_after_an_interrupted_restart_a_release_that_fails_again_is_replaced_by_the_last_good_one(
    host: Host, roll: Roll, clock: Clock, power_fails: bool
) -> None:
    """Also where the settings came with it: what it is replaced by is what was live before both runs."""

    def repaired() -> None:
        host.status = 200 if host.in_slot("blue") == "A" else 503

    for event in range(1000):
        host.set_environment("a")
        host.status, clock.while_asleep = 200, lambda: None
        roll("A", strategy="restart").run()
        assert (host.serving(), host.environment["blue"]) == ("A", "a")
        host.set_environment("b")
        if not interrupted(host, roll("B", strategy="restart"), event):
            break
        where = f"cut at {event}, after {host.events[-1:]}"
        if power_fails:
            host.reboot()
        if host.live == "blue" and not os.path.exists(host.layout.unproven("blue")):
            continue
        host.status, clock.while_asleep = 503, repaired
        with pytest.raises(RolloutError, match="started again on what it ran before"):
            roll("B", strategy="restart", boot_timeout=2).run()
        assert (host.serving(), host.environment["blue"]) == ("A", "a"), where
    assert event > 5, "the events of a whole restart"


@pytest.mark.parametrize("strategy", ["rollout", "restart"])
def test_the_way_back_from_an_interrupted_restart_brings_the_settings_of_before(host: Host, roll: Roll, strategy: str) -> None:
    for event in range(1000):
        host.set_environment("a")
        roll("A", strategy="restart").run()
        host.set_environment("b")
        live = host.live
        if not interrupted(host, roll("B", strategy="restart"), event):
            break
        if not os.path.exists(host.layout.unproven(live)):
            continue
        roll("A", rollback=True, strategy=strategy).run()
        assert (host.serving(), host.environment[host.live]) == ("A", "a"), f"cut at {event}, after {host.events[-1:]}"
        if host.drains(live):
            host.end_drain(live)
    assert event > 5, "the events of a whole restart"


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (edited, "changed since slot blue was started"),
        (lambda host: Path(host.layout.unproven("blue")).touch(), "cut off"),
        (stopped, "inactive"),
        (lambda host: os.unlink(host.layout.socket("blue")), "nobody listens"),
    ],
)
def test_what_takes_a_new_process_is_not_reloaded(at_rest: Host, roll: Roll, happens: Callable[[Host], object], said: str) -> None:
    happens(at_rest)
    at_rest.events.clear()
    with pytest.raises(RolloutError, match=said):
        roll("A", strategy="reload").run()
    assert at_rest.events == []


@pytest.fixture
def reloads(at_rest: Host, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The server's configuration at each signal that the master gets; the reload itself has tests of its own."""
    seen: list[str] = []
    monkeypatch.setattr(Rollout, "obstacles", lambda _self, _live: [])
    monkeypatch.setattr(Reload, "run", lambda _self: read_configuration())

    def read_configuration(*_: object) -> None:
        seen.append((Path(at_rest.layout.settings("blue")) / "gunicorn.conf.py").read_text())
        if "broken" in seen[-1]:
            raise ReloadError("no worker came up")

    monkeypatch.setattr(os, "kill", read_configuration)
    return seen


def test_a_reload_brings_the_server_s_configuration_into_the_slot(at_rest: Host, roll: Roll, reloads: list[str]) -> None:
    (Path(at_rest.layout.next) / "gunicorn.conf.py").write_text("workers = 3")
    assert roll("A").run()["way"] == "reload"
    assert reloads == ["workers = 3"]
    assert roll("A").run()["changed"] is False


def test_workers_of_another_class_take_a_new_process(at_rest: Host, roll: Roll, reloads: list[str]) -> None:
    (Path(at_rest.layout.settings("blue")) / "gunicorn.conf.py").write_text("worker_class = HandoverWorker\n")
    (Path(at_rest.layout.next) / "gunicorn.conf.py").write_text("worker_class = NativeWorker\n")
    with pytest.raises(RolloutError, match=r"gunicorn.conf.py, which takes a new process"):
        roll("A", strategy="reload").run()
    assert roll("A").run()["way"] == "rollout"
    assert reloads == []


def test_a_configuration_that_did_not_make_it_is_taken_back(at_rest: Host, roll: Roll, reloads: list[str]) -> None:
    (Path(at_rest.layout.next) / "gunicorn.conf.py").write_text("broken")
    with pytest.raises(RolloutError, match="no worker came up"):
        roll("A").run()
    assert reloads == ["broken", "gunicorn.conf.py\n"]
    assert sorted(os.listdir(Path(at_rest.layout.next).parent)) == ["blue", "kept", "next"]
    assert "gunicorn.conf.py" in roll("A").preview()["reason"]


def test_a_disk_that_is_full_leaves_the_live_slot_its_own_configuration(
    at_rest: Host, roll: Roll, reloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a crash of the server would bring up what was copied by half."""
    (Path(at_rest.layout.next) / "gunicorn.conf.py").write_text("workers = 3")
    (Path(at_rest.layout.next) / "logging.json").write_text("{}")
    real = slots_module.copy_file

    def copy(source: str, target: str) -> bool:
        if target == f"{at_rest.layout.settings('blue')}/logging.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        return real(source, target)

    monkeypatch.setattr(slots_module, "copy_file", copy)
    monkeypatch.setattr(rollout_module, "is_server_config", lambda _path: True)
    with pytest.raises(RolloutError, match=r"nothing was reloaded.*No space left on device"):
        roll("A").run()
    assert reloads == []
    assert (Path(at_rest.layout.settings("blue")) / "gunicorn.conf.py").read_text() == "gunicorn.conf.py\n"
    assert not os.path.exists(at_rest.layout.unproven("blue"))


def test_a_reload_cannot_bring_another_release(at_rest: Host, roll: Roll) -> None:
    with pytest.raises(RolloutError, match="another release"):
        roll("B", strategy="reload").run()
    assert at_rest.events == []


# TLS that the slots speak themselves


@pytest.fixture
def speak_tls(at_rest: Host, issue: Callable[[Path], None]) -> Callable[..., None]:
    """Write settings with TLS at some addresses (none is no TLS), as asgi_service does."""
    issue(at_rest.root / "host")

    def write(*addresses: str) -> None:
        folder = Path(at_rest.layout.next)
        for path in folder.glob("tls*"):
            path.unlink()
        if addresses:
            named = {"certificate": f"{at_rest.root}/host/fullchain.pem", "key": f"{at_rest.root}/host/privkey.pem", "client_ca": ""}
            (folder / "tls.json").write_text(json.dumps(named | {"group": grp.getgrgid(os.getgid()).gr_name}))
            (folder / "tls.service").write_text(" ".join(addresses))
        for address in addresses:
            (folder / f"tls-{address}.socket").write_text(address)
            (folder / f"tls-{address}.service").write_text(address)
        (folder / "service").write_text(f"Sockets={' '.join(addresses)}\n")

    return write


def tls_units(host: Host) -> dict[str, str]:
    """The units for TLS that are installed, and their states."""
    found = sorted(path.name for path in (host.root / "etc/systemd/system").glob(f"{APP}-tls*"))
    return {name: host.active(name) for name in found} | {
        unit: state["ActiveState"] for unit, state in host.state.items() if "-tls" in unit
    }


def listening(*addresses: str) -> dict[str, str]:
    """The units for TLS at these addresses. Those that do nothing are started by the others, which this systemd does not do."""
    sockets = {f"{APP}-tls-{address}.socket": "active" for address in addresses}
    return sockets | {f"{APP}-tls-{address}.service": "inactive" for address in addresses} | {f"{APP}-tls.service": "inactive"}


def test_sockets_for_tls_come_with_the_slot_and_go_with_it(at_rest: Host, roll: Roll, speak_tls: Callable[..., None]) -> None:
    # Of another application, whose name looks like ours.
    theirs = at_rest.root / f"etc/systemd/system/{APP}-tls-tls-443.socket"
    theirs.write_text("theirs")
    expected = {theirs.name: "inactive"}
    speak_tls("443", "192.0.2.7:8443")
    assert roll("A").run()["way"] == "rollout"
    both = listening("443", "192.0.2.7:8443")
    assert tls_units(at_rest) == expected | both
    assert (at_rest.root / f"run/{APP}/tls-green/pair.pem").exists()
    # The old slot drains beside it, and has no part in it.
    assert at_rest.drains("blue")
    assert "lib.drain" not in " ".join(at_rest.drain_command)
    assert roll("A").run()["changed"] is False

    # Both slots share the sockets, so nothing is closed.
    roll("B").run()
    assert at_rest.drains("green")
    assert "from lib.drain import main" in " ".join(at_rest.drain_command)
    assert " --ports=443,8443 " in " ".join(at_rest.drain_command)
    assert tls_units(at_rest) == expected | both

    # An address less: who has its socket is gone when the run is over.
    speak_tls("443")
    roll("B").run()
    assert tls_units(at_rest) == expected | listening("443")
    assert not at_rest.runs("blue")

    speak_tls()
    roll("B").run()
    assert tls_units(at_rest) == expected
    assert not list((at_rest.root / f"run/{APP}").glob("tls-*"))
    assert roll("B").run()["changed"] is False


def test_the_way_back_brings_the_sockets_of_that_time(at_rest: Host, roll: Roll, speak_tls: Callable[..., None]) -> None:
    speak_tls("443")
    roll("B").run()
    speak_tls()
    roll("C").run()
    assert tls_units(at_rest) == {}
    roll(rollback=True).run()
    assert at_rest.serving() == "B"
    assert tls_units(at_rest) == listening("443")


@pytest.mark.parametrize("strategy", ["rollout", "restart"])
def test_an_address_that_is_taken_leaves_what_is_live(at_rest: Host, roll: Roll, speak_tls: Callable[..., None], strategy: str) -> None:
    speak_tls("443")
    at_rest.refused = ("start", f"{APP}-tls-443.socket")
    with pytest.raises(RolloutError, match=rf"(?s){APP}-tls-443.socket cannot listen \(asgi_service_tls_listen\).*ImportError"):
        roll("A", strategy=strategy).run()
    assert at_rest.serving() == "A"
    assert tls_units(at_rest) == {}


def test_a_release_that_does_not_boot_leaves_no_socket(at_rest: Host, roll: Roll, speak_tls: Callable[..., None]) -> None:
    speak_tls("443")
    at_rest.status = 503
    with pytest.raises(RolloutError, match="503"):
        roll("B").run()
    assert tls_units(at_rest) == {}
    assert at_rest.serving() == "A"


def test_a_renewed_certificate_is_reloaded(
    at_rest: Host, roll: Roll, speak_tls: Callable[..., None], reloads: list[str], issue: Callable[[Path], None]
) -> None:
    speak_tls("443")
    roll("A").run()
    issue(at_rest.root / "host")
    assert roll("A").preview()["reason"] == "the certificate was renewed"
    copy = at_rest.root / f"run/{APP}/tls-green/pair.pem"
    before = copy.read_bytes()
    assert roll("A").run()["way"] == "reload"
    assert len(reloads) == 1
    assert copy.read_bytes() != before
    assert roll("A").run()["changed"] is False


def test_a_broken_certificate_is_not_reloaded(at_rest: Host, roll: Roll, speak_tls: Callable[..., None], reloads: list[str]) -> None:
    speak_tls("443")
    roll("A").run()
    (at_rest.root / "host/privkey.pem").write_text("")
    (Path(at_rest.layout.next) / "gunicorn.conf.py").write_text("workers = 3")
    with pytest.raises(RolloutError, match=r"slot green serves on as before: .*privkey.pem is not a private key in PEM form"):
        roll("A").run()
    assert reloads == []
    assert (Path(at_rest.layout.settings("green")) / "gunicorn.conf.py").read_text() != "workers = 3"
    with pytest.raises(RolloutError, match="asgi_service_tls_certificate"):
        roll("B").run()
    assert at_rest.serving() == "A"


# An interruption


def filled(host: Host) -> bool:
    """Give the idle slot its settings; returns whether it has them."""
    copy_settings(host.layout.next, host.layout, "green")
    host.events.clear()
    return os.path.exists(host.layout.unit_file("green", "service"))


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (lambda host: host.enabled.clear(), "slot blue is not started at boot"),
        (lambda host: os.unlink(host.layout.live_socket), "/live.sock is missing, and has to be a link to"),
        (lambda host: host.enabled.discard("shop@blue.socket"), "slot blue is not started at boot"),
        (lambda host: filled(host) and host.start("shop@green.socket"), "idle slot green still runs"),
        (
            lambda host: filled(host) and host.enabled.update({"shop@green.service", "shop@green.socket"}),
            "idle slot green is started at boot",
        ),
        (
            lambda host: filled(host) and (host.start("shop@green.socket"), host.start("shop@green.service")),
            "idle slot green still runs",
        ),
    ],
)
def test_what_an_interrupted_run_left_is_put_in_order(
    at_rest: Host,
    roll: Roll,
    happens: Callable[[Host], object],
    said: str,
) -> None:
    happens(at_rest)
    foretold = roll("A").preview()
    assert at_rest.events == []
    result = roll("A").run()
    assert said in result["reason"]
    assert result["changed"] is foretold["changed"] is True
    assert result["reason"] == foretold["reason"]
    assert (result["slot"], at_rest.serving()) == ("blue", "A")
    settled(at_rest)
    assert roll("A").run()["changed"] is False


def settled(host: Host) -> None:
    """Assert that the host is as a rollout leaves it, once the old slot has drained."""
    live = host.live
    assert host.weight.get(f"{APP}@{live}.service") == "CPUWeight="
    idle = "green" if live == "blue" else "blue"
    assert host.starts_at_boot(live) == {"service", "socket"}
    assert host.starts_at_boot(idle) == set()
    if host.runs(idle):
        assert host.drains(idle)
        host.end_drain(idle)
    assert not host.listens(idle)


def interrupted(host: Host, rollout: Rollout, at: int) -> bool:
    """Run until the event of this number; returns whether it came that far."""
    host.events.clear()
    host.cut_at = at
    try:
        rollout.run()
        return False
    except Cut:
        return True
    finally:
        host.cut_at, host.dead = -1, False


@pytest.mark.parametrize("power_fails", [False, True], ids=["killed", "power failure"])
@pytest.mark.parametrize("then", ["B", "A"], ids=["the same again", "back"])
def test_an_interruption_at_any_event_costs_nothing(
    host: Host,
    roll: Roll,
    clock: Clock,
    power_fails: bool,
    then: str,
) -> None:
    """Neither a kill nor a power failure takes the application down, and the next run puts everything in order."""
    roll("A").run()

    def drains_end() -> None:
        for slot in ("blue", "green"):
            if host.drains(slot):
                host.end_drain(slot)

    clock.while_asleep = drains_end
    for event in range(1000):
        if host.serving() != "A":
            roll("A").run()
        settled(host)
        if not interrupted(host, roll("B"), event):
            break
        where = f"cut at {event}, after {host.events[-1:]}"
        if power_fails:
            host.reboot()
        assert host.serving() in ("A", "B"), where
        serving = host.serving()
        result = roll(then).run()
        assert host.serving() == then, where
        assert result["previous"]["release"] == host.release(serving), where
        settled(host)
        assert roll(then).run()["changed"] is False, where
    assert event > 15, "the events of a whole rollout"


@pytest.mark.parametrize("power_fails", [False, True], ids=["killed", "power failure"])
def test_a_first_rollout_can_be_interrupted_too(host: Host, roll: Roll, power_fails: bool) -> None:
    for event in range(1000):
        if not interrupted(host, roll("A"), event):
            break
        if power_fails:
            host.reboot()
        assert host.serving() in ("A", "") if not host.live else host.serving() == "A"
        roll("A").run()
        assert host.serving() == "A"
        settled(host)
        # A host as new.
        for unit in list(host.state):
            host.stop(unit)
        host.enabled.clear()
        shutil.rmtree(host.root / f"opt/{APP}/slots")
        for slot in ("blue", "green"):
            os.makedirs(f"{host.layout.slots}/{slot}")
    assert event > 10


@pytest.mark.parametrize("power_fails", [False, True], ids=["killed", "power failure"])
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_switching_tls_can_be_interrupted(
    at_rest: Host, roll: Roll, clock: Clock, speak_tls: Callable[..., None], power_fails: bool, on: bool
) -> None:
    def drains_end() -> None:
        for slot in ("blue", "green"):
            if at_rest.drains(slot):
                at_rest.end_drain(slot)

    clock.while_asleep = drains_end
    before, after = ((), ("443",)) if on else (("443",), ())
    for event in range(1000):
        speak_tls(*before)
        roll("A").run()
        settled(at_rest)
        speak_tls(*after)
        if not interrupted(at_rest, roll("A"), event):
            break
        where = f"cut at {event}, after {at_rest.events[-1:]}"
        if power_fails:
            at_rest.reboot()
        assert at_rest.serving() == "A", where
        roll("A").run()
        assert at_rest.serving() == "A", where
        listening = {unit for unit, state in tls_units(at_rest).items() if state == "active" and unit.endswith(".socket")}
        assert listening == {f"{APP}-tls-{address}.socket" for address in after}, where
        assert bool(tls_units(at_rest)) is on, where
        settled(at_rest)
        assert roll("A").run()["changed"] is False, where
    assert event > 15, "the events of a whole rollout"


# The drain, which is a shell script

Drain = Callable[[int], Callable[[float], str | None]]


def as_systemd_expands(word: str) -> str:
    """What systemd makes of a word of a command: it puts in variables (none is set), and one dollar sign for two."""
    return re.sub(r"\$(\$|\w+|\{\w+\})", lambda found: "$" if found[1] == "$" else "", word)


@pytest.fixture
def drain(at_rest: Host, roll: Roll, short_path: Path) -> Iterator[Drain]:
    """Run the drain of slot blue that a rollout would start; returns a way to wait for the arguments of systemctl."""
    at_rest.stop("shop@blue.service")
    at_rest.start("shop@blue.service")
    programs, log = short_path / "bin", short_path / "called"
    programs.mkdir()
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$*" >{log}\n')
    (programs / "systemctl").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    running: list[subprocess.Popen[bytes]] = []

    def begin(timeout: int) -> Callable[[float], str | None]:
        roll("B", drain_timeout=timeout).run()
        command = list(map(as_systemd_expands, at_rest.drain_command[at_rest.drain_command.index("/bin/sh") :]))
        process = subprocess.Popen(command, env=environment)
        running.append(process)

        def ended(within: float) -> str | None:
            try:
                assert process.wait(within) == 0
            except subprocess.TimeoutExpired:
                return None
            return log.read_text().strip()

        return ended

    yield begin
    for process in running:
        process.kill()
        process.wait()


def test_a_slot_without_connections_is_stopped_at_once(drain: Drain) -> None:
    # Connections to others are none of its business.
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert drain(30)(5) == "stop shop@blue.socket shop@blue.service"


def test_a_slot_is_stopped_when_its_last_connection_has_ended(at_rest: Host, drain: Drain) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(at_rest.layout.socket("blue"))
        ended = drain(30)
        assert ended(0.3) is None
    assert ended(5) == "stop shop@blue.socket shop@blue.service"


def test_a_slot_with_a_connection_that_nobody_has_accepted_is_not_stopped(at_rest: Host, drain: Drain) -> None:
    ended = drain(30)
    assert ended(5)
    at_rest.stop("shop@blue.service")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        os.unlink(at_rest.layout.socket("blue"))
        listener.bind(at_rest.layout.socket("blue"))
        listener.listen()
        client.connect(at_rest.layout.socket("blue"))
        assert drain(1)(0.5) is None


def test_a_connection_that_stays_is_closed_when_its_time_is_over(
    at_rest: Host, drain: Callable[[int], Callable[[float], str | None]]
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(at_rest.layout.socket("blue"))
        begun = time.monotonic()
        assert drain(1)(5) == "stop shop@blue.socket shop@blue.service"
        assert time.monotonic() - begun > 0.9
