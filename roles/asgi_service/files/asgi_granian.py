# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""granian on the socket that systemd has opened.

granian itself takes an address or a path, which it would have to bind anew. And it waits for open websockets without an end, which
are closed here when a worker is told to stop; granian sends no code with that.
The options are in granian.json beside this file, as granian.Granian takes them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
import granian._signals as signals  # noqa: E402
from asgi_entry import Entry, create  # noqa: E402
from granian._granian import SocketHolder, WorkerSignal  # noqa: E402
from granian.log import LogLevels  # noqa: E402
from granian.server import Server  # noqa: E402

# sd_listen_fds(3): the first one.
LISTENER = 3


class GranianEntry(Entry):
    """While an application waits for a message, granian sends nothing on that websocket, not even the end of it."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return
        waiting: asyncio.Future[Any] | None = None
        over = False

        async def receive_until_over() -> Any:
            nonlocal waiting
            if not over:
                waiting = asyncio.ensure_future(receive())
                try:
                    return await waiting
                except asyncio.CancelledError:
                    if not over:
                        raise
            return {"type": "websocket.disconnect", "code": 1012}

        async def send_or_end(message: dict[str, Any]) -> None:
            nonlocal over
            if message["type"] == "websocket.close" and waiting and not waiting.done():
                over = True
                waiting.cancel()
                # granian lets go of the connection in a thread of its own.
                await asyncio.sleep(0.05)
            await send(message)

        await super().__call__(scope, receive_until_over, send_or_end)

    async def farewell(self) -> None:
        self.leaving = True
        await asyncio.gather(*(websocket.close() for websocket in self.websockets))


_entries: list[Entry] = []


def load_application(*_: Any) -> Entry:
    """Import the application, in a worker. As for the other servers, modules are looked for in the working directory first."""
    sys.path.insert(0, os.getcwd())
    _entries.append(create(GranianEntry))
    return _entries[-1]


def set_loop_signals(loop: asyncio.AbstractEventLoop) -> Any:
    """granian's function of this name; at the end it says farewell to the websockets."""
    stop = WorkerSignal()
    tasks: list[asyncio.Task[None]] = []

    async def go() -> None:
        for entry in _entries:
            await entry.farewell()
        # What was sent is on its way through granian's own threads, which stop at once.
        await asyncio.sleep(0.2)
        stop.set()

    def leave() -> None:
        tasks.append(loop.create_task(go()))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    return stop


# Also where a worker is not forked but imports this file.
signals.set_loop_signals = set_loop_signals


class SocketServer(Server):  # type: ignore[misc]
    """granian's server with systemd's socket in the place of its own."""

    def _init_shared_socket(self) -> None:
        self._sso = socket.socket(fileno=LISTENER)
        self._sso.set_inheritable(True)
        self._shd = SocketHolder(LISTENER, True, self.backlog)
        self._sfd = LISTENER
        self._ssp = None


def main() -> None:
    options = json.loads((FOLDER / "granian.json").read_text(encoding="utf-8"))
    logging_file = FOLDER / "logging.json"
    options["log_dictconfig"] = json.loads(logging_file.read_text(encoding="utf-8"))
    options["log_level"] = LogLevels(options["log_level"])
    SocketServer("asgi_granian", **options).serve(target_loader=load_application)


if __name__ == "__main__":
    main()
