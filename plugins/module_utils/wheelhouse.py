# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch on the controller all wheels that a host without a network needs: for its interpreter, and not for the controller's."""

from __future__ import annotations

import email
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ansible_collections.steadfast.asgi.plugins.module_utils.lockfile import Pinned, applies, pinned_requirements
from ansible_collections.steadfast.asgi.plugins.module_utils.origin import cache_directory
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError
from ansible_collections.steadfast.asgi.plugins.module_utils.target import Target
from ansible_collections.steadfast.asgi.plugins.module_utils.values import requirement, written

# What builds a project that does not say it.
_BACKEND = ["setuptools"]


# What of the environment says where packages are and how they are reached. The rest of pip's and uv's settings there could have them
# install, build or write elsewhere.
_SETTING = re.compile(
    r"(PIP_((EXTRA_)?INDEX_URL|NO_INDEX|FIND_LINKS|TRUSTED_HOST|CERT|CLIENT_CERT|PROXY|CONFIG_FILE|CACHE_DIR|(DEFAULT_)?TIMEOUT|RETRIES"
    r"|KEYRING_PROVIDER)"
    r"|UV_(INDEX\w*|(DEFAULT|EXTRA|NO)_INDEX\w*|FIND_LINKS|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|CONFIG_FILE|CACHE_DIR|HTTP_TIMEOUT|OFFLINE"
    r"|KEYRING_PROVIDER))\Z"
)
# Of a Python's, none: pip is to be the controller's.
_FOREIGN = re.compile(r"PIP_|UV_|PYTHON|VIRTUAL_ENV|CONDA_|__PYVENV_LAUNCHER__")
# The largest file of metadata that is read.
_LARGEST = 16 << 20


class Wheels:
    """The wheels for one target. What was fetched once is not fetched again, by no run and for no host."""

    def __init__(self, target: Target, environment: dict[str, str], own: str = "", known: Iterable[str] = ()) -> None:
        """`environment` tells pip and uv of indexes; `own` is a directory with more wheels, '' for none; `known` says which."""
        self.target = target
        self.environment = _environment(os.environ) | environment
        self.secrets = {part for value in self.environment.values() for part in _secrets(value)}
        self.own = own
        # Wheels of one's own may be what was missing the last time.
        self.key = [*target.for_pip(), *sorted(known or (os.listdir(own) if own else []))]

    def fetch(self, packages: Sequence[Pinned], place: str) -> str:
        """Return the directory with exactly these packages. Raises SourceError for one that has no wheel.

        `place` is where they are named.
        """
        for package in packages:
            if package.url:
                raise SourceError(
                    f"asgi_release_offline: {package.name} comes from {self._legible(package.url)}, and not from an index; a host without "
                    "a network cannot install it. Lock it to a version of an index, or build a wheel of it."
                )
        text = "".join(f"{package.argument(place)}\n" for package in packages)
        directory = self._place("wheels", text)
        with open(f"{directory}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isdir(directory):
                with tempfile.TemporaryDirectory(dir=os.path.dirname(directory)) as part:
                    self._download(text, all(package.hashes for package in packages), part)
                    shutil.copytree(part, f"{directory}.new", dirs_exist_ok=True)
                os.rename(f"{directory}.new", directory)
        return directory

    def resolve(self, requirements: Sequence[str], place: str) -> list[Pinned]:
        """Return what an index has for requirements, and for theirs. The answer is kept, so that every host gets the same.

        `place` is where they are named. Raises SourceError for what is none.
        """
        wanted = [requirement(each, place) for each in requirements]
        text = "".join(f"{written(each)}\n" for each in wanted if not each.marker or applies(str(each.marker), self.target.markers))
        path = self._place("resolved", text)
        if not os.path.exists(path):
            uv = shutil.which("uv") or os.path.join(os.path.dirname(sys.executable), "uv")
            if not os.access(uv, os.X_OK):
                raise SourceError(
                    "asgi_release_offline needs uv on the controller to find out what belongs to a package without a lock. Install it "
                    "('pip install uv'), or name a lock (asgi_release_lock)."
                )
            options = ["--quiet", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--only-binary=:all:"]
            # Its own interpreter: what it would find by itself may be a virtual environment of somebody else's.
            options += [f"--python={sys.executable}", *self._links(), *self.target.for_uv()]
            found = self._run([os.path.abspath(uv), "pip", "compile", *options, "-"], text)
            with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), encoding="utf-8", delete=False) as part:
                part.write(found)
            os.replace(part.name, path)
        with open(path, encoding="utf-8") as stream:
            return pinned_requirements(stream.read(), self.target.markers)

    def _place(self, kind: str, text: str) -> str:
        key = hashlib.sha256(json.dumps([text, self.key]).encode()).hexdigest()[:24]
        return os.path.join(cache_directory(kind), key)

    def _links(self) -> list[str]:
        return [f"--find-links={self.own}"] if self.own else []

    def _download(self, text: str, hashed: bool, directory: str) -> None:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={directory}", *self.target.for_pip(), *self._links()]
        if text:
            with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                hashes = ["--require-hashes"] if hashed else []
                self._run([*_pip(), "download", *options, *hashes, f"--requirement={stream.name}"], "")

    def _run(self, command: Sequence[str], text: str) -> str:
        # At the root of the file system: where Ansible was started there may be a source, and both read settings and code from there.
        done = subprocess.run(command, cwd="/", env=self.environment, input=text, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        said = self._legible((done.stderr or done.stdout).strip())
        missing = re.search(r"No matching distribution found for (\S+)", said)
        if missing:
            raise SourceError(
                f"asgi_release_offline: the index has no wheel of {missing.group(1)} for {self.target}. Build one on a machine like that "
                f"('pip wheel --no-deps {missing.group(1)}'), and name its directory in asgi_release_wheelhouse."
            )
        raise SourceError(
            f"asgi_release_offline: the wheels for {self.target} cannot be fetched on the controller: {said[-2000:]}. Check the index "
            "(asgi_release_index_url, asgi_release_indexes) and the lock."
        )

    def _legible(self, text: str) -> str:
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "****")
        return re.sub(r"://[^/\s]+@", "://****@", text)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for pip and uv: the user's, with no other of their settings than where packages are."""
    kept = {name: value for name, value in given.items() if not _FOREIGN.match(name) or _SETTING.match(name)}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "LC_ALL": "C.UTF-8"}


