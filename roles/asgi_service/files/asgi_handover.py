# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gunicorn worker, and the little that its master has to do for it, that lose no request when the workers are replaced.

Plain gunicorn answers SIGHUP by starting new workers and, in the same breath, stopping the old ones. Until the first new worker
has imported the application nobody accepts; and when the new workers cannot boot, the master takes everything down. uvicorn then
closes a stopped worker's connections at once, with whatever a client had just sent on them.

Here the old workers serve on until as many new ones are ready. The division of labour:

- The *master* (`Handover`, mixed into gunicorn's arbiter) decides who leaves and when. An outgoing worker is stopped only when the
  workers that stay are all ready. So a release that cannot boot never takes the old workers down.
- The *worker* (`HandoverWorker`) says when it is ready, and once it is told to stop it first closes its listeners, then serves what
  it had accepted, and only then lets uvicorn end it.

The two talk through `BOARD`, a piece of anonymous memory that fork(2) shares: one byte for each worker. It is gone with the last
process, so nothing stale can ever hold up a start.

gunicorn's configuration file switches it on:

    from asgi_handover import HandoverWorker, on_starting
    HandoverWorker.ready_path = "/ready"
    worker_class = HandoverWorker
"""

from __future__ import annotations

import asyncio
import copy
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import asgi_tls
from asgi_entry import Live
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

# What a worker says of itself. SPENT is one that asks for a successor.
BOOTING, READY, SPENT = 0, 1, 2
# The first byte is the master's: not 0 once it stops everything.
BOARD = mmap.mmap(-1, mmap.PAGESIZE)

# Seconds between two attempts to start workers while they fail: doubled each time.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
# Seconds that a worker has to cut off its last requests and to end its application's lifespan, after the graceful timeout.
_LAST_WORDS = 5


def _place(age: int) -> int:
    """Return the index on the board of the worker with this age (gunicorn numbers its workers from 1)."""
    return 1 + age % (len(BOARD) - 1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class _WaitedEnoughError(Exception):
    """Leaves gunicorn's own waiting loop."""


class Handover(Arbiter):  # type: ignore[misc]
    """What gunicorn's arbiter does otherwise here."""

    # Workers up to this age are outgoing.
    _outgoing_age = 0
    _reloading = False
    _failures = 0
    _next_start = 0.0
    _counted = -1

    def reload(self) -> None:
        """SIGHUP: every worker that there is becomes outgoing, and a new generation starts beside it."""
        before = self._outgoing_age
        self._outgoing_age = self.worker_age
        self._failures = 0
        self._next_start = 0.0
        self._reloading = True
        try:
            super().reload()
        except _WaitedEnoughError:
            pass
        except SystemExit:
            # The configuration file is broken. gunicorn would leave, and everything with it.
            self._outgoing_age = before
            self.app.cfg = self.cfg
            self.log.error("The configuration cannot be read; nothing is replaced, and the workers serve on")
        finally:
            self._reloading = False

    def stop(self, graceful: bool = True) -> None:
        """A real stop: nobody takes over, so nobody is to wait for anything but its own requests.

        gunicorn kills what is left after the graceful timeout, and the workers begin to count it later: they would never come to cut off
        their last requests themselves, and to end the application's lifespan. They have a copy of the number, which stays as it was.
        """
        BOARD[0] = 1
        self.cfg.set("graceful_timeout", self.cfg.graceful_timeout + _LAST_WORDS)
        super().stop(graceful)

    def spawn_worker(self) -> Any:
        BOARD[_place(self.worker_age + 1)] = BOOTING
        return super().spawn_worker()

    def spawn_workers(self) -> None:
        """Start as many workers as are missing among those that stay; after failures, not before their pause is over."""
        if time.monotonic() >= self._next_start:
            for _ in range(self.num_workers - len(self._staying())):
                self.spawn_worker()

    def manage_workers(self) -> None:
        """Start what is missing, and stop what is outgoing once everything that stays is ready."""
        staying = self._staying()
        # TTOU, or a smaller number in the configuration: the oldest ones go.
        for worker in staying[: max(0, len(staying) - self.num_workers)]:
            BOARD[_place(worker.age)] = SPENT
        if len(staying) < self.num_workers:
            self.spawn_workers()

        staying = self._staying()
        complete = sum(BOARD[_place(worker.age)] == READY for worker in staying) >= self.num_workers
        if complete:
            self._failures = 0
        for pid, worker in list(self.WORKERS.items()):
            if worker in staying or getattr(worker, "told_to_stop", False):
                continue
            # One that never served can go at once: nobody would miss it.
            if complete or BOARD[_place(worker.age)] == BOOTING:
                worker.told_to_stop = True
                self.kill_worker(pid, signal.SIGTERM)
        if len(self.WORKERS) != self._counted:
            self._counted = len(self.WORKERS)
            # With these three words gunicorn's logger sends a figure to StatsD, where there is one.
            figure = {"metric": "gunicorn.workers", "value": self._counted, "mtype": "gauge"}
            self.log.debug("%d workers", self._counted, extra=figure)

    def reap_workers(self) -> None:
        if self._reloading:
            # Since version 25 gunicorn's reload() waits for the old workers, deaf to every signal: back to the main loop.
            raise _WaitedEnoughError
        before = list(self.WORKERS.items())
        try:
            super().reap_workers()
        except HaltServer:
            if BOARD[0] == 0:
                raise
            # It stops already. Raised once more, this would leave the other workers behind, and bury the reason under a traceback.
            for pid, _ in before:
                if not _alive(pid):
                    self.WORKERS.pop(pid, None)
        for pid, worker in before:
            if pid not in self.WORKERS:
                if worker.age > self._outgoing_age and BOARD[_place(worker.age)] == BOOTING:
                    self._pause()
                BOARD[_place(worker.age)] = BOOTING

    def _pause(self) -> None:
        """Put off the next start. Workers that fail together count as one failure."""
        if time.monotonic() >= self._next_start:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)
            self._failures += 1
            self._next_start = time.monotonic() + pause
            self.log.warning("A worker could not boot; the next attempt is in %d s at the earliest", pause)

    def _staying(self) -> list[Any]:
        """Return the workers that are not outgoing, the oldest first."""
        workers = sorted(self.WORKERS.values(), key=lambda worker: worker.age)
        return [worker for worker in workers if worker.age > self._outgoing_age and BOARD[_place(worker.age)] != SPENT]


