# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Admit what a build has left into a release: look at each thing by its open directory, and make it root's."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping

from .execute import BuildError, StoppedError
from .store import TEMPORARY, Store

# More than any release has; a build that leaves more wants to keep root busy.
MOST_ENTRIES = 1_000_000
DEEPEST = 100
# Bytes of a path: what the kernel takes, with some room for names beside it.
LONGEST = 4000
MOST_TOGETHER = 8 << 30
# Of what a file has not been given any room for, and which takes root as long to read as what is there.
MOST_HOLES = 1 << 30
# What root reads as a whole: locks, metadata, lists of files.
MOST_BYTES = 64 << 20

# Attributes that give somebody more than a file's mode does, or that nothing here needs.
_ATTRIBUTES = re.compile(r"(user\..*|system\.posix_acl_.*|security\.capability)\Z")
# Modules that an interpreter runs at every start.
_AT_START = re.compile(r".*\.pth\Z|(sitecustomize|usercustomize)(\.py|\..*\.so|\Z)")
_OF_UV = ("_virtualenv.pth",)
# Characters of a name that a terminal or a list would take for something else; and bytes that are no text.
_UNSHOWABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")

Inode = tuple[int, int]


def shown(path: str) -> str:
    """Return a path for people: what would mean something to a terminal is escaped."""
    return path.encode("unicode_escape").decode("ascii") if _UNSHOWABLE.search(path) else path


