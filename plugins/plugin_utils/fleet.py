# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one run of Ansible is over: a play, its batches and its hosts, as the controller sees them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from ..module_utils.checks import shown

# The ID of this run. Ansible loads the action plugin that imports this before it forks the process of a task. So all hosts and batches of
# a run have the same ID, by every strategy.
RUN = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"

# What a play's keywords refer to. Ansible templates those before it knows the variables of any host.
KEYWORDS = ("asgi_hosts", "asgi_serial", "asgi_max_fail_percentage")
# The variables whose values may be shown. Others can contain secrets.
_PUBLIC = ("asgi_app", "asgi_source", "asgi_import_path", "asgi_domain")


class Group(Protocol):
    """The part of Ansible's groups that counts here."""

    name: str
    priority: int

    def get_ancestors(self) -> Collection[Any]: ...


def check_keywords(host: str, given: Mapping[str, Any], elsewhere: Collection[str]) -> Iterator[str]:
    """Say which variables of a play's keywords are set where no keyword reads them. `elsewhere` has the names that are set for the play."""
    for name in KEYWORDS:
        if name in given and name not in elsewhere:
            yield (
                f"{name} is {shown(given[name])} in the variables of host {host}, where it has no effect: Ansible chooses the hosts and "
                f"their batches before it reads the variables of a host. Remove it there, and set it on the command line: -e {name}=..."
            )


def check_strategy(strategy: str) -> Iterator[str]:
    """Say why migrations cannot run once by the strategy of a play."""
    if strategy.rpartition(".")[2].rpartition("_")[2] not in ("linear", "debug"):
        yield (
            f"the strategy of this play is {strategy}, with which hosts do not wait for each other, and asgi_rollout_migrate is to be run "
            "once before any host goes on. Use the strategy linear, or set asgi_rollout_migrate_once to false if every host has a "
            "database of its own."
        )


def most_specific(groups: Iterable[Group]) -> list[Group]:
    """Return the groups that are no ancestor of another one."""
    groups = list(groups)
    return [group for group in groups if not any(group in other.get_ancestors() for other in groups)]


def conflicts(defined: Mapping[Group, Mapping[str, Any]], overridden: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the variables to which groups of one host give different values, by name, with the values by group.

    A group overrides its ancestors, and those of a lower ansible_group_priority. Between others Ansible decides by depth and by name,
    which nobody had in mind. `overridden` has the names of variables that something stronger than any group sets.
    """
    found = {}
    names = {name for variables in defined.values() for name in variables if name.startswith("asgi_")}
    for name in sorted(names.difference(overridden, KEYWORDS)):
        top = most_specific(group for group, variables in defined.items() if name in variables)
        priority = max(group.priority for group in top)
        values = {group.name: defined[group][name] for group in top if group.priority == priority}
        if len({_identity(value) for value in values.values()}) > 1:
            found[name] = values
    return found


def _identity(value: Any) -> str:
    try:
        return shown(value)
    except Exception:
        # A value of a vault that this run has no key for. It is compared, and never shown.
        return f"at {id(value)}"


def other_application(defined: Mapping[Group, Mapping[str, Any]], named: Collection[str], app: Any) -> dict[str, Any]:
    """Return the asgi_app of each group that the play names and that is not `app`, where that is another group's.

    This is for a host whose groups have different ansible_group_priority: the play must not deploy what is not that group's.
    """
    apps = {group: variables["asgi_app"] for group, variables in defined.items() if "asgi_app" in variables}
    winners = [group for group in most_specific(apps) if apps[group] == app]
    for group in (group for group in defined if group.name in named):
        own = most_specific(each for each in apps if each == group or each in group.get_ancestors())
        below = any(group in winner.get_ancestors() for winner in winners)
        if own and winners and not below and all(apps[each] != app for each in own):
            return {own[0].name: apps[own[0]], winners[0].name: app}
    return {}


def check_groups(host: str, found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say which groups of a host contradict each other, as conflicts() has found them."""
    if not found:
        return
    first = "asgi_app" if "asgi_app" in found else next(iter(found), "")
    groups = list(found[first])
    values = ", ".join(f"{group}: {shown(value)}" if first in _PUBLIC else group for group, value in found[first].items())
    others = [name for name in found if name != first]
    also = f", and different values for {', '.join(others)}" if others else ""
    what = "The groups are of two applications. " if first == "asgi_app" else ""
    yield (
        f"host {host} is in the groups {' and '.join(groups)}, which have different values for {first} ({values}){also}. {what}Ansible "
        f"would take those of one group whichever is deployed. Use one inventory for each application, or set the variable for the host "
        f"(host_vars/{host}.yml), or say with ansible_group_priority which group counts."
    )


def lost(batch: Collection[str], left: Collection[str], allowed: float) -> Iterator[str]:
    """Say that more hosts of a batch have failed or cannot be reached than `allowed`, in percent. Ansible counts those that failed."""
    gone = [host for host in batch if host not in left]
    if gone and 100 * len(gone) / len(batch) > allowed:
        yield (
            f"{len(gone)} of the {len(batch)} hosts of this batch failed or cannot be reached: {', '.join(gone)}. That is more than "
            f"max_fail_percentage (asgi_max_fail_percentage) allows, {allowed:g} %, so this run ends here. No other batch follows. "
            "Run it again when these hosts are well, or leave them out with --limit."
        )
