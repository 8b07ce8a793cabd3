# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an application comes from: bring it to the controller, and say what identifies it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import URLError
from urllib.parse import unquote, urlsplit

from ansible.module_utils.urls import open_url

from ansible_collections.steadfast.asgi.plugins.module_utils.source import GIT_PLACES, SourceError

_ARCHIVE = re.compile(r"[.](tar|tar[.](gz|xz|bz2)|tgz|txz|zip)\Z")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[A-Za-z0-9._, -]+\])?\s*==\s*([0-9][A-Za-z0-9.!+]*)\Z")
_ADDRESS = re.compile(r"((?:https?|ssh|file)://(?!-)[^/\s]*/[^@\s]+)(?:@(?!-)([^\s@]*))?\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")
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
    if source.startswith("git+"):
        return _checked_out(source.removeprefix("git+"), options)
    if source.startswith(("https://", "http://")):
        return _file(_downloaded(source, options.checksum))
    if os.path.isdir(source):
        return contextlib.nullcontext(Origin(directory=source))
    if os.path.isfile(source):
        if options.checksum:
            _verify(source, options.checksum)
        return _file(source)
    if requirement:
        return contextlib.nullcontext(Origin(requirement=re.sub(r"\s", "", source), version=requirement.group(3)))
    raise SourceError(f"asgi_release_source (asgi_source) is {source!r}, which is not a directory on the controller. {FORMS}.")


def is_path(source: str) -> bool:
    """Return whether a source is a path, which is relative to the playbook."""
    return "://" not in source and not source.startswith("git+") and not _REQUIREMENT.match(source)


