# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command as the application runs: as its user, with its environment, its limits and its sandbox.

What a slot is started with is a unit of systemd's. The command gets a unit of its own that is the same but for what makes a server
of it. So nothing can differ by mistake, and what is forbidden to the application is forbidden to its migrations too.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .slots import Layout, contents
from .units import Systemd, UnitError

# What is the server's alone: how it is started, watched, reloaded, stopped and started again (systemd.service(5)).
_SERVER_ONLY = re.compile(
    r"(Type|NotifyAccess|Exec(?!StartPre=/usr/bin/mkdir )\w+|KillMode|Timeout\w+|Restart\w*|SuccessExitStatus|Watchdog\w+|"
    r"Runtime\w+Sec|Sockets)="
)
# What the role starts a server with: what gives it the application's environment, and its interpreter.
_STARTED = re.compile(r"ExecStart=[-+!:@]*(/bin/sh -ac '[^']*' \S+ )?(\S+)")
_CONTROL = re.compile(r"[\x01-\x1f\x7f]")
_LINES = 500
# Words that stand for something only in a shell.
_OF_A_SHELL = frozenset(["&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1"])


class CommandError(Exception):
    """The command did not succeed. `output` is what it wrote; the message has the end of that."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


@dataclass(frozen=True)
class Surroundings:
    """What a command runs in: a file with a slot's unit, the settings that belong to it, and a release ('' where the unit names none)."""

    unit: str
    settings: str
    release: str

    @classmethod
    def of_slot(cls, layout: Layout, slot: str) -> Surroundings:
        return cls(layout.unit_file(slot, "service"), layout.settings(slot), layout.release_of(slot))

    @classmethod
    def of_next(cls, layout: Layout, release: str) -> Surroundings:
        return cls(f"{layout.next}/service", layout.next, release)


def argv(command: object) -> list[str]:
    """Return the words of a command that is a list of words, or a text that is split as a shell would. Raises CommandError for none."""
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError as error:
        raise CommandError(f"the command {command!r} cannot be split into words: {error}. Close the quote.") from None
    if not isinstance(words, list) or not words or not all(isinstance(word, str | int | float) for word in words) or not str(words[0]):
        raise CommandError(f"{command!r} is not a command. Write it as one line, or as a list of its words.")
    if any("\0" in str(word) for word in words):
        raise CommandError(f"the command {command!r} has a character that no argument can have. Leave it out.")
    if isinstance(command, str) and _OF_A_SHELL & set(words):
        raise CommandError(
            f"the command {command!r} is one that only a shell understands, and there is none. Make it several commands, or write "
            "[sh, -c, COMMAND]."
        )
    return [str(word) for word in words]


def quoted(argument: str) -> str:
    """Return one argument as systemd wants it in a command line (systemd.service(5), COMMAND LINES)."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("%", "%%")
    # A carriage return ends a line too, and what follows would be a directive of the unit's own.
    plain = _CONTROL.sub(lambda found: "\\x" + format(ord(found.group()), "02x"), escaped)
    return f'"{plain}"'


def command_unit(text: str, layout: Layout, around: Surroundings, name: str, command: Sequence[str], timeout: int) -> str:
    """Return the text of a unit that runs `command` as the unit in `text` runs its server, for at most `timeout` seconds.

    A command without a slash is looked for in the virtual environment first. Raises CommandError where there is none of that name.
    """
    if around.release:
        text = text.replace(f"{layout.slots}/%i/release", around.release)
    text = text.replace(f"/etc/{layout.app}/%i", around.settings).replace("%i", name)
    # Where systemd ends a line, and nowhere else: a value may have what is a line's end for Python alone.
    lines = re.split(r"\r\n|\n|\r", text.replace("\\\n", " "))
    # A unit that an earlier version has written names the server alone.
    started = [found.groups("") for found in map(_STARTED.match, lines) if found]
    entry, server = started[0] if started else ("", "/usr/bin/python3")
    programs = os.path.dirname(server)
    path = [programs, "/usr/local/bin", "/usr/bin", "/bin"]
    service = lines[lines.index("[Service]") + 1 :]
    end = next((index for index, line in enumerate(service) if line.startswith("[")), len(service))
    kept = [line for line in service[:end] if not _SERVER_ONLY.match(line)]
    return "\n".join(
        [
            "[Unit]",
            f"Description={layout.app}: {name}",
            "[Service]",
            *kept,
            f"Environment=PATH={':'.join(path)}",
            "Type=oneshot",
            # Where memory is short, this is what the kernel kills, and not what serves.
            "OOMScoreAdjust=1000",
            f"TimeoutStartSec={timeout}",
            # A colon: no dollar sign is replaced.
            f"ExecStart=:{entry}{' '.join(map(quoted, [find_program(command[0], path), *command[1:]]))}",
            "",
        ]
    )


def find_program(name: str, path: Sequence[str]) -> str:
    """Return the path of a program, as systemd wants it. Raises CommandError where it is in none of the directories."""
    if "/" in name:
        return name
    for directory in path:
        if os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    raise CommandError(f"there is no program {name} in {', '.join(path)}. Give its whole path, or name a program of the application's.")


def run_in_unit(systemd: Systemd, layout: Layout, around: Surroundings, command: Sequence[str], timeout: int, kind: str = "") -> str:
    """Run a command in those surroundings and return what it wrote, standard output and errors in their order.

    `kind` is a part of the unit's name. Raises CommandError when it fails or takes longer than `timeout` seconds; then it has been stopped.
    """
    text = contents(around.unit)
    if text is None:
        raise CommandError(f"there is no {around.unit} on this host. Apply the role asgi_service first.")
    units = f"{layout.root}/run/systemd/system"
    remove_leftovers(systemd, layout, units)
    name = f"command-{kind and f'{kind}-'}{os.getpid()}-{time.monotonic_ns()}"
    unit = f"{layout.app}-{name}.service"
    content = command_unit(text.decode(), layout, around, name, command, timeout)
    os.makedirs(units, mode=0o755, exist_ok=True)
    with open(f"{units}/{unit}", "w", encoding="utf-8") as stream:
        stream.write(content)
    began = time.time()
    try:
        systemd.call("daemon-reload")
        try:
            # Once, whatever becomes of the connection to systemd: what a migration does must not be done twice.
            systemd.run(["systemctl", "start", unit])
        except UnitError:
            state = systemd.show(unit, "Result", "ExecMainStatus")
            output = systemd.journal(unit, began, _LINES)
            why = f"it was not done after {timeout} s" if state["Result"] == "timeout" else f"it ended with {state['ExecMainStatus']}"
            raise CommandError(f"'{' '.join(command)}' failed: {why} ({state['Result']}). It wrote:\n{output}", output) from None
        return systemd.journal(unit, began, _LINES, own=True)
    finally:
        remove(systemd, f"{units}/{unit}")


def remove(systemd: Systemd, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with contextlib.suppress(UnitError):
        systemd.call("reset-failed", os.path.basename(path))


def remove_leftovers(systemd: Systemd, layout: Layout, units: str) -> None:
    """Remove the units of commands whose caller was killed, once they have ended by themselves."""
    for path in glob.glob(f"{units}/{layout.app}-command-*-*.service"):
        if systemd.show(os.path.basename(path), "ActiveState")["ActiveState"] in ("inactive", "failed"):
            remove(systemd, path)
