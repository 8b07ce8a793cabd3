# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse what a source says into strict types, and write it again from those: nothing else becomes an argument of a program.

pip, uv and git take a line break for the end of an entry, a dash for an option, ${NAME} for a variable and :: for a program. So a
value is never passed on as it was read. What does not parse is refused, by the name of its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

try:
    # Ansible needs it on the controller, where this is used.
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion, Version
except ImportError:
    Requirement = Version = str  # type: ignore[assignment, misc]
    InvalidRequirement = InvalidVersion = ValueError  # type: ignore[assignment, misc]

from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_HASH = re.compile(r"(?:md5|sha1|sha224|sha256|sha384|sha512|blake2b):[0-9a-f]+\Z")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])\Z")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*\Z")
# git-check-ref-format(1), and no letter that could be taken for anything by a program on the way.
_REF = re.compile(r"(?!.*(?:\.\.|//|@\{|/\.|\.lock(?:/|\Z)))(?![-./@])[^\s\x00-\x1f\x7f~^:?*\[\\]+(?<![/.])\Z")
_LONGEST = 1000


def shown(value: object) -> str:
    """Return a value as it may stand in a message: on one line, and not longer than that."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def legible(text: str) -> str:
    """Return a message that does nothing to a terminal: what a server or a source says is part of it."""
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)


def plain(value: object) -> str:
    """Return a text that is on one line and has no control character. Raises ValueError for another one."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > _LONGEST:
        raise ValueError
    return value


def package_name(value: object, place: str) -> str:
    """Return the name of a package or an extra. Raises SourceError."""
    if not isinstance(value, str) or not _NAME.match(value) or len(value) > _LONGEST:
        raise SourceError(f"{place} has the name {shown(value)}, which is not one of a package. Correct it, or make the file again.")
    return value


def version(value: object, place: str) -> str:
    """Return a version, in the form of PEP 440. Raises SourceError."""
    try:
        return str(Version(plain(value)))
    except (InvalidVersion, ValueError):
        raise SourceError(f"{place} has the version {shown(value)}, which is not one. Correct it, or make the file again.") from None


def file_hash(value: object, place: str) -> str:
    """Return the hash of a file, as ALGORITHM:DIGITS. Raises SourceError."""
    if not isinstance(value, str) or not _HASH.match(value.lower()) or len(value) > _LONGEST:
        raise SourceError(f"{place} has the hash {shown(value)}, which is not one. Write sha256: and hexadecimal digits, or make it again.")
    return value.lower()


def requirement(value: object, place: str) -> Any:
    """Return what a text asks of an index (PEP 508). Raises SourceError for what is none, and for what comes from elsewhere."""
    try:
        parsed = Requirement(plain(value))
    except (InvalidRequirement, ValueError):
        raise SourceError(
            f"{place} has {shown(value)}, which is not a requirement. Write a name and versions, such as 'hatchling>=1.27'."
        ) from None
    if parsed.url:
        raise SourceError(
            f"{place} has {shown(value)}, which does not come from an index. Name a version that an index has, or put a wheel of it into "
            "asgi_release_wheelhouse."
        )
    if any(each.operator == "===" for each in parsed.specifier):
        raise SourceError(f"{place} has {shown(value)}. Write == in place of ===.")
    return parsed


def written(parsed: Any) -> str:
    """Return a requirement as an argument, without its marker."""
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    return f"{parsed.name}{extras}{parsed.specifier}"


def hashed(text: str, place: str) -> str:
    """Return a requirements file, written again: entries with an exact version, a marker and hashes. Raises SourceError for all else."""
    found = []
    for line in re.sub(r"\\\r?\n", " ", text).split("\n"):
        entry = re.sub(r"(^|\s)#.*", "", line).strip()
        if not entry:
            continue
        what, *hashes = re.split(r"\s--hash[=\s]", entry)
        parsed = requirement(what.strip(), place)
        if [each.operator for each in parsed.specifier] != ["=="] or "*" in str(parsed.specifier):
            raise SourceError(f"{place} has {shown(what)}. Write an exact version, as NAME==VERSION.")
        marker = f" ; {parsed.marker}" if parsed.marker else ""
        parts = [f"{written(parsed)}{marker}", *(f"--hash={file_hash(each.strip(), place)}" for each in hashes)]
        found.append(" \\\n    ".join(parts))
    return "\n".join(found) + "\n" if found else ""


def file_name(name: str, place: str) -> str:
    """Return the name of a wheel or an archive, which is put on a command line. Raises SourceError."""
    if not _FILE.match(name):
        raise SourceError(f"{place} has the file {shown(name)}. Rename it: letters, digits and . _ + ! - are what such a name has.")
    return name


def address(value: str, schemes: Iterable[str]) -> str:
    """Return the address of a file or a repository. Raises ValueError, without repeating what may be a password."""
    parts = urlsplit(plain(value))
    user, _at, host = parts.netloc.rpartition("@")
    host, port = (host, "") if host.endswith("]") else (host.rpartition(":")[::2] if ":" in host else (host, ""))
    if parts.scheme not in schemes or re.search(r"\s", value) or (port and not port.isdigit()) or "${" in value:
        raise ValueError
    if not (_HOST.match(host) or (parts.scheme == "file" and not host)) or (user and not _USER.match(user)):
        raise ValueError
    return value


def reference(value: str) -> str:
    """Return the name of a branch or a tag, or a commit. Raises ValueError."""
    if not _REF.match(plain(value)):
        raise ValueError
    return value
