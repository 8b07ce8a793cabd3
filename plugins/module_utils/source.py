# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read an application's source directory: which files belong to it, what identifies them, and is the app in there."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import stat
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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

# The work trees of other tools, which have ignored files too, and nobody here who knows which.
_TREES = {".git": "git", ".jj": "Jujutsu", ".hg": "Mercurial", ".svn": "Subversion", ".bzr": "Bazaar", "_darcs": "Darcs", ".pijul": "Pijul"}

# All of git's environment that may stay. The rest says which files there are, or what is run: a hook that runs a playbook has it set.
_OF_GIT = re.compile(
    r"GIT_(CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_[0-9]+|VALUE_[0-9]+)|(PROXY_)?SSL_\w+|HTTP_\w+|ASKPASS|EXEC_PATH|TEST_\w+)\Z"
)

# Of what a repository's own settings can run, nothing does.
GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never")

# A module that is larger is not looked into.
_MOST_OF_A_MODULE = 1 << 20

# Needed whatever .gitignore says: without it there is nothing to build from.
_ALWAYS = ("uv.lock",)


class SourceError(Exception):
    """The source cannot be deployed. The message says what is wrong with it and what to do."""


def git_environment() -> dict[str, str]:
    """Return the environment for git: in English, and with nothing of another repository in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or _OF_GIT.match(name)} | {"LC_ALL": "C"}


def source_files(directory: str, top: str = "/") -> list[str]:
    """Return the files of the source, relative to `directory` and sorted.

    In a git work tree these are the files that git tracks or would track (.gitignore is respected), and uv.lock in any
    case. Elsewhere it is everything but the usual litter. Directories above `top` do not count. Raises SourceError for a work tree
    of which nobody says what is ignored.
    """
    tree = _tree_of(directory, top)
    if not tree:
        names = _walk(directory)
    elif os.path.lexists(os.path.join(tree, ".git")):
        names = _git_files(directory, tree)
    else:
        kind = next(kind for mark, kind in _TREES.items() if os.path.lexists(os.path.join(tree, mark)))
        raise SourceError(_unknown(directory, f"a {kind} work tree ({tree}), and only git's are understood"))
    names += [name for name in _ALWAYS if name not in names and os.path.isfile(os.path.join(directory, name))]
    return sorted(set(names))


def _unknown(directory: str, why: str) -> str:
    return (
        f"asgi_release_source (asgi_source) is {directory}, {why}. Which files are ignored is not known, and an ignored file can be a "
        "secret. Name a copy that has only what is to be deployed (as 'git archive', 'hg archive' or 'svn export' make it), or an "
        "archive of it."
    )


def _tree_of(directory: str, top: str) -> str:
    """Return the top of the work tree that a directory is in, '' if it is in none."""
    path, last = os.path.realpath(directory), os.path.realpath(top)
    while True:
        if any(os.path.lexists(os.path.join(path, mark)) for mark in _TREES):
            return path
        if path in (last, "/"):
            return ""
        path = os.path.dirname(path)


def _git_files(directory: str, tree: str) -> list[str]:
    """Return what git tracks or would track below `directory`. Raises SourceError if git does not say."""
    # Nothing that the repository names is fetched, run or looked for elsewhere: not for an object that is missing in it either.
    environment = git_environment() | {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_DISCOVERY_ACROSS_FILESYSTEM": "1"}

    def git(*arguments: str) -> bytes:
        command = [*GIT, "--no-optional-locks", *arguments]
        done = subprocess.run(command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise SourceError(_unknown(directory, f"a git work tree, and git cannot list the files of it: {said or 'it says nothing'}"))
        return done.stdout

    try:
        answer = os.fsdecode(git("rev-parse", "--is-inside-work-tree", "--show-toplevel"))
    except FileNotFoundError:
        raise SourceError(_unknown(directory, "a git work tree, and the controller has no git. Install it")) from None
    if answer.rstrip("\n") != f"true\n{tree}":
        raise SourceError(
            _unknown(directory, f"a git work tree, and git does not take {tree}/.git for its repository. Repair or remove it")
        )
    tracked = _names(git("ls-files", "-z", "--cached"))
    others = _names(git("ls-files", "-z", "--others", "--exclude-standard"))
    names = tracked + [name for name in others if os.path.basename(name) != ".env"]
    found = []
    # git does not look behind a link, but its index may name what was there before it came.
    folders = {name: _is_real(directory, name) for name in set(map(os.path.dirname, names))}
    for name in names:
        path = os.path.join(directory, name)
        if not folders[os.path.dirname(name)] or not os.path.lexists(path):
            continue
        if os.path.isdir(path) and not os.path.islink(path):  # a submodule, or another repository
            below = source_files(path, path) if _tree_of(path, path) else _walk(path)
            found += [os.path.join(name, each) for each in below]
        else:
            found.append(name)
    if not found and directory != tree:
        with contextlib.suppress(SourceError):
            git("check-ignore", "--quiet", ".")
            # A directory that is ignored as a whole is not empty, it is just none of git's business.
            return _walk(directory)
    return found


def _names(output: bytes) -> list[str]:
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _is_real(directory: str, folder: str) -> bool:
    """Return whether no part of the path to a folder is a link."""
    return os.path.realpath(os.path.join(directory, folder)) == os.path.normpath(os.path.join(os.path.realpath(directory), folder))


def _walk(directory: str) -> list[str]:
    found = []
    for root, directories, files in os.walk(directory, onerror=_refuse):
        if root != directory and _tree_of(root, root):
            # A repository in a directory that is none.
            found += [os.path.relpath(os.path.join(root, name), directory) for name in source_files(root, root)]
            directories[:] = []
            continue
        wanted = [name for name in directories if name not in _LITTER_DIRECTORIES]
        linked = [name for name in wanted if os.path.islink(os.path.join(root, name))]
        directories[:] = [name for name in wanted if name not in linked]
        # A link to a virtual environment elsewhere counts as a directory only while that is there.
        dangling = [name for name in files if name in _LITTER_DIRECTORIES and os.path.islink(os.path.join(root, name))]
        kept = [name for name in files + linked if name not in dangling and not _LITTER_FILES.match(name)]
        found += [os.path.relpath(os.path.join(root, name), directory) for name in kept]
    return found


def _refuse(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be read: {error.strerror}. Make it readable, or move it out of the source.") from error


@dataclass(frozen=True)
class Entry:
    """A file of the source, as it was read once."""

    name: str
    kind: str  # file, executable or link
    content: str  # the digest of a file, or what a link points to


def read_entry(directory: str, name: str, copy: str = "", room: int = 1 << 62) -> Entry:
    """Read a file once, and write what was read to `copy`. Raises SourceError for what cannot be read, or not to an end."""
    path = os.path.join(directory, name)
    try:
        mode = _mode_of(path)
        if stat.S_ISLNK(mode):
            target = os.readlink(path)
            if copy:
                os.symlink(target, copy)
            return Entry(name, "link", target)
        with (
            open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream,
            open(copy or os.devnull, "wb") as target_stream,
        ):
            before = os.fstat(stream.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise SourceError(f"{path} is neither a file nor a link; remove it, or have git ignore it")
            if before.st_size > room:
                sizes = f"{before.st_size >> 20} MiB, and the controller has {room >> 20} MiB left"
                raise SourceError(f"{path} has {sizes}. Move it out of the source, or make room.")
            total, size = hashlib.sha256(), 0
            # One that somebody writes to has no end.
            while size <= before.st_size and (block := stream.read(1 << 20)):
                total.update(block)
                target_stream.write(block)
                size += len(block)
            after = os.fstat(stream.fileno())
        if (size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
            raise SourceError(f"{path} has changed while it was read. Run this again when it is at rest.")
    except FileNotFoundError:
        raise SourceError(f"{path} has gone while it was read. Run this again when the source is at rest.") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}. Make it readable, or move it out of the source.") from error
    if copy:
        os.chmod(copy, 0o700 if before.st_mode & 0o100 else 0o600)
    return Entry(name, "executable" if before.st_mode & 0o100 else "file", total.hexdigest())


def check_links(entries: Iterable[Entry], shared: Iterable[str] = ()) -> None:
    """Raise SourceError for a link that leaves the source, also by way of other links: on the host it would show what is not the source's.

    `shared` are the paths that become links to what the application keeps.
    """
    links = {entry.name: entry.content for entry in entries if entry.kind == "link"} | dict.fromkeys(shared, "/")
    for name, target in sorted(links.items()):
        if name not in shared and _leaves(name, links, set(shared)):
            raise SourceError(
                f"asgi_release_source (asgi_source) has the link {name} to {target}, which is not in the source. Put a copy of it there, "
                "remove the link, or have git ignore it. For what the application keeps on the host, name the path in asgi_release_shared "
                "(asgi_shared)."
            )


def _leaves(name: str, links: Mapping[str, str], shared: Collection[str]) -> bool:
    """Follow a link as the host's kernel would, with nothing but the source."""
    *at, last = name.split("/")
    rest, hops = [last], 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            if not at:
                return True
            at.pop()
        elif part not in ("", "."):
            at.append(part)
        path = "/".join(at)
        if path in shared:
            # Its parent is not the source's any more.
            return ".." in rest
        if path in links and part not in ("", ".", ".."):
            hops += 1
            # A circle leads nowhere, but not to where anybody wanted.
            if links[path].startswith("/") or hops > 40:
                return True
            at.pop()
            rest = [*links[path].split("/"), *rest]
    return False


def digest(entries: Iterable[Entry], recipe: Sequence[str]) -> str:
    """Return a hexadecimal digest of files (name, content, executable bit) and of how they are built."""
    total = hashlib.sha256()
    for text in recipe:
        total.update(f"recipe {len(text)}\0{text}".encode())
    for entry in entries:
        content = os.fsencode(entry.content) if entry.kind == "link" else bytes.fromhex(entry.content)
        total.update(f"{entry.kind} {len(entry.name)}\0{entry.name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
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
    except (ValueError, RecursionError, MemoryError):
        return f"{path} is not valid Python: it cannot be parsed"
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
