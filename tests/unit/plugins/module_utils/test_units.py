from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd, UnitError, run_command


class Recorder:
    """Answers every command alike and remembers it."""

    def __init__(self, stdout: str = "", stderr: str = "", code: int = 0) -> None:
        self.commands: list[list[str]] = []
        self._answer = (code, stdout, stderr)

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(command))
        code, stdout, stderr = self._answer
        return subprocess.CompletedProcess(list(command), code, stdout, stderr)


class Restarting(Recorder):
    """A systemd that starts itself anew while the first commands are on their way."""

    def __init__(self, stderr: str, until: int) -> None:
        super().__init__(stdout="ActiveState=active\n")
        self._refusal, self._until = stderr, until

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        done = super().__call__(command)
        return done if len(self.commands) > self._until else subprocess.CompletedProcess(list(command), 1, "", self._refusal)


@pytest.mark.parametrize(
    "said",
    [
        "Failed to start shop@blue.socket: Transport endpoint is not connected\nSee system logs for details.",
        "Failed to get properties: Connection reset by peer",
        "Failed to connect to system scope bus via local transport: Connection refused",
    ],
)
def test_a_systemd_that_starts_itself_anew_is_asked_again(said: str) -> None:
    slept: list[float] = []
    systemd = Restarting(said, until=2)
    assert Systemd(systemd, slept.append).show("shop@blue.service", "ActiveState") == {"ActiveState": "active"}
    assert len(systemd.commands) == 3
    assert sum(slept) < 1
    gone = Restarting(said, until=1000)
    with pytest.raises(UnitError, match=said.splitlines()[0]):
        Systemd(gone, slept.append).call("start", "shop@blue.socket")
    assert sum(slept) < 5


def test_what_systemd_refuses_and_what_must_not_be_done_twice_is_asked_once() -> None:
    slept: list[float] = []
    refused = Restarting("Job for shop@blue.service failed.", until=1)
    with pytest.raises(UnitError, match="Job for"):
        Systemd(refused, slept.append).call("start", "shop@blue.service")
    left = Restarting("Connection reset by peer", until=1)
    with pytest.raises(UnitError, match="Connection reset by peer"):
        Systemd(left, slept.append).run(["systemctl", "start", "shop-command-1.service"])
    assert (len(refused.commands), len(left.commands), slept) == (1, 1, [])


def test_a_command_is_run_without_a_shell_and_without_input() -> None:
    # Ansible feeds a module through its standard input; a command must not eat what is left there.
    kept = os.dup(0)
    reader, writer = os.pipe()
    os.write(writer, b"not for you")
    os.close(writer)
    os.dup2(reader, 0)
    try:
        done = run_command(["sh", "-c", 'cat; echo "$1"; echo oops >&2; exit 7', "sh", "$HOME; *"])
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(reader)
    assert (done.returncode, done.stdout, done.stderr) == (7, "$HOME; *\n", "oops\n")


def test_output_need_not_be_utf_8() -> None:
    assert run_command(["printf", r"caf\351"]).stdout == "caf\ufffd"


def test_what_systemctl_refuses_is_raised_with_its_words() -> None:
    for recorder in (
        Recorder(stderr="Unit x.service not found.\n", code=5),
        Recorder("Unit x.service not found.", code=5),
    ):
        with pytest.raises(UnitError, match=r"'systemctl start x\.service' failed: Unit x\.service not found\.\Z"):
            Systemd(recorder).call("start", "x.service")


def test_output_is_returned() -> None:
    recorder = Recorder("said\n")
    assert Systemd(recorder).call("list-units") == "said\n"
    assert Systemd(recorder).run(["journalctl", "--sync"]) == "said\n"
    assert recorder.commands == [["systemctl", "list-units"], ["journalctl", "--sync"]]


def test_properties_are_returned_as_systemd_prints_them() -> None:
    recorder = Recorder("ActiveState=active\nEnvironment=A=1 B=2\nResult=\nExecMainStatus=0\n")
    properties = Systemd(recorder).show("shop@blue.service", "ActiveState", "Environment", "Result")
    assert properties == {"ActiveState": "active", "Environment": "A=1 B=2", "Result": "", "ExecMainStatus": "0"}
    (command,) = recorder.commands
    assert command[:2] == ["systemctl", "show"]
    assert "--property=ActiveState,Environment,Result" in command
    assert command[-1] == "shop@blue.service"


@pytest.mark.parametrize(
    ("said", "code", "enabled"),
    [
        ("enabled\n", 0, True),
        ("disabled\n", 1, False),
        ("enabled-runtime\n", 0, False),
        ("static\n", 0, False),
        ("", 1, False),
    ],
)
def test_enabled_is_what_outlasts_a_reboot(said: str, code: int, enabled: bool) -> None:
    assert Systemd(Recorder(said, code=code)).enabled("shop@blue.service") is enabled


def own_control_group() -> str:
    """The control group of this process in the hierarchy that systemd would have."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controllers == "name=systemd":
            return path
    pytest.skip("no control groups here")


def test_processes_are_those_of_the_control_group() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        processes = Systemd(Recorder(f"ControlGroup={own_control_group()}\n")).processes("shop@blue.service")
    finally:
        child.kill()
        child.wait()
    assert {os.getpid(), child.pid} <= set(processes)


@pytest.mark.parametrize("group", ["", "/no/such/group.slice"])
def test_a_unit_that_does_not_run_has_no_processes(group: str) -> None:
    assert Systemd(Recorder(f"ControlGroup={group}\n")).processes("shop@blue.service") == []


def test_the_journal_is_that_of_the_unit_from_a_time_on() -> None:
    """By time and not by invocation: a service that crashed and was started again is another invocation of it."""
    recorder = Recorder("\nImportError: no module\n\n")
    assert Systemd(recorder).journal("shop@blue.service", since=1234.9, lines=7) == "ImportError: no module"
    assert recorder.commands[0] == ["journalctl", "--sync"]
    [command] = recorder.commands[1:]
    assert "--lines=7" in command
    unit = "shop@blue.service"
    assert command[-7:] == [f"_SYSTEMD_UNIT={unit}", "+", "_UID=0", f"UNIT={unit}", "+", "_UID=0", f"OBJECT_SYSTEMD_UNIT={unit}"]
    # What was logged within the second is rather told twice than not at all.
    assert "--since=@1234" in command


def test_of_what_a_program_writes_the_end_is_kept() -> None:
    done = run_command(["sh", "-c", "yes 0123456789 | head -c 20000000; echo end; yes no | head -c 3000000 >&2; exit 3"])
    assert done.returncode == 3
    assert done.stdout.endswith("end\n")
    assert (len(done.stdout), len(done.stderr)) == (1 << 20, 1 << 20)
