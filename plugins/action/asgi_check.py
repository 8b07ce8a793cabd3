# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All checks of a role's variables in one task, without a word to the host: as tasks of their own they took most of a run's time.

And of what the run is over: variables that no keyword reads, groups of two applications, too many hosts that were lost. And a warning of
names that no role knows, whichever role asks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.vars.plugins import get_vars_from_inventory_sources, get_vars_from_path

from ansible_collections.steadfast.asgi.plugins.module_utils.checks import CHECKS
from ansible_collections.steadfast.asgi.plugins.module_utils.names import misspelt, options_of
from ansible_collections.steadfast.asgi.plugins.plugin_utils.fleet import (
    RUN,
    check_groups,
    check_keywords,
    check_strategy,
    conflicts,
    lost,
    other_application,
)

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
    _VALID_ARGS = frozenset(("role", "batch"))

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        role = self._task.args.get("role")
        if role is not None and role not in CHECKS:
            raise AnsibleActionFail(f"role is {role!r}; it has to be one of {', '.join(CHECKS)}.")
        play = self._task.get_play()
        if "batch" in self._task.args:
            allowed = self._templar.template(play.max_fail_percentage)
            problems = [] if allowed is None else list(lost(self._task.args["batch"], variables["ansible_play_batch"], float(allowed)))
            if problems:
                raise AnsibleActionFail("\n".join(problems))
            return result | {"changed": False}
        # Ansible shows the same warning once, however many hosts and roles it comes from.
        for warning in misspelt(variables, options_of(_ROLES)):
            self._display.warning(warning)
        given = Values(variables, self._templar)
        # Not by way of `given`: that would work out every variable of every host.
        hostvars = variables["hostvars"]
        pattern = self._templar.template(play.hosts)
        problems = list(self.check_run(given, hostvars, play, pattern))
        if role:
            problems += CHECKS[role](given)
        found = {"changed": False, "run": RUN, "batch": list(variables["ansible_play_batch"])}
        if role == "asgi_rollout" and not problems and given["asgi_rollout_migrate"] and given["asgi_rollout_migrate_once"]:
            problems += check_strategy(str(self._templar.template(play.strategy)))
            found["migrate_host"] = migration_host(given, hostvars, pattern)
        if problems:
            raise AnsibleActionFail("\n".join(problems))
        return result | found

    def check_run(self, given: Values, hostvars: Any, play: Any, pattern: Any) -> Iterator[str]:
        """Say what is wrong with the variables of this host by where they are set."""
        name, inventory = given["inventory_hostname"], hostvars._inventory
        host = inventory.get_host(name)
        for_all = {*hostvars._variable_manager.extra_vars, *play.vars}
        yield from check_keywords(name, given, for_all)
        groups = [] if host is None else host.get_groups()
        # Every group descends from `all`.
        if len(groups) < 3:
            return
        defined = {group: self.variables_of(inventory, group) for group in groups}
        overridden = {*for_all, *self.variables_of(inventory, host)}
        found = conflicts(defined, overridden)
        if not found and "asgi_app" not in overridden and "asgi_app" in given:
            named = re.split("[,:]", ",".join(pattern) if isinstance(pattern, list) else str(pattern))
            other = other_application(defined, named, given["asgi_app"])
            found = {"asgi_app": other} if other else {}
        yield from check_groups(name, found)

    def variables_of(self, inventory: Any, entity: Any) -> dict[str, Any]:
        """Return what the inventory itself and the files beside it and beside the playbook set for one host or group."""
        beside = get_vars_from_inventory_sources(self._loader, inventory._sources, [entity], "task")
        return entity.get_vars() | beside | get_vars_from_path(self._loader, self._loader.get_basedir(), [entity], "task")


def migration_host(given: Mapping[str, Any], hostvars: Any, pattern: Any) -> str:
    """Return the host that migrates for all: the one that is named, or else the first of the play's pattern that has this application.

    --limit has no say in that: two runs over different hosts have to choose the same one. Raises AnsibleActionFail for a name that the
    inventory does not have.
    """
    wanted, inventory = str(given["asgi_rollout_migrate_host"]), hostvars._inventory
    if wanted:
        if wanted not in inventory.hosts:
            raise AnsibleActionFail(
                f"asgi_rollout_migrate_host is '{wanted}', which is no host of the inventory. Name one of the hosts that have the "
                "application, or leave it empty for the first of them."
            )
        return wanted
    app = given["asgi_rollout_app"]
    for host in inventory.get_hosts(pattern, ignore_limits=True, ignore_restrictions=True):
        if hostvars[host.name].get("asgi_app", app) == app:
            return str(host.name)
    return str(given["inventory_hostname"])
