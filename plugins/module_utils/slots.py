# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An application on its host: where its things are, which slot is live, and what has been live before."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

SLOTS = ("blue", "green")


class LockedError(Exception):
    """Another process deploys this application on this host. The message names it."""


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

    def started(self, slot: str) -> str:
        return f"{self.root}/run/{self.app}/{slot}.started"

    def service_unit(self, slot: str) -> str:
        return f"{self.app}@{slot}.service"

    def socket_unit(self, slot: str) -> str:
        return f"{self.app}@{slot}.socket"

    def drain_unit(self, slot: str) -> str:
        return f"{self.app}-drain-{slot}.service"

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
    handle = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal, '' if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def recorded_inputs(started: str) -> dict[str, str]:
    """Return the files that a slot was started with and their digests, empty if that is not known.

    `started` holds lines as sha256sum(1) prints them; the unit writes it before each start.
    """
    try:
        with open(started, encoding="utf-8") as stream:
            pairs = [line.rstrip("\n").split("  ", 1) for line in stream if "  " in line]
    except OSError:
        return {}
    return {path: digest for digest, path in pairs}


def changed_inputs(started: str) -> list[str] | None:
    """Return the files that differ from what a slot was started with, None if that is not known."""
    recorded = recorded_inputs(started)
    if not recorded:
        return None
    return [path for path, digest in recorded.items() if digest_of(path) != digest]


def record_inputs(started: str) -> None:
    """Note that a slot runs with its files as they are now, as after a reload."""
    lines = [f"{digest_of(path)}  {path}\n" for path in recorded_inputs(started)]
    temporary = f"{started}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.writelines(lines)
    os.replace(temporary, started)


def read_history(path: str) -> list[dict[str, Any]]:
    """Return the lines of an application's history, the oldest first. A line that a power cut left half written is left out."""
    found = []
    try:
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        found.append(entry)
    except OSError:
        pass
    return found


def append_history(path: str, entry: dict[str, Any]) -> None:
    """Add one line to an application's history. A single write, so that two writers do not mix their lines."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, (json.dumps(entry) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def withdrawn_releases(history: list[dict[str, Any]]) -> set[str]:
    """Return the IDs of the releases that were rolled back from, by hand or in their bake time, and not deployed again since."""
    withdrawn: set[str] = set()
    for entry in history:
        release, previous = entry.get("release", ""), entry.get("previous", "")
        if entry.get("action") == "flip back":
            withdrawn.add(release)
        elif entry.get("result") == "ok" and entry.get("action") == "rollback":
            withdrawn.add(previous)
            withdrawn.discard(release)
        elif entry.get("result") == "ok":
            withdrawn.discard(release)
    return withdrawn


def previous_release(history: list[dict[str, Any]], current: str, usable: Callable[[str], bool]) -> str:
    """Return the ID of the last release that was live before `current`, was not withdrawn and is still usable; '' if there is none."""
    withdrawn = withdrawn_releases(history)
    for entry in reversed(history):
        release = str(entry.get("release", ""))
        good = entry.get("result") == "ok" and entry.get("action") != "reload"
        if good and release and release != current and release not in withdrawn and usable(release):
            return release
    return ""


@contextlib.contextmanager
def locked(path: str, timeout: float, note: dict[str, Any], clock: Callable[[], float], sleep: Callable[[float], None]) -> Iterator[None]:
    """Hold the application's lock. The kernel drops it when this process ends, however it ends, so it is never stuck.

    Raises LockedError, with the holder's own note in it, when another process has it for longer than `timeout` seconds.
    """
    deadline = clock() + timeout
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if clock() < deadline:
                    sleep(0.2)
                    continue
                stream.seek(0)
                holder = stream.read().strip() or "a process that left no note"
                raise LockedError(
                    f"another deployment of this application is running on this host: {holder}. Wait for it "
                    "(asgi_rollout_lock_timeout), or look at that process"
                ) from None
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps(note))
        stream.flush()
        try:
            yield
        finally:
            stream.seek(0)
            stream.truncate()
