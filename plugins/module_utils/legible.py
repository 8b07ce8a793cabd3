# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text that is safe to print: what a host, an application or a source has written may hold commands for a terminal."""

from __future__ import annotations

import unicodedata
from typing import Any

from ansible.module_utils import basic

# Characters of one text. What an operator reads is shorter; what would fill the controller's memory is longer.
LIMIT = 200_000
# Controls, invisible characters and those that change the direction of writing, halves of characters, separators of lines and paragraphs.
_ILLEGIBLE = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])


def legible(text: str, limit: int = LIMIT) -> str:
    """Return a text with every character escaped that acts and is not seen, as Python writes it (``\\x1b``). Line breaks and tabs stay.

    Of a text that is longer than `limit` the middle is left out.
    """
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters are left out here …\n{text[-half:]}"
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(character if _is_legible(character) else _escaped(character) for character in text)


def _is_legible(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in _ILLEGIBLE


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def all_legible(value: Any) -> Any:
    """Return a result with all of its texts legible, in whatever lists and mappings they are."""
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, dict):
        return {all_legible(name): all_legible(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [all_legible(each) for each in value]
    return value


class Module(basic.AnsibleModule):  # type: ignore[misc]
    """A module of Ansible's of which everything that it reports is legible."""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        # ansible-lint's rule `args` runs a task's module on the controller, with a class in the place of AnsibleModule that ends it before
        # anything is done. This class, once imported, would know only the real one, and do it.
        if basic.AnsibleModule not in cls.__mro__:
            return basic.AnsibleModule(*arguments, **options)
        return super().__new__(cls)

    def exit_json(self, **result: Any) -> None:
        super().exit_json(**all_legible(result))

    def fail_json(self, msg: str, **result: Any) -> None:
        super().fail_json(legible(msg), **all_legible(result))

    def warn(self, warning: str, **options: Any) -> None:
        super().warn(legible(warning), **options)
