# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All checks of a role's variables in one task, without a word to the host: as tasks of their own they took most of a run's time.

And a warning of names that no role knows, whichever role asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.steadfast.asgi.plugins.module_utils.checks import CHECKS
from ansible_collections.steadfast.asgi.plugins.module_utils.names import misspelt, options_of

_ROLES = os.path.join(os.path.dirname(__file__), "..", "..", "roles")


class Values(Mapping[str, Any]):
    """The values of a task's variables. Each is worked out when it is asked for."""

    def __init__(self, variables: dict[str, Any], templar: Any) -> None:
        self._variables = variables
        self._templar = templar

    def __getitem__(self, name: str) -> Any:
        return self._templar.template(self._variables[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


class ActionModule(ActionBase):
    """Ansible's entry point."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("role",))

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        role = self._task.args.get("role")
        if role is not None and role not in CHECKS:
            raise AnsibleActionFail(f"role is {role!r}; it has to be one of {', '.join(CHECKS)}.")
        # Ansible shows the same warning once, however many hosts and roles it comes from.
        for warning in misspelt(task_vars or {}, options_of(_ROLES)):
            self._display.warning(warning)
        problems = list(CHECKS[role](Values(task_vars or {}, self._templar))) if role else []
        if problems:
            raise AnsibleActionFail("\n".join(problems))
        return result | {"changed": False}