def on_starting(server: Arbiter) -> None:
    """gunicorn's hook of this name: make the master hand over."""
    server.__class__ = Handover


class HandoverWorker(UvicornWorker):  # type: ignore[misc]
    """UvicornWorker that is ready before it accepts, and has finished before it leaves.

    The class attributes are settings. The configuration file assigns them, and does so anew at every reload.
    """

    # What the application is asked, inside of this process, before a new worker takes over from others. "" asks nothing.
    ready_path: str = "/ready"
    ready_host: str = "localhost"
    ready_status: Sequence[int] = (200,)
    # Seconds over which a leaving worker closes its websockets, so that their clients do not all come back at once.
    websocket_close_window: float = 10.0
    # Puts something around the application.
    wrap: Callable[[Any], Any] = staticmethod(lambda app: app)
    # What is served over TLS by the worker itself. The sockets for it are those that are no unix sockets.
    tls: asgi_tls.Settings | None = None

    def init_process(self) -> None:
        try:
            super().init_process()
        except SystemExit as error:
            if error.code not in (Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR):
                raise
            self.fail(error.code)
        except Exception as error:
            if self.booted:
                raise
            self.log.exception("Exception in worker process")
            self.fail(Arbiter.APP_LOAD_ERROR if isinstance(error, AppImportError) else Arbiter.WORKER_BOOT_ERROR)

    def fail(self, code: int) -> NoReturn:
        """End a worker that could not boot, at once: Python would wait for the threads that its application has started."""
        if self.others_serve():
            # At one of gunicorn's two codes the master would take down the workers that serve.
            self.log.error("The workers of the last release serve on")
            code = 1
        os._exit(code)

    async def _serve(self) -> None:
        app = self.wrap(self.wsgi)
        self.config.app = _counted(app, self.log) if self.cfg.statsd_host else app
        unix = [sock for sock in self.sockets if sock.family == socket.AF_UNIX] if self.tls else self.sockets
        server = _HandoverServer(self, self.make_door(self.tls) if self.tls else None)
        self._install_sigquit_handler()
        await server.serve(sockets=unix)
        if not server.started:
            self.fail(Arbiter.WORKER_BOOT_ERROR)

    def make_door(self, settings: asgi_tls.Settings) -> asgi_tls.Door:
        """Return what accepts from the TLS sockets; ends the worker where there are none, or no certificate."""
        sockets = [sock for sock in self.sockets if sock.family != socket.AF_UNIX]
        if not sockets:
            self.log.error("systemd has handed over no socket for TLS. Is its address taken? See the journal of its socket unit.")
            self.fail(Arbiter.WORKER_BOOT_ERROR)
        try:
            return asgi_tls.Door(settings, sockets, self.cfg.backlog)
        except OSError as error:
            self.log.error("%s (or what goes with it) cannot be used for TLS: %s", settings.pair, error)
            self.fail(Arbiter.WORKER_BOOT_ERROR)

    def others_serve(self) -> bool:
        """Return whether another worker is there to serve. Without one, waiting for anything would be an outage."""
        mine = _place(self.age)
        return any(BOARD[place] != BOOTING for place in range(1, len(BOARD)) if place != mine)

    def say(self, state: int) -> None:
        """Tell the master, which looks at the board when it gets a signal (and once in a second)."""
        BOARD[_place(self.age)] = state
        with suppress(ProcessLookupError):
            os.kill(self.ppid, signal.SIGCHLD)


