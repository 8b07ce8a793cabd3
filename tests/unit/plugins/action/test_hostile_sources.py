"""Sources of somebody else's: whatever they say, nothing of theirs runs on the controller, and nothing of it goes along.

Each case is deployed with the real pip, uv and git, without a network, from a shell that is in the source. It has a command that
leaves a canary, and a file beside the source with a secret in it.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ansible.constants
import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader

from ansible_collections.steadfast.asgi.plugins.action.asgi_release import ActionModule

TARGET = {"libc": "glibc 2.36", "markers": {"python_version": "3.11", "python_full_version": "3.11.2", "platform_machine": "x86_64"}}
SECRET = "hunter2-of-the-controller"
UV_LOCK = """
version = 1
[[package]]
name = "shop"
version = "1"
source = { virtual = "." }
dependencies = [{ name = NAME }]
[[package]]
name = NAME
version = VERSION
source = { registry = "https://example.org" }
wheels = [{ url = "https://example.org/probe.whl" HASH }]
"""


class Case:
    """A directory to put a source into, and what it is to be deployed with."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.source = top / "source"
        self.canary = top / "canary"
        self.secret = top / "secret/passwd"
        self.evil = top / "evil"
        self.wheels = top / "wheels"
        self.arguments: dict[str, Any] = {}
        for directory in (self.source, self.secret.parent, self.wheels):
            directory.mkdir()
        self.secret.write_text(SECRET)
        self.command = top / "command"
        self.command.write_text(f"#!/bin/sh\ntouch {self.canary}\nexit 1\n")
        self.command.chmod(0o755)
        self.project(self.evil)
        self.wheel("probe")
        self.write("app.py", "app = 1\n")

    def write(self, name: str, text: str) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def project(self, directory: Path) -> None:
        """A project whose build leaves the canary; it needs nothing to be built."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "pyproject.toml").write_text(
            '[project]\nname = "evil"\nversion = "1.0"\ndynamic = ["dependencies"]\n'
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        (directory / "backend.py").write_text(f"open({str(self.canary)!r}, 'w')\n")
        (directory / "setup.py").write_text(f"open({str(self.canary)!r}, 'w')\n")
        (directory / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")

    def wheel(self, name: str, *requires: str, file: str = "") -> Path:
        path = self.wheels / (file or f"{name}-1.0-py3-none-any.whl")
        metadata = "".join(f"Requires-Dist: {each}\n" for each in requires)
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}")
            zipped.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            zipped.writestr(f"{name}-1.0.dist-info/RECORD", "")
        return path

    def sdist(self, name: str, directory: Path) -> Path:
        path = self.wheels / name
        with tarfile.open(path, "w:gz") as archive:
            archive.add(directory, "evil-1.0")
        return path

    def uv_lock(self, name: str = '"probe"', version: str = '"1.0"', digest: str = '"sha256:aa"') -> None:
        self.pyproject()
        self.write("uv.lock", UV_LOCK.replace("NAME", name).replace("VERSION", version).replace("HASH", digest and f", hash = {digest}"))

    def pyproject(self, more: str = "") -> None:
        self.write("pyproject.toml", f'[project]\nname = "shop"\nversion = "1"\ndynamic = ["dependencies"]\n{more}')

    def builds_with(self, requires: str) -> None:
        self.write("requirements.txt", "")
        self.pyproject(f"[build-system]\nrequires = {requires}\n")

    def git(self, *arguments: str, at: Path | None = None) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always", *arguments]
        return subprocess.run(command, cwd=at or self.source, check=True, capture_output=True, text=True).stdout.strip()

    def repository(self, at: Path | None = None) -> None:
        """The source, as a repository with one commit."""
        self.write("requirements.txt", "")
        self.git("init", "--quiet", "--initial-branch=main", at=at)
        self.git("add", ".", at=at)
        self.git("commit", "-qm", "x", at=at)

    def fetched(self, **arguments: Any) -> None:
        """The source, out of a repository."""
        self.arguments |= {"source": f"git+file://{self.source}@main", **arguments}

    def submodule(self, url: str, path: str = "vendor", more: str = "") -> None:
        """A repository with a submodule that git itself would not have added."""
        self.repository()
        self.write(".gitmodules", f'[submodule "vendor"]\n\tpath = {path}\n\turl = {url}\n{more}')
        commit = self.git("rev-parse", "HEAD")
        self.git("add", ".gitmodules")
        self.git("update-index", "--add", "--cacheinfo", f"160000,{commit},vendor")
        self.git("commit", "-qm", "y")
        self.fetched(git_submodules=True)

    def tar(self, *members: tuple[str, bytes, str]) -> None:
        """An archive: names, types of tar, and targets of links or content."""
        path = self.top / "shop.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, kind, what in (("requirements.txt", tarfile.REGTYPE, ""), *members):
                info = tarfile.TarInfo(name)
                info.type = kind
                info.linkname = what if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
                content = what.encode() if kind == tarfile.REGTYPE else b""
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        self.arguments["source"] = str(path)

    def zip(self, *members: tuple[str, int, str]) -> None:
        path = self.top / "shop.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, mode, content in (("requirements.txt", 0o100644, ""), *members):
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                archive.writestr(info, content)
        self.arguments["source"] = str(path)

    def tarred(self) -> None:
        """The source as an archive, with all that is in it."""
        with tarfile.open(self.top / "shop.tar.gz", "w:gz") as archive:
            archive.add(self.source, "shop")
        self.arguments["source"] = str(self.top / "shop.tar.gz")


LINK, FILE, HARD = tarfile.SYMTYPE, tarfile.REGTYPE, tarfile.LNKTYPE
OFFLINE = {"offline": True}
Spoil = Callable[[Case], object]
# What is done, with what arguments, and what is said; '' for what does no harm.
CASES: dict[str, tuple[Spoil, dict[str, Any], str]] = {}


def case(name: str, said: str, **arguments: Any) -> Callable[[Spoil], Spoil]:
    def add(spoil: Spoil) -> Spoil:
        CASES[name] = (spoil, arguments, said)
        return spoil

    return add


def toml(text: str) -> str:
    """Return a text as TOML has it, with what no line can have."""
    escaped = "".join(each if each.isprintable() and each not in '"\\' else f"\\u{ord(each):04x}" for each in text)
    return f'"{escaped}"'


def _at(spoil: Callable[[Case, str], object], text: str, it: Case) -> None:
    spoil(it, text)


# uv.lock
ENDS = {"a line break": "\n", "a carriage return": "\r", "a form feed": "\f", "a line separator": "\u2028", "a next line": "\x85"}
BROKEN: dict[str, tuple[Callable[[Case, str], object], str]] = {
    "uv.lock: a version": (
        lambda it, end: it.uv_lock(version=toml(f"1.0{end}-e {it.evil}"), digest=""),
        r"uv\.lock, package, 2\. \(probe\), version has the version",
    ),
    "uv.lock: a hash": (lambda it, end: it.uv_lock(digest=toml(f"sha256:aa{end}-e {it.evil}")), r"uv\.lock.*has the hash"),
    "pyproject.toml: what builds it": (
        lambda it, end: it.builds_with(f"[{toml(f'probe{end}-e {it.evil}')}]"),
        r"pyproject\.toml, build-system\.requires has",
    ),
    "pyproject.toml: a marker": (
        lambda it, end: it.builds_with("[" + toml(f"probe ; python_version > '3{end}-e {it.evil}{end}'") + "]"),
        r"pyproject\.toml, build-system\.requires has",
    ),
    "requirements.txt: an entry": (
        lambda it, end: it.write(
            "requirements.txt",
            f"probe==1.0\\{end} -e {it.evil} --hash=sha256:aa\n" if end in "\n\r" else f"probe==1.0 --hash=sha256:aa{end}-e {it.evil}{end}",
        ),
        r"requirements\.txt",
    ),
    "pylock.toml: a version": (
        lambda it, end: it.write("pylock.toml", f'[[packages]]\nname = "probe"\nversion = {toml(f"1.0{end}-e {it.evil}")}\n'),
        r"pylock\.toml.*has the version",
    ),
    "METADATA: a requirement": (
        lambda it, end: it.arguments.update(source=str(it.wheel("shop", f"probe{end} -e {it.evil}"))),
        r"\.whl has .*not a requirement|\.whl has .*does not come from",
    ),
}
for _what, _end in ENDS.items():
    for _place, (_spoil, _said) in BROKEN.items():
        case(f"{_place} with {_what}", _said, **OFFLINE)(functools.partial(_at, _spoil, _end))
case("uv.lock: a name with a line break", "has the name", **OFFLINE)(lambda it: it.uv_lock(name=toml(f"probe\n-e {it.evil}\n#")))
case("uv.lock: a name that is an option", "has the name", **OFFLINE)(lambda it: it.uv_lock(name=toml(f"--editable={it.evil}")))
case("uv.lock: a version that is an option", "has the version", **OFFLINE)(lambda it: it.uv_lock(version=toml(f"1.0 -e {it.evil}")))
case("uv.lock: a version that is a variable", "has the version", **OFFLINE)(lambda it: it.uv_lock(version=toml("${HOME}")))
case("uv.lock: a version from a file", "has the version", **OFFLINE)(lambda it: it.uv_lock(version=toml(f"1.0 @ file://{it.evil}")))
case("uv.lock: a version of a thousand digits", "has the version", **OFFLINE)(lambda it: it.uv_lock(version=toml("9" * 5000)))
case("uv.lock: a version that is a number", "not a text", **OFFLINE)(lambda it: it.uv_lock(version="1.0"))
case("uv.lock: a hash in a list", "not a text", **OFFLINE)(lambda it: it.uv_lock(digest='["sha256:aa"]'))
case("uv.lock: a terminal's commands", "has the version", **OFFLINE)(lambda it: it.uv_lock(version=toml("1.0\x1b]52;c;eA==\x07")))


@case("uv.lock: no packages at all", r"uv\.lock.*not a list")
def _(it: Case) -> None:
    it.pyproject()
    it.write("uv.lock", 'package = "all"\n')


@case("uv.lock: tables without an end", "cannot be read|not")
def _(it: Case) -> None:
    it.pyproject()
    it.write("uv.lock", f"a = {'[' * 100000}\n")


@case("uv.lock: a package out of a directory", "do not work with this uv.lock", **OFFLINE)
def _(it: Case) -> None:
    it.uv_lock()
    path = it.source / "uv.lock"
    path.write_text(path.read_text().replace('registry = "https://example.org"', f'editable = "{it.evil}"'))


@case("uv.lock: a package from an address", "not from an index", **OFFLINE)
def _(it: Case) -> None:
    it.uv_lock()
    path = it.source / "uv.lock"
    path.write_text(path.read_text().replace('registry = "https://example.org"', f'url = "file://{it.evil}"'))


@case("uv.lock: a link to a secret", r"link uv\.lock to .*not in the source")
def _(it: Case) -> None:
    it.pyproject()
    (it.source / "uv.lock").symlink_to(it.secret)


@case("uv.lock: a link to what has no end", r"link uv\.lock to /dev/zero.*not in the source")
def _(it: Case) -> None:
    it.pyproject()
    (it.source / "uv.lock").symlink_to("/dev/zero")


@case("uv.lock: a FIFO", "neither a file nor a link")
def _(it: Case) -> None:
    it.pyproject()
    os.mkfifo(it.source / "uv.lock")


@case("a file that is larger than the disk", "MiB left")
def _(it: Case) -> None:
    it.write("requirements.txt", "")
    with (it.source / "dump.sql").open("wb") as stream:
        stream.truncate(8 << 40)


# What builds it
for _what, _text in {
    "an option": "-e {evil}",
    "an option in one word": "--editable={evil}",
    "a path": "{evil}",
    "a path from there": "./backend",
    "a file": "evil @ file://{evil}",
    "a repository": "evil @ git+file://{evil}",
    "an index": "--index-url=file://{evil}",
    "a variable": "probe==${HOME}",
    "a variable, whatever it is": "probe===${HOME}",
    "another file": "-r {evil}/requirements.txt",
    "an address": "evil @ https://example.org/evil.tar.gz",
}.items():
    case(f"pyproject.toml: built with {_what}", r"pyproject\.toml, build-system\.requires has", **OFFLINE)(
        functools.partial(_at, lambda it, text: it.builds_with(f"[{toml(text.replace('{evil}', str(it.evil)))}]"), _text)
    )
case("pyproject.toml: built with a text", "not a list", **OFFLINE)(lambda it: it.builds_with(toml(f"-e {it.evil}")))
case("pyproject.toml: built with numbers", "not a text", **OFFLINE)(lambda it: it.builds_with("[1, 2]"))


# Where Ansible is started
@case("a pip of its own", "", **OFFLINE)
def _(it: Case) -> None:
    it.write("requirements.txt", "probe==1.0\n")
    for name in ("pip/__init__.py", "pip/__main__.py", "sitecustomize.py", "usercustomize.py", "email/__init__.py", "logging.py"):
        it.write(name, f"open({str(it.canary)!r}, 'w')\n")


@case("a Python of its own", "", **OFFLINE)
def _(it: Case) -> None:
    it.builds_with('["probe"]')
    for name in ("python", "python3", "python3.11"):
        it.write(f".venv/bin/{name}", it.command.read_text()).chmod(0o755)
    it.write(".venv/pyvenv.cfg", "home = /usr/bin\n")
    it.write(".python-version", str(it.source / ".venv/bin/python"))


@case("settings of its own for uv", "", **OFFLINE)
def _(it: Case) -> None:
    it.sdist("evil-1.0.tar.gz", it.evil)
    settings = f'no-build = false\nno-binary = true\nindex-url = "file://{it.evil}"\nfind-links = ["{it.wheels}"]\n'
    it.builds_with('["probe"]\n[tool.uv]\n' + settings)
    it.write("uv.toml", settings)


@case("settings of its own for pip", "", **OFFLINE)
def _(it: Case) -> None:
    it.write("requirements.txt", "probe==1.0\n")
    for name in ("pip.conf", ".pip/pip.conf", "setup.cfg", ".config/pip/pip.conf"):
        it.write(name, f"[global]\nno-binary = :all:\nindex-url = file://{it.evil}\n[download]\neditable = {it.evil}\n")


@case("an environment that its shell sets", "", **OFFLINE)
def _(it: Case) -> None:
    it.sdist("probe-1.0.tar.gz", it.evil)
    it.builds_with('["probe"]')
    it.write("requirements.txt", "probe==1.0\n")
    it.write("evil.txt", f"-e {it.evil}\n")
    it.write("pip/__init__.py", f"open({str(it.canary)!r}, 'w')\n")
    for name, value in {
        "PIP_NO_BINARY": ":all:",
        "PIP_EDITABLE": str(it.evil),
        "PIP_REQUIREMENT": str(it.source / "evil.txt"),
        "PIP_TARGET": str(it.evil),
        "UV_NO_BINARY": "1",
        "UV_OVERRIDE": str(it.source / "evil.txt"),
        "UV_CONSTRAINT": str(it.source / "evil.txt"),
        "UV_PYTHON": str(it.command),
        "VIRTUAL_ENV": str(it.source / ".venv"),
        "PYTHONPATH": f".:{it.source}",
        "PYTHONSTARTUP": str(it.command),
    }.items():
        os.environ[name] = value


# Wheels and source distributions
@case("a source distribution in the wheelhouse", "no wheel of evil==1.0", **OFFLINE)
def _(it: Case) -> None:
    it.sdist("evil-1.0.tar.gz", it.evil)
    it.write("requirements.txt", "evil==1.0\n")


@case("a source distribution that builds", "cannot be fetched|no wheel", **OFFLINE)
def _(it: Case) -> None:
    it.sdist("evil-1.0.tar.gz", it.evil)
    it.builds_with('["evil"]')


@case("a wheel that needs a path", "cannot be fetched", **OFFLINE)
def _(it: Case) -> None:
    it.wheel("middle", f"evil @ file://{it.evil}")
    it.builds_with('["middle"]')


case("METADATA: a path", "does not come from an index", **OFFLINE)(
    lambda it: it.arguments.update(source=str(it.wheel("shop", f"evil @ file://{it.evil}")))
)
case("METADATA: an option", "not a requirement", **OFFLINE)(lambda it: it.arguments.update(source=str(it.wheel("shop", f"-e {it.evil}"))))
for _name in ("-e.whl", "shop 1-1-py3-none-any.whl", "shop-1;x-py3-none-any.whl", "shop-1.0-py3-none-any[x].whl", "shop-1.0-\n-e-x.whl"):
    case(f"a wheel by the name of {_name!r}", "Rename it|no wheel|line break")(
        functools.partial(_at, lambda it, name: it.arguments.update(source=str(it.wheel("shop", file=name))), _name)
    )


@case("PKG-INFO: an option", "not a requirement", **OFFLINE)
def _(it: Case) -> None:
    (it.evil / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: evil\nVersion: 1.0\nRequires-Dist: probe\n -e {it.evil}\n")
    it.arguments["source"] = str(it.sdist("evil-1.0.tar.gz", it.evil))


@case("a source distribution: a pyproject.toml that is none", "cannot be read", **OFFLINE)
def _(it: Case) -> None:
    (it.evil / "pyproject.toml").write_text("[build-system")
    it.arguments["source"] = str(it.sdist("evil-1.0.tar.gz", it.evil))


@case("a source distribution: built with an option", "not a requirement", **OFFLINE)
def _(it: Case) -> None:
    (it.evil / "pyproject.toml").write_text(f'[build-system]\nrequires = ["-e {it.evil}"]\n')
    it.arguments["source"] = str(it.sdist("evil-1.0.tar.gz", it.evil))


# requirements.txt
case("requirements.txt: an editable", "")(lambda it: it.write("requirements.txt", f"-e {it.evil}\n"))
case("requirements.txt: an editable, offline", "", **OFFLINE)(lambda it: it.write("requirements.txt", f"probe==1.0\n-e {it.evil}\n"))
case("requirements.txt: a path", "not from an index", **OFFLINE)(lambda it: it.write("requirements.txt", f"evil @ file://{it.evil}\n"))
case("requirements.txt: a variable", "has the version", **OFFLINE)(lambda it: it.write("requirements.txt", "probe==${HOME}\n"))
case("requirements.txt: a secret", "not in the source")(lambda it: it.write("requirements.txt", f"-r {it.secret}\n"))
case("requirements.txt: a secret from there", "not in the source")(lambda it: it.write("requirements.txt", "-r ../secret/passwd\n"))
case("requirements.txt: a secret from far", "not in the source")(
    lambda it: (it.write("requirements.txt", "-r deep/er.txt\n"), it.write("deep/er.txt", f"-r {'../' * 9}{it.secret}\n"))
)
case("requirements.txt: bytes", "cannot be read")(lambda it: (it.source / "requirements.txt").write_bytes(b"\xff\xfe"))


# A directory that is a repository
def _configured(key: str, value: str) -> Spoil:
    def spoil(it: Case) -> None:
        it.repository()
        it.write("untracked.py", "")
        it.git("config", key, value.format(command=it.command, source=it.source))

    return spoil


for _key, _value in {
    "core.fsmonitor": "{command}",
    "core.hooksPath": "{source}/hooks",
    "core.pager": "{command}",
    "core.sshCommand": "{command}",
    "core.editor": "{command}",
    "core.askPass": "{command}",
    "core.gitProxy": "{command}",
    "core.alternateRefsCommand": "{command}",
    "alias.ls-files": "!{command}",
    "alias.rev-parse": "!{command}",
    "diff.external": "{command}",
    "credential.helper": "!{command}",
    "gpg.program": "{command}",
    "uploadpack.packObjectsHook": "{command}",
    "filter.x.clean": "{command}",
    "filter.x.process": "{command}",
}.items():
    case(f".git/config: {_key}", "")(_configured(_key, _value))


@case(".git/config: a hook", "")
def _(it: Case) -> None:
    it.repository()
    for name in ("post-index-change", "post-checkout", "fsmonitor-watchman", "reference-transaction"):
        (it.source / ".git/hooks" / name).write_text(it.command.read_text())
        (it.source / ".git/hooks" / name).chmod(0o755)
    it.git("config", "core.fsmonitor", "true")
    os.utime(it.source / "app.py", (1, 1))


@case(".git/config: another file", "")
def _(it: Case) -> None:
    it.repository()
    it.write("settings", f"[core]\n\tfsmonitor = {it.command}\n")
    it.git("config", "include.path", "../settings")


@case(".git/config: a filter for its files", "")
def _(it: Case) -> None:
    it.write(".gitattributes", "* filter=x\n")
    it.repository()
    it.git("config", "filter.x.clean", str(it.command))
    it.git("config", "filter.x.smudge", str(it.command))
    it.git("config", "filter.x.required", "true")
    os.utime(it.source / "app.py", (1, 1))


@case("a repository that lacks an object", "")
def _(it: Case) -> None:
    """git fetches it from a promisor remote, by a command of the remote's, when it looks for a .gitignore that is not checked out."""
    it.write("deep/.gitignore", "*.log\n")
    it.write("deep/app.py", "")
    it.repository()
    blob = it.git("rev-parse", "HEAD:deep/.gitignore")
    it.git("update-index", "--skip-worktree", "deep/.gitignore")
    (it.source / "deep/.gitignore").unlink()
    (it.source / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": f"ssh://example.org/{it.source}",
        "core.sshCommand": str(it.command),
        "remote.origin.uploadpack": str(it.command),
        "protocol.allow": "always",
    }.items():
        it.git("config", key, value)


