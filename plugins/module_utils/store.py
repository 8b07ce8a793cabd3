# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every file of every release once, and the bytecode of every module: releases are hard links into what root keeps."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO

from .execute import BuildError

# What a file has for a name until it is whole. A build that leaves something of that name is refused.
TEMPORARY = ".steadfast-new"

# Bytecode that is larger is none.
_MOST_BYTES = 64 << 20

# There cannot be a hard link: on another file system, or to a file with as many as there can be.
_NO_LINKS = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP)

# Run by the interpreter that the modules are for, isolated: it imports nothing of the release and writes to nothing but its output.
# Each answer is the module's number, a length, and bytecode in the form that Python keeps it in. What cannot be compiled has no answer.
COMPILER = r"""
import os, struct, sys, warnings
from importlib import _bootstrap_external as external
warnings.simplefilter("ignore")
paths = sys.stdin.buffer.read().split(b"\0")
count = len(os.sched_getaffinity(0)) if len(paths) > 100 else 1
children = []
for number in range(count):
    child = os.fork()
    if child == 0:
        for index in range(number, len(paths), count):
            path = os.fsdecode(paths[index])
            try:
                with open(path, "rb") as stream:
                    source = stream.read()
                    status = os.fstat(stream.fileno())
                code = external.SourceFileLoader("<module>", path).source_to_code(source, path)
                data = external._code_to_timestamp_pyc(code, int(status.st_mtime), status.st_size)
            except (Exception, RecursionError, MemoryError):
                continue
            frame = struct.pack("<II", index, len(data)) + data
            if os.write(1, frame) != len(frame):
                os._exit(1)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""

# Runs a program with an input; what it writes goes into a file. Returns its code and what it complained of.
RunAlone = Callable[[list[str], bytes, IO[bytes]], tuple[int, str]]


def link(old: str, new: str) -> bool:
    """Make a hard link; return whether there can be one."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


class Store:
    """Files by their content. Nobody but root can look into it, and what is in there came from releases that were admitted.

    uv has hard links of its own, out of its cache. They are of no use here: the cache belongs to the user that builds, the
    release does not, and a file has one owner.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path_of(self, digest: str, executable: bool) -> str:
        return os.path.join(self.directory, digest[:2], f"{digest[2:]}{'-x' if executable else ''}")

    def take(self, digest: str, executable: bool, folder: int, name: str) -> bool:
        """Put the file of that content in place of `name` in an open directory; return whether there was one."""
        try:
            os.link(self.path_of(digest, executable), TEMPORARY, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, *_NO_LINKS):
                raise
            return False
        os.replace(TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder)
        return True

    def share(self, path: str, digest: str) -> None:
        """Have later files of the same content be links to the one at `path`, which is root's alone.

        The time of the last change follows from the content too, so that bytecode stays valid for it.
        """
        moment = 315532800 + int(digest[:7], 16)
        os.utime(path, (moment, moment), follow_symlinks=False)
        status = os.lstat(path)
        if status.st_size:
            kept = self.path_of(digest, bool(status.st_mode & 0o100))
            os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
            # Another application's build may have the same file just now; and a store may be on another file system.
            with contextlib.suppress(FileExistsError):
                link(path, kept)

    def prune(self) -> int:
        """Remove what no release links to. Returns the bytes that this made free."""
        freed = 0
        for root, _directories, files in os.walk(self.directory):
            for name in files:
                path = os.path.join(root, name)
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(path)
                    if status.st_nlink == 1:
                        os.unlink(path)
                        freed += status.st_size
        return freed


class Bytecode:
    """The bytecode of a release's modules, compiled of sources that are sealed, by the interpreter that the release was built with."""

    def __init__(self, store: Store, python: str) -> None:
        self.python = python
        status = os.stat(python)
        key = hashlib.sha256(f"{os.path.realpath(python)} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
        self.directory = os.path.join(store.directory, "bytecode", key)

    def add(self, venv: str, digests: Mapping[str, str], twins: Mapping[str, str], run: RunAlone) -> None:
        """Put bytecode beside each module below `venv`, a tree of root's that has none: out of the store, or compiled now.

        `digests` are the files of the environment, and `twins` the same files in another release, which has bytecode of them.
        """
        missing = []
        for path, wanted, kept in self._wanted(venv, digests, twins):
            os.makedirs(os.path.dirname(wanted), mode=0o755, exist_ok=True)
            try:
                linked = link(kept, wanted)
            except FileNotFoundError:
                linked = False
            if not linked:
                missing.append((path, wanted, kept))
        if missing:
            self._compile(missing, run)

    def _wanted(self, venv: str, digests: Mapping[str, str], twins: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
        """Yield each module's path, where its bytecode belongs, and where it is kept."""
        library = os.path.join(venv, "lib")
        for name in os.listdir(library) if os.path.isdir(library) else []:
            version = re.fullmatch(r"python3\.(\d+)", name)
            if not version:
                continue
            tag = f"cpython-3{version.group(1)}"
            for path, digest in digests.items():
                if path.endswith(".py") and path.startswith(f"{library}/{name}/"):
                    kept = os.path.join(self.directory, digest[:2], digest[2:]) if digest else _beside(twins[path], tag)
                    yield path, _beside(path, tag), kept

    def _compile(self, missing: list[tuple[str, str, str]], run: RunAlone) -> None:
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.dirname(self.directory))) as output:
            os.set_inheritable(output.fileno(), True)
            appending = os.open(f"/proc/self/fd/{output.fileno()}", os.O_WRONLY | os.O_APPEND)
            with open(appending, "wb", buffering=0) as stream:
                paths = b"\0".join(os.fsencode(path) for path, _wanted, _kept in missing)
                code, said = run([self.python, "-I", "-S", "-E", "-B", "-c", COMPILER], paths, stream)
            if code != 0:
                raise BuildError(f"bytecode cannot be compiled with {self.python}: {said.strip() or f'it ended with {code}'}")
            output.seek(0)
            for number, data in _frames(output):
                if number >= len(missing):
                    raise BuildError(f"{self.python} has compiled what it was not asked for")
                _path, wanted, kept = missing[number]
                self._keep(data, wanted, kept)

    def _keep(self, data: bytes, wanted: str, kept: str) -> None:
        with open(wanted, "xb") as stream:
            stream.write(data)
        if kept.startswith(f"{self.directory}/"):
            os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                link(wanted, kept)


def _beside(path: str, tag: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, "__pycache__", f"{name.removesuffix('.py')}.{tag}.pyc")


def _frames(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    while head := stream.read(8):
        if len(head) < 8:
            return
        number, size = struct.unpack("<II", head)
        if size > _MOST_BYTES:
            return
        data = stream.read(size)
        if len(data) < size:
            return
        yield number, data
