# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a build does on the host: run other people's code as nobody in particular, and take over what it made."""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import re
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

# One on a host, so that the next build can end what an interrupted one has left running.
UNIT = "asgi-build.service"

# A login's own. The rest of the environment (an index, a proxy) is meant for the build.
_OF_THE_LOGIN = re.compile(
    r"(HOME|USER|LOGNAME|SHELL|MAIL|PWD|OLDPWD|SHLVL|TERM|PATH|_|LS_COLORS|HISTFILE|VIRTUAL_ENV|PYTHON[A-Z]*|(XDG|SUDO|SSH|ANSIBLE)_.*)\Z"
)

# Build scripts are other people's code: they get the network, a compiler, and nothing of this host to write to. They yield to
# what serves, in time and in memory.
_SANDBOX = (
    "UMask=0022",
    "NoNewPrivileges=true",
    "CapabilityBoundingSet=",
    "RestrictSUIDSGID=true",
    "ProtectSystem=strict",
    "ProtectHome=true",
    "PrivateTmp=true",
    "PrivateDevices=true",
    "ProtectKernelTunables=true",
    "ProtectControlGroups=true",
    "ProtectProc=invisible",
    "LockPersonality=true",
    "RestrictNamespaces=true",
    "KillMode=control-group",
    "Nice=5",
    "CPUWeight=50",
    "OOMScoreAdjust=500",
)


# In a release that is being built, or removed.
BUILDING = ".building"


class BuildError(Exception):
    """The release could not be built."""


class Runner(Protocol):
    """AnsibleModule.run_command."""

    def __call__(self, args: list[str], **options: Any) -> tuple[int, str, str]: ...


class Builder:
    """The user that builds. Without a name that is whoever runs this: for a host of one's own, and for tests."""

    def __init__(self, run_command: Runner, name: str) -> None:
        self.run_command = run_command
        self.name = name
        self.uid, self.gid = os.geteuid(), os.getegid()

    def prepare(self) -> None:
        """Make the user where the host has none of that name, and end what an earlier build has left running."""
        if not self.name:
            return
        try:
            entry = pwd.getpwnam(self.name)
        except KeyError:
            options = ["--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin"]
            rc, _stdout, stderr = self.run_command(["useradd", *options, self.name])
            if rc != 0:
                raise BuildError(f"the user {self.name}, which builds, cannot be made: {stderr.strip()}") from None
            entry = pwd.getpwnam(self.name)
        if entry.pw_uid == 0:
            raise BuildError(f"build_user (asgi_release_build_user) is {self.name}, which is root; name another user, or none that exists")
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.stop()

    def stop(self) -> None:
        """End all of the build's processes."""
        if self.name:
            self.run_command(["systemctl", "kill", "--signal=KILL", UNIT])
            self.run_command(["systemctl", "stop", UNIT])

    def run(self, command: Sequence[str], cwd: str, environment: Mapping[str, str], writable: Sequence[str]) -> tuple[int, str, str]:
        """Run a command to its end, with all of its children. What is not in `writable` it cannot write to."""
        if not self.name:
            return self.run_command(list(command), cwd=cwd, environ_update=dict(environment), handle_exceptions=False)
        given = {name: value for name, value in os.environ.items() if not _OF_THE_LOGIN.match(name) and name.isidentifier()}
        values = {**given, "HOME": "/tmp", **environment}  # noqa: S108 (it is the unit's own)
        # By standard input: on a command line, in a file or in the unit's properties others could read the passwords among them.
        told = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
        options = [f"--property={option}" for option in _SANDBOX]
        options += [f"--property=User={self.name}", f"--property=WorkingDirectory={cwd}", f"--property=ReadWritePaths={' '.join(writable)}"]
        shell = ["/bin/sh", "-c", 'eval "$(cat)"; exec "$@" </dev/null', "sh"]
        start = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={UNIT}", *options, "--", *shell, *command]
        return self.run_command(start, data=told, binary_data=False)

    def give(self, path: str) -> None:
        """Make a directory and all that is in it the user's."""
        if self.name:
            for root, directories, files in os.walk(path):
                for name in ("", *directories, *files):
                    os.lchown(os.path.join(root, name), self.uid, self.gid)


def link(old: str, new: str) -> bool:
    """Make a hard link; return False where there cannot be one: on another file system, or to a file with as many as there can be."""
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
            raise
        return False
    return True


