# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a server whether it is ready, know which of its processes answered, and wait until all of them have.

A 200 proves little where several processes accept from one listening socket: the kernel picks one, and after a reload that
may be an old one. So every answer is traced to the process that holds the other end of the connection.
"""

from __future__ import annotations

import errno
import http.client
import io
import json
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

# linux/sock_diag.h, linux/unix_diag.h, linux/netlink.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_HEADER = struct.Struct("=IHHII")
_UNIX_DIAG_REQUEST = struct.Struct("=BBHIIIII")
_UNIX_DIAG_MESSAGE = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")
_UDIAG_SHOW_PEER = 0x4
_UNIX_DIAG_PEER = 2
_ANY_COOKIE = 0xFFFFFFFF

_BODY_LIMIT = 64 * 1024
# Bytes of an answer that are read, with its head.
_ANSWER_LIMIT = 4 * _BODY_LIMIT

# How many asks there are at the same time.
_AT_ONCE = 64


@dataclass(frozen=True)
class Answer:
    """What came back from one request.

    `pid` is the process that answered, None if it is none of those that were looked at; `traced` is False where the kernel
    does not tell at all. `error` is set instead of `status` when there was no HTTP answer.
    """

    status: int | None = None
    body: str = ""
    pid: int | None = None
    traced: bool = True
    error: str = ""

    def summary(self, limit: int = 500) -> str:
        """One line for a message: the status and the start of the body, or the error."""
        if self.status is None:
            return self.error
        text = " ".join(self.body.split())
        return f"{self.status} {text[:limit]}{' …' if len(text) > limit else ''}".strip()


class _Bounded(io.RawIOBase):
    """What comes from a server, up to a number of bytes: a head may have as many as it likes."""

    def __init__(self, stream: io.RawIOBase, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._stream.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise OSError(errno.EMSGSIZE, f"the answer is longer than {_ANSWER_LIMIT >> 10} KiB")
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Bounded(self.fp.detach(), _ANSWER_LIMIT))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, host: str, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def accepted_inode(connection: socket.socket, timeout: float) -> int | None:
    """Return the inode of the other end once a process has accepted the connection.

    0 if the other end is closed, None if the kernel cannot tell or the connection leads to another host. Raises TimeoutError if nobody
    has accepted it within `timeout` seconds.
    """
    find = peer_inode if connection.family == socket.AF_UNIX else peer_inode_tcp
    until = time.monotonic() + timeout
    watched = select.poll()
    watched.register(connection, select.POLLIN)
    while True:
        inode = find(connection)
        # Nothing has been asked yet, so whatever comes now is the end of the connection (or TLS's, which is accepted long since).
        if inode != 0 or watched.poll(2):
            return inode
        if time.monotonic() >= until:
            raise TimeoutError("timed out: no process has accepted the connection")


def peer_inode(connection: socket.socket) -> int | None:
    """Return the inode of the other end of a unix socket (sock_diag(7)), 0 if nobody has it, None if the kernel cannot tell.

    Peer credentials (SO_PEERCRED) are no help here: they name who called listen(2), which is systemd.
    """
    request = _UNIX_DIAG_REQUEST.pack(
        socket.AF_UNIX,
        0,
        0,
        0xFFFFFFFF,
        os.fstat(connection.fileno()).st_ino,
        _UDIAG_SHOW_PEER,
        _ANY_COOKIE,
        _ANY_COOKIE,
    )
    header = _NLMSG_HEADER.pack(_NLMSG_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(1)
            netlink.send(header + request)
            reply = netlink.recv(8192)
    except OSError:
        return None
    length, kind = _NLMSG_HEADER.unpack_from(reply)[:2]
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None
    offset = _NLMSG_HEADER.size + _UNIX_DIAG_MESSAGE.size
    while offset + _ATTRIBUTE.size <= length:
        size, attribute = _ATTRIBUTE.unpack_from(reply, offset)
        if attribute == _UNIX_DIAG_PEER:
            return int.from_bytes(reply[offset + _ATTRIBUTE.size : offset + size], sys.byteorder)
        offset += (max(size, _ATTRIBUTE.size) + 3) & ~3
    return 0


def socket_owner(inode: int, pids: Iterable[int]) -> int | None:
    """Return which of `pids` has the socket with this inode open, None if none has (or may not be looked at)."""
    link = f"socket:[{inode}]"
    for pid in pids:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}") == link:
                    return pid
            except OSError:
                continue
    return None


def peer_inode_tcp(connection: socket.socket) -> int | None:
    """Return the inode of the other end of a TCP connection within this host (proc_pid_net(5)).

    0 if nobody has it, None if it is not there.
    """
    here, there = connection.getsockname(), connection.getpeername()
    rows: list[list[str]] = []
    # An IPv4 connection to a listener for both families is in the table of IPv6.
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with suppress(OSError), open(table, encoding="ascii") as stream:
            rows += [line.split() for line in stream][1:]
    # Addresses are in hexadecimal in the host's own byte order; the ports alone tell the two ends of one connection.
    ports = f"{there[1]:04X}", f"{here[1]:04X}"
    for row in rows:
        if (row[1].rpartition(":")[2], row[2].rpartition(":")[2]) == ports:
            return int(row[9])
    return None


@dataclass(frozen=True)
class Target:
    """Where the ready check is asked: a path over a unix socket, or a URL's host and port.

    `verify` says whether the certificate of an https URL is checked.
    """

    socket: str = ""
    scheme: str = "http"
    address: str = ""
    path: str = "/ready"
    host: str = "localhost"
    verify: bool = True

    @classmethod
    def of_url(cls, url: str, verify: bool = True) -> Target:
        """Return the target of an http or https URL. Raises ValueError for any other."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(f"{url!r} is not an http or https URL of a host and, if need be, a port")
        path = parts.path or "/"
        return cls(
            scheme=parts.scheme,
            address=parts.netloc,
            path=f"{path}?{parts.query}" if parts.query else path,
            host=parts.netloc,
            verify=verify,
        )

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.socket:
            return _UnixConnection(self.socket, self.host, timeout)
        if self.scheme == "http":
            return http.client.HTTPConnection(self.address, timeout=timeout)
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(self.address, timeout=timeout, context=context)

    def ask(self, timeout: float, pids: Iterable[int]) -> Answer:
        """GET the path, waiting at most `timeout` seconds for each step.

        `pids` are the processes that may answer. Never raises for what the server does: that is in the answer.
        """
        connection = self._connection(timeout)
        connection.response_class = _Response
        # The connection's own timeout is for each step. A server that sends a byte now and then would never reach it.
        over = threading.Event()
        watchdog = threading.Timer(2 * timeout, lambda: _hang_up(connection, over))
        watchdog.daemon = True
        try:
            watchdog.start()
            connection.connect()
            # Before anything is asked: once it has answered, the process may close its end at any moment.
            inode = accepted_inode(connection.sock, timeout)
            owner = socket_owner(inode, pids) if inode else None
            connection.request("GET", self.path, headers={"Connection": "keep-alive", "Accept": "application/json, */*"})
            response = connection.getresponse()
            body = response.read(_BODY_LIMIT)
            if over.is_set():
                # What was cut off may look like a whole head.
                return Answer(error=f"the answer took longer than {2 * timeout:g} s")
            if response.length and len(body) < _BODY_LIMIT:
                return Answer(error=f"the answer ended {response.length} bytes too early")
            # Behind a URL there may be a proxy or another host: then only the answer counts.
            traced = inode is not None if self.socket else owner is not None
            return Answer(response.status, body.decode("utf-8", "replace"), owner, traced)
        except (OSError, http.client.HTTPException, ValueError, RuntimeError) as error:
            # RuntimeError: no more threads, which count among the service's tasks (TasksMax=).
            return Answer(error=f"{type(error).__name__}: {error}".rstrip(": "))
        finally:
            watchdog.cancel()
            connection.close()


