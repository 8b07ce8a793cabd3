# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module, and says which host it was where one host runs the commands for others."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action.normal import ActionModule as Normal


class ActionModule(Normal):
    """Ansible's entry point."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        host = self._task.delegate_to
        try:
            result: dict[str, Any] = super().run(tmp, task_vars)
        except AnsibleConnectionFailure as error:
            if not host or host == (task_vars or {}).get("inventory_hostname"):
                raise
            raise AnsibleActionFail(
                f"host {host}, which runs the commands for all hosts, cannot be reached, so no host goes on: {error} Run this again when "
                f"it is back, or name another host in asgi_rollout_migrate_host."
            ) from error
        if host and result.get("failed"):
            result["msg"] = f"host {host}: {result.get('msg', '')}"
        return result
