# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user that builds the releases of one application, and the unit that its commands run in."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import pwd
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from .build_unit import Sandbox
from .execute import KEPT, BuildError, Run, StoppedError, execute
from .units import run_command

# A login's own. The rest of the environment (an index, a proxy) is meant for the build.
_OF_THE_LOGIN = re.compile(
    r"(HOME|USER|LOGNAME|SHELL|MAIL|PWD|OLDPWD|SHLVL|TERM|PATH|_|LS_COLORS|HISTFILE|VIRTUAL_ENV|PYTHON[A-Z]*|(XDG|SUDO|SSH|ANSIBLE)_.*)\Z"
)

# How the account says what it is for, by which it is found when the application is removed.
_COMMENT = "{} (builds of an ASGI application)"
_PREFIX = "asgi-build-"

# What is in uv's cache: directories such as wheels-v5, and these files.
_BUCKET = re.compile(r"[a-z-]+-v[0-9]+\Z")
_CACHE_FILES = (".gitignore", ".lock", "CACHEDIR.TAG")


def user_of(app: str) -> str:
    """Return the name of the user that builds an application's releases, unless the deployment names another one (31 characters)."""
    return f"{_PREFIX}{app if len(app) <= 20 else f'{app[:11]}-{hashlib.sha256(app.encode()).hexdigest()[:8]}'}"


def comment_of(app: str) -> str:
    return _COMMENT.format(app)


def inherited() -> dict[str, str]:
    """Return what a build gets of this process's environment."""
    return {name: value for name, value in os.environ.items() if not _OF_THE_LOGIN.match(name) and name.isidentifier()}


