# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import binascii
import gzip
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.steadfast.asgi.plugins.module_utils.nginx import conflicts, split_dump

DOCUMENTATION = r"""
name: nginx_conflicts
short_description: Find what a new site of nginx claims that another site of the host has
description:
  - Reads the configuration as it will be, with the new files in it, and compares the sites that listen on the same addresses and ports.
  - nginx itself only warns if two sites have the same name, and serves one of the two.
  - Returns sentences for a message, each of which names the variable and the other site's file and application.
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  _input:
    description: The files that are to be written, as M(steadfast.asgi.asgi_files) takes them for its option O(ignore:files).
    type: list
    elements: dict
    required: true
  dump:
    description: What C(nginx -T) prints, through gzip and base64. If it is empty, nothing is refused.
    type: str
    required: true
  site:
    description: The path of that one of the files in which the site is.
    type: path
    required: true
  hostname:
    description: What C($hostname) stands for in a name.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Refuse a name that another site has
  ansible.builtin.fail:
    msg: "{{ conflicts | join('\n') }}"
  when: conflicts | length > 0
  vars:
    conflicts: "{{ files | steadfast.asgi.nginx_conflicts(dump.stdout, '/etc/nginx/conf.d/asgi-shop.conf') }}"
"""

RETURN = r"""
_value:
  description: A sentence for each conflict.
  type: list
  elements: str
"""


def nginx_conflicts(new: Sequence[Mapping[str, Any]], dump: str, site: str, hostname: str = "") -> list[str]:
    """Return the conflicts of the new files with what is in the dump. Raises AnsibleFilterError for a dump that is none."""
    try:
        text = gzip.decompress(base64.b64decode(dump, validate=True)).decode(errors="replace") if dump else ""
    except (binascii.Error, EOFError, OSError) as error:
        raise AnsibleFilterError(f"nginx_conflicts needs what 'nginx -T | gzip | base64' prints: {error}") from error
    files = split_dump(text)
    for entry in new:
        if entry.get("state") == "absent":
            files.pop(entry["path"], None)
        elif files and entry.get("content") is not None:
            files[entry["path"]] = entry["content"]
    return conflicts(files, site, hostname)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"nginx_conflicts": nginx_conflicts}
