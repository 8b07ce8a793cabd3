# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An application on its host: where its things are, which slot is live, and what has been live before."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SLOTS = ("blue", "green")
# The units of a slot, by their kind; and the names of their files among the settings.
UNITS = ("service", "socket")
# The units that a slot has beside its own if it speaks TLS itself, by their files among the settings: a socket for each address, which
# both slots are given, with a service that keeps a connection from starting anything; and one to reload.
_TLS_UNIT = re.compile(r"tls\.service|tls-[0-9A-Fa-f.:]*[0-9]\.(socket|service)")
# The options that make workers end: gunicorn's and hypercorn's, uvicorn's, granian's.
_RECYCLING = re.compile(rb"^max_requests\b|--limit-max-requests\b|\"(limit_)?max_requests\"|\"workers_(lifetime|max_rss)\"", re.MULTILINE)


class LiveLinkError(OSError):
    """The live link does not name a slot."""


@dataclass(frozen=True)
class Layout:
    """Where an application's things are. `root` goes before every path, for the tests."""

    app: str
    root: str = ""

    @property
    def slots(self) -> str:
        return f"{self.root}/opt/{self.app}/slots"

    @property
    def releases(self) -> str:
        return f"{self.root}/opt/{self.app}/releases"

    @property
    def live(self) -> str:
        return f"{self.slots}/live"

    @property
    def history(self) -> str:
        return f"{self.root}/opt/{self.app}/history.jsonl"

    @property
    def lock(self) -> str:
        # Not in /run/lock, where everybody may create files and could hold a lock of this name.
        return f"{self.root}/run/asgi-{self.app}.lock"

    def release_link(self, slot: str) -> str:
        return f"{self.slots}/{slot}/release"

    def socket_link(self, slot: str) -> str:
        return f"{self.slots}/{slot}/socket"

    def socket(self, slot: str) -> str:
        return f"{self.root}/run/{self.app}/{slot}.sock"

    @property
    def live_socket(self) -> str:
        """What nginx connects to: a link that never changes, to the socket of whichever slot is live."""
        return f"{self.root}/run/{self.app}/live.sock"

    def release_before(self, slot: str) -> str:
        """The link to the release that a slot with this mark was last ready with."""
        return f"{self.slots}/{slot}/before"

    @property
    def next(self) -> str:
        """The directory with the settings for whatever is started next: files of the server and the app, and the two units."""
        return f"{self.root}/etc/{self.app}/next"

    def settings(self, slot: str) -> str:
        """The directory with the settings that a slot was started with: a copy of `next` from that time."""
        return f"{self.root}/etc/{self.app}/{slot}"

    def kept_settings(self, slot: str) -> str:
        """The directory with the settings that a live slot ran with before, while it is given others."""
        return f"{self.settings(slot)}.before"

    @property
    def old_settings(self) -> str:
        """The directory of the settings that were live, each in one of its own, for the way back."""
        return f"{self.root}/etc/{self.app}/kept"

    def unproven(self, slot: str) -> str:
        """The mark of a slot that was given something to run and has not yet been ready with it."""
        return f"{self.slots}/{slot}/unproven"

    def unit_file(self, slot: str, kind: str) -> str:
        return f"{self.root}/etc/systemd/system/{self.app}@{slot}.{kind}"

    def installed(self, slot: str, name: str) -> str:
        """Return where the file `name` of a slot's settings is installed as a unit, '' for one that is no unit."""
        if name in UNITS:
            return self.unit_file(slot, name)
        return f"{self.root}/etc/systemd/system/{self.app}-{name}" if _TLS_UNIT.fullmatch(name) else ""

    def tls_units(self, slot: str) -> list[str]:
        """Return the units that a slot has for TLS, by its settings; none for no slot."""
        return [f"{self.app}-{name}" for name in settings_in(self.settings(slot)) if slot and _TLS_UNIT.fullmatch(name)]

    def tls_sockets(self, slot: str) -> list[str]:
        return [unit for unit in self.tls_units(slot) if unit.endswith(".socket")]

    def tls_ports(self, slot: str) -> list[int]:
        return sorted({int(re.split("[-:]", unit.removesuffix(".socket"))[-1]) for unit in self.tls_sockets(slot)})

    def other_tls_units(self, slot: str) -> list[str]:
        """Return the units for TLS that are installed for this application and that a slot does not have."""
        directory = f"{self.root}/etc/systemd/system"
        found = [name for name in settings_in(directory) if name.startswith(f"{self.app}-")]
        return [name for name in found if _TLS_UNIT.fullmatch(name.removeprefix(f"{self.app}-")) and name not in self.tls_units(slot)]

    def service_unit(self, slot: str) -> str:
        return f"{self.app}@{slot}.service"

    def socket_unit(self, slot: str) -> str:
        return f"{self.app}@{slot}.socket"

    @property
    def slice(self) -> str:
        # A hyphen in a slice's name would make it a child of another one.
        return f"asgi-{self.app.replace('-', '_')}.slice"

    def drain_unit(self, slot: str) -> str:
        return f"{self.app}-drain-{slot}.service"

    def workers(self, slot: str) -> int:
        """Return how many processes a slot serves with, by its unit's own ready check; 1 where the unit does not say."""
        found = re.search(rb"^ExecStartPost=(?:.*\\\n)*.*--workers (\d+)", contents(self.unit_file(slot, "service")) or b"", re.MULTILINE)
        return int(found.group(1)) if found else 1

    def recycles(self, slot: str) -> bool:
        """Return whether the workers of a slot end by themselves from time to time, by what their server was told of it."""
        files = [self.unit_file(slot, "service")]
        files += [f"{self.settings(slot)}/{name}" for name in ("gunicorn.conf.py", "hypercorn.toml", "granian.json")]
        return any(_RECYCLING.search(contents(path) or b"") for path in files)

    def live_slot(self) -> str:
        """Return the slot that the live link names, '' if there is no such link.

        Raises LiveLinkError for one that names anything else: what it means to whoever made it cannot be guessed.
        """
        if not os.path.lexists(self.live):
            return ""
        target = os.path.realpath(self.live)
        for slot in SLOTS:
            if target == os.path.realpath(f"{self.slots}/{slot}"):
                return slot
        raise LiveLinkError(f"{self.live} points to {read_link(self.live) or 'nothing'}; make it a link to blue or green, or remove it")

    def release_of(self, slot: str) -> str:
        """Return the path of the release in a slot, '' if there is none."""
        link = self.release_link(slot)
        return os.path.realpath(link) if slot and os.path.islink(link) else ""