def cache_directory(*names: str) -> str:
    """Return a directory below what this collection keeps on the controller, and make it if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(base, "steadfast.asgi", *names)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


# Repositories


@contextlib.contextmanager
def _checked_out(address: str, options: Options) -> Iterator[Origin]:
    """Check out a commit of a repository, in one work tree for each repository that later runs use again."""
    parts = _ADDRESS.match(address)
    if not parts:
        raise SourceError(
            f"asgi_release_source (asgi_source) is git+{address}. Write git+https://, git+ssh:// or git+file://, the repository, and "
            "@ with a branch, a tag or a full commit."
        )
    url, ref = parts.group(1), parts.group(2) or ""
    directory = cache_directory("git", hashlib.sha256(url.encode()).hexdigest()[:16])
    with open(f"{directory}.lock", "w", encoding="utf-8") as lock, tempfile.NamedTemporaryFile("w", prefix="asgi-known-") as known:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known.write(options.git_known_hosts.strip() + "\n")
        known.flush()
        git = _Git(directory, options, known.name)
        git("init", "--quiet")
        # Submodules may have addresses that are relative to it.
        git("config", "remote.origin.url", url)
        commit, wanted = git.resolve(url, ref)
        if not git.has(commit):
            try:
                git("fetch", "--quiet", "--depth=1", "--no-tags", url, wanted)
            except SourceError:
                # Not every server hands out a commit by its name.
                git("fetch", "--quiet", "--no-tags", url, "+refs/heads/*:refs/fetched/heads/*", "+refs/tags/*:refs/fetched/tags/*")
            if not git.has(commit):
                raise SourceError(f"asgi_release_source (asgi_source): {url} has no commit {commit}. Push it, or name another.")
        git("checkout", "--quiet", "--force", "--detach", commit)
        git("clean", "-ffdxq")
        if options.git_submodules:
            git("submodule", "--quiet", "sync", "--recursive")
            git("submodule", "--quiet", "update", "--init", "--recursive", "--force")
        yield Origin(directory=directory, commit=commit, pinned=f"git+{url}@{commit}")


class _Git:
    """git in one work tree, which asks nobody for anything."""

    def __init__(self, directory: str, options: Options, known_hosts: str) -> None:
        self.directory = directory
        ssh = ["ssh", "-oBatchMode=yes"]
        if options.git_key:
            key = os.path.expanduser(options.git_key)
            if not os.path.isfile(key):
                raise SourceError(f"asgi_release_git_key is {options.git_key}, and there is no such file on the controller.")
            ssh += [f"-oIdentityFile={key}", "-oIdentitiesOnly=yes"]
        if options.git_known_hosts:
            ssh += [f"-oUserKnownHostsFile={known_hosts}", "-oGlobalKnownHostsFile=/dev/null", "-oStrictHostKeyChecking=yes"]
        self.environment = {name: value for name, value in os.environ.items() if name not in GIT_PLACES} | {
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": " ".join(f"'{part}'" for part in ssh),
        }

    def __call__(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except FileNotFoundError:
            raise SourceError("asgi_release_source (asgi_source) is a git repository, and the controller has no git. Install it.") from None
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise SourceError(
                f"asgi_release_source (asgi_source): git {arguments[0]} failed: {said}. Check the address, and that this controller may "
                "read it (asgi_release_git_key, asgi_release_git_known_hosts)."
            )
        return done.stdout.decode("utf-8", "replace")

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
        lines = self("ls-remote", url, *(patterns if ref else ["HEAD"])).splitlines()
        found = {name: commit for commit, name in (line.split("\t", 1) for line in lines)}
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
def _file(path: str) -> Iterator[Origin]:
    """Make a source of a file: what is unpacked of an archive, the file itself if it is a wheel or a source distribution."""
    name = os.path.basename(path)
    if name.endswith(".whl"):
        parts = name.removesuffix(".whl").split("-")
        if len(parts) not in (5, 6) or not zipfile.is_zipfile(path):
            raise SourceError(f"asgi_release_source (asgi_source) is {path}, which is no wheel. Build it with 'uv build --wheel'.")
        yield Origin(artifact=path, version=parts[1])
        return
    if not _ARCHIVE.search(name):
        raise SourceError(f"asgi_release_source (asgi_source) is {path}, a file that is neither an archive nor a wheel. {FORMS}.")
    with tempfile.TemporaryDirectory(prefix="asgi-source-") as directory:
        try:
            _extract(path, directory)
        except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
            raise SourceError(f"asgi_release_source (asgi_source) is {path}, which cannot be unpacked: {error}. Make it anew.") from error
        names = os.listdir(directory)
        if len(names) == 1 and os.path.isdir(os.path.join(directory, names[0])):
            directory = os.path.join(directory, names[0])
        locked = any(os.path.isfile(os.path.join(directory, lock)) for lock in ("uv.lock", "pylock.toml", "requirements.txt"))
        # A source distribution says by itself what it needs; one that has a lock is more than that.
        if os.path.isfile(os.path.join(directory, "PKG-INFO")) and not locked:
            yield Origin(artifact=path, version=name.split(".tar")[0].rpartition("-")[2])
        else:
            yield Origin(directory=directory)


def _extract(path: str, directory: str) -> None:
    """Unpack an archive. Nothing in it can be written outside of the directory."""
    if not zipfile.is_zipfile(path):
        if not hasattr(tarfile, "data_filter"):
            raise SourceError(
                f"asgi_release_source (asgi_source) is {path}, and the controller's Python {sys.version.split()[0]} cannot unpack it "
                "safely. Run Ansible with Python 3.11.4 or later, or unpack it and name the directory."
            )
        with tarfile.open(path) as archive:
            archive.extractall(directory, filter="data")
        return
    with zipfile.ZipFile(path) as zipped:
        for member in zipped.infolist():
            target = zipped.extract(member, directory)
            if (member.external_attr >> 16) & 0o100 and not member.is_dir():
                os.chmod(target, 0o700)


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
    if not name.endswith(".whl") and not _ARCHIVE.search(name):
        raise SourceError(
            f"asgi_release_source (asgi_source) is {url}, which does not name an archive or a wheel. For a repository write git+ in front."
        )
    if not checksum:
        raise SourceError(
            f"asgi_release_source (asgi_source) is {url}, and asgi_release_checksum is empty. Name the file's digest, so that every host "
            "gets the same: sha256: and what sha256sum prints."
        )
    path = os.path.join(cache_directory("files", hashlib.sha256(checksum.encode()).hexdigest()[:16]), os.path.basename(name))
    if not os.path.exists(path):
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as part:
            try:
                with open_url(url, timeout=60, http_agent="steadfast.asgi") as stream:
                    while block := stream.read(1 << 20):
                        part.write(block)
                part.flush()
                _verify(part.name, checksum)
            except (URLError, OSError) as error:
                os.unlink(part.name)
                raise SourceError(f"asgi_release_source (asgi_source): {url} cannot be fetched: {error}. Check the address.") from error
            except SourceError:
                os.unlink(part.name)
                raise
            os.replace(part.name, path)
    return path
