# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What /proc and the file system tell about a running server: what it is, its workers, and whether a reload would do."""

from __future__ import annotations

import ast
import glob
import os
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

# What a HUP leaves as it is, and what would therefore have to be the same still.
LOCK_NAMES = ("uv.lock", "pylock.toml", "poetry.lock", "pdm.lock", "requirements.txt")


@dataclass(frozen=True)
class Server:
    """A running server: its kind (`gunicorn`, `uvicorn`, `hypercorn`, `granian` or `unknown`), command line and start time."""

    pid: int
    kind: str
    arguments: tuple[str, ...]
    started: float

    @property
    def python(self) -> str:
        """The interpreter as it was called, '' if the command line does not say."""
        return self.arguments[0] if self.arguments and os.path.basename(self.arguments[0]).startswith("python") else ""


def read(path: str, limit: int = 16 << 20) -> bytes:
    """Return what is in a regular file, at most `limit` bytes; nothing where it cannot be read.

    Many of the paths are an application's to choose, and a pipe without a writer would be waited for, /dev/zero read for ever.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as stream:
            return stream.read(limit) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else b""
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Return whether a process is there and is not a zombie."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return bool(fields) and fields[0] not in (b"Z", b"X")


def start_time(pid: int) -> float:
    """Return when a process was started, in seconds of the system clock (proc_pid_stat(5), field 22), 0 if it is not there.

    To a hundredth of a second. The time of the boot in /proc/stat is in whole seconds, so that a file written just before the
    process was started would look newer.
    """
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if len(fields) < 20:
        return 0.0
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def children(pid: int) -> list[int]:
    """Return the children of a process, in the order of their start, without zombies and without Python's own helpers."""
    listed = [read(path) for path in glob.glob(f"/proc/{pid}/task/*/children")]
    pids = sorted({int(word) for text in listed for word in text.split()})
    # multiprocessing's resource tracker is no worker.
    return [child for child in pids if alive(child) and b"resource_tracker" not in read(f"/proc/{child}/cmdline")]


def identify(pid: int) -> Server:
    """Return what kind of server a process is."""
    arguments = tuple(word.decode("utf-8", "replace") for word in read(f"/proc/{pid}/cmdline").split(b"\0") if word)
    kind = "unknown"
    for word in arguments[:3]:
        name = os.path.basename(word)
        if name in ("gunicorn", "uvicorn", "hypercorn"):
            kind = name
            break
        if name in ("granian", "asgi_granian.py"):
            kind = "granian"
            break
        # What setproctitle makes of it.
        if name.startswith("gunicorn:"):
            kind = "gunicorn"
            break
    return Server(pid, kind, arguments, start_time(pid))


def listening_inodes(pid: int, socket_path: str) -> set[int]:
    """Return the inodes of the sockets that listen at `socket_path` (state 01, SS_UNCONNECTED, with the ACC flag) in /proc/net/unix."""
    found = set()
    for line in read(f"/proc/{pid}/net/unix").decode("utf-8", "replace").splitlines():
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == socket_path and fields[3] == "00010000":
            found.add(int(fields[6]))
    return found


def holds(pid: int, inodes: Iterable[int]) -> bool:
    """Return whether a process has one of these sockets open."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(f"/proc/{pid}/fd/{name}") in wanted:
                return True
        except OSError:
            continue
    return False


def site_packages(server: Server) -> list[str]:
    """Return the site-packages of the environment that a server was started from."""
    if not server.python:
        return []
    return sorted(glob.glob(os.path.join(os.path.dirname(os.path.dirname(server.python)), "lib/python*/site-packages")))


def package_version(server: Server, name: str) -> tuple[int, ...] | None:
    """Return the version of a package in the server's environment, as numbers, None if it cannot be told."""
    for directory in site_packages(server):
        for path in glob.glob(os.path.join(directory, f"{name}-*.dist-info")):
            match = re.match(r"(\d+(?:\.\d+)*)", os.path.basename(path)[len(name) + 1 :])
            if match:
                return tuple(int(part) for part in match.group(1).split("."))
    return None


