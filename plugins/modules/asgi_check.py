#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_check
short_description: Check the variables of a role of this collection
description:
  - What a role refuses, beyond the types and choices that Ansible checks by itself. Everything that is wrong is said at once.
  - Warns of variables that begin with the name of one of the roles and that no role has. They are most likely misspelt.
  - Works on the controller, with the values that the role's variables have for the host. The roles use it in their own checks
    (C(tasks_from=validate)).
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  role:
    description:
      - The name of the role. Its defaults have to be known where this task is.
      - Without it, only the names are looked at.
    type: str
    choices: [asgi_account, asgi_uv, asgi_release, asgi_service, asgi_rollout]
attributes:
  check_mode:
    description: Does the same, since it changes nothing.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
  idempotent:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Check the variables
  steadfast.asgi.asgi_check:
    role: asgi_uv
"""

RETURN = r"""#"""
