# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.steadfast.asgi.plugins.module_utils.legible import all_legible

DOCUMENTATION = r"""
name: legible
short_description: Escape characters that act on a terminal
description:
  - Returns text without control characters, invisible characters and characters that change the direction of writing. Each is escaped,
    as in C(\x1b). Line breaks and tabs stay.
  - Lists and mappings are returned with all of their text escaped.
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  _input:
    description: The text, or a list or a mapping with text in it.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Show what a program wrote
  ansible.builtin.debug:
    msg: "{{ result.stdout | steadfast.asgi.legible }}"
"""

RETURN = r"""
_value:
  description: The text, or the list or the mapping.
  type: raw
"""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"legible": all_legible}