def configuration(server: Server) -> str:
    """Return the path of the configuration file of a gunicorn master, by its command line, as it can be read from outside."""
    words = [*server.arguments, *_extra_arguments(server)]
    for number, word in enumerate(words):
        if word in ("-c", "--config") and number + 1 < len(words):
            return os.path.join(f"/proc/{server.pid}/cwd", words[number + 1].removeprefix("file:"))
        if word.startswith("--config="):
            return os.path.join(f"/proc/{server.pid}/cwd", word.partition("=")[2].removeprefix("file:"))
    return f"/proc/{server.pid}/cwd/gunicorn.conf.py"


def _extra_arguments(server: Server) -> list[str]:
    environment = read(f"/proc/{server.pid}/environ").split(b"\0")
    extra = b" ".join(word for word in environment if word.startswith(b"GUNICORN_CMD_ARGS=")).decode("utf-8", "replace")
    return extra.replace("=", " ", 1).split()


def preloads(server: Server) -> bool:
    """Return whether a gunicorn master loads the application before it forks, by its command line, environment or configuration."""
    if any(word in ("--preload", "--preload-app") for word in [*server.arguments, *_extra_arguments(server)]):
        return True
    return bool(configured(configuration(server), "preload_app"))


def native_workers(server: Server) -> bool:
    """Return whether a gunicorn master's workers are of gunicorn's own class for ASGI, by its command line or configuration."""
    words = [*server.arguments, *_extra_arguments(server)]
    if any(pair in (("-k", "asgi"), ("--worker-class", "asgi")) for pair in pairwise(words)):
        return True
    return configured(configuration(server), "worker_class") in ("asgi", "NativeWorker")


def configured(path: str, name: str) -> object:
    """Return what a file in Python assigns to a name, as far as it is a constant; another name's own name; None for anything else."""
    try:
        tree = ast.parse(read(path, 1 << 20))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
            if isinstance(node.value, ast.Name):
                return node.value.id
            return node.value.value if isinstance(node.value, ast.Constant) else None
    return None


def changed_since(paths: Iterable[str], moment: float) -> list[str]:
    """Return which of `paths` were changed after `moment`. By the time of the last change of the inode: no tool can set that."""
    changed = []
    for path in paths:
        try:
            if os.stat(path).st_ctime > moment + 0.01:
                changed.append(path)
        except OSError:
            continue
    return changed


def obstacles(server: Server, environment_files: Iterable[str], unit_files: Iterable[str], lock_files: Iterable[str]) -> list[str]:
    """Return why a HUP cannot bring what is on disk into service, one reason each; empty if it can."""
    found = []
    if server.kind == "gunicorn" and preloads(server):
        found.append("gunicorn preloads the application (preload_app), so new workers are copies of the old code")
    if server.kind == "gunicorn" and native_workers(server):
        found.append("gunicorn stops its own workers for ASGI (worker class asgi) before the new ones serve; use the hand-over worker")
    if server.kind == "granian":
        found.append("granian stops each worker after a fixed time, whether the new one serves or not")
    if server.kind == "uvicorn":
        version = package_version(server, "uvicorn")
        if not children(server.pid):
            found.append("uvicorn runs as a single process, which a HUP kills; give it more than one worker")
        elif version is not None and version < (0, 51):
            number = ".".join(map(str, version))
            found.append(f"uvicorn {number} stops each worker before the next one serves; 0.51 or later is needed")
    if server.kind == "hypercorn" and not children(server.pid):
        found.append("hypercorn runs as a single process, which a HUP kills; give it at least one worker")
    executable = f"/proc/{server.pid}/exe"
    running = os.readlink(executable) if os.path.islink(executable) else ""
    if server.python and os.path.isabs(server.python) and running:
        now = os.path.realpath(server.python)
        same = os.path.exists(now) and os.path.exists(executable) and os.path.samefile(now, executable)
        if not same:
            found.append(f"the interpreter is another one: the server runs {running}, {server.python} is {now} now")
    packages = changed_since(site_packages(server), server.started)
    if packages:
        found.append(f"packages were installed or removed in {', '.join(packages)}")
    locks = changed_since(lock_files, server.started)
    if locks:
        found.append(f"the lock changed: {', '.join(locks)}")
    environment = changed_since(environment_files, server.started)
    if environment:
        found.append(f"the environment changed: {', '.join(environment)}")
    units = changed_since(unit_files, server.started)
    if units:
        found.append(f"the unit changed: {', '.join(units)}")
    return found