class _HandoverServer(Server):
    """uvicorn's server with a gate before it accepts, and a drain before it shuts down."""

    def __init__(self, worker: HandoverWorker, door: asgi_tls.Door | None) -> None:
        super().__init__(worker.config)
        self.worker = worker
        self.door = door
        self.live = Live()
        # uvicorn would leave at its limit, and only then would a successor be started.
        self.recycle_at = worker.max_requests
        self.config.limit_max_requests = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        self.lifespan: Any = _Gate(self.lifespan, self.until_ready)
        await super().startup(sockets=sockets)
        if self.started:
            await self.watch_door()
            self.worker.say(READY)

    async def watch_door(self) -> None:
        """Serve over TLS for as long as this slot is live. The clients that stay then are sent away by asgi_entry."""
        if self.door:
            await self.door.follow(self.live.is_here(), self.make_protocol)

    def make_protocol(self, direct: asgi_tls.Direct) -> Any:
        """Return uvicorn's protocol for a connection that nginx has no part in, so that nothing is believed that nginx would say."""
        direct.app = self.config.loaded_app
        config: Any = copy.copy(self.config)
        config.loaded_app = direct
        return config.http_protocol_class(config=config, server_state=self.server_state, app_state=self.lifespan.state)

    def say_goodbye(self) -> None:
        """Make each answer from here on the last one of its connection, and have it say so."""
        farewell = (b"connection", b"close")
        if farewell not in self.server_state.default_headers:
            self.server_state.default_headers = [*self.server_state.default_headers, farewell]

    async def until_ready(self) -> None:
        """Return when the application says that it is ready, or when there is nobody to take over from."""
        worker = self.worker
        said = None
        while worker.ready_path and worker.others_serve():
            status = await self.ask_ready()
            if status in worker.ready_status:
                return
            if status != said:
                worker.log.warning("%s answers %s; this worker does not take over yet", worker.ready_path, status)
                said = status
            worker.notify()
            await asyncio.sleep(0.2)

    async def ask_ready(self) -> int | str:
        """GET the ready path as a server would, without a connection; returns the status, or what went wrong."""
        worker = self.worker
        path, _, query = worker.ready_path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": self.config.root_path,
            "headers": [(b"host", worker.ready_host.encode()), (b"accept", b"application/json, */*")],
            "client": None,
            "server": None,
            "state": dict(self.lifespan.state),
        }
        status: int | str = "nothing"
        messages = [{"type": "http.request", "body": b"", "more_body": False}]
        answered = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            # As of a client that stays: applications (Django's among them) listen for its leaving while they answer.
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                answered.set()

        try:
            await asyncio.wait_for(self.config.loaded_app(scope, receive, send), timeout=10)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return status

    async def on_tick(self, counter: int) -> bool:
        leaving = await super().on_tick(counter)
        if not leaving and self.server_state.total_requests >= self.recycle_at:
            self.recycle_at = sys.maxsize
            self.worker.log.info("Worker %d has served its requests and waits for a successor", self.worker.pid)
            self.worker.say(SPENT)
        await self.watch_door()
        return leaving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.started:
            # An application that hangs in its start-up would never notice a wish.
            os._exit(0)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:  # noqa: ARG002 (closed by closing the servers)
        """Stop accepting, serve what was accepted, and let uvicorn do the rest, within gunicorn's graceful timeout."""
        for server in self.servers:
            server.close()  # and with it the listening socket
        if self.door:
            self.door.close()
        deadline = time.monotonic() + self.worker.cfg.graceful_timeout
        await self.drain(deadline)
        self.config.timeout_graceful_shutdown = max(1, int(deadline - time.monotonic()))
        alive = asyncio.create_task(self.stay_alive(deadline))
        try:
            await super().shutdown()
        finally:
            alive.cancel()

    async def stay_alive(self, deadline: float) -> None:
        """Keep the master from taking a worker for hung whose background tasks go on when their connections are closed."""
        while time.monotonic() < deadline:
            self.worker.notify()
            await asyncio.sleep(0.5)

    async def drain(self, deadline: float) -> None:
        """Wait until no connection is left. An idle one gets the keep-alive time to send what may be on its way."""
        stopping = BOARD[0] != 0
        patience = 0.2 if stopping else float(self.config.timeout_keep_alive)
        window = 0.0 if stopping else self.worker.websocket_close_window
        self.say_goodbye()
        begun = time.monotonic()
        told: set[Any] = set()
        # When each connection was seen first, and when it was seen to be closed on this side.
        seen: dict[Any, float] = {}
        closed: dict[Any, float] = {}
        farewells: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks only weakly
        # What was accepted in this moment is not a connection of uvicorn's before the loop has gone around.
        await asyncio.sleep(0.1)
        while (self.server_state.connections or (self.door and self.door.shaking_hands)) and time.monotonic() < deadline:
            now = time.monotonic()
            waiting = [connection for connection in self.server_state.connections if connection not in told]
            websockets = [connection for connection in waiting if _is_websocket(connection)]
            share = min(1.0, (now - begun) / window) if window else 1.0
            for connection in websockets[: int(share * (len(websockets) + len(told))) - len(told)]:
                told.add(connection)
                farewells.add(asyncio.create_task(_close_websocket(connection)))
            for connection in waiting:
                if not _is_websocket(connection) and now - seen.setdefault(connection, now) >= patience:
                    connection.shutdown()
            for connection in list(self.server_state.connections):
                if asgi_tls.is_closing(connection) and now - closed.setdefault(connection, now) >= 1:
                    asgi_tls.hang_up(connection)
            self.worker.notify()
            await asyncio.sleep(0.05)