@case("a repository in it", "")
def _(it: Case) -> None:
    it.repository()
    (it.source / "vendor").mkdir()
    shutil.copy(it.source / "app.py", it.source / "vendor/app.py")
    it.repository(at=it.source / "vendor")
    it.git("config", "core.fsmonitor", str(it.command), at=it.source / "vendor")


@case("a repository in a directory that is none", "")
def _(it: Case) -> None:
    (it.source / "vendor").mkdir()
    shutil.copy(it.source / "app.py", it.source / "vendor/app.py")
    it.repository(at=it.source / "vendor")
    it.git("config", "core.fsmonitor", str(it.command), at=it.source / "vendor")


@case("a repository elsewhere in it", "")
def _(it: Case) -> None:
    it.repository()
    (it.source / ".git").rename(it.source / "assets")
    (it.source / "assets/info/exclude").write_text("assets\n")
    subprocess.run(["git", "config", "--file", it.source / "assets/config", "core.fsmonitor", it.command], check=True)
    it.write(".git", "gitdir: assets\n")


@case("a bare repository", "")
def _(it: Case) -> None:
    it.git("init", "--quiet", "--bare")
    it.git("config", "core.fsmonitor", str(it.command))
    it.write("requirements.txt", "")


@case("an index with paths behind a link", r"link lib to .*not in the source")
def _(it: Case) -> None:
    it.write("lib/passwd", "")
    it.repository()
    shutil.rmtree(it.source / "lib")
    (it.source / "lib").symlink_to(it.secret.parent)