def _hang_up(connection: http.client.HTTPConnection, over: threading.Event) -> None:
    over.set()
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def ask_many(count: int, one: Callable[[], Answer]) -> list[Answer]:
    """Ask `count` times at once. Simultaneous connections spread over the processes; one by one, the same one may take all."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        try:
            futures = [pool.submit(one) for _ in range(count)]
        except RuntimeError as error:
            # No more threads, which count among the service's tasks (TasksMax=).
            return [Answer(error=f"RuntimeError: {error}")]
        return [future.result() for future in futures]


@dataclass
class Progress:
    """What is known of a server that is being waited for."""

    workers: int
    accepted: frozenset[int] = frozenset({200})
    body: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    successes_wanted: int = 3
    attempts: int = 0
    successes: int = 0
    traced: bool = False
    ready: set[int] = field(default_factory=set)
    last: Answer = field(default_factory=Answer)

    def note(self, answer: Answer) -> None:
        """Take one answer into account. One that is not as expected starts the count anew."""
        self.attempts += 1
        self.last = answer
        self.traced = self.traced or (answer.status is not None and answer.traced)
        if self.expected(answer):
            self.successes += 1
            if answer.pid is not None:
                self.ready.add(answer.pid)
        else:
            self.successes = 0
            self.ready.discard(answer.pid if answer.pid is not None else -1)

    def expected(self, answer: Answer) -> bool:
        """Return whether an answer has an accepted status, the text `body` in it, and each of `fields` in its JSON object."""
        if answer.status not in self.accepted or self.body not in answer.body:
            return False
        if not self.fields:
            return True
        try:
            document = json.loads(answer.body)
        except ValueError:
            return False
        return isinstance(document, dict) and all(document.get(name) == value for name, value in self.fields.items())

    def forget(self, alive: Iterable[int]) -> None:
        """Drop the processes that have ended."""
        self.ready &= set(alive)

    @property
    def complete(self) -> bool:
        """Whether enough answers in a row were good, and each worker gave one (where the kernel tells who did)."""
        if self.successes < self.successes_wanted:
            return False
        return len(self.ready) >= self.workers or not self.traced

    def summary(self) -> str:
        """What was seen so far, for a message."""
        seen = f"{len(self.ready)} of {self.workers} workers were ready after {self.attempts} attempts"
        last = self.last.summary()
        return f"{seen}; the last answer was: {last}" if last else seen


def probe(target: Target, progress: Progress, timeout: float, pids: list[int]) -> list[Answer]:
    """Ask as often at once as finds every worker; alone first, so that a server that is still booting is not flooded."""
    first = target.ask(timeout, pids)
    if first.status not in progress.accepted:
        return [first]
    # Those of very many are found in several rounds: each ask takes two threads, in the service's own unit when it starts.
    return [first, *ask_many(min(2 * progress.workers, _AT_ONCE), lambda: target.ask(timeout, pids))]
