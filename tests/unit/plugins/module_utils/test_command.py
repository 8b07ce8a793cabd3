"""The unit that a command is run in: the service's, but for what makes a server of it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.command import (
    CommandError,
    Surroundings,
    argv,
    command_unit,
    quoted,
    run_in_unit,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd

SERVICE = r"""[Unit]
Description=shop: slot %i
Requires=shop@%i.socket

[Service]
Type=notify
NotifyAccess=main
User=shop
WorkingDirectory=/opt/shop/slots/%i/release/app
Environment=ASGI_SLOT=%i
EnvironmentFile=/etc/shop/%i/env
ExecStart=/opt/shop/slots/%i/release/.venv/bin/python -m gunicorn --config /etc/shop/%i/gunicorn.conf.py \
    app.main:app
ExecStartPost=+/usr/bin/env PYTHONPATH=/opt/shop /usr/bin/python3 -P -m lib.boot \
    --workers 2
ExecReload=/bin/true
KillMode=mixed
TimeoutStartSec=70
TimeoutStopSec=40
Restart=always
RestartSec=2
RuntimeDirectory=shop/%i shop/%i/metrics
RuntimeDirectoryMode=0750
RestrictSUIDSGID=true
NoNewPrivileges=true

[Install]
WantedBy=multi-user.target
"""


@pytest.fixture
def layout() -> Layout:
    return Layout("shop", "")


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    programs = tmp_path / "release/.venv/bin"
    programs.mkdir(parents=True)
    (programs / "alembic").touch(mode=0o755)
    return Surroundings("", "/etc/shop/next", str(tmp_path / "release"))


def test_all_but_the_server_is_kept(layout: Layout, around: Surroundings) -> None:
    text = command_unit(SERVICE, layout, around, "command-1", ["alembic", "upgrade", "head"], 600)
    assert text.splitlines() == [
        "[Unit]",
        "Description=shop: command-1",
        "[Service]",
        "User=shop",
        f"WorkingDirectory={around.release}/app",
        "Environment=ASGI_SLOT=command-1",
        "EnvironmentFile=/etc/shop/next/env",
        "RuntimeDirectory=shop/command-1 shop/command-1/metrics",
        "RuntimeDirectoryMode=0750",
        "RestrictSUIDSGID=true",
        "NoNewPrivileges=true",
        "",
        f"Environment=PATH={around.release}/.venv/bin:/usr/local/bin:/usr/bin:/bin",
        "Type=oneshot",
        "OOMScoreAdjust=1000",
        "TimeoutStartSec=600",
        f'ExecStart=:"{around.release}/.venv/bin/alembic" "upgrade" "head"',
    ]


def test_a_virtual_environment_of_one_s_own(layout: Layout, around: Surroundings) -> None:
    own = SERVICE.replace("/opt/shop/slots/%i/release/.venv", f"{around.release}/.venv").replace("ExecStart=", "ExecStart=-")
    text = command_unit(own, layout, Surroundings("", "/etc/shop/blue", ""), "command-1", ["alembic"], 1)
    assert f'ExecStart=:"{around.release}/.venv/bin/alembic"' in text.splitlines()


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_value_of_the_unit_does_not_become_a_line_of_it(layout: Layout, around: Surroundings, end: str) -> None:
    """Python takes more characters for the end of a line than systemd does."""
    value = f"Environment=NAME=x{end}ExecStartPre=+/bin/false"
    text = command_unit(SERVICE.replace("KillMode=mixed", value), layout, around, "command-1", ["alembic"], 1)
    assert value in text.split("\n")


def test_a_program_that_is_not_there_is_named(layout: Layout, around: Surroundings) -> None:
    with pytest.raises(CommandError, match=r"no program nonesuch in .*/release/\.venv/bin"):
        command_unit(SERVICE, layout, around, "command-1", ["nonesuch"], 1)


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("plain", '"plain"'),
        ("two words", '"two words"'),
        ("100% $HOME", '"100%% $HOME"'),
        ('a "b" \\c', r'"a \"b\" \\c"'),
        ("two\nlines", r'"two\nlines"'),
        ("x\rExecStartPre=+/bin/false", r'"x\x0dExecStartPre=+/bin/false"'),
        ("\x0b\x0c\x1b\x7f", r'"\x0b\x0c\x1b\x7f"'),
    ],
)
def test_arguments_reach_the_program_as_they_are(argument: str, line: str) -> None:
    assert quoted(argument) == line


@pytest.mark.parametrize(
    ("command", "expected"),
    [("a 'b c'  d", ["a", "b c", "d"]), (["a", "b c"], ["a", "b c"]), (["sleep", 5], ["sleep", "5"])],
)
def test_commands_are_texts_or_lists(command: object, expected: list[str]) -> None:
    assert argv(command) == expected


@pytest.mark.parametrize("command", ["", "   ", [], [""], {"a": 1}, 5, None, [["a"]]])
def test_what_is_no_command_is_refused(command: object) -> None:
    with pytest.raises(CommandError, match="is not a command"):
        argv(command)


@pytest.mark.parametrize(
    ("command", "said"),
    [("'open", "Close the quote"), ("npm ci && npm run build", "only a shell"), (["a\0b"], "no argument can have")],
)
def test_what_no_program_can_be_given_is_refused(command: object, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        argv(command)
    assert argv(["sh", "-c", "a && b"]) == ["sh", "-c", "a && b"]


class Recorded:
    """systemctl that notes what it was asked, and fails where it is told to."""

    def __init__(self, result: str = "", after: str = "inactive") -> None:
        self.asked: list[str] = []
        self.result = result
        self.after = after

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        line = " ".join(command)
        self.asked.append(line)
        if command[:2] == ["systemctl", "start"]:
            return subprocess.CompletedProcess(list(command), 1 if self.result else 0, "", "")
        if command[1] == "show":
            return subprocess.CompletedProcess(list(command), 0, f"ActiveState={self.after}\nResult={self.result}\nExecMainStatus=3\n", "")
        return subprocess.CompletedProcess(list(command), 0, "what it wrote" if "--output=cat" in line else "", "")


@pytest.fixture
def rooted(tmp_path: Path, around: Surroundings) -> tuple[Layout, Surroundings, Path]:
    unit = tmp_path / "service"
    unit.write_text(SERVICE.replace("/opt/shop", f"{tmp_path}/opt/shop"))
    return Layout("shop", str(tmp_path)), Surroundings(str(unit), around.settings, around.release), tmp_path / "run/systemd/system"


def test_it_is_run_and_its_unit_removed(rooted: tuple[Layout, Surroundings, Path]) -> None:
    layout, around, units = rooted
    systemctl = Recorded()
    assert run_in_unit(Systemd(systemctl), layout, around, ["alembic"], 5) == "what it wrote"
    assert " _SYSTEMD_UNIT=shop-command-" in systemctl.asked[-2], "without what systemd says of it"
    assert [line.split()[1] for line in systemctl.asked[:2]] == ["daemon-reload", "start"]
    assert list(units.iterdir()) == []


@pytest.mark.parametrize(("result", "said"), [("exit-code", r"it ended with 3 \(exit-code\)"), ("timeout", "it was not done after 5 s")])
def test_a_failure_is_told_with_its_words(rooted: tuple[Layout, Surroundings, Path], result: str, said: str) -> None:
    layout, around, units = rooted
    with pytest.raises(CommandError, match=said) as failed:
        run_in_unit(Systemd(Recorded(result)), layout, around, ["alembic"], 5)
    assert failed.value.output == "what it wrote"
    assert list(units.iterdir()) == []


@pytest.mark.parametrize(("state", "left"), [("inactive", False), ("failed", False), ("activating", True)])
def test_what_a_killed_run_has_left_goes_when_it_has_ended(rooted: tuple[Layout, Surroundings, Path], state: str, left: bool) -> None:
    layout, around, units = rooted
    units.mkdir(parents=True)
    (units / "shop-command-1-2.service").touch()
    (units / "shop-command@blue.service").touch()
    run_in_unit(Systemd(Recorded(after=state)), layout, around, ["alembic"], 5)
    assert (units / "shop-command-1-2.service").exists() is left
    assert (units / "shop-command@blue.service").exists(), "another application's"


def test_without_units_the_role_is_named(rooted: tuple[Layout, Surroundings, Path]) -> None:
    layout, around, _ = rooted
    with pytest.raises(CommandError, match="asgi_service"):
        run_in_unit(Systemd(Recorded()), layout, Surroundings("/nowhere", around.settings, around.release), ["alembic"], 5)


@pytest.mark.parametrize("start", ["", """:/bin/sh -ac '. "$0" && exec "$@"' /etc/shop/%i/env """])
def test_a_command_gets_its_environment_as_the_server_does(layout: Layout, around: Surroundings, start: str) -> None:
    """Also where a unit of an earlier version still runs."""
    text = SERVICE.replace("ExecStart=", f"ExecStart={start}").replace(
        "ExecStartPost", "ExecStartPre=/usr/bin/mkdir -p /run/shop/%i/metrics\nExecStartPre=+/usr/bin/env\nExecStartPost"
    )
    if start:
        text = text.replace("EnvironmentFile=/etc/shop/%i/env\n", "")
    lines = command_unit(text, layout, around, "command-1", ["env", "$HOME"], 5).splitlines()
    [command] = [line for line in lines if line.startswith("ExecStart=")]
    entry = start.removeprefix(":").replace("/etc/shop/%i", around.settings)
    assert command == f'ExecStart=:{entry}"/usr/bin/env" "$HOME"'
    assert ("EnvironmentFile=" in "".join(lines)) is not bool(start)
    # What the application's directory lacks is made; nothing else of the server's is run.
    assert [line for line in lines if line.startswith("ExecStartP")] == ["ExecStartPre=/usr/bin/mkdir -p /run/shop/command-1/metrics"]