def _counted(app: Any, statsd: Any) -> Any:
    """Put around an application what sends StatsD the figures of each request that gunicorn's own workers send: uvicorn sends none."""

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        status = 500
        begun = time.monotonic()

        async def send_and_look(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, send_and_look)
        finally:
            statsd.timer("gunicorn.request.duration", 1000 * (time.monotonic() - begun))
            statsd.increment("gunicorn.requests", 1)
            statsd.increment(f"gunicorn.request.status.{status}", 1)

    return counted


def _is_websocket(connection: Any) -> bool:
    return "websockets" in type(connection).__module__


async def _close_websocket(connection: Any) -> None:
    """Close a websocket as its application would: with code 1012 (service restart), and waiting for the client's own close.

    uvicorn's shutdown() closes the transport right behind its close frame. What the client sends in that moment is then answered
    by a reset, and the frame may be lost with it.
    """
    try:
        if not getattr(connection, "handshake_complete", True):
            raise RuntimeError("the handshake is not over")
        await connection.send({"type": "websocket.close", "code": 1012})
    except Exception:
        connection.shutdown()


class _Gate:
    """A lifespan whose start-up is over only when the application is ready as well."""

    def __init__(self, lifespan: Any, until_ready: Any) -> None:
        self._lifespan = lifespan
        self._until_ready = until_ready

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lifespan, name)

    async def startup(self) -> None:
        await self._lifespan.startup()
        if not self._lifespan.should_exit:
            await self._until_ready()
