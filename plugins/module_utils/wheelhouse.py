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
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.steadfast.asgi.plugins.module_utils.lockfile import Pinned, pinned_requirements
from ansible_collections.steadfast.asgi.plugins.module_utils.origin import cache_directory
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError
from ansible_collections.steadfast.asgi.plugins.module_utils.target import Target

# What builds a project that does not say it.
_BACKEND = ["setuptools"]


class Wheels:
    """The wheels for one target. What was fetched once is not fetched again, by no run and for no host."""

    def __init__(self, target: Target, environment: Mapping[str, str], own: str = "") -> None:
        """`environment` tells pip and uv of indexes; `own` is a directory with more wheels, '' for none."""
        self.target = target
        self.environment = os.environ | environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "LC_ALL": "C.UTF-8"}
        self.own = own
        # Wheels of one's own may be what was missing the last time.
        self.key = [*target.for_pip(), *sorted(os.listdir(own) if own else [])]

    def fetch(self, packages: Sequence[Pinned]) -> str:
        """Return the directory with exactly these packages. Raises SourceError for one that has no wheel."""
        for package in packages:
            if package.url:
                raise SourceError(
                    f"asgi_release_offline: {package.name} comes from {_legible(package.url)}, and not from an index; a host without a "
                    "network cannot install it. Lock it to a version of an index, or build a wheel of it."
                )
        text = "".join(f"{package}\n" for package in packages)
        directory = self._place("wheels", text)
        with open(f"{directory}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.isdir(directory):
                with tempfile.TemporaryDirectory(dir=os.path.dirname(directory)) as part:
                    self._download(text, all(package.hashes for package in packages), part)
                    shutil.copytree(part, f"{directory}.new", dirs_exist_ok=True)
                os.rename(f"{directory}.new", directory)
        return directory

    def resolve(self, requirements: Sequence[str]) -> list[Pinned]:
        """Return what an index has for requirements, and for theirs. The answer is kept, so that every host gets the same."""
        text = "".join(f"{requirement}\n" for requirement in requirements)
        path = self._place("resolved", text)
        if not os.path.exists(path):
            uv = shutil.which("uv") or os.path.join(os.path.dirname(sys.executable), "uv")
            if not os.access(uv, os.X_OK):
                raise SourceError(
                    "asgi_release_offline needs uv on the controller to find out what belongs to a package without a lock. Install it "
                    "('pip install uv'), or name a lock (asgi_release_lock)."
                )
            options = ["--quiet", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--only-binary=:all:"]
            options += [*self._links(), *self.target.for_uv()]
            found = self._run([uv, "pip", "compile", *options, "-"], text)
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
        done = subprocess.run(command, env=self.environment, input=text, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        said = _legible((done.stderr or done.stdout).strip())
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


def _legible(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://****@", text)


def _pip() -> list[str]:
    """Return the command for pip. Raises SourceError where the controller has none."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if shutil.which(name):
            return [name]
    if shutil.which("uv"):
        return ["uv", "tool", "run", "--quiet", "pip"]
    raise SourceError(
        "asgi_release_offline needs pip on the controller. Install it, or make the wheels yourself (asgi_release_wheelhouse)."
    )


def wants_of(artifact: str) -> tuple[list[str], list[str]]:
    """Return what a wheel or a source distribution needs to run, and to be built, as requirements."""
    if artifact.endswith(".whl"):
        return _required(_member(artifact, r"[^/]+\.dist-info/METADATA")), []
    return _required(_member(artifact, r"[^/]+/PKG-INFO")), build_requirements(
        tomllib.loads(_member(artifact, r"[^/]+/pyproject\.toml").decode())
    )


def build_requirements(pyproject: Mapping[str, Any]) -> list[str]:
    """Return what builds a project, as requirements, from the content of its pyproject.toml."""
    return [str(each) for each in pyproject.get("build-system", {}).get("requires", _BACKEND)]


def _required(metadata: bytes) -> list[str]:
    return email.message_from_bytes(metadata).get_all("Requires-Dist") or []


def _member(archive: str, pattern: str) -> bytes:
    """Return the content of the first file in an archive whose name matches, b'' if there is none."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            return next((zipped.read(name) for name in zipped.namelist() if re.fullmatch(pattern, name)), b"")
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if re.fullmatch(pattern, member.name.removeprefix("./")) else None
            if content:
                with content:
                    return content.read()
    return b""