def processes_of(uid: int) -> list[str]:
    """Return the processes that a user has, however they were begun, as text for people."""
    found = []
    # Each thread: others may run where the first one has ended.
    for path in glob.glob("/proc/[0-9]*/task/*/status"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            told = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
            # A process that has ended and waits for its parent to notice can do nothing any more.
            if str(uid) in told["Uid"].split() and told["State"][:1] not in ("Z", "X"):
                found.append(f"{path.split('/')[2]} ({told['Name']})")
    return sorted(set(found))


class Builder:
    """The user that builds. Without a name that is whoever runs this: for a host of one's own, and for tests."""

    def __init__(self, name: str, app: str, cache: str) -> None:
        self.name = name
        self.app = app
        # uv's cache. It is this user's alone: who could write to another's could change what that one installs.
        self.cache = os.path.join(cache, "users", name) if name else os.path.join(cache, "uv")
        # One of each for an application, so that the next build can end what an interrupted one has left running.
        self.unit = f"asgi-build-{app}.service"
        self.guard_unit = f"asgi-build-{app}-guard.scope"
        self.uid, self.gid = os.geteuid(), os.getegid()
        # Decided when it is known what is built.
        self.sandbox = Sandbox(name, "", "")
        self.deadline = float("inf")
        self.timeout = 0
        self.run_of = Run()
        # Asked now and then whether the command may go on: returns the reason why not.
        self.watch: Callable[[], str] = lambda: ""
        self._guard: subprocess.Popen[bytes] | None = None

    # The user

    def prepare(self) -> None:
        """Make the user where the host has none of that name, with a cache of its own, and end what an earlier build has left running."""
        if self.name:
            entry = self._account()
            if entry.pw_uid == 0:
                raise BuildError(
                    f"build_user (asgi_release_build_user) is {self.name}, which is root; name another user, or none that exists"
                )
            if entry.pw_gecos.endswith("(ASGI application)"):
                raise BuildError(
                    f"build_user (asgi_release_build_user) is {self.name}, which an application of this host runs as; name another user"
                )
            self.uid, self.gid = entry.pw_uid, entry.pw_gid
            self.stop()
            self.settle()
        for path in (os.path.dirname(os.path.dirname(self.cache)) if self.name else "", os.path.dirname(self.cache)):
            if path and not os.path.isdir(path):
                os.makedirs(path, 0o755)
        self._own_cache()

    def _account(self) -> pwd.struct_passwd:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(self.name)
        options = ["--system", "--user-group", "--no-create-home", f"--home-dir={self.cache}", "--shell=/usr/sbin/nologin"]
        made = run_command(["useradd", *options, f"--comment={comment_of(self.app)}", self.name])
        if made.returncode != 0:
            raise BuildError(f"the user {self.name}, which builds, cannot be made: {made.stderr.strip()}")
        return pwd.getpwnam(self.name)

    def _own_cache(self) -> None:
        """Give the user its cache. One that was another's is not believed, and one that a build has damaged would fail all that follow."""
        if os.path.lexists(self.cache):
            status = os.lstat(self.cache)
            if os.path.isdir(self.cache) and not os.path.islink(self.cache) and status.st_uid == self.uid and is_cache(self.cache):
                os.chmod(self.cache, 0o700)
                return
            remove_tree(self.cache)
        os.mkdir(self.cache, 0o700)
        os.chown(self.cache, self.uid, self.gid)

    def give(self, path: str) -> None:
        """Make a directory and all that is in it the user's. No process of the user's may be alive."""
        if self.name:
            for root, directories, files in os.walk(path):
                for name in ("", *directories, *files):
                    os.lchown(os.path.join(root, name), self.uid, self.gid)

    # The unit

    @contextlib.contextmanager
    def guarded(self, seconds: int) -> Iterator[None]:
        """Let the commands that follow take so many seconds together, and none of them outlive this process, however it ends."""
        self.deadline, self.timeout = time.monotonic() + seconds, seconds
        if not self.name:
            yield
            return
        # Its input ends with this process, and then it ends too; the units of the commands are bound to it.
        start = ["systemd-run", "--quiet", "--scope", "--collect", f"--unit={self.guard_unit}", "--property=IPAccounting=true", "--", "cat"]
        self._guard = subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        try:
            os.write(self._guard.stdin.fileno(), b"\n")  # type: ignore[union-attr]
            if not self._guard.stdout.readline():  # type: ignore[union-attr]
                said = self._guard.stderr.read(4096).decode("utf-8", "replace").strip()  # type: ignore[union-attr]
                raise BuildError(f"systemd starts no unit for the build ({self.guard_unit}): {said}")
            yield
        finally:
            self.stop()

    def filters_addresses(self) -> bool:
        """Return whether systemd can close addresses to a unit on this host. It needs the same for counting a unit's bytes."""
        told = run_command(["systemctl", "show", "--property=IPIngressBytes", "--value", self.guard_unit]).stdout.strip()
        return told.isdigit() and int(told) < 1 << 63

    def stop(self) -> None:
        """End all of the build's processes."""
        if self.name:
            run_command(["systemctl", "kill", "--signal=KILL", self.unit])
            run_command(["systemctl", "stop", self.unit, self.guard_unit])
        if self._guard:
            for stream in (self._guard.stdin, self._guard.stdout, self._guard.stderr):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._guard.wait()
            self._guard = None

    def settle(self) -> None:
        """Make sure that the user has no process left, so that what it has written stays as it is. Raises BuildError otherwise."""
        if not self.name:
            return
        left: list[str] = []
        for _attempt in range(20):
            left = processes_of(self.uid)
            if not left:
                return
            time.sleep(0.1)
        raise BuildError(
            f"the user {self.name}, which builds, has processes outside of the build: {', '.join(left[:5])}. They could change what is "
            "built. End them, or name a user that does nothing else (asgi_release_build_user)"
        )

    def run(
        self,
        command: Sequence[str],
        cwd: str,
        environment: Mapping[str, str],
        writable: Sequence[str],
        network: bool = True,
        kept: int = KEPT,
    ) -> tuple[int, str, str]:
        """Run a command to its end, with all of its children. What is not in `writable` it cannot write to."""
        if not self.name:
            return self._execute(command, {**os.environ, **environment}, cwd, b"", kept)
        values = {**inherited(), "HOME": "/tmp", **environment}  # noqa: S108 (it is the unit's own)
        # By standard input: on a command line, in a file or in the unit's properties others could read the passwords among them.
        told = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
        properties = self.sandbox.properties(cwd, writable, self.deadline - time.monotonic(), network)
        shell = ["/bin/sh", "-c", 'eval "$(cat)"; exec "$@" </dev/null', "sh"]
        start = [*self._start(properties), "--", *shell, *command]
        done = self._execute(start, os.environ, "/", told.encode("utf-8", "surrogateescape"), kept)
        self.settle()
        return done

    def run_alone(self, command: Sequence[str], data: bytes, output: IO[bytes]) -> tuple[int, str]:
        """Run a program of the host's as a user that exists for it alone: it can write to nothing but `output`, and reach nothing."""
        if not self.name:
            code, _stdout, stderr = self._execute(command, os.environ, "/", data, KEPT, output)
            return code, stderr
        properties = self.sandbox.properties("/", [], self.deadline - time.monotonic(), network=False)
        properties = [each for each in properties if not each.startswith("User=")] + ["DynamicUser=true"]
        code, _stdout, stderr = self._execute([*self._start(properties), "--", *command], os.environ, "/", data, KEPT, output)
        return code, stderr

    def _start(self, properties: Sequence[str]) -> list[str]:
        bound = [f"BindsTo={self.guard_unit}", f"After={self.guard_unit}"]
        options = [f"--property={each}" for each in [*properties, *bound]]
        return ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={self.unit}", *options]

    def _execute(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: str,
        data: bytes,
        kept: int,
        output: IO[bytes] | None = None,
    ) -> tuple[int, str, str]:
        try:
            done = execute(command, environment, cwd, data, self.reason_to_stop, kept, output)
        except StoppedError:
            self.stop()
            raise
        # systemd may have noticed before.
        if done[0] != 0 and time.monotonic() >= self.deadline - 1:
            raise StoppedError(self._late())
        return done

    def _late(self) -> str:
        return (
            f"the build has taken {self.timeout} seconds and was stopped (build_timeout, asgi_release_build_timeout). Give it more time, "
            "or see what it waits for"
        )

    def reason_to_stop(self) -> str:
        if time.monotonic() >= self.deadline:
            return self._late()
        return self.run_of.over() or self.watch()


def is_cache(path: str) -> bool:
    """Return whether the entries of a directory are of the kinds that those of uv's cache are."""
    with os.scandir(path) as entries:
        for entry in entries:
            named = "directory" if _BUCKET.match(entry.name) else "file" if entry.name in _CACHE_FILES else ""
            kind = "directory" if entry.is_dir(follow_symlinks=False) else "file" if entry.is_file(follow_symlinks=False) else "other"
            if kind == "other" or named not in ("", kind):
                return False
    return True


def remove_tree(path: str) -> None:
    """Remove a file or a directory with all that is in it, however deep. No link is followed."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            return
        try:
            shutil.rmtree(path)
        except (RecursionError, OSError) as error:
            # Deeper than Python goes, and than a path can be.
            done = run_command(["rm", "-rf", "--", path])
            if done.returncode != 0:
                raise OSError(f"{path} cannot be removed: {done.stderr.strip()[:1000]}") from error
