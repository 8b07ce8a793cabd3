# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.steadfast.asgi.plugins.module_utils.sandbox import sandbox

DOCUMENTATION = r"""
name: sandbox
short_description: Return systemd's directives for the sandbox of a unit that root runs
description:
  - Returns a list of directives, each as C(Name=value), for the section C([Service]) of a unit or for C(systemd-run --property).
  - The sandbox is closed. A program in it can ask systemd to do something, and do nothing else.
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  _input:
    description:
      - The directives that the unit needs with another value, by their names. A list becomes several lines, V(null) leaves a directive out.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: The sandbox of a unit that writes to one directory
  ansible.builtin.set_fact:
    text: "{{ {'ReadWritePaths': '/var/lib/shop'} | steadfast.asgi.sandbox | join('\n') }}"
"""

RETURN = r"""
_value:
  description: The directives.
  type: list
  elements: str
"""


def directives(changes: Mapping[str, Any]) -> list[str]:
    """Return the directives of the sandbox with `changes`. Raises AnsibleFilterError for what is not a mapping."""
    if not isinstance(changes, Mapping):
        raise AnsibleFilterError("sandbox needs a mapping of systemd's directives, {} for none")
    return sandbox(changes)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"sandbox": directives}
