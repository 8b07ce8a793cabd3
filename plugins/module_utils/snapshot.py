# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read each source once in a run, so that all hosts get the same bytes, whatever happens to the source meanwhile.

The first process of a run that asks copies what it finds into a directory of the run's. Whoever comes later, for another host or in
another batch, reads the copy. The directory goes with the run.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.steadfast.asgi.plugins.module_utils.origin import Options, Origin, opened
from ansible_collections.steadfast.asgi.plugins.module_utils.source import Entry, SourceError, pack, read_entry, source_files


@dataclass(frozen=True)
class Snapshot:
    """A source, or files beside it, as they were when the run first looked."""

    directory: str  # where the copy is
    shown: str  # what it is a copy of
    entries: tuple[Entry, ...]
    origin: Origin  # its directory is that of the copy

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]


class Run:
    """What a run has read so far."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.shown: dict[str, str] = {}
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def original(self, message: str) -> str:
        """Return a message that names what there is a copy of, and not the copy."""
        for copy, shown in self.shown.items():
            message = message.replace(copy, shown)
        return message

    def source(self, source: str, options: Options, subdirectory: str, lock: str) -> Snapshot:
        """Return the files of a project, or a package. Raises SourceError for what cannot be deployed."""

        def make(place: str) -> dict[str, Any]:
            with opened(source, options) as origin:
                if origin.directory:
                    directory = _inside(origin.directory, subdirectory)
                    # What it is built from is needed whatever .gitignore says.
                    asked = [lock] if lock and _is_own_file(directory, lock) else []
                    names = sorted({*source_files(directory, origin.top or "/"), *asked})
                    shown = os.path.join(origin.pinned or source, subdirectory).rstrip("/")
                    origin = dataclasses.replace(origin, directory=directory)
                else:
                    directory, name = os.path.split(origin.artifact)
                    names, shown = [name] if name else [], os.path.dirname(source.partition("?")[0])
                return {"shown": shown, "origin": dataclasses.asdict(origin), "entries": _copied(directory, names, place)}

        found = self._once(["source", source, dataclasses.astuple(options), subdirectory, lock], make)
        if found.origin.directory:
            return dataclasses.replace(found, origin=dataclasses.replace(found.origin, directory=found.directory))
        if found.origin.artifact:
            artifact = os.path.join(found.directory, os.path.basename(found.origin.artifact))
            return dataclasses.replace(found, origin=dataclasses.replace(found.origin, artifact=artifact))
        return found

    def files(self, directory: str, which: str, choose: Callable[[], list[str]]) -> Snapshot:
        """Return files that a variable names, by the names that `choose` returns the first time; `which` is what it looks for.

        A link counts as what it points to.
        """

        def make(place: str) -> dict[str, Any]:
            entries = []
            for name in choose():
                real = os.path.realpath(os.path.join(directory, name))
                [entry] = _copied(os.path.dirname(real), [os.path.basename(real)], place, name)
                entries.append({**entry, "name": name})
            return {"shown": directory, "origin": {}, "entries": entries}

        return self._once(["files", directory, which], make)

    def archive(self, files: list[tuple[str, str, list[str]]]) -> str:
        """Return the path of an archive with these files: where to, from which directory, and the names."""

        def make(place: str) -> dict[str, Any]:
            with open(os.path.join(place, "source.tar.gz"), "wb") as stream:
                pack(files, stream)
            return {"shown": "", "origin": {}, "entries": []}

        return os.path.join(self._once(["archive", files], make).directory, "source.tar.gz")

    def _once(self, key: list[Any], make: Callable[[str], dict[str, Any]]) -> Snapshot:
        """Return what the first who asks has made. What fails leaves nothing, so the next one tries again."""
        place = os.path.join(self.directory, hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24])
        with open(f"{place}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(place):
                with tempfile.TemporaryDirectory(dir=self.directory) as part:
                    os.mkdir(os.path.join(part, "made"))
                    os.mkdir(os.path.join(part, "made/files"))
                    told = make(os.path.join(part, "made/files"))
                    with open(os.path.join(part, "made/told"), "w", encoding="utf-8") as stream:
                        json.dump(told, stream)
                    os.rename(os.path.join(part, "made"), place)
        with open(os.path.join(place, "told"), encoding="utf-8") as stream:
            told = json.load(stream)
        entries = tuple(Entry(**each) for each in told["entries"])
        self.shown[os.path.join(place, "files")] = told["shown"]
        return Snapshot(os.path.join(place, "files"), told["shown"], entries, Origin(**told["origin"]))


def _inside(top: str, subdirectory: str) -> str:
    """Return a directory of the source. Raises SourceError for one that is not there, or not in it."""
    directory = os.path.normpath(os.path.join(top, subdirectory or "."))
    inside = f"{os.path.realpath(directory)}/".startswith(f"{os.path.realpath(top)}/")
    if not inside or not f"{directory}/".startswith(f"{os.path.normpath(top)}/") or not os.path.isdir(directory):
        raise SourceError(f"asgi_release_subdirectory is {subdirectory}, and the source has no such directory.")
    return directory


def _is_own_file(directory: str, name: str) -> bool:
    """Return whether a source has a file, and not by way of a directory that is a link."""
    path = os.path.join(os.path.realpath(directory), name)
    return os.path.isfile(path) and os.path.realpath(os.path.dirname(path)) == os.path.normpath(os.path.dirname(path))


def _copied(directory: str, names: list[str], place: str, as_name: str = "") -> list[dict[str, str]]:
    """Copy files, and return what they are. Raises SourceError for one that changes meanwhile."""
    entries, seen = [], {}
    for name in names:
        path, copy = os.path.join(directory, name), os.path.join(place, as_name or name)
        os.makedirs(os.path.dirname(copy), mode=0o700, exist_ok=True)
        entries.append(read_entry(directory, name, copy, shutil.disk_usage(place).free))
        seen[path] = _mark(path)
    for path, mark in seen.items():
        if _mark(path) != mark:
            raise SourceError(f"{path} has changed while the source was read. Run this again when it is at rest.")
    return [dataclasses.asdict(entry) for entry in entries]


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
