# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks that only their owner can take, and whose holder can be named."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any


class LockedError(Exception):
    """Another process holds the lock. The message names it."""


@contextlib.contextmanager
def locked(
    path: str,
    timeout: float,
    note: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    what: str = "another deployment of this application",
    remedy: str = "Wait for it (asgi_rollout_lock_timeout), or look at that process",
) -> Iterator[None]:
    """Hold the lock at `path`. The kernel drops it when this process ends, however it ends, so it is never stuck.

    `note` is written into the file as JSON while the lock is held: it says who holds it. `timeout` is in seconds; 0 tries once.
    Raises LockedError, with the holder's note in it, when another process has the lock for longer than that.
    """
    deadline = clock() + timeout
    with _taken(path, lambda: clock() < deadline, sleep, f"{what} is running on this host: {{}}. {remedy}") as stream:
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps(note))
        stream.flush()
        try:
            yield
        finally:
            stream.seek(0)
            stream.truncate()


@contextlib.contextmanager
def _taken(path: str, again: Callable[[], bool], sleep: Callable[[float], None], refusal: str) -> Iterator[IO[str]]:
    while True:
        with open(_open(path), "r+", encoding="utf-8", errors="replace") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if not again():
                    raise LockedError(refusal.format(stream.read(1000).strip() or "a process that left no note")) from None
            else:
                # Somebody may have removed the file since it was opened; then others lock a new one.
                if _is_at(stream, path):
                    yield stream
                    return
                continue
        sleep(0.2)


def _open(path: str) -> int:
    """Open the file of a lock, which nobody else may open: whoever can open it can hold it.

    flock(2) asks for no permission to write: a file that others may read is one that they may lock.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            # A link (ELOOP), a directory or a socket is no lock of ours.
            if error.errno == errno.ELOOP or (error.errno in (errno.EISDIR, errno.ENXIO) and not stat.S_ISREG(os.lstat(path).st_mode)):
                raise OSError(error.errno, "is no regular file, so it is no lock; remove it", path) from None
            raise
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is no regular file, so it is no lock; remove it", path)
        if status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077:
            return descriptor
        # Somebody else may have it open, and hold it for as long as they like. They keep that file; the lock gets another one.
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _is_at(stream: IO[str], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False