def listens(path: str) -> bool:
    """Return whether a connection to a unix socket is taken. One that finds the queue full is not, and still somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            # What else may be the matter is no reason to replace what runs.
            pass
    return True


def other(slot: str) -> str:
    return SLOTS[1 - SLOTS.index(slot)]


def is_complete(release: str) -> bool:
    """Return whether a release was built to its end: its mark is written last."""
    return os.path.isfile(os.path.join(release, "release.json"))


def read_link(path: str) -> str:
    """Return where a symbolic link points to, '' if there is none."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def replace_link(path: str, target: str) -> None:
    """Make `path` a symbolic link to `target`, atomically and, before this returns, durably."""
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make what was renamed in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def contents(path: str) -> bytes | None:
    """Return what is in a file, None if it is not there. What is no file, as /dev/null or a pipe, has nothing in it."""
    try:
        # A pipe would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # A socket.
        return b""
    with open(handle, "rb") as stream:
        return stream.read() if stat.S_ISREG(os.fstat(handle).st_mode) else b""


def settings_in(directory: str) -> list[str]:
    """Return the names of the settings in a directory. What begins with a dot is what a killed process was about to write."""
    if not os.path.isdir(directory):
        return []
    return sorted(name for name in os.listdir(directory) if not name.startswith(".") and os.path.isfile(f"{directory}/{name}"))


def fingerprint(files: Iterable[tuple[str, bytes | None]]) -> str:
    """Return one value for files, given by name and content, which is another one as soon as any of them differs or is not there."""
    digest = hashlib.sha256()
    for name, content in sorted(files):
        digest.update(json.dumps([name, None if content is None else hashlib.sha256(content).hexdigest()]).encode())
    return digest.hexdigest()


def changed_settings(layout: Layout, slot: str) -> list[str]:
    """Return the files in which the settings of a slot differ from those for the next start, by their paths among the latter."""
    changed = []
    for name in sorted({*settings_in(layout.next), *settings_in(layout.settings(slot))}):
        wanted = contents(f"{layout.next}/{name}")
        places = [f"{layout.settings(slot)}/{name}", layout.installed(slot, name)]
        if any(contents(place) != wanted for place in places if place):
            changed.append(f"{layout.next}/{name}")
    return changed