def read(path: str, most: int = MOST_BYTES) -> bytes:
    """Read a file that somebody else may have put there. Raises BuildError for what is no regular file, and for too much."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BuildError(f"{shown(path)} cannot be read: {error.strerror}; it has to be a regular file, and no link") from error
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BuildError(f"{shown(path)} is no regular file. It is not read")
        content = stream.read(most + 1)
    if len(content) > most:
        raise BuildError(f"{shown(path)} has more than {most >> 20} MiB. It is not read")
    return content


class Admission:
    """One walk through what a build has left, at a time when no process of the builder's is alive.

    Each entry is opened relative to its directory and never by way of a link. Directories become root's, with a plain mode. Files are
    replaced by root's own of the same content: somebody may have the builder's open. What has no place in a release raises BuildError.
    """

    def __init__(self, release: str, uid: int, interpreter: str = "", store: Store | None = None) -> None:
        self.release = os.path.realpath(release)
        self.uid = uid
        self.store = store
        # Asked now and then whether to go on: returns the reason why not.
        self.check: Callable[[], str] = lambda: ""
        # The only thing outside of the release that a link in it may lead to, as the virtual environment's interpreter.
        self.interpreter = os.path.realpath(interpreter) if interpreter else ""
        # Files that root has put there, as links to those of another release: by their inodes, the paths that they have there.
        self.known: dict[Inode, str] = {}
        # What was found: regular files with the digest of each, '' for those that are known, which have a path elsewhere; and links.
        self.digests: dict[str, str] = {}
        self.twins: dict[str, str] = {}
        self.links: list[str] = []
        self._count = 0
        self._bytes = 0
        self._holes = 0
        self._device = -1

    def admit(self, top: str) -> None:
        """Walk through a directory. Its parent is root's."""
        descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._device = os.fstat(descriptor).st_dev
            self._directory(descriptor, top, 0)
        finally:
            os.close(descriptor)
        self.judge_links()

    def judge_links(self) -> None:
        """Raise BuildError for a link that leads out of the release, by way of what there is now."""
        for path in self.links:
            self._judge_link(path)

    def _directory(self, descriptor: int, path: str, depth: int) -> None:
        if depth > DEEPEST:
            raise BuildError(f"the build left directories in one another, more than {DEEPEST} deep: {shown(path)[:300]}…")
        status = os.fstat(descriptor)
        if status.st_dev != self._device:
            raise BuildError(f"the build left {shown(path)}, which is another file system")
        self._check_owner(status, path)
        # First, so that from here on nobody else can put anything in.
        os.fchown(descriptor, os.geteuid(), os.getegid())
        os.fchmod(descriptor, 0o755)
        _strip(descriptor)
        for name in self._names(descriptor, path):
            there = os.path.join(path, name)
            if len(os.fsencode(there)) > LONGEST:
                raise BuildError(f"the build left a path of more than {LONGEST} bytes: {shown(there)[:300]}…")
            if _UNSHOWABLE.search(name):
                raise BuildError(f"the build left a file whose name has control characters, or is no text: {shown(there)}. Rename it")
            if name == TEMPORARY:
                raise BuildError(f"the build left {shown(there)}, a name that is used for the release itself. Rename it")
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            self._check_owner(status, there)
            if stat.S_ISDIR(status.st_mode):
                self._below(descriptor, name, there, depth)
            elif name.endswith(".pyc") or name == "__pycache__":
                # What a build has compiled may be of other sources than those that lie beside it.
                os.unlink(name, dir_fd=descriptor)
            elif stat.S_ISREG(status.st_mode):
                self._file(descriptor, name, there)
            elif stat.S_ISLNK(status.st_mode):
                os.chown(name, os.geteuid(), os.getegid(), dir_fd=descriptor, follow_symlinks=False)
                self.links.append(there)
            else:
                raise BuildError(f"the build left {shown(there)}, which is {_kind(status.st_mode)} and neither a file nor a link")

    def _names(self, descriptor: int, path: str) -> Iterator[str]:
        names = []
        with os.scandir(descriptor) as found:
            for entry in found:
                names.append(entry.name)
                self._count += 1
                if self._count % 1000 == 0:
                    self._go_on()
                if self._count > MOST_ENTRIES:
                    raise BuildError(f"the build left more than {MOST_ENTRIES} files, at last in {shown(path)}")
        yield from sorted(names)

    def _below(self, parent: int, name: str, path: str, depth: int) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._directory(descriptor, path, depth + 1)
        finally:
            os.close(descriptor)
        if name == "__pycache__":
            # Whatever is in there: what belongs there is root's to make.
            shutil.rmtree(name, dir_fd=parent)
            self.digests = {each: digest for each, digest in self.digests.items() if not each.startswith(f"{path}/")}
            self.links = [each for each in self.links if not each.startswith(f"{path}/")]

    def _go_on(self) -> None:
        reason = self.check()
        if reason:
            raise StoppedError(reason)

    def _file(self, parent: int, name: str, path: str) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        with open(descriptor, "rb"):
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BuildError(f"{shown(path)} has changed while it was looked at")
            self._check_owner(status, path)
            if (status.st_dev, status.st_ino) in self.known:
                self.digests[path] = ""
                self.twins[path] = self.known[status.st_dev, status.st_ino]
                return
            if status.st_nlink > 1 and status.st_uid != self.uid:
                raise BuildError(f"the build left {shown(path)}, a link to a file that belongs to another user")
            self._bytes += status.st_size
            if self._bytes > MOST_TOGETHER:
                raise BuildError(f"the build left more than {MOST_TOGETHER >> 30} GiB, at last {shown(path)}")
            self._holes += _holes(descriptor, status)
            if self._holes > MOST_HOLES:
                raise BuildError(
                    f"the build left files with more than {MOST_HOLES >> 30} GiB that were never written, at last {shown(path)}. Have it "
                    "write what it needs"
                )
            executable = bool(status.st_mode & 0o100)
            if self.store:
                digest = self._digest(descriptor)
                if self.store.take(digest, executable, parent, name):
                    self.digests[path] = digest
                    return
                os.lseek(descriptor, 0, os.SEEK_SET)
            self.digests[path] = self._copy(descriptor, parent, name, executable)
        if self.store:
            self.store.share(path, self.digests[path])

    def _digest(self, source: int) -> str:
        total = hashlib.sha256()
        for block in self._blocks(source):
            total.update(block)
        return total.hexdigest()

    def _copy(self, source: int, parent: int, name: str, executable: bool) -> str:
        """Replace a file by a copy, and return the digest of what was written."""
        total = hashlib.sha256()
        target = os.open(TEMPORARY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        with open(target, "wb", buffering=0) as stream:
            for block in self._blocks(source):
                total.update(block)
                view = memoryview(block)
                while view:
                    view = view[stream.write(view) :]
            _strip(target)
            os.fchmod(target, 0o755 if executable else 0o644)
        os.replace(TEMPORARY, name, src_dir_fd=parent, dst_dir_fd=parent)
        return total.hexdigest()

    def _blocks(self, source: int) -> Iterator[bytes]:
        most = MOST_TOGETHER
        while block := os.read(source, 1 << 20):
            most -= len(block)
            if most < 0:
                raise BuildError(f"the build left a file of more than {MOST_TOGETHER >> 30} GiB")
            yield block
            if len(block) == 1 << 20:
                self._go_on()

    def _check_owner(self, status: os.stat_result, path: str) -> None:
        if status.st_uid not in (self.uid, os.geteuid()):
            raise BuildError(f"the build left {shown(path)}, which belongs to another user")

    def _judge_link(self, path: str) -> None:
        try:
            target = os.path.realpath(path)
        except OSError:
            # Python 3.11 and older end so where a link below /proc may not be read. What cannot be followed leads out of the release.
            target = "/"
        if f"{target}/".startswith(f"{self.release}/"):
            return
        folder, name = os.path.split(path)
        if self.interpreter == target and re.fullmatch(r"python[0-9.]*", name) and os.path.basename(folder) == "bin":
            return
        raise BuildError(
            f"the build left {shown(path)}, a link to {shown(os.readlink(path))}, which is outside of the release. Have it copy what it "
            "needs, or name the path in asgi_release_shared"
        )


def _holes(descriptor: int, status: os.stat_result) -> int:
    """Return how much of a file has no room on the disk since it was never written. (What was compressed has none either, and no holes.)"""
    missing = status.st_size - 512 * status.st_blocks
    if missing <= 0:
        return 0
    hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return missing if hole < status.st_size else 0


def _strip(descriptor: int) -> None:
    try:
        names = os.listxattr(descriptor)
    except OSError:
        # The file system has none.
        return
    for name in names:
        if _ATTRIBUTES.match(name):
            os.removexattr(descriptor, name)


def _kind(mode: int) -> str:
    for test, kind in ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device")):
        if test(mode):
            return kind
    return "something else"


def check_records(site: str, digests: dict[str, str], scripts: Mapping[str, str] | None = None) -> None:
    """Compare the files of installed packages with what the packages' own lists say (RECORD, PEP 376). Raises BuildError.

    `site` is site-packages, `digests` what the admission has found. Packages that share a file are content with one another's. `scripts`
    are those that root has written for this environment, with their digests.
    """
    listed: dict[str, set[str]] = {}
    owner: dict[str, str] = {}
    for name in sorted(os.listdir(site)):
        record = os.path.join(site, name, "RECORD")
        if name.endswith(".dist-info") and record in digests:
            for path, digest in _record(record):
                there = os.path.normpath(os.path.join(site, path))
                owner.setdefault(there, name.removesuffix(".dist-info"))
                listed.setdefault(there, set()).add(digest)
    for path, wanted in listed.items():
        if path.endswith(".pyc") or "" in wanted:
            continue
        found = digests.get(path)
        if found is None and not os.path.lexists(path):
            raise BuildError(f"{shown(path)} of the package {owner[path]} is missing: a build script of another package has removed it")
        if found and found not in wanted and found != (scripts or {}).get(path):
            raise BuildError(
                f"{shown(path)} is not what the package {owner[path]} brings (its RECORD has another digest): something has changed it "
                "since. Look for a package whose build script does that"
            )
    for path in digests:
        name = os.path.basename(path)
        if os.path.dirname(path) == site and _AT_START.match(name) and path not in listed and name not in _OF_UV:
            raise BuildError(
                f"the build left {shown(path)}, which every start of the interpreter would run and which belongs to no package. Look for "
                "a package whose build script does that"
            )


def _record(path: str) -> Iterator[tuple[str, str]]:
    """Yield the files that a package lists, each with its SHA-256 in hexadecimal digits; '' where it has none."""
    text = read(path).decode("utf-8", "replace")
    try:
        for row in csv.reader(text.splitlines()):
            if row:
                kind, _equals, value = (row[1] if len(row) > 1 else "").partition("=")
                digest = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex() if kind == "sha256" else ""
                yield row[0], digest
    except (csv.Error, binascii.Error, ValueError) as error:
        raise BuildError(f"{shown(path)} is no list of files: {error}") from error
