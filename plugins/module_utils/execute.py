# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command that is not trusted: to a deadline, with a bounded memory of what it says, and not for longer than somebody waits."""

from __future__ import annotations

import contextlib
import os
import re
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

# What is kept of each output of a command: its end.
KEPT = 1 << 20
# Seconds between two looks at whether to go on.
_TICK = 0.5


class BuildError(Exception):
    """The release could not be built."""


class StoppedError(BuildError):
    """The command was stopped before its end, and why."""


def words(text: str, most: int) -> str:
    """Return the end of what a command said, for people: without what would mean something to a terminal."""
    lines = text[-most:].strip().splitlines()
    return "\n".join(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", _escaped, line) for line in lines)


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


class Tail:
    """The last bytes of an output, however long it is."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.cut = False
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, data: bytes) -> None:
        self._parts.append(data)
        self._length += len(data)
        if self._length > 2 * self.size:
            whole = b"".join(self._parts)[-self.size :]
            self._parts, self._length, self.cut = [whole], len(whole), True

    def text(self) -> str:
        whole = b"".join(self._parts)
        self.cut = self.cut or len(whole) > self.size
        return whole[-self.size :].decode("utf-8", "replace")


class Run:
    """The run that a module is part of. It is over when nobody can hear the module's answer any more."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._signal = ""

    def listen(self) -> None:
        """Take notice of signals that end the run. They are answered between two steps, so that nothing is left half done."""
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            # Only a process's main thread can.
            with contextlib.suppress(ValueError):
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self._signal = signal.Signals(number).name

    def over(self) -> str:
        """Return why the run is over, '' if it goes on."""
        if self._signal:
            return f"the run was stopped ({self._signal})"
        if os.getppid() != self._parent:
            return "the run was stopped: the process that had begun it is gone"
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll = select.poll()
            poll.register(sys.__stdout__.fileno(), 0)  # type: ignore[union-attr]
            if any(event & (select.POLLERR | select.POLLHUP) for _descriptor, event in poll.poll(0)):
                return "the run was stopped: the connection of the controller is closed"
        return ""


def execute(
    command: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    data: bytes,
    check: Callable[[], str],
    kept: int = KEPT,
    output: IO[bytes] | None = None,
) -> tuple[int, str, str]:
    """Run a command in a session of its own and return its code and the ends of its two outputs.

    `check` is asked twice a second; when it returns a reason, the command is killed and StoppedError raised with that. With `output`
    standard output is written there. Raises StoppedError too where more than `kept` was asked for and is not enough.
    """
    given = None if output else subprocess.PIPE
    tails = {"stdout": Tail(kept), "stderr": Tail(KEPT)}
    process = subprocess.Popen(
        list(command),
        env=dict(environment),
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=output or given,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _attend(process, data, tails, check)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        process.wait()
    told = tails["stdout"].text()
    if kept > KEPT and tails["stdout"].cut:
        raise StoppedError(f"'{command[-1]}' said more than {kept >> 20} MiB")
    return process.returncode, told, tails["stderr"].text()


def _attend(process: subprocess.Popen[bytes], data: bytes, tails: Mapping[str, Tail], check: Callable[[], str]) -> None:
    """Write a process's input and read its outputs until it has ended."""
    with selectors.DefaultSelector() as selector:
        for name in ("stdout", "stderr"):
            stream = getattr(process, name)
            if stream:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, tails[name])
        if process.stdin and data:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, memoryview(data))
        elif process.stdin:
            process.stdin.close()
        looked = time.monotonic()
        # A process that the command has left behind may keep the outputs open; the command's own end counts.
        while process.poll() is None or selector.get_map():
            ended = process.returncode is not None
            events = selector.select(0.05 if ended else _TICK) if selector.get_map() else []
            for key, _mask in events:
                _exchange(selector, key)
            if ended and not events:
                return
            if not selector.get_map() and not ended:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK)
            if time.monotonic() - looked >= _TICK:
                looked = time.monotonic()
                reason = check()
                if reason:
                    raise StoppedError(reason)


def _exchange(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    try:
        if isinstance(key.data, memoryview):
            left = key.data[os.write(key.fd, key.data) :]
            if left:
                selector.modify(key.fileobj, selectors.EVENT_WRITE, left)
                return
        else:
            data = os.read(key.fd, 1 << 16)
            if data:
                key.data.add(data)
                return
    except BlockingIOError:
        return
    except BrokenPipeError:
        pass
    selector.unregister(key.fileobj)
    key.fileobj.close()  # type: ignore[union-attr]
