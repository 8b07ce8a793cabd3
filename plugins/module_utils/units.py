# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The little of systemd that the modules need: properties, processes and journal of a unit."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .logs import readable

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


# What systemctl says where systemd has left the connection, as it does for a moment when it starts itself anew (daemon-reexec, which an
# update of systemd ends with).
_LEFT = re.compile(
    r"Transport endpoint is not connected|Connection reset by peer|Connection terminated|Broken pipe|Remote peer disconnected|"
    r"Message recipient disconnected|Failed to connect to .*bus"
)
_ATTEMPTS = 8
# Bytes of what a program wrote.
_OUTPUT_LIMIT = 1 << 20


class UnitError(Exception):
    """systemctl refused. The message holds the command and what it said."""


def survive_disconnect() -> None:
    """Leave the session of the connection, so that its end does not end what this process does half way."""
    with contextlib.suppress(OSError):
        os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `command` without a shell and return its result whatever its code, with the end of what it wrote."""
    with subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with ThreadPoolExecutor(2) as pool:
            stdout, stderr = pool.map(_tail, (process.stdout, process.stderr))
        return subprocess.CompletedProcess(command, process.wait(), stdout, stderr)


def _tail(stream: Any) -> str:
    """Read a stream to its end, keeping no more than the last of it: how much an application logs is its own choice."""
    kept = b""
    while chunk := stream.read1(_OUTPUT_LIMIT):
        kept = (kept + chunk)[-_OUTPUT_LIMIT:]
    return kept.decode("utf-8", "replace")


def output_of(command: Sequence[str], result: subprocess.CompletedProcess[str]) -> str:
    """Return what a command wrote. Raises UnitError where it failed."""
    if result.returncode != 0:
        raise UnitError(f"'{' '.join(command)}' failed: {(result.stderr or result.stdout).strip()}")
    return result.stdout


class Systemd:
    """systemctl and journalctl, with the runner given from outside."""

    def __init__(self, run: Run = run_command, sleep: Callable[[float], None] = time.sleep) -> None:
        self._run = run
        self._sleep = sleep

    def run(self, command: Sequence[str]) -> str:
        """Run any command once and return its output. Raises UnitError where it fails."""
        return output_of(command, self._run(command))

    def call(self, *arguments: str) -> str:
        """Run systemctl and return its output; where systemd has left it, again. So nothing may be called that must not be done twice.

        Raises UnitError where it fails.
        """
        command = ["systemctl", *arguments]
        return output_of(command, self._ask(command))

    def _ask(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        for _attempt in range(_ATTEMPTS - 1):
            result = self._run(command)
            if result.returncode == 0 or not _LEFT.search(result.stderr or ""):
                return result
            self._sleep(0.25)
        return self._run(command)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return the properties of a unit, each as systemd prints it. A unit that does not exist has them too."""
        output = self.call("show", f"--property={','.join(properties)}", unit)
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def enabled(self, unit: str) -> bool:
        """Return whether a unit is started at boot, by what is on disk. (A loaded unit's UnitFileState may be out of date.)"""
        return self._ask(["systemctl", "is-enabled", unit]).stdout.strip() == "enabled"

    def processes(self, unit: str) -> list[int]:
        """Return the processes of a unit, the main one included, in no particular order."""
        group = self.show(unit, "ControlGroup").get("ControlGroup", "")
        if not group:
            return []
        # cgroup v2, and the two places of systemd's own hierarchy under v1 (hybrid and legacy).
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
            try:
                with open(f"{root}{group}/cgroup.procs", encoding="ascii") as stream:
                    return [int(line) for line in stream]
            except OSError:
                continue
        return []

    def journal(self, unit: str, since: float, lines: int = 80, own: bool = False) -> str:
        """Return the last lines that a unit logged since a time (in seconds), the oldest first, as text for people.

        `own` leaves out what systemd says of the unit.
        """
        # The end of a process can be known before journald has read its last words.
        self._run(["journalctl", "--sync"])
        command = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={lines}", f"--since=@{int(since)}"]
        command.append(f"_SYSTEMD_UNIT={unit}")
        if not own:
            # As `--unit=` would (journalctl(1)), but not of process 1 alone: systemd listens in a process of its own where the unit has
            # rules for addresses, and that has often ended before journald can tell which unit it was of.
            command += [word for field in ("UNIT", "OBJECT_SYSTEMD_UNIT") for word in ("+", "_UID=0", f"{field}={unit}")]
        # A line of JSON may unfold to many. Of those the end matters most.
        return "\n".join(readable(self._run(command).stdout.strip()).splitlines()[-2 * lines :])
