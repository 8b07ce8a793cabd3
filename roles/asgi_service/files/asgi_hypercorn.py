# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application as hypercorn is to serve it behind nginx.

hypercorn has a middleware for what nginx says of the client, which copies all of the scope for each request: also the application's
state, of which most things (a database's pool, a lock) cannot be copied.

It waits for open websockets as for requests, until its graceful timeout, and then drops them with 1011 (internal error). Here they
are closed with 1012 as soon as a worker is told to stop.

A worker also waits for the tasks that ping websockets, and those for the end of their pause, 20 seconds. Here they end with the worker.

And when the first of its workers has ended, it ends the others by SIGTERM, in the middle of what they answer. Here they have none
of that: they were told to stop before, and do so within the graceful timeout.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

# The slot's own copy is beside this file.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from asgi_entry import Entry, create, within

application = create(Entry)


def say_farewell(module: Any) -> None:
    """Make a worker close its websockets when it is told to stop. `module` is the event loop's, which looks for that event."""
    told = module.check_multiprocess_shutdown_event

    async def leave(event: Any, sleep: Any) -> None:
        await told(event, sleep)
        await application.farewell()

    module.check_multiprocess_shutdown_event = leave


async def ping(stream: Any) -> None:
    """Ping a websocket for as long as it is open. hypercorn's method of WSStream."""
    event = import_module("wsproto.events").Ping
    terminated = stream.context.terminated
    while not stream.closed and not terminated.is_set():
        await stream._send_wsproto_event(event())
        await within(stream.config.websocket_ping_interval, terminated.wait)


# Only workers get here.
worker = os.getpid()


def stay(number: int, _frame: Any) -> None:
    """Do nothing, in a worker. Programs that the application starts do not have this, and what it forks ends as it would."""
    if os.getpid() != worker:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


signal.signal(signal.SIGTERM, stay)
# hypercorn's worker imports the application before it looks for the event.
say_farewell(import_module("hypercorn.trio.run" if os.environ.get("ASGI_EVENT_LOOP") == "trio" else "hypercorn.asyncio.run"))
import_module("hypercorn.protocol.ws_stream").WSStream._send_pings = ping
