# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: environment_file
short_description: Write a mapping as a file for systemd's C(EnvironmentFile=)
description:
  - Returns one line C(NAME="value") for each entry, sorted by name, so that the same mapping gives the same file.
  - Quotes as C(EnvironmentFile=) reads it (systemd.exec(5)). Inside double quotes a backslash protects a backslash, a double
    quote, a backtick and a dollar sign, and a line break belongs to the value.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  _input:
    description:
      - Names and values. Names are letters, digits and underscores and do not begin with a digit.
      - Values are text, numbers or booleans. A boolean is written as C(true) or C(false).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: The text of an environment file
  ansible.builtin.set_fact:
    text: "{{ {'APP_DEBUG': false, 'APP_GREETING': 'say \"hi\"'} | steadfast.asgi.environment_file }}"
    # APP_DEBUG="false"
    # APP_GREETING="say \"hi\""
"""

RETURN = r"""
_value:
  description: The text of the file, empty for an empty mapping.
  type: str
"""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SPECIAL = re.compile(r'([\\"`$])')
_ESCAPED = r"\\\1"


def environment_file(variables: Mapping[str, Any]) -> str:
    """Return `variables` as the text of a systemd environment file.

    Raises AnsibleFilterError for what is not a mapping, a name that is not a variable's, and a value that is not text, a
    number or a boolean, or holds a NUL byte. The message never contains a value, since values may be secret.
    """
    if not isinstance(variables, Mapping):
        raise AnsibleFilterError("environment_file needs a mapping of names to values")
    lines = []
    for name in sorted(variables, key=str):
        value = variables[name]
        if not isinstance(name, str) or not _NAME.match(name):
            raise AnsibleFilterError(f"{name!r} cannot be the name of an environment variable")
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, (int, float)):
            value = str(value)
        elif not isinstance(value, str):
            raise AnsibleFilterError(f"the value of {name} is a {type(value).__name__}, not text, a number or a boolean")
        if "\0" in value:
            raise AnsibleFilterError(f"the value of {name} holds a NUL byte, which no environment can carry")
        lines.append(f'{name}="{_SPECIAL.sub(_ESCAPED, value)}"\n')
    return "".join(lines)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"environment_file": environment_file}