# Repositories that are fetched
case("git: a program for an address", "Write git")(lambda it: it.arguments.update(source=f"git+ext::{it.command}"))


def _ref(it: Case, ref: str) -> None:
    it.repository()
    it.arguments["source"] = f"git+file://{it.source}@{ref.format(command=it.command)}"


case("git: a ref that is an option", "Write git")(lambda it: _ref(it, "--upload-pack={command}"))
case("git: a ref that is many", "Write git")(lambda it: _ref(it, "*"))
case("git: a ref of another form", "Write git")(lambda it: _ref(it, "main:refs/heads/x"))
case("git: a line break", "line break")(lambda it: _ref(it, "main\n-x"))
case("git: a host that is an option", "Write git")(
    lambda it: it.arguments.update(source=f"git+ssh://git@-oProxyCommand={str(it.command).replace('/', '%2f')}/shop.git@main")
)
case("git: a port that is an option", "Write git")(
    lambda it: it.arguments.update(source=f"git+ssh://git@example.org:22-oProxyCommand={it.command}/shop.git@main")
)


@case("git: a key with a quote", "failed")
def _(it: Case) -> None:
    key = it.top / "a'; touch canary; '"
    key.write_text("x")
    key.chmod(0o600)
    it.arguments.update(source="git+ssh://git@localhost:1/shop.git@main", git_key=str(key))