class Store:
    """Every file of every release once: releases are hard links into it. Files are known by their content.

    uv has hard links of its own, out of its cache. They are of no use here: the cache belongs to the user that builds, the
    release does not, and a file has one owner.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        # The digests of modules that have been shared.
        self.modules: dict[str, str] = {}

    def share(self, path: str, status: os.stat_result) -> None:
        """Make the file at `path` a link to the one of the same content, or have later ones link to it.

        The time of the last change follows from the content too, so that bytecode stays valid for it.
        """
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        moment = 315532800 + int(digest[:7], 16)
        os.utime(path, (moment, moment), follow_symlinks=False)
        if path.endswith(".py"):
            self.modules[path] = digest
        if status.st_size == 0:
            return
        kept = os.path.join(self.directory, digest[:2], f"{digest[2:]}{'-x' if status.st_mode & 0o100 else ''}")
        try:
            if link(kept, f"{path}.link"):
                os.replace(f"{path}.link", path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
            link(path, kept)

    def bytecode(self, python: str, tag: str) -> Iterator[tuple[str, str]]:
        """Yield for each module that has been shared where its bytecode belongs, and where it is kept for other releases.

        It follows from the interpreter and from the module, whose time and size are in it. Python corrects the path in it when it
        is loaded.
        """
        status = os.stat(python)
        key = hashlib.sha256(f"{os.path.realpath(python)} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
        for path, digest in self.modules.items():
            folder, name = os.path.split(path)
            wanted = os.path.join(folder, "__pycache__", f"{name.removesuffix('.py')}.{tag}.pyc")
            yield wanted, os.path.join(self.directory, "bytecode", key, digest[:2], digest[2:])

    def prune(self) -> int:
        """Remove what no release links to. Returns the bytes that this made free."""
        freed = 0
        for root, _directories, files in os.walk(self.directory):
            for name in files:
                path = os.path.join(root, name)
                status = os.lstat(path)
                if status.st_nlink == 1:
                    os.unlink(path)
                    freed += status.st_size
        return freed


def is_interrupted(release: str) -> bool:
    """Return whether somebody who made or removed a release was interrupted: it has the mark, or as yet, or no more, even that."""
    return os.path.exists(os.path.join(release, BUILDING)) or (
        os.path.isdir(release) and not os.path.islink(release) and not os.listdir(release)
    )


def remove_release(release: str) -> None:
    """Remove a release that is not complete, the mark last: who is interrupted in here leaves what the next one knows."""
    for entry in list(os.scandir(release)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != BUILDING:
            os.unlink(entry.path)
    shutil.rmtree(release)


def entries(directory: str) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a directory, never following a link; a directory comes after what is in it."""
    with os.scandir(directory) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from entries(entry.path)
            yield entry


def take_over(directory: str, builder: Builder, store: Store | None, final: bool) -> None:
    """Make what the builder has put into a directory root's, and nobody else's to write. No process of the builder's may be alive.

    With `final` the directories too; before that the builder can still add to them. Without a store the files stay the release's
    own. Raises BuildError for what has no place in a release.
    """
    for entry in entries(directory):
        status = entry.stat(follow_symlinks=False)
        if status.st_uid not in (builder.uid, os.geteuid()):
            raise BuildError(f"the build left {entry.path}, which belongs to another user")
        if stat.S_ISREG(status.st_mode):
            if status.st_uid == os.geteuid() and status.st_nlink > 1:
                continue
            if not final and entry.name.endswith(".pyc"):
                # Its source is about to get another time, and whoever wrote it may have had other sources.
                os.unlink(entry.path)
                continue
            os.chown(entry.path, os.geteuid(), os.getegid(), follow_symlinks=False)
            os.chmod(entry.path, 0o755 if status.st_mode & 0o100 else 0o644)
            if store and not entry.name.endswith(".pyc"):
                store.share(entry.path, status)
        elif stat.S_ISLNK(status.st_mode):
            os.lchown(entry.path, os.geteuid(), os.getegid())
        elif not stat.S_ISDIR(status.st_mode):
            raise BuildError(f"the build left {entry.path}, which is neither a file nor a link")
        elif final:
            os.chown(entry.path, os.geteuid(), os.getegid())
            os.chmod(entry.path, 0o755)  # noqa: S103 (the application has to read it)
    if final:
        os.chown(directory, os.geteuid(), os.getegid())
        os.chmod(directory, 0o755)  # noqa: S103


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


def clone(old: str, new: str, builder: Builder) -> None:
    """Make the virtual environment `new`, an empty directory, the same as `old`: its files are links to the same ones."""
    for root, directories, files in os.walk(old):
        there = new + root[len(old) :]
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
            elif os.path.basename(root) == "bin" and _adapted(path, target, old, new):
                os.chown(target, builder.uid, builder.gid)
            else:
                try:
                    os.link(path, target, follow_symlinks=False)
                except OSError as error:
                    if error.errno != errno.EMLINK:
                        raise
                    shutil.copy2(path, target)


def _adapted(path: str, target: str, old: str, new: str) -> bool:
    """Write `target` if the script at `path` names the environment that it is in; return whether it does."""
    with open(path, "rb") as stream:
        content = stream.read()
    if old.encode() not in content:
        return False
    with open(target, "wb") as stream:
        stream.write(content.replace(old.encode(), new.encode()))
    shutil.copymode(path, target)
    return True
