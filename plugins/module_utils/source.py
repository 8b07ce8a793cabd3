# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read an application's source directory: which files belong to it, what identifies them, and is the app in there."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from typing import IO

# What is no source, where git is not there to tell. A file of secrets (.env) is none either: it belongs into the environment.
_LITTER_DIRECTORIES = frozenset(
    [
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        "node_modules",
        "__pycache__",
        ".idea",
        ".vscode",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".nox",
        ".eggs",
    ]
)
_LITTER_FILES = re.compile(r"(.*\.py[co]|.*~|\.DS_Store|\.env|\.coverage|\.git)\Z")

# What git sets for its hooks, and would then take for the work tree of the source.
GIT_PLACES = frozenset(["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"])

# A module that is larger is not looked into.
_MOST_OF_A_MODULE = 1 << 20

# Needed whatever .gitignore says: without it there is nothing to build from.
_ALWAYS = ("uv.lock",)


class SourceError(Exception):
    """The source cannot be deployed. The message says what is wrong with it and what to do."""


def source_files(directory: str) -> list[str]:
    """Return the files of the source, relative to `directory` and sorted.

    In a git work tree these are the files that git tracks or would track (.gitignore is respected), and uv.lock in any
    case. Elsewhere it is everything but the usual litter. Raises SourceError if git refuses to say.
    """
    names = _git_files(directory)
    if names is None:
        names = _walk(directory)
    names += [name for name in _ALWAYS if name not in names and os.path.isfile(os.path.join(directory, name))]
    return sorted(set(names))


def _git_files(directory: str) -> list[str] | None:
    """Return what git tracks or would track below `directory`, None if git has no say in it."""
    # In English, and of this directory: a hook that runs a playbook has other ideas in its environment.
    environment = {name: value for name, value in os.environ.items() if name not in GIT_PLACES} | {"LC_ALL": "C"}

    def git(*arguments: str) -> list[str]:
        done = subprocess.run(["git", *arguments], cwd=directory, env=environment, capture_output=True, check=False)
        if done.returncode != 0:
            raise SourceError(f"git cannot list the files of {directory}: {done.stderr.decode('utf-8', 'replace').strip()}")
        return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]

    try:
        if git("rev-parse", "--is-inside-work-tree")[0].strip() != "true":
            return None
        tracked = git("ls-files", "-z", "--cached")
        others = git("ls-files", "-z", "--others", "--exclude-standard")
    except FileNotFoundError:
        return None
    except SourceError as error:
        if "not a git repository" in str(error):
            return None
        raise
    names = tracked + [name for name in others if os.path.basename(name) != ".env"]
    found = []
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):  # a submodule
            found += [os.path.join(name, below) for below in _walk(path)]
        elif os.path.lexists(path):
            found.append(name)
    # A directory that is ignored as a whole is not empty, it is just none of git's business.
    return found or None


def _walk(directory: str) -> list[str]:
    found = []
    for root, directories, files in os.walk(directory):
        wanted = [name for name in directories if name not in _LITTER_DIRECTORIES]
        linked = [name for name in wanted if os.path.islink(os.path.join(root, name))]
        directories[:] = [name for name in wanted if name not in linked]
        # A link to a virtual environment elsewhere counts as a directory only while that is there.
        dangling = [name for name in files if name in _LITTER_DIRECTORIES and os.path.islink(os.path.join(root, name))]
        kept = [name for name in files + linked if name not in dangling and not _LITTER_FILES.match(name)]
        found += [os.path.relpath(os.path.join(root, name), directory) for name in kept]
    return found


def digest(directory: str, names: Iterable[str], recipe: Sequence[str]) -> str:
    """Return a hexadecimal digest of the named files (name, content, executable bit) and of how they are built."""
    total = hashlib.sha256()
    for text in recipe:
        total.update(f"recipe {len(text)}\0{text}".encode())
    for name in names:
        path = os.path.join(directory, name)
        mode = _mode_of(path)
        if stat.S_ISLNK(mode):
            kind, content = "link", os.fsencode(os.readlink(path))
        else:
            kind = "executable" if mode & 0o100 else "file"
            with open(path, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
        total.update(f"{kind} {len(name)}\0{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
    return total.hexdigest()


def _mode_of(path: str) -> int:
    mode = os.lstat(path).st_mode
    if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode)):
        raise SourceError(f"{path} is neither a file nor a link; remove it, or have git ignore it")
    return mode


