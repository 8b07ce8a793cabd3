# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send a server its reload signal and wait until a whole new generation of workers serves.

Used by the module asgi_reload. The role asgi_service also installs it on the host, beside the modules that it imports, where
`systemctl reload` runs it as a program. So it needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from . import processes
from .readiness import Progress, Target, probe


class ReloadError(Exception):
    """The new generation was not adopted."""


@dataclass
class Host:
    """What the reload needs of the machine, so that the tests can give something else."""

    children: Callable[[int], list[int]] = processes.children
    alive: Callable[[int], bool] = processes.alive
    listening: Callable[[int, str], set[int]] = processes.listening_inodes
    holds: Callable[[int, Iterable[int]], bool] = processes.holds
    kill: Callable[[int, int], None] = os.kill
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Reload:
    """One reload of one master.

    Every new worker must become ready, and there must be as many as `progress.workers` says. `main_pid` returns the master's
    PID now, 0 if there is none, and so notices a master that has died and been started again.
    """

    master: int
    target: Target
    main_pid: Callable[[], int]
    progress: Progress
    timeout: float
    signal: int = signal.SIGHUP
    host: Host = field(default_factory=Host)
    old: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    draining: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def run(self) -> None:
        """Return when every new worker is ready and every old one is gone, or no longer accepts. Raises ReloadError."""
        host = self.host
        self.old = host.children(self.master)
        if not self.old:
            raise ReloadError(f"the process {self.master} has no workers, so the signal would end it")
        # How many there were says nothing: some may still drain, others never booted, and the new settings may ask for fewer.
        wanted = max(1, self.progress.workers)
        begun = host.clock()
        try:
            host.kill(self.master, self.signal)
            while not self.adopted(begun + self.timeout - host.clock(), wanted):
                if host.clock() - begun > self.timeout:
                    raise ReloadError(f"the new workers did not take over within {self.timeout:g} s: {self.summary()}")
                host.sleep(0.1)
        finally:
            self.seconds = round(host.clock() - begun, 2)

    def adopted(self, remaining: float, wanted: int) -> bool:
        """Look once; return whether the new generation, of at least `wanted` workers, has taken over."""
        host = self.host
        if self.main_pid() != self.master or not host.alive(self.master):
            raise ReloadError(f"the master {self.master} ended during the reload")
        current = host.children(self.master)
        self.new = [pid for pid in current if pid not in self.old]
        remaining_old = [pid for pid in current if pid in self.old]
        self.progress.forget(self.new)
        self.progress.workers = max(wanted, len(self.new))
        if not self.new:
            return False
        inodes = host.listening(self.master, self.target.socket) if self.target.socket else set()
        self.draining = [pid for pid in remaining_old if inodes and not host.holds(pid, inodes)]
        alone = len(self.draining) == len(remaining_old)
        for answer in probe(self.target, self.progress, min(5.0, max(0.5, remaining)), [*current, self.master]):
            # While an old worker accepts, it may be the one that answers; that says nothing about the new ones.
            if answer.pid in self.new or (alone and not answer.traced):
                self.progress.note(answer)
        return alone and self.progress.complete

    def summary(self) -> str:
        left = [pid for pid in self.old if self.host.alive(pid) and pid not in self.draining]
        return f"{self.progress.summary()}. Old workers that still accept: {left or 'none'}; new ones: {self.new or 'none'}"


def main(arguments: list[str] | None = None) -> int:
    """The program behind `systemctl reload`. Returns 0 when the new generation serves, 1 and a message when it does not."""
    parser = argparse.ArgumentParser(description="Reload an ASGI server and wait for its new workers.")
    parser.add_argument("--pid", type=int, required=True, help="the master process")
    parser.add_argument("--socket", required=True, help="path of the unix socket that the workers accept from")
    parser.add_argument("--path", default="/ready", help="what is asked")
    parser.add_argument("--host", default="localhost", help="the Host header of that request")
    parser.add_argument("--status", default="200", help="the status codes that mean ready, with commas between them")
    parser.add_argument("--timeout", type=float, default=60, help="seconds until the new workers must serve")
    parser.add_argument("--workers", type=int, default=0, help="how many new workers there must be at least")
    options = parser.parse_args(arguments)
    master: int = options.pid
    reload = Reload(
        master=master,
        target=Target(socket=options.socket, path=options.path, host=options.host),
        main_pid=lambda: master,
        progress=Progress(workers=options.workers, accepted=frozenset(map(int, options.status.split(",")))),
        timeout=options.timeout,
    )
    try:
        reload.run()
    except (ReloadError, OSError) as error:
        print(f"reload failed: {error}", file=sys.stderr)
        return 1
    print(f"{len(reload.new)} new workers serve after {reload.seconds} s and {reload.progress.attempts} attempts")
    return 0


def describe(reload: Reload) -> dict[str, Any]:
    """Return the values that a module reports of a reload, however it ended."""
    return {
        "old_pids": reload.old,
        "new_pids": reload.new,
        "draining_pids": reload.draining,
        "attempts": reload.progress.attempts,
        "seconds": reload.seconds,
        "answer": reload.progress.last.summary(),
    }


if __name__ == "__main__":
    sys.exit(main())
