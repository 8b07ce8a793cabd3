# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The static files of all releases in one tree, so that pages of an older release still find the files that they name."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping

from .locks import locked


def union_of(releases: str) -> str:
    """Return the directory of the union, which lies beside the releases."""
    return os.path.join(os.path.dirname(releases), "static")


def static_files(release: str, directories: Iterable[str]) -> dict[str, str]:
    """Return the static files of a release: the name in the union, the path of the file.

    Links count as what they point to. One that leaves the release counts as nothing: what it points to is not the release's.
    """
    top = os.path.realpath(release) + os.sep
    found = {}
    for directory in directories:
        base = os.path.join(release, "app", directory)
        if not (os.path.realpath(base) + os.sep).startswith(top):
            continue
        for root, _directories, files in os.walk(base):
            for name in files:
                real = os.path.realpath(os.path.join(root, name))
                if real.startswith(top) and os.path.isfile(real):
                    found[os.path.join(directory, os.path.relpath(os.path.join(root, name), base))] = real
    return found


@contextlib.contextmanager
def held(union: str) -> Iterator[None]:
    """Keep others from changing the union, which is made if it is not there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(union, 0o755)
    # Publishing takes a second or so; who waits for longer has somebody else's trouble to report.
    with locked(
        os.path.join(union, ".lock"), 600, {"pid": os.getpid()}, what="another change of the static files", remedy="Look at that process"
    ):
        yield


def publish(union: str, files: Mapping[str, str]) -> None:
    """Put files into the union, each in one step; one that is there under the same name is replaced.

    Where one release has a file and another a directory of the same name, what is there stays: the live release's own files are
    asked for first.
    """
    for name, path in files.items():
        target = os.path.join(union, name)
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
            if os.path.exists(target) and os.path.samefile(path, target):
                continue
            temporary = os.path.join(union, ".new")
            _link(path, temporary)
            os.replace(temporary, target)


def _link(path: str, target: str) -> None:
    # What an interrupted run has left.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
            raise
        shutil.copy2(path, target)


def superfluous(union: str, files: Mapping[str, str]) -> list[str]:
    """Return the paths of what is in the union and not among `files`."""
    found = []
    for root, _directories, names in os.walk(union):
        for name in names:
            path = os.path.join(root, name)
            if os.path.relpath(path, union) not in files and path != os.path.join(union, ".lock"):
                found.append(path)
    return sorted(found)


def withdraw(union: str, paths: Iterable[str]) -> None:
    """Remove files from the union, and the directories that are empty then."""
    for path in paths:
        os.unlink(path)
        directory = os.path.dirname(path)
        with contextlib.suppress(OSError):
            while directory != union:
                os.rmdir(directory)
                directory = os.path.dirname(directory)