@case("git: a key that all can read", "chmod 600")
def _(it: Case) -> None:
    (it.top / "key").write_text("x")
    (it.top / "key").chmod(0o644)
    it.arguments.update(source="git+ssh://git@localhost:1/shop.git@main", git_key=str(it.top / "key"))


@case("git: known hosts that are none", "asgi_release_git_known_hosts has")
def _(it: Case) -> None:
    it.repository()
    it.fetched(git_known_hosts=f"ProxyCommand {it.command}")


for _what, _url in {
    "a program": "ext::{command}",
    "an option": "-u{command}",
    "an option with blanks": "--upload-pack={command} x",
    "a helper": "fd::17",
    "a host that is an option": "ssh://-oProxyCommand={command}/x",
    "a short host that is an option": "-oProxyCommand={command}:x",
}.items():
    case(f".gitmodules: {_what}", r"\.gitmodules has submodule\.vendor\.url")(
        functools.partial(_at, lambda it, url: it.submodule(url.format(command=it.command)), _url)
    )
case(".gitmodules: a repository of the controller's", "failed")(lambda it: it.submodule(f"file://{it.source}"))
case(".gitmodules: a directory of the controller's", "failed")(lambda it: it.submodule(str(it.source)))
case(".gitmodules: a path that leaves it", r"\.gitmodules has submodule\.vendor\.path")(lambda it: it.submodule("./x", "../vendor"))
case(".gitmodules: a path into .git", r"\.gitmodules has submodule\.vendor\.path")(lambda it: it.submodule("./x", ".git/hooks"))
case(".gitmodules: a path that is an option", r"\.gitmodules has submodule\.vendor\.path")(lambda it: it.submodule("./x", "-x"))
case(".gitmodules: an update by a command", r"\.gitmodules has submodule\.vendor\.update")(
    lambda it: it.submodule("./x", more=f"\tupdate = !{it.command}\n")
)


