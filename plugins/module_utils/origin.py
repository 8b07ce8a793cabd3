# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an application comes from: bring it to the controller, and say what identifies it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO
from urllib.error import URLError
from urllib.parse import unquote, urlsplit

try:
    # Ansible needs it on the controller, where this is used.
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
except ImportError:
    parse_wheel_filename, InvalidWheelFilename = None, ValueError  # type: ignore[assignment, misc]

from ansible.module_utils.urls import open_url

from ansible_collections.steadfast.asgi.plugins.module_utils.source import GIT, SourceError, git_environment, read_entry
from ansible_collections.steadfast.asgi.plugins.module_utils.values import address, file_name, plain, reference, shown

_ARCHIVE = re.compile(r"[.](tar|tar[.](gz|xz|bz2)|tgz|txz|zip)\Z")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[A-Za-z0-9._, -]+\])?\s*==\s*([0-9][A-Za-z0-9.!+]*)\Z")
_ADDRESS = re.compile(r"((?:https?|ssh|file)://(?!-)[^/\s]*/[^@\s]+)(?:@([^\s@]*))?\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
_SCHEMES = ("https", "http", "ssh", "file")
# What a submodule may have for an address beside those: a path from its repository, or HOST:PATH, as ssh takes it.
_RELATIVE = re.compile(r"\.\.?/[^:]*\Z")
_OF_SSH = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+-]*@)?[A-Za-z0-9_][A-Za-z0-9._-]*:(?![:-]|//)[^:]*\Z")
_KNOWN_HOST = re.compile(r"(?:@(?:cert-authority|revoked)\s+)?[^\s@#]\S*\s+[a-z0-9@.-]+\s+[A-Za-z0-9+/]+=*(?:\s.*)?\Z")
_DIGESTS = {"sha256": 64, "sha384": 96, "sha512": 128}

FORMS = (
    "It can be a directory or an archive on the controller, git+URL@REF, the URL of an archive or a wheel, a wheel (.whl) or a source "
    "distribution on the controller, or a requirement such as datasette==0.65.5"
)


@dataclass(frozen=True)
class Options:
    """What there is to say of a source beside its name."""

    checksum: str = ""
    git_key: str = ""
    git_known_hosts: str = ""
    git_submodules: bool = False


@dataclass(frozen=True)
class Origin:
    """A source on the controller. One of the first three is set."""

    directory: str = ""  # a project's files
    artifact: str = ""  # a wheel or a source distribution
    requirement: str = ""  # what an index has
    commit: str = ""  # of the directory, if it comes out of a repository
    pinned: str = ""  # the source, in a form that stands for the same until tomorrow
    version: str = ""  # of the artifact or the requirement
    top: str = ""  # of what was unpacked: what is above it is nothing of the source's


def opened(source: str, options: Options) -> contextlib.AbstractContextManager[Origin]:
    """Bring a source to the controller for as long as the context lasts. Raises SourceError, with the variable's name and a remedy."""
    requirement = _REQUIREMENT.match(source)
    # The message must not repeat it: where there is a user there may be a password.
    user, at, _host = urlsplit(source).netloc.rpartition("@")
    if at and (":" in user or not source.startswith("git+ssh://")):
        raise SourceError(
            "asgi_release_source (asgi_source) has a user or a password in its address (it is not shown). Leave it out: a deploy key "
            "(asgi_release_git_key), git's own credential helper or ~/.netrc on the controller are safe places for it."
        )
    if not source.isprintable():
        raise SourceError(f"asgi_release_source (asgi_source) is {shown(source)}. Leave out the line break or control character.")
    if source.startswith("git+"):
        return _checked_out(source.removeprefix("git+"), options)
    if source.startswith(("https://", "http://")):
        return _at_rest(_downloaded(source, options.checksum), options.checksum)
    if os.path.isdir(source):
        return contextlib.nullcontext(Origin(directory=source))
    if os.path.isfile(source):
        return _at_rest(source, options.checksum)
    if requirement:
        return contextlib.nullcontext(Origin(requirement=re.sub(r"\s", "", source), version=requirement.group(3)))
    raise SourceError(f"asgi_release_source (asgi_source) is {source!r}, which is not a directory on the controller. {FORMS}.")


def is_path(source: str) -> bool:
    """Return whether a source is a path, which is relative to the playbook."""
    return "://" not in source and not source.startswith("git+") and not _REQUIREMENT.match(source)


def cache_directory(*names: str) -> str:
    """Return a directory below what this collection keeps on the controller, and make it if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    top = os.path.join(base, "steadfast.asgi")
    os.makedirs(top, mode=0o700, exist_ok=True)
    status = os.stat(top)
    # What is in it is believed: whoever can write to it decides what is installed.
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise SourceError(
            f"{top}, where this collection keeps what it has fetched, belongs to another user or can be written to by others. Remove "
            "it, or name another place in the environment variable XDG_CACHE_HOME."
        )
    # An earlier version has made it for others to look into, who then could hold the locks in it.
    os.chmod(top, 0o700)
    path = os.path.join(top, *names)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


# Repositories


@contextlib.contextmanager
def _checked_out(source: str, options: Options) -> Iterator[Origin]:
    """Check out a commit of a repository, in one work tree for each repository that later runs use again."""
    parts = _ADDRESS.match(source)
    try:
        if not parts:
            raise ValueError
        url, ref = address(parts.group(1), _SCHEMES), reference(parts.group(2)) if parts.group(2) else ""
    except ValueError:
        raise SourceError(
            f"asgi_release_source (asgi_source) is git+{source}. Write git+https://, git+ssh:// or git+file://, the repository, and "
            "@ with a branch, a tag or a full commit."
        ) from None
    directory = cache_directory("git", hashlib.sha256(url.encode()).hexdigest()[:16])
    with open(f"{directory}.lock", "w", encoding="utf-8") as lock, tempfile.NamedTemporaryFile("w", prefix="asgi-known-") as known:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known.write(_known_hosts(options.git_known_hosts) + "\n")
        known.flush()
        git = _Git(directory, options, known.name)
        git("init", "--quiet", "--template=")
        # Submodules may have addresses that are relative to it.
        git("config", "remote.origin.url", url)
        commit, wanted = git.resolve(url, ref)
        if not git.has(commit):
            try:
                git("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", url, wanted)
            except SourceError:
                # Not every server hands out a commit by its name.
                everything = ("+refs/heads/*:refs/fetched/heads/*", "+refs/tags/*:refs/fetched/tags/*")
                git("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--", url, *everything)
            if not git.has(commit):
                raise SourceError(f"asgi_release_source (asgi_source): {url} has no commit {commit}. Push it, or name another.")
        git("checkout", "--quiet", "--force", "--no-recurse-submodules", "--detach", commit, "--")
        git("clean", "-ffdxq")
        if options.git_submodules:
            _update_submodules(git, directory)
        yield Origin(directory=directory, commit=commit, pinned=f"git+{url}@{commit}", top=directory)


def _update_submodules(git: _Git, directory: str) -> None:
    """Check out the submodules of a work tree, and theirs. Raises SourceError for one that git could take for something else."""
    path = os.path.join(directory, ".gitmodules")
    if not os.path.lexists(path):
        return
    found = [each.partition("\n")[::2] for each in git("config", "--file", path, "--list", "-z", at=directory).split("\0") if each]
    places = []
    for key, value in found:
        kind = key.rpartition(".")[2] if key.startswith("submodule.") else ""
        good = kind not in ("url", "path", "update")
        with contextlib.suppress(ValueError):
            if kind == "url":
                known = plain(value).startswith("/") or _RELATIVE.match(value) or _OF_SSH.match(value)
                good = bool(known or address(value, (*_SCHEMES, "git")))
            elif kind == "path":
                good = not {"", ".", "..", ".git"} & set(plain(value).lower().split("/")) and not value.startswith("-")
                places.append(value)
            elif kind == "update":
                good = value in ("checkout", "rebase", "merge", "none")
        if not good:
            raise SourceError(
                f"asgi_release_source (asgi_source): .gitmodules has {key} = {shown(value)}, which is not taken from a source. Write an "
                "address with https:// or ssh://, a path in the repository, and no update by a command."
            )
    git("submodule", "--quiet", "sync", at=directory)
    git("submodule", "--quiet", "update", "--init", "--force", at=directory)
    for place in places:
        below = os.path.join(directory, place)
        if os.path.realpath(below) == os.path.join(os.path.realpath(directory), place) and os.path.lexists(f"{below}/.git"):
            _update_submodules(git, below)


def _known_hosts(text: str) -> str:
    """Return the lines for a file of known hosts. Raises SourceError for what ssh would leave out without a word."""
    lines = [line.strip() for line in text.strip().split("\n")]
    bad = next((line for line in lines if line and not line.startswith("#") and not (line.isprintable() and _KNOWN_HOST.match(line))), None)
    if bad is not None:
        raise SourceError(
            f"asgi_release_git_known_hosts has {shown(bad)}. Write HOST TYPE KEY, one on each line, as ssh-keyscan prints them."
        )
    return "\n".join(lines)


class _Git:
    """git in one work tree, which asks nobody for anything."""

    def __init__(self, directory: str, options: Options, known_hosts: str) -> None:
        self.directory = directory
        ssh = ["ssh", "-oBatchMode=yes", "-oConnectTimeout=30", "-oServerAliveInterval=15"]
        if options.git_key:
            ssh += [f"-oIdentityFile={_of_ssh(_private(options.git_key))}", "-oIdentitiesOnly=yes"]
        if options.git_known_hosts:
            ssh += [f"-oUserKnownHostsFile={_of_ssh(known_hosts)}", "-oGlobalKnownHostsFile=/dev/null", "-oStrictHostKeyChecking=yes"]
        # A server that goes silent ends the run, and does not hold it.
        slow = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "60"}
        self.environment = slow | git_environment() | {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": shlex.join(ssh)}

    def __call__(self, *arguments: str, at: str = "") -> str:
        command = [*GIT, *arguments]
        where = at or self.directory
        try:
            done = subprocess.run(command, cwd=where, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except FileNotFoundError:
            raise SourceError("asgi_release_source (asgi_source) is a git repository, and the controller has no git. Install it.") from None
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise SourceError(
                f"asgi_release_source (asgi_source): git {arguments[0]} failed: {said}. Check the address, and that this controller may "
                "read it (asgi_release_git_key, asgi_release_git_known_hosts)."
            )
        return done.stdout.decode("utf-8", "surrogateescape")

    def has(self, commit: str) -> bool:
        try:
            self("cat-file", "-e", f"{commit}^{{commit}}")
        except SourceError:
            return False
        return True

    def resolve(self, url: str, ref: str) -> tuple[str, str]:
        """Return the commit that a reference stands for, and what to ask the server for to get it."""
        if _COMMIT.match(ref):
            return ref, ref
        patterns = [ref, f"{ref}^{{}}"] if ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}"]
        lines = self("ls-remote", "--", url, *(patterns if ref else ["HEAD"])).splitlines()
        # A pattern fits the end of a name, and what the server says is the server's: only what was asked for counts.
        answers = [line.split("\t", 1) for line in lines if "\t" in line]
        found = {name: commit for commit, name in answers if name in (patterns if ref else ["HEAD"]) and _COMMIT.match(commit)}
        if f"refs/heads/{ref}" in found and f"refs/tags/{ref}" in found:
            raise SourceError(
                f"asgi_release_source (asgi_source): {url} has a branch and a tag {ref}. Write @refs/heads/{ref} or @refs/tags/{ref}."
            )
        # An annotated tag is an object of its own; what it stands for comes with ^{}.
        for name in sorted(found, key=lambda name: not name.endswith("^{}")):
            return found[name], name.removesuffix("^{}")
        raise SourceError(
            f"asgi_release_source (asgi_source): {url} has no branch or tag {ref or 'HEAD'}. Name one that it has, or a commit in full."
        )


# Files


@contextlib.contextmanager
def _at_rest(path: str, checksum: str) -> Iterator[Origin]:
    """Make a source of a copy, so that what is unpacked is what was checked."""
    with tempfile.TemporaryDirectory(prefix="asgi-file-") as directory:
        folder, name = os.path.split(os.path.realpath(path))
        copy = os.path.join(directory, os.path.basename(path))
        read_entry(folder, name, copy, shutil.disk_usage(directory).free)
        if checksum:
            _verify(copy, checksum)
        with _file(copy, path) as origin:
            yield origin


@contextlib.contextmanager
def _file(copy: str, path: str) -> Iterator[Origin]:
    """Make a source of a file: what is unpacked of an archive, the file itself if it is a wheel or a source distribution."""
    name = os.path.basename(path)
    if name.endswith(".whl"):
        try:
            parse_wheel_filename(file_name(name, "asgi_release_source (asgi_source)"))
            good = zipfile.is_zipfile(copy)
        except (InvalidWheelFilename, ValueError):
            good = False
        if not good:
            raise SourceError(f"asgi_release_source (asgi_source) is {path}, which is no wheel. Build it with 'uv build --wheel'.")
        yield Origin(artifact=copy, version=name.split("-")[1])
        return
    if not _ARCHIVE.search(name):
        raise SourceError(f"asgi_release_source (asgi_source) is {path}, a file that is neither an archive nor a wheel. {FORMS}.")
    with tempfile.TemporaryDirectory(prefix="asgi-source-") as top:
        try:
            _extract(copy, top)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
            raise SourceError(f"asgi_release_source (asgi_source) is {path}, which cannot be unpacked: {error}. Make it anew.") from error
        directory, names = top, os.listdir(top)
        if len(names) == 1 and os.path.isdir(os.path.join(top, names[0])) and not os.path.islink(os.path.join(top, names[0])):
            directory = os.path.join(top, names[0])
        locked = any(os.path.isfile(os.path.join(directory, lock)) for lock in ("uv.lock", "pylock.toml", "requirements.txt"))
        # A source distribution says by itself what it needs; one that has a lock is more than that.
        if os.path.isfile(os.path.join(directory, "PKG-INFO")) and not locked:
            file_name(name, "asgi_release_source (asgi_source)")
            yield Origin(artifact=copy, version=name.split(".tar")[0].rpartition("-")[2])
        else:
            yield Origin(directory=directory, top=directory)


@dataclass(frozen=True)
class _Member:
    """What an archive says of a file in it."""

    name: str
    kind: str  # file, directory or link
    executable: bool
    size: int
    content: Callable[[], IO[bytes] | None]
    target: str = ""


def _extract(path: str, directory: str) -> None:
    """Unpack an archive. Raises ValueError for what is not a file, a directory or a link in it.

    Links come last, so nothing is ever written through one, however Python's own filters are to be got around.
    """
    links: dict[str, str] = {}
    for member in _members(path):
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if member.name.startswith("/") or ".." in parts or "\0" in member.name:
            raise ValueError(f"it has {shown(member.name)}, which is outside of it")
        if not parts:
            continue
        target = os.path.join(directory, *parts)
        links.pop(target, None)
        if member.kind == "directory":
            os.makedirs(target, mode=0o700, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        if member.kind == "link":
            links[target] = member.target
        elif member.kind == "file":
            _unpack(member, target, shutil.disk_usage(directory).free)
        else:
            raise ValueError(f"{shown(member.name)} in it is neither a file nor a directory nor a link")
    for target, value in links.items():
        os.symlink(value, target)


def _unpack(member: _Member, target: str, room: int) -> None:
    stream = member.content()
    if stream is None or member.size > room:
        raise ValueError(f"{shown(member.name)} in it has no content, or {member.size >> 20} MiB where {room >> 20} MiB are left")
    size = 0
    with stream, open(target, "wb") as file:
        while block := stream.read(1 << 20):
            size += len(block)
            if size > room:
                raise ValueError(f"{shown(member.name)} in it is larger than it says")
            file.write(block)
    os.chmod(target, 0o700 if member.executable else 0o600)


def _members(path: str) -> Iterator[_Member]:
    """Yield what is in a tar or a zip archive."""
    if not zipfile.is_zipfile(path):
        with tarfile.open(path) as archive:
            for info in archive:
                kind = "file" if info.isreg() or info.islnk() else "directory" if info.isdir() else "link" if info.issym() else ""
                yield _Member(
                    info.name, kind, bool(info.mode & 0o100), info.size, functools.partial(archive.extractfile, info), info.linkname
                )
        return
    with zipfile.ZipFile(path) as zipped:
        for each in zipped.infolist():
            mode = each.external_attr >> 16
            known = {0: "file", stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "directory"}
            kind = "directory" if each.is_dir() else known.get(stat.S_IFMT(mode), "")
            target = ""
            if kind == "link":
                with zipped.open(each) as stream:
                    target = os.fsdecode(stream.read(4096))
            yield _Member(each.filename, kind, bool(mode & 0o100), each.file_size, functools.partial(zipped.open, each), target)


def _private(key: str) -> str:
    """Return the path of a private key. Raises SourceError for one that is not there, or not private: ssh would leave it out."""
    path = os.path.expanduser(key)
    if not os.path.isfile(path):
        raise SourceError(f"asgi_release_git_key is {key}, and there is no such file on the controller.")
    if not path.isprintable() or '"' in path:
        raise SourceError(f"asgi_release_git_key is {shown(key)}, a name that ssh does not understand. Rename the file.")
    status = os.stat(path)
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        raise SourceError(f"asgi_release_git_key is {key}, which others can read, so ssh does not use it. Run 'chmod 600 {key}'.")
    return path


def _of_ssh(path: str) -> str:
    """Return a path as the value of an option of ssh's, where a percent sign and a blank mean something."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in escaped else escaped


def _verify(path: str, checksum: str) -> None:
    """Raise SourceError if a file's digest is not the one that is expected."""
    kind, _colon, wanted = checksum.partition(":")
    if len(wanted) != _DIGESTS.get(kind) or not re.fullmatch(r"[0-9a-f]+", wanted):
        raise SourceError(
            f"asgi_release_checksum is {checksum!r}. Write sha256:, sha384: or sha512: and the digest in lower-case hexadecimal digits; "
            "sha256sum prints it."
        )
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != wanted:
        raise SourceError(
            f"asgi_release_checksum is {checksum}, and the file that asgi_release_source (asgi_source) names has {kind}:{found}. If that "
            "is the file you want, correct the checksum."
        )


def _downloaded(url: str, checksum: str) -> str:
    """Return the path of a file that was fetched. One that is there already is not fetched again."""
    name = unquote(os.path.basename(urlsplit(url).path))
    # What comes behind a question mark may be a token.
    legible = url.partition("?")[0]
    if not name.endswith(".whl") and not _ARCHIVE.search(name):
        raise SourceError(
            f"asgi_release_source (asgi_source) is {legible}, which does not name an archive or a wheel. For a repository write "
            "git+ in front."
        )
    if not checksum:
        raise SourceError(
            f"asgi_release_source (asgi_source) is {legible}, and asgi_release_checksum is empty. Name the file's digest, so that every "
            "host gets the same: sha256: and what sha256sum prints."
        )
    file_name(name, "asgi_release_source (asgi_source)")
    path = os.path.join(cache_directory("files", hashlib.sha256(checksum.encode()).hexdigest()[:16]), name)
    if os.path.exists(path):
        with contextlib.suppress(SourceError):
            _verify(path, checksum)
            return path
        os.unlink(path)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as part:
        try:
            with open_url(url, timeout=60, http_agent="steadfast.asgi") as stream:
                while block := stream.read(1 << 20):
                    part.write(block)
            part.flush()
            _verify(part.name, checksum)
        except (URLError, OSError) as error:
            os.unlink(part.name)
            raise SourceError(f"asgi_release_source (asgi_source): {legible} cannot be fetched: {error}. Check the address.") from error
        except SourceError:
            os.unlink(part.name)
            raise
        os.replace(part.name, path)
    return path
