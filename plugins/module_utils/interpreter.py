# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The interpreter that a release is built with: one of the host's, or one that uv installs for all applications."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .builder import remove_tree
from .execute import BuildError, execute
from .locks import locked
from .target import PROBE
from .units import run_command

# Debian's group for /usr/local, which root gives to those that may install there.
_STAFF = 50


def _numbers(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]


def find(wanted: str, root: str) -> str:
    """Return the interpreter's path, '' for a version that uv would have to install. Raises BuildError for a path to nothing."""
    if wanted.startswith("/"):
        if not os.access(wanted, os.X_OK):
            raise BuildError(
                f"python (asgi_release_python) is {wanted}, and this host has no such program. Install it, or give a version such "
                "as 3.13, which uv installs."
            )
        return wanted
    places = [f"/usr/bin/python{wanted}", f"/usr/local/bin/python{wanted}"]
    minor = ".".join(wanted.split(".")[:2])
    pattern = os.path.join(glob.escape(root), f"cpython-{wanted}[.-]*linux-*")
    # uv has a link from each minor version to its newest patch. A release keeps the interpreter that it was built with.
    roots = sorted({os.path.realpath(path) for path in glob.glob(pattern)}, key=_numbers, reverse=True)
    managed = [os.path.join(root, "bin", f"python{minor}") for root in roots]
    return next((place for place in [*places, *managed] if os.access(place, os.X_OK)), "")


def check(python: str) -> None:
    """Raise BuildError for an interpreter that somebody other than root could change. It compiles what all applications run."""
    path = os.path.realpath(python)
    while path != "/":
        status = os.lstat(path)
        others = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        group = status.st_mode & stat.S_IWGRP and status.st_gid not in (0, _STAFF)
        if status.st_uid != 0 or others or group:
            raise BuildError(
                f"python (asgi_release_python) is {python}, and {path} can be changed by somebody other than root. Give an interpreter "
                "that belongs to root as a whole, or a version such as 3.13, which uv installs."
            )
        path = os.path.dirname(path)


def probe(python: str, wanted: str, root: str) -> dict[str, Any]:
    """Return what an interpreter says of itself and of the host (PROBE)."""
    # None of those that uv installs is run as root; they differ from the host's own in nothing but the version.
    own = python and not python.startswith(root)
    done = run_command([python if own else sys.executable, "-I", "-c", PROBE])
    if done.returncode != 0:
        raise BuildError(f"python (asgi_release_python) is {python}, which cannot be run: {done.stderr.strip()}")
    told: dict[str, Any] = json.loads(done.stdout)
    if not own:
        named = re.search(r"cpython-([0-9.]+)", python)
        full = named.group(1) if named else wanted
        full += ".0" if full.count(".") == 1 else ""
        told["markers"] |= {"python_full_version": full, "implementation_version": full, "python_version": full.rpartition(".")[0]}
    return told


def install(
    uv: str,
    wanted: str,
    root: str,
    environment: Mapping[str, str],
    reason_to_stop: Callable[[], str],
    timeout: float,
    note: Mapping[str, Any],
) -> str:
    """Have uv install an interpreter, for all applications of the host. It is unpacked, and none of it is run as root."""
    command = [uv, "python", "install", "--no-bin", "--no-config", wanted]
    values = {
        **environment,
        "UV_PYTHON_INSTALL_DIR": root,
        "UV_CACHE_DIR": os.path.join(root, ".cache"),
        "UV_NO_PROGRESS": "1",
    }
    os.makedirs(root, 0o755, exist_ok=True)
    what = "an installation of an interpreter, for another application,"
    with locked(os.path.join(root, ".installing"), timeout, note, what=what, remedy="Wait for it, or look at that process"):
        found = find(wanted, root)
        if found:
            return found
        # uv takes a lock of its own, which everybody could take first. One that is there already keeps its mode.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(os.path.join(root, ".lock"), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
        os.chmod(os.path.join(root, ".lock"), 0o600)
        code, stdout, stderr = execute(command, {**os.environ, **values}, "/", b"", reason_to_stop)
        remove_tree(values["UV_CACHE_DIR"])
        remove_tree(os.path.join(root, ".lock"))
        found = find(wanted, root)
    if code != 0 or not found:
        raise BuildError(
            f"python (asgi_release_python) is {wanted}, which is not on this host, and uv cannot install it: "
            f"{(stderr or stdout).strip()}. Where there is no way to uv's own address, name a mirror (asgi_release_python_mirror), "
            "a list of archives (asgi_release_python_downloads) or a path on the host."
        )
    return found