@case("git: a filter that nobody has", "")
def _(it: Case) -> None:
    it.write(".gitattributes", f"* filter=x diff=x merge=x\n[attr]x filter={it.command}\n")
    it.repository()
    it.fetched()


@case("git: a link that leaves the repository", r"not in the source")
def _(it: Case) -> None:
    (it.source / "static").symlink_to(it.secret.parent)
    it.repository()
    it.fetched()


# Archives
ESCAPES: dict[str, tuple[tuple[str, bytes, str], ...]] = {
    "a link to a secret": (("static/x", LINK, "{secret}"),),
    "a link from there": (("static/x", LINK, "../../secret/passwd"),),
    "a link by way of another": (("a", LINK, "static"), ("static/up", LINK, ".."), ("x", LINK, "a/up/../secret/passwd")),
    "a directory that is a link": (("static", LINK, "{top}/secret"),),
    "a link to itself": (("a", LINK, "b"), ("b", LINK, "a")),
    "a hard link": (("x", HARD, "{secret}"),),
    "a hard link from there": (("x", HARD, "../secret/passwd"),),
    "a file behind a link": (("d", LINK, "{top}"), ("d/canary", FILE, "x")),
    "a file in place of a link": (("d", LINK, "{canary}"), ("d", FILE, "x"), ("e", LINK, "{secret}")),
    "a name that leaves it": (("../canary", FILE, "x"),),
    "a name from the root": (("{canary}", FILE, "x"),),
    "a device": (("zero", tarfile.CHRTYPE, ""),),
    "a FIFO": (("pipe", tarfile.FIFOTYPE, ""),),
}


