# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.steadfast.asgi.plugins.module_utils import certificate

DOCUMENTATION = r"""
name: judge_certificate
short_description: Say what is wrong with a certificate and its key
description:
  - Judges a chain and its key, in PEM form, by their form, by what they say, and by the OpenSSL of the controller's Python.
  - The module M(steadfast.asgi.asgi_certificate) judges them once more on the host.
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
positional: key, names
options:
  _input:
    description: The chain, the server's own certificate first.
    type: str
    required: true
  key:
    description: The private key.
    type: str
    required: true
  names:
    description: What the certificate has to be for, such as V(DNS:shop.example.org) and V(IP:192.0.2.7).
    type: list
    elements: str
    default: []
  chain_label:
    description: What the chain is called in messages.
    type: str
    default: The chain
  key_label:
    description: What the key is called in messages.
    type: str
    default: The key
  names_label:
    description: What O(names) is called in messages.
    type: str
    default: The list of names
"""

EXAMPLES = r"""
- name: Refuse a certificate that cannot be used
  ansible.builtin.assert:
    that: (chain | steadfast.asgi.judge_certificate(key, ['DNS:shop.example.org'])).problems == []
"""

RETURN = r"""
_value:
  description:
    - C(problems) and C(warnings_of_certificate) are lists of messages. C(days_left) says in how many days the
      first of the certificates ends; it is 0 where there are problems.
  type: dict
"""


def judge_certificate(
    chain: str,
    key: str,
    names: list[str] | None = None,
    chain_label: str = "The chain",
    key_label: str = "The key",
    names_label: str = "The list of names",
) -> dict[str, Any]:
    if not isinstance(chain, str) or not isinstance(key, str):
        raise AnsibleFilterError(
            f"judge_certificate takes the texts of a chain and of a key, not {type(chain).__name__} and {type(key).__name__}"
        )
    found = certificate.judge(
        chain.encode("utf-8", "surrogateescape"),
        key.encode("utf-8", "surrogateescape"),
        names or [],
        labels=certificate.Labels(chain_label, key_label, names_label),
    )
    days = 0 if found.problems else (min(one.end for one in found.chain) - datetime.now(UTC)).days
    return {"problems": found.problems, "warnings_of_certificate": found.warnings, "days_left": days}


class FilterModule:
    """Makes the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"judge_certificate": judge_certificate}
