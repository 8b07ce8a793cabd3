# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until no connection to a slot is left that serves TLS itself.

The role asgi_service installs this on the host, where the unit that drains a slot runs it as a program. So it needs nothing but the
standard library.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

from . import processes


def unix_connections(table: bytes, path: str) -> bool:
    """Return whether /proc/net/unix has a connection to a socket: one under its name in the state 03 (SS_CONNECTED).

    Or 02 (SS_CONNECTING) while it waits in the queue, so nothing that a client has sent is overlooked.
    """
    for line in table.decode("utf-8", "replace").splitlines():
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == path and fields[4] == "0001" and fields[5] in ("02", "03"):
            return True
    return False


def tcp_connections(table: bytes, ports: Iterable[int]) -> set[int]:
    """Return the inodes of the connections to local ports in /proc/net/tcp or tcp6: those in the state 01 (ESTABLISHED).

    One that nobody has accepted has none. It is for the slot that is live.
    """
    wanted = {f"{port:04X}" for port in ports}
    rows = [line.split() for line in table.decode("ascii", "replace").splitlines()[1:]]
    return {int(row[9]) for row in rows if len(row) > 9 and row[3] == "01" and row[1].rpartition(":")[2] in wanted} - {0}


def busy(socket: str, ports: Iterable[int], master: int) -> bool:
    """Return whether a slot still has a connection."""
    if unix_connections(processes.read("/proc/self/net/unix"), socket):
        return True
    inodes = set().union(*(tcp_connections(processes.read(f"/proc/self/net/{table}"), ports) for table in ("tcp", "tcp6")))
    return bool(inodes) and any(processes.holds(pid, inodes) for pid in processes.children(master))


def main(arguments: list[str] | None = None) -> int:
    """Return when the slot has no connection any more, or the time is over."""
    parser = argparse.ArgumentParser(description="Wait until a slot has no connections any more.")
    parser.add_argument("--pid", type=int, required=True, help="the server's main process")
    parser.add_argument("--socket", required=True, help="path of the slot's unix socket")
    parser.add_argument("--ports", required=True, help="the ports that it serves TLS on, with commas between them")
    parser.add_argument("--timeout", type=float, required=True, help="seconds to wait at most")
    options = parser.parse_args(arguments)
    ports = [int(port) for port in options.ports.split(",")]
    # The workers look at the live link ten times a second, and accept until they have seen that it is another one's.
    time.sleep(min(0.5, options.timeout))
    deadline = time.monotonic() + options.timeout - 0.5
    while time.monotonic() < deadline and busy(options.socket, ports, options.pid):
        time.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