def _escaping(what: str, it: Case) -> None:
    places = {"secret": it.secret, "top": it.top, "canary": it.canary}
    it.tar(*((name.format(**places), kind, target.format(**places)) for name, kind, target in ESCAPES[what]))


for _what in ESCAPES:
    case(f"tar: {_what}", "cannot be unpacked|not in the source")(functools.partial(_escaping, _what))


@case("tar: a path that is too long to be looked at", "cannot be unpacked|not in the source")
def _(it: Case) -> None:
    """What Python's own filter does not see (CVE-2025-4517)."""
    members: list[tuple[str, bytes, str]] = []
    path, long = "", "d" * 247
    for letter in "abcdefghijklmnop":
        members += [(f"{path}{long}", tarfile.DIRTYPE, ""), (f"{path}{letter}", LINK, long)]
        path += f"{long}/"
    links = "/".join("abcdefghijklmnop")
    members += [(f"{links}/{'l' * 254}", LINK, "../" * 16), ("escape", LINK, f"{links}/{'l' * 254}/../../../../../../{it.top}")]
    it.tar(*members, ("escape/canary", FILE, "x"))


@case("tar: a repository in it", "")
def _(it: Case) -> None:
    it.repository()
    it.git("config", "core.fsmonitor", str(it.command))
    it.tarred()


