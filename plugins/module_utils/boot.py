# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until every worker of a server that was just started is ready.

The role asgi_service installs it on the host, beside the modules that it imports. The unit runs it after the server, so that
`systemctl start`, and what is ordered after the unit at boot, wait for an application that serves and not for a process that
exists. So it needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from . import processes
from .readiness import Progress, Target, probe


class BootError(Exception):
    """The server is not ready."""


def wait(
    master: int,
    target: Target,
    progress: Progress,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when as many workers as `progress.workers` says have given a good answer. Raises BootError where they do not."""
    deadline = clock() + timeout
    while True:
        if not processes.alive(master):
            raise BootError(f"the server {master} ended while it booted")
        remaining = deadline - clock()
        if remaining <= 0:
            raise BootError(f"{timeout:g} s are over; {progress.summary()}")
        # A server without workers answers itself.
        pids = [master, *processes.children(master)]
        progress.forget(pids)
        for answer in probe(target, progress, min(5.0, max(0.5, remaining)), pids):
            progress.note(answer)
        if progress.complete:
            return
        sleep(0.1)


def main(arguments: list[str] | None = None) -> int:
    """The program behind `systemctl start`. Returns 0 when all workers are ready, 1 and a message when they are not."""
    parser = argparse.ArgumentParser(description="Wait until a server is ready.")
    parser.add_argument("--pid", type=int, required=True, help="the server's main process")
    parser.add_argument("--socket", required=True, help="path of the unix socket that the workers accept from")
    parser.add_argument("--path", default="/ready", help="what is asked")
    parser.add_argument("--host", default="localhost", help="the Host header of that request")
    parser.add_argument("--status", default="200", help="the status codes that mean ready, with commas between them")
    parser.add_argument("--timeout", type=float, default=60, help="seconds until every worker must be ready")
    parser.add_argument("--workers", type=int, default=1, help="how many there are")
    options = parser.parse_args(arguments)
    target = Target(socket=options.socket, path=options.path, host=options.host)
    progress = Progress(workers=options.workers, accepted=frozenset(map(int, options.status.split(","))))
    try:
        wait(options.pid, target, progress, options.timeout)
    except BootError as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    print(f"{options.workers} workers are ready after {progress.attempts} attempts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
