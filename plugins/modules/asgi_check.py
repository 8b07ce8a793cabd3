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
  - Refuses a host whose groups have different values for one variable of this collection, with no group that overrides the other, and
    C(asgi_hosts), C(asgi_serial) and C(asgi_max_fail_percentage) among the variables of a host, where Ansible does not read them.
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
  batch:
    description:
      - The hosts of this batch when it began, as RV(batch) was then. Instead of all else, the task fails if more of them have failed or
        cannot be reached than the play's C(max_fail_percentage) allows. Ansible itself does not count those that cannot be reached.
    type: list
    elements: str
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

RETURN = r"""
run:
  description: The ID of this run of Ansible, the same for all its hosts and batches. It begins with the time, so IDs sort by age.
  returned: without O(batch)
  type: str
  sample: 20261121T103012Z-5d0c9a1e
batch:
  description: The hosts of this batch that are left.
  returned: without O(batch)
  type: list
  elements: str
migrate_host:
  description: The host that runs the migrations for all.
  returned: for asgi_rollout, where migrations run once
  type: str
"""