case("zip: a link to a secret", "not in the source")(lambda it: it.zip(("static/x", 0o120777, str(it.secret))))
case("zip: a link from there", "not in the source")(lambda it: it.zip(("static/x", 0o120777, "../../secret/passwd")))
case("zip: a file behind a link", "cannot be unpacked")(lambda it: it.zip(("d", 0o120777, str(it.top)), ("d/canary", 0o100644, "x")))
case("zip: a name that leaves it", "cannot be unpacked")(lambda it: it.zip(("../canary", 0o100644, "x")))
case("zip: a device", "cannot be unpacked")(lambda it: it.zip(("zero", 0o020644, "")))


@case("zip: its only directory is a link", "not in the source|no pyproject|cannot")
def _(it: Case) -> None:
    it.write("requirements.txt", "")
    with zipfile.ZipFile(it.top / "shop.zip", "w") as archive:
        info = zipfile.ZipInfo("shop")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, str(it.secret.parent))
    it.arguments["source"] = str(it.top / "shop.zip")


# Links of a directory
for _what, _links in {
    "to a file": {"static/x": "{secret}"},
    "from there": {"static/x": "../../secret/passwd"},
    "to a directory": {"static": "{top}/secret"},
    "to what is not there": {"static/x": "/nowhere"},
    "by way of another": {"one": "two", "two": "{secret}"},
    "by way of a directory": {"a/b/up": "../..", "x": "a/b/up/../secret/passwd"},
    "to all": {"static": "/"},
    "to above": {"static": ".."},
    "to a device": {"app2.py": "/dev/zero"},
    "in a circle": {"a": "b", "b": "a"},
    "out of what an application keeps": {"x": "media/../../secret/passwd"},
}.items():

    def _linked(it: Case, links: dict[str, str] = _links) -> None:
        it.write("requirements.txt", "")
        for name, target in links.items():
            (it.source / name).parent.mkdir(parents=True, exist_ok=True)
            (it.source / name).symlink_to(target.format(secret=it.secret, top=it.top))

    case(f"a link {_what}", "which is not in the source.*asgi_shared", shared=["media"])(_linked)


