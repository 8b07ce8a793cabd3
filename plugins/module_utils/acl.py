# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The access list of a directory (acl(5)), as far as the collection needs one: groups that may go through and nothing else."""

from __future__ import annotations

import errno
import os
import struct

_NAME = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF
_KINDS = {_USER_OBJ: "user", _USER: "user", _GROUP_OBJ: "group", _GROUP: "group", _MASK: "mask", _OTHER: "other"}

Entry = tuple[int, int, int]  # what it is of, what it allows, and of whom


def read(path: str) -> bytes:
    """Return a directory's access list as the kernel has it, b"" for none. Raises OSError where the file system knows of none."""
    try:
        return os.getxattr(path, _NAME)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return b""
        raise


def write(path: str, value: bytes) -> None:
    """Give a directory an access list, and by it the mode, at once; b"" takes it away."""
    if value:
        os.setxattr(path, _NAME, value)
    elif read(path):
        os.removexattr(path, _NAME)


def letting_through(value: bytes, mode: int, groups: set[int]) -> bytes:
    """Return the access list of a directory with this mode that lets groups through as well. Other entries of `value` are kept."""
    kept = [(tag, bits, whom) for tag, bits, whom in _entries(value) if tag == _USER or (tag == _GROUP and whom not in groups)]
    entries = [
        (_USER_OBJ, mode >> 6 & 7, _NO_ID),
        (_GROUP_OBJ, mode >> 3 & 7, _NO_ID),
        # The most that all but the owner and the others can have, and what the mode shows as the group's.
        (_MASK, mode >> 3 & 7, _NO_ID),
        (_OTHER, mode & 7, _NO_ID),
        *((_GROUP, 1, group) for group in groups),
        *kept,
    ]
    return _VERSION + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries, key=lambda entry: (entry[0], entry[2])))


def lets_through(value: bytes, group: int) -> bool:
    """Return whether an access list lets a group through."""
    entries = _entries(value)
    mask = next((bits for tag, bits, _whom in entries if tag == _MASK), 7)
    return any(tag == _GROUP and whom == group and bits & mask & 1 for tag, bits, whom in entries)


def text(value: bytes) -> str:
    """Return an access list as getfacl writes it, on one line."""
    words = []
    for tag, bits, whom in _entries(value):
        allowed = "".join(letter if bits & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        words.append(f"{_KINDS.get(tag, tag)}:{'' if whom == _NO_ID else whom}:{allowed}")
    return " ".join(words)


def _entries(value: bytes) -> list[Entry]:
    return list(struct.iter_unpack("<HHI", value[4:])) if value.startswith(_VERSION) and len(value) % 8 == 4 else []  # type: ignore[arg-type]