def pack(parts: Iterable[tuple[str, str, Iterable[str]]], stream: IO[bytes]) -> None:
    """Write files to `stream` as a compressed tar archive, without owners, times or any mode but executable.

    A part is the directory that files get in the archive ('' is none), the one that they are in, and their names.
    """
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=3) as archive:
        for prefix, directory, name in ((prefix, directory, name) for prefix, directory, names in parts for name in names):
            _mode_of(os.path.join(directory, name))
            info = archive.gettarinfo(os.path.join(directory, name), arcname=os.path.join(prefix, name))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = 0
            info.mode = 0o755 if info.mode & 0o100 else 0o644
            if info.isreg() or info.islnk():
                info.type = tarfile.REGTYPE
                info.size = os.path.getsize(os.path.join(directory, name))
                with open(os.path.join(directory, name), "rb") as content:
                    archive.addfile(info, content)
            else:
                archive.addfile(info)


def unpack(stream: IO[bytes], directory: str) -> None:
    """Write what pack() wrote below `directory`, which must not exist. Raises SourceError for a name that leaves it, also by a link."""
    os.mkdir(directory, 0o755)
    top = os.path.realpath(directory)
    with tarfile.open(fileobj=stream, mode="r:gz") as archive:
        for member in archive:
            if os.path.isabs(member.name) or ".." in member.name.split("/"):
                raise SourceError(f"the archive names a file outside of the source: {member.name}")
            path = os.path.join(directory, member.name)
            if os.path.realpath(os.path.dirname(path)) != os.path.normpath(os.path.join(top, os.path.dirname(member.name))):
                raise SourceError(f"the archive has a file below {os.path.dirname(member.name)}, which is a link")
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            if member.issym():
                os.symlink(member.linkname, path)
                continue
            content = archive.extractfile(member)
            if content is None:
                raise SourceError(f"the archive holds something that is neither a file nor a link: {member.name}")
            with content, open(path, "xb") as target:
                while block := content.read(1 << 20):
                    target.write(block)
            os.chmod(path, 0o755 if member.mode & 0o100 else 0o644)


def find_app(import_path: str, roots: Iterable[str]) -> str:
    """Look for `module:object` below `roots`, as Python would import it, without running any of its code.

    Returns '' if it is there, or may be there in a way that only running it would tell; otherwise what is missing.
    """
    module, _, attribute = import_path.partition(":")
    relative = module.replace(".", "/")
    looked = []
    missing = ""
    for root in roots:
        base = os.path.join(root, relative)
        for candidate in (f"{base}/__init__.py", f"{base}.py"):
            looked.append(candidate)
            if os.path.isfile(candidate):
                found = _missing_name(candidate, attribute.split(".")[0])
                if not found:
                    return ""
                missing = missing or found
                break
        directory, name = os.path.split(base)
        if os.path.isdir(directory) and any(entry.startswith(f"{name}.") and entry.endswith(".so") for entry in os.listdir(directory)):
            return ""
    return missing or f"there is no module {module} ({', '.join(looked)})"


def _missing_name(path: str, name: str) -> str:
    """Return '' if the module at `path` can have `name`, otherwise what is wrong."""
    with open(path, "rb") as stream:
        content = stream.read(_MOST_OF_A_MODULE + 1)
    if len(content) > _MOST_OF_A_MODULE:
        return ""
    try:
        tree = ast.parse(content, filename=path)
    except (RecursionError, MemoryError, ValueError):
        return ""
    except SyntaxError as error:
        # What an old Python calls an error may be what the application's newer one understands.
        if sys.version_info < (3, 12):
            return ""
        return f"{path} is not valid Python: {error.msg} (line {error.lineno})"
    bound: set[str] = set()
    for node in _module_level(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.expr | ast.stmt):
            bound.update(leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name) and isinstance(leaf.ctx, ast.Store))
    # All of these can provide a name that is not bound where one would see it.
    if name in bound or "*" in bound or "__getattr__" in bound:
        return ""
    if any(word in content for word in (b"globals()", b"exec(", b"vars()", b"sys.modules", f"global {name}".encode())):
        return ""
    return f"{path} defines no '{name}'"


def _module_level(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Yield the statements that run at import, those inside of if, try, with and loops included."""
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from _module_level(getattr(node, name, []))
        for inner in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            yield from _module_level(inner.body)