@case("a subdirectory that is a link", "asgi_release_subdirectory is static", subdirectory="static")
def _(it: Case) -> None:
    (it.source / "static").symlink_to(it.secret.parent)


@case("a lock behind a link", "Correct asgi_release_lock|not in the source", lock="deploy/passwd")
def _(it: Case) -> None:
    (it.source / "deploy").symlink_to(it.secret.parent)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    for name, value in {
        "XDG_CACHE_HOME": tmp_path / "cache",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "PIP_NO_INDEX": "1",
        "UV_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, str(value))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PYTHONPATH", "UV_PYTHON", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ansible.constants, "DEFAULT_LOCAL_TMP", str(tmp_path / "run"))
    return Case(tmp_path)


def deploy(it: Case, sent: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    """Run the action as a task would, against a host that has not got the release."""

    def transfer(_action: ActionModule, archive: str, _remote: str) -> None:
        shutil.copy(archive, sent)

    answers: Iterator[dict[str, Any]] = iter([{"changed": True, "target": TARGET, "live": {}}, {"changed": True}])
    monkeypatch.setattr(ActionModule, "_execute_module", lambda *_arguments, **_options: dict(next(answers)))
    monkeypatch.setattr(ActionModule, "_transfer_file", transfer)
    monkeypatch.setattr(ActionModule, "_make_tmp_path", lambda _action: "/nonexistent")
    monkeypatch.setattr(ActionModule, "_remove_tmp_path", lambda *_arguments: None)
    given: dict[str, Any] = {
        "source": str(it.source),
        "releases": "/opt/shop/releases",
        "import_path": "",
        "require_hashes": False,
        "shared_root": "/x",
    }
    if arguments.get("offline"):
        given["wheelhouse"] = str(it.wheels)
    given |= {**arguments, **it.arguments}
    task = SimpleNamespace(args=given, async_val=0, check_mode=False, diff=False)
    shell = SimpleNamespace(tmpdir="/nonexistent", join_path=os.path.join)
    ActionModule(task, SimpleNamespace(_shell=shell), None, DataLoader(), None, None).run(task_vars={})


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_a_source_runs_on_the_controller_or_goes_along(
    hostile: Case, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, arguments, said = CASES[name]
    before = dict(os.environ)
    sent = tmp_path / "sent.tar.gz"
    try:
        spoil(hostile)
        monkeypatch.chdir(hostile.source)
        # What made it may have run a command of its own.
        hostile.canary.unlink(missing_ok=True)
        if said:
            with pytest.raises(AnsibleActionFail, match=f"(?s){said}") as refused:
                deploy(hostile, sent, monkeypatch, arguments)
            message = str(refused.value)
            # The variable, or the file.
            assert "asgi_" in message or str(hostile.source) in message
            assert SECRET not in message
            assert str(tmp_path / "run") not in message
            assert message.replace("\n", " ").isprintable()
        else:
            deploy(hostile, sent, monkeypatch, arguments)
    finally:
        for key in set(os.environ) - set(before):
            del os.environ[key]
    assert not list(tmp_path.rglob("canary"))
    assert sent.exists() is not bool(said)
    if sent.exists():
        with tarfile.open(sent) as archive:
            assert not any(SECRET.encode() in stream.read() for stream in map(archive.extractfile, archive) if stream)