def copy_file(source: str, target: str) -> bool:
    """Make `target` a copy of `source` with its owner and mode, atomically; return whether its content changed."""
    status = os.stat(source)
    if contents(source) == contents(target):
        # Only where they differ: even a call that changes nothing sets the time by which asgi_reload tells what is newer than a server.
        now = os.stat(target)
        if (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
            os.chown(target, status.st_uid, status.st_gid)
            # It may have taken away bits of the mode.
            now = os.stat(target)
        if now.st_mode != status.st_mode:
            os.chmod(target, status.st_mode & 0o7777)
        return False
    temporary = f"{target}.new"
    try:
        with open(source, "rb") as old, open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as new:
            os.fchown(new.fileno(), status.st_uid, status.st_gid)
            os.fchmod(new.fileno(), status.st_mode & 0o7777)
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        # A write does not say of its own where there was no room.
        raise OSError(error.errno, error.strerror, target) from None
    os.replace(temporary, target)
    return True


def copy_settings(source: str, layout: Layout, slot: str) -> bool:
    """Give a slot the settings in the directory `source`; return whether systemd has to read its units again."""
    target = layout.settings(slot)
    # Raises where there is none, before anything is made.
    status = os.stat(source)
    os.makedirs(target, mode=0o700, exist_ok=True)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, status.st_mode & 0o7777)
    names = settings_in(source)
    for name in names:
        copy_file(f"{source}/{name}", f"{target}/{name}")
    for name in set(settings_in(target)) - set(names):
        os.unlink(f"{target}/{name}")
    sync_directory(target)
    return install_units(layout, slot)


def install_units(layout: Layout, slot: str) -> bool:
    """Install the units among a slot's settings; return whether systemd has to read them again."""
    settings = layout.settings(slot)
    names = [*UNITS, *(name for name in settings_in(settings) if name not in UNITS and layout.installed(slot, name))]
    units = [copy_file(f"{settings}/{name}", layout.installed(slot, name)) for name in names]
    sync_directory(os.path.dirname(layout.unit_file(slot, UNITS[0])))
    return any(units)


def proven_settings(layout: Layout, slot: str) -> str:
    """Return the directory with the settings that a live slot was last ready with."""
    kept = layout.kept_settings(slot)
    return kept if os.path.exists(layout.unproven(slot)) and os.path.isdir(kept) else layout.settings(slot)


def copy_directory(source: str, target: str) -> None:
    """Make `target` a copy of a directory with settings, all of it or none."""
    temporary = f"{target}.new"
    for path in (target, temporary):
        shutil.rmtree(path, ignore_errors=True)
    try:
        os.mkdir(temporary, mode=0o700)
        status = os.stat(source)
        os.chown(temporary, status.st_uid, status.st_gid)
        os.chmod(temporary, status.st_mode & 0o7777)
        for name in settings_in(source):
            copy_file(f"{source}/{name}", f"{temporary}/{name}")
        sync_directory(temporary)
        os.rename(temporary, target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def kept_settings(layout: Layout, slot: str) -> Iterator[str]:
    """Keep a copy of the settings that a slot was last ready with for a while; the value is its directory."""
    kept = layout.kept_settings(slot)
    # An earlier process may have been killed in here. If it had begun with the slot, its copy is whole, and what the slot has is not it.
    if proven_settings(layout, slot) != kept:
        copy_directory(layout.settings(slot), kept)
    try:
        yield kept
    finally:
        # As long as the slot has the mark, this is all there is of what it ran with.
        if not os.path.exists(layout.unproven(slot)):
            shutil.rmtree(kept, ignore_errors=True)


def utc(when: float) -> str:
    """Return a time, in seconds since 1970, as the history writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def deployer(named: str) -> str:
    """Return who deploys: the name that was given, or the user of the connection."""
    return named or os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.getuid())


def read_history(path: str) -> list[dict[str, Any]]:
    """Return the lines of an application's history, the oldest first. What is none, as a line that a power cut left, is left out."""
    found = []
    for line in (contents(path) or b"").splitlines() if os.path.isfile(path) and not os.path.islink(path) else []:
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                found.append(entry)
    return found


def append_history(path: str, entry: dict[str, Any]) -> None:
    """Add one line to an application's history. A single write, so that two writers do not mix their lines.

    It is root's alone: who deployed what, and what commands said that failed, are nobody else's business. Raises OSError where there was
    no room for all of it.
    """
    line = (json.dumps(entry) + "\n").encode()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        os.fchmod(handle, 0o600)
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            # A line that was cut off, by a power cut or a full disk, must not take this one with it.
            line = b"\n" + line
        if os.write(handle, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(handle)
    finally:
        os.close(handle)


def has_run(history: list[dict[str, Any]], release: str, commands: list[list[str]]) -> bool:
    """Return whether these commands have been run to their end for a release, given by its ID."""
    done = {"action": "commands", "result": "ok", "release": release, "commands": commands}
    return any(done.items() <= entry.items() for entry in history)
