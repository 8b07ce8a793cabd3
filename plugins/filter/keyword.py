# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible import context
from ansible.errors import AnsibleFilterError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

DOCUMENTATION = r"""
name: keyword
short_description: Check what a keyword of a play is set to
description:
  - Returns the value as it is. Fails with the variable's name and the remedy where the keyword could not use it, or would use it as
    something else.
  - Ansible evaluates these keywords before any host is asked. So this ends the run before its first task.
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  _input:
    description: The value of the variable.
    type: raw
    required: true
  variable:
    description: Which variable it is, and so what is checked.
    type: str
    required: true
    choices:
      asgi_hosts: "The pattern of hosts. At least one host of the inventory must match it. C(--limit) is not looked at."
      asgi_serial: A number of hosts from 1, a share of them from V(1%) to V(100%), or a list of these.
      asgi_max_fail_percentage: A number from 0 to 100.
  groups:
    description: With V(asgi_hosts), Ansible's variable C(groups).
    type: dict
"""

EXAMPLES = r"""
- name: Deploy the application
  hosts: "{{ asgi_hosts | default('all') | steadfast.asgi.keyword('asgi_hosts', groups) }}"
  serial: "{{ asgi_serial | default('100%') | steadfast.asgi.keyword('asgi_serial') }}"
  roles:
    - role: steadfast.asgi.asgi_rollout
"""

RETURN = r"""
_value:
  description: The value, unchanged.
  type: raw
"""


def shown(value: Any) -> str:
    return json.dumps(value, default=str)


def check_serial(value: Any) -> None:
    """Raise AnsibleFilterError for what is no size of a batch, and no list of them."""
    sizes = value if isinstance(value, list) else [value]
    good = [size for size in sizes if not isinstance(size, bool) and re.fullmatch(r"[1-9][0-9]{0,8}|([1-9]|[1-9][0-9]|100)%", str(size))]
    if not sizes or len(good) < len(sizes):
        raise AnsibleFilterError(
            f"asgi_serial is {shown(value)}. Use a number of hosts of at least 1 (-e asgi_serial=2), a share from 1% to 100% (-e "
            'asgi_serial=10%), or a list of these in JSON (-e \'{"asgi_serial": [1, "50%"]}\').'
        )


def check_percentage(value: Any) -> None:
    """Raise AnsibleFilterError for what is no number from 0 to 100."""
    number = re.fullmatch(r"([0-9]{1,3}([.][0-9]+)?)%?", str(value))
    if isinstance(value, bool) or not number or float(number[1]) > 100:
        raise AnsibleFilterError(
            f"asgi_max_fail_percentage is {shown(value)}. Use a number from 0, so that one lost host ends the run, to 100: -e "
            "asgi_max_fail_percentage=0"
        )


def check_hosts(value: Any, groups: Mapping[str, Sequence[str]]) -> None:
    """Raise AnsibleFilterError for a pattern that no host of the inventory matches."""
    patterns = value if isinstance(value, list) else [value]
    if not patterns or not all(isinstance(pattern, str) and pattern.strip() for pattern in patterns):
        raise AnsibleFilterError(f"asgi_hosts is {shown(value)}. Name a group or a host of the inventory, or a pattern: -e asgi_hosts=shop")
    inventory = InventoryManager(DataLoader(), parse=False)
    for group, hosts in groups.items():
        inventory.add_group(group)
        for host in hosts:
            inventory.add_host(host, group=group)
    if inventory.get_hosts(value, ignore_limits=True):
        return
    given = [str(source) for source in context.CLIARGS.get("inventory") or ()]
    sources = ", ".join(given) or "Ansible's default"
    own = sorted(group for group in groups if group not in ("all", "ungrouped"))
    if not groups.get("all"):
        group = own[0] if own else "shop"
        folder = given[0] if given and os.path.isdir(given[0]) else os.path.dirname(given[0]) if given else "my-inventory"
        hosts, variables = os.path.join(folder, "hosts.yml"), os.path.join(folder, "group_vars", f"{group}.yml")
        raise AnsibleFilterError(
            f"the inventory ({sources}) has no hosts. Write yours into {hosts} under 'hosts:' of the group {group}, each on a line such as "
            f"'web1.example.org:', and what they run (asgi_app, asgi_source, asgi_import_path, asgi_domain) into {variables}. -i names "
            "another inventory."
        )
    raise AnsibleFilterError(
        f"asgi_hosts is {shown(value)}, which matches no host of the inventory ({sources}). Name one of its groups "
        f"({', '.join(own) or 'it has none'}) or hosts, or leave asgi_hosts out for all hosts."
    )


def keyword(value: Any, variable: str, groups: Mapping[str, Sequence[str]] | None = None) -> Any:
    """Return a value that the keyword of a play can use. Raises AnsibleFilterError for any other."""
    if variable == "asgi_hosts":
        check_hosts(value, groups or {})
    elif variable == "asgi_serial":
        check_serial(value)
    elif variable == "asgi_max_fail_percentage":
        check_percentage(value)
    else:
        raise AnsibleFilterError(f"{variable} is no variable of a play's keywords")
    return value


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"keyword": keyword}
