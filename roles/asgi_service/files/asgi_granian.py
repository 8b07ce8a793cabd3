# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""granian on the socket that systemd has opened.

granian itself takes an address or a path, which it would have to bind anew. And it waits for open websockets without an end, which
are closed here when a worker is told to stop.
The options are in granian.json beside this file, as granian.Granian takes them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from contextlib import suppress
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

# Seconds in which nginx passes on to the clients of websockets that they are closed.
HELD = 0.5


class GranianEntry(Entry):
    """While an application waits for a message, granian sends nothing on that websocket, not even the end of it."""

    # granian takes in nothing more of a request when as much of an answer is sent as its length says.
    answer_first = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return
        waiting: asyncio.Future[Any] | None = None
        code: int | None = None
        closed = asyncio.Event()

        async def receive_until_over() -> Any:
            nonlocal waiting
            if code is None:
                waiting = asyncio.ensure_future(receive())
                try:
                    return await waiting
                except asyncio.CancelledError:
                    if code is None:
                        raise
            # An application that returned before would have granian close the websocket by itself, without a code.
            await closed.wait()
            return {"type": "websocket.disconnect", "code": code}

        async def send_or_end(message: dict[str, Any]) -> None:
            nonlocal code
            if message["type"] == "websocket.close":
                code = message.get("code", 1000)
                if waiting and not waiting.done():
                    waiting.cancel()
                    # granian lets go of the connection in a thread of its own.
                    await asyncio.sleep(0.05)
            try:
                await send(message)
            finally:
                if code is not None:
                    closed.set()

        await super().__call__(scope, receive_until_over, send_or_end)

    async def farewell(self) -> None:
        held = hold_connections() if self.websockets else []
        await super().farewell()
        if held:
            await asyncio.sleep(HELD)
        for number in held:
            os.close(number)


def hold_connections() -> list[int]:
    """Duplicate what is connected to the listener, and return the file descriptors.

    granian closes a websocket's connection right behind the close frame. Whatever the client sends in that moment then fails at nginx,
    which forgets the frame over that. A connection with a second descriptor stays open until that is closed too (close(2)).
    """
    held: list[int] = []
    with socket.socket(fileno=os.dup(LISTENER)) as listener:
        here = listener.getsockname()
    for number in map(int, os.listdir("/proc/self/fd")):
        # Some are closed meanwhile, and the numbers used again.
        with suppress(OSError):
            if number in held or not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.getsockname() == here and not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    held.append(connection.detach())
    return held


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