def _secrets(value: str) -> list[str]:
    """Return the passwords in what may be addresses, as they are there and as they were."""
    users = re.findall(r"://(\S+)@", value)
    parts = [part for user in users for part in (user, user.partition(":")[2]) if len(part) > 3]
    return [*parts, *map(unquote, parts)]


def _pip() -> list[str]:
    """Return the command for pip. Raises SourceError where the controller has none."""
    if importlib.util.find_spec("pip"):
        # -P: without the directory that it is started in.
        return [sys.executable, "-P", "-m", "pip"]
    for name in ("pip3", "pip", "uv"):
        path = shutil.which(name)
        if path:
            return [os.path.abspath(path), *(["tool", "run", "--quiet", "pip"] if name == "uv" else [])]
    raise SourceError(
        "asgi_release_offline needs pip on the controller. Install it, or make the wheels yourself (asgi_release_wheelhouse)."
    )


def wants_of(artifact: str) -> tuple[list[str], list[str]]:
    """Return what a wheel or a source distribution needs to run, and to be built, as requirements. Raises SourceError."""
    if artifact.endswith(".whl"):
        return _required(_member(artifact, r"[^/]+\.dist-info/METADATA")), []
    required = _required(_member(artifact, r"[^/]+/PKG-INFO"))
    try:
        pyproject = tomllib.loads(_member(artifact, r"[^/]+/pyproject\.toml").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(
            f"asgi_release_source (asgi_source): the pyproject.toml in {artifact} cannot be read: {error}. Build it again with 'uv "
            "build --sdist'."
        ) from error
    return required, build_requirements(pyproject)


def build_requirements(pyproject: Mapping[str, Any]) -> list[str]:
    """Return what builds a project, as requirements, from the content of its pyproject.toml."""
    system = pyproject.get("build-system", {})
    # What is none is refused where it is parsed.
    return list(system.get("requires", _BACKEND)) if isinstance(system, dict) else [str(system)]


def _required(metadata: bytes) -> list[str]:
    return [str(each) for each in email.message_from_bytes(metadata).get_all("Requires-Dist") or []]


def _member(archive: str, pattern: str) -> bytes:
    """Return the content of the first file in an archive whose name matches, b'' if there is none."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                name = next((name for name in zipped.namelist() if re.fullmatch(pattern, name)), None)
                content = zipped.open(name).read(_LARGEST + 1) if name else b""
        else:
            content = _of_tar(archive, pattern)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, RuntimeError, EOFError) as error:
        raise SourceError(f"asgi_release_source (asgi_source): {archive} cannot be read: {error}. Build it again.") from error
    if len(content) > _LARGEST:
        raise SourceError(f"asgi_release_source (asgi_source): {archive} has more than {_LARGEST >> 20} MiB of metadata. Build it again.")
    return content


def _of_tar(archive: str, pattern: str) -> bytes:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and re.fullmatch(pattern, member.name.removeprefix("./")):
                stream = tar.extractfile(member)
                return stream.read(_LARGEST + 1) if stream else b""
    return b""
