# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release consists of on the host while it is made, and how what is left of one is removed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from typing import Protocol

from .builder import remove_tree
from .execute import BuildError

# In a release that is being built, or removed.
BUILDING = ".building"


def is_interrupted(release: str) -> bool:
    """Return whether somebody who made or removed a release was interrupted: it has the mark, or as yet, or no more, even that."""
    return os.path.exists(os.path.join(release, BUILDING)) or (
        os.path.isdir(release) and not os.path.islink(release) and not os.listdir(release)
    )


def remove_release(release: str) -> None:
    """Remove a release that is not complete, the mark last: who is interrupted in here leaves what the next one knows."""
    for entry in list(os.scandir(release)):
        if entry.name != BUILDING:
            remove_tree(entry.path)
    remove_tree(release)


def link_inside(top: str, name: str, target: str) -> None:
    """Make a link to `target` by the name of `name` below `top`. Raises BuildError where it would replace something or leave `top`."""
    path = top
    *parents, last = name.split("/")
    for parent in parents:
        path = os.path.join(path, parent)
        if not os.path.lexists(path):
            os.mkdir(path, 0o755)
        elif os.path.islink(path) or not os.path.isdir(path):
            raise BuildError(f"{path} is no directory, so there is no place for {name} (asgi_release_shared)")
    path = os.path.join(path, last)
    if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
        os.rmdir(path)
    if os.path.lexists(path):
        raise BuildError(
            f"the build left {path}, which is to be a link to {target} (asgi_release_shared). Have it write elsewhere, or take the path "
            "out of the variable"
        )
    os.symlink(target, path)


class Owner(Protocol):
    """The user that builds."""

    uid: int
    gid: int


def clone(old: str, new: str, builder: Owner) -> tuple[dict[tuple[int, int], str], dict[str, str]]:
    """Make the virtual environment `new`, an empty directory, the same as `old`, a release's: its files are links to the same ones.

    Returns the inodes of the files that are shared now, with their paths in `old`, and the scripts that name the new environment in place
    of the old, with their SHA-256 in hexadecimal digits: the RECORD of their package has that of another environment's. Bytecode is left
    out: it belongs to modules that may be replaced.
    """
    shared = {}
    scripts = {}
    for root, directories, files in os.walk(old):
        there = new + root[len(old) :]
        directories[:] = [name for name in directories if name != "__pycache__"]
        for name in directories:
            path = os.path.join(root, name)
            if os.path.islink(path):
                os.symlink(os.readlink(path), os.path.join(there, name))
            else:
                os.mkdir(os.path.join(there, name), 0o755)
                os.chown(os.path.join(there, name), builder.uid, builder.gid)
        for name in files:
            path, target = os.path.join(root, name), os.path.join(there, name)
            if os.path.islink(path):
                os.symlink(os.readlink(path), target)
            elif os.path.basename(root) == "bin" and (content := _adapted(path, old, new)):
                with open(target, "wb") as stream:
                    stream.write(content)
                shutil.copymode(path, target)
                scripts[target] = hashlib.sha256(content).hexdigest()
            else:
                try:
                    os.link(path, target, follow_symlinks=False)
                    status = os.lstat(path)
                    shared[status.st_dev, status.st_ino] = path
                except OSError as error:
                    if error.errno != errno.EMLINK:
                        raise
                    shutil.copy2(path, target)
    return shared, scripts


def _adapted(path: str, old: str, new: str) -> bytes:
    """Return the script at `path` for the environment `new`, b'' if it does not name the one that it is in."""
    with open(path, "rb") as stream:
        content = stream.read()
    return content.replace(old.encode(), new.encode()) if old.encode() in content else b""
