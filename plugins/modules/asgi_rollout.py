#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_rollout
short_description: Boot a release in the idle slot, prove it ready and make it live
description:
  - Replaces what an application runs without refusing a request. The application has two slots, the units C(APP@blue) and
    C(APP@green). The module boots the idle one, waits until every worker of it has answered the ready
    check on the slot's own socket, and renames one symbolic link, C(/opt/APP/slots/live), which decides where new requests
    go and what is started after a reboot. The old slot then drains in the background and is stopped.
  - Whatever goes wrong before the link is renamed leaves the live slot as it was, stops the idle one, and fails with the end
    of that slot's journal in the message.
  - A slot has its own copy, C(/etc/APP/SLOT), of all that it is started with besides the release. The module makes it from
    C(/etc/APP/next), and installs the two units from there. So nothing that was only tried can reach the live slot.
  - Does nothing when the live slot runs the wanted release with the settings that are in C(/etc/APP/next).
  - Where a reload of the live slot is enough, O(strategy=auto) takes that way. Where two slots do not fit into the memory,
    O(strategy=restart) replaces the process behind its socket, and clients wait for as long as the application boots.
  - An interrupted run harms nothing. The link is the only truth; the next run reconciles the rest. So it does with links, owners, modes
    and units that are not as they have to be.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  app:
    description: The application's name.
    type: str
    required: true
  release:
    description:
      - Absolute path of the release to make live, as M(steadfast.asgi.asgi_release) returns it.
      - With O(rollback) its last part may be the beginning of an ID, as long as only one release of the host begins so.
      - Without it the slots run something that is not a release (a virtual environment of your own), and the module only
        replaces the process, where its settings changed or it does not run.
    type: path
  rollback:
    description:
      - Go back to O(release) with the settings that it last ran with. Without it, go back to what was live before, which is a release
        together with its settings. That is read from the application's history, C(/opt/APP/history.jsonl).
      - The settings of before are kept in C(/etc/APP/kept). Where they are not known, as for what an older version of this collection
        made live, a slot that has run the release is started with the settings that it has, and another one with those of the live slot.
        What is in C(/etc/APP/next) waits for the next deployment.
      - What was live is withdrawn by this. A later rollback passes over it until it is deployed again. From one release to another the
        whole release is withdrawn, and within one release only its settings.
    type: bool
    default: false
  rollback_run:
    description:
      - With O(rollback), go back to what the run with this ID replaced on this host. Where it replaced nothing, because it failed, did
        not reach the host or was rolled back, nothing is done. Where another run has replaced it since, the task fails.
    type: str
    default: ''
  run:
    description: The ID of the run that this task belongs to, for the history. All hosts of a run have the same.
    type: str
    default: ''
  strategy:
    description:
      - V(rollout) boots the idle slot beside the live one. No request waits.
      - V(reload) has the live slot's server replace its workers, whether or not something changed. It fails where that cannot do the
        job, because another release is wanted or the server cannot reload.
      - V(restart) stops the live slot's service and starts it again behind its socket. Nobody is refused, but everybody waits. It is
        for hosts without the memory for two slots. Where the unit of the socket changed, that is opened anew as well, and who waits
        behind it in that moment is refused.
      - V(auto) reloads if nothing but the server's configuration file changed and the server can, and rolls out otherwise.
    type: str
    choices: [auto, reload, rollout, restart]
    default: auto
  bake_time:
    description:
      - Seconds after the switch during which the old slot is kept warm and the new one is watched. Three bad answers of the ready
        check in a row, the end of its process, or that of a worker which was ready, flip back to the old slot and fail the task.
      - Workers may end where the server is told to replace them, after a number of requests or a time, or when they use too much memory.
      - The task takes that much longer.
    type: int
    default: 0
  check_memory:
    description:
      - Refuse a rollout when a second slot of the live one's size does not fit under a limit of memory or of processes. The limits of the
        host, the container, the application's slice and every slice above it count.
      - With O(strategy=auto) a reload for which new workers do not fit into the slot becomes a rollout.
    type: bool
    default: true
  user:
    description: Who deploys, for the history. The default is the user that the connection was made as.
    type: str
    default: ''
  ready_path:
    description: What to ask the application, over the slot's own socket.
    type: str
    default: /ready
  ready_host:
    description: The C(Host) header of that request.
    type: str
    default: localhost
  ready_status:
    description: The HTTP status codes that mean ready.
    type: list
    elements: int
    default: [200]
  ready_successes:
    description: How many answers in a row must be good.
    type: int
    default: 3
  workers:
    description: How many processes serve in one slot. Each has to give a good answer. V(0) is as many as the slot's unit says.
    type: int
    default: 0
  boot_timeout:
    description: Seconds that the idle slot has from its start until it is ready.
    type: int
    default: 60
  drain_timeout:
    description:
      - Seconds that connections of the old slot may live on after the switch, websockets among them. Then the slot is stopped,
        which closes what is left.
      - The task does not wait for this. The next rollout does, since it needs that slot. With O(rollback) it stops that slot at once.
    type: int
    default: 30
  migrations:
    description:
      - The commands that must have run for O(release) before it goes live. Without proof that they have, in this host's history or in
        O(migrated), the task fails before anything is changed.
      - With O(rollback) that is asked only of a release that is named and has never been live on this host.
    type: list
    elements: raw
    default: []
  migrated:
    description:
      - What RV(steadfast.asgi.asgi_command#module:ran) was on the host that ran O(migrations) for all. It is kept in this host's history.
    type: dict
    default: {}
  before_activate:
    description:
      - Commands that are run when the idle slot is ready, before it goes live, in its release, with its settings and in its sandbox. One
        that fails leaves the live slot as it is.
      - Each is a list of words, or a text that is split as a shell would split it. There is no shell.
      - Neither a reload nor O(rollback) runs commands.
    type: list
    elements: raw
    default: []
  after_activate:
    description: The same after the switch. One that fails flips back to the old slot, where there was one.
    type: list
    elements: raw
    default: []
  command_timeout:
    description: Seconds that each of these commands may take.
    type: int
    default: 600
  lock_timeout:
    description: Seconds to wait for another rollout of the same application on this host. V(0) fails at once, and names the other.
    type: int
    default: 0
  settings:
    description:
      - What RV(steadfast.asgi.asgi_files#module:fingerprint) was when the settings for the next start were written. If they are others
        by now, because somebody else deploys at the same time, the task fails, and what is live is left alone. In check mode it tells
        whether they are still to be written.
      - By default nothing is compared. Nor is it by a rollback, which brings no new settings.
    type: dict
    suboptions:
      directory:
        description: The directory of the files. Settings of another one are not looked at.
        type: path
        required: true
      names:
        description: The names of the files.
        type: list
        elements: str
        required: true
      fingerprint:
        description: The value that stands for their contents.
        type: str
        required: true
attributes:
  check_mode:
    description:
      - Says whether a rollout would take place. Where O(settings) are still to be written it is one, by O(strategy=auto), though
        a reload may turn out to be enough.
    support: full
  diff_mode:
    description: Shows the live slot and its release, before and after.
    support: full
  idempotent:
    description: A second run with the same arguments and files changes nothing.
    support: full
notes:
  - While both slots run there are twice the workers, the memory and the database connections.
  - The module keeps running if the connection that started it is lost.
seealso:
  - module: steadfast.asgi.asgi_release
"""

EXAMPLES = r"""
- name: Make the new release live
  steadfast.asgi.asgi_rollout:
    app: shop
    release: /opt/shop/releases/1.4.0-9f2c1b7a3d10
    ready_path: /ready
    bake_time: 60

- name: Go back to the release before
  steadfast.asgi.asgi_rollout:
    app: shop
    rollback: true
"""

RETURN = r"""
way:
  description: V(rollout), V(reload) or V(restart); V(settle) if only the rest of an interrupted run was done or what was
    not as it has to be was reconciled, V(nothing) if there was nothing to do.
  returned: success
  type: str
old_pids:
  description: The workers before a reload.
  returned: when the live slot was reloaded
  type: list
  elements: int
new_pids:
  description: The workers after it.
  returned: when the live slot was reloaded
  type: list
  elements: int
slot:
  description: The slot that is live now (in check mode, that would be).
  returned: success
  type: str
  sample: green
release:
  description: The release in that slot. Empty where the slots do not run releases.
  returned: success
  type: str
previous:
  description: The slot and release that were live before. Empty strings on the first rollout.
  returned: success
  type: dict
  sample: {slot: blue, release: /opt/shop/releases/1.3.2-77ab0c12ef45}
reason:
  description: Why a rollout was needed, or that none was.
  returned: always
  type: str
  sample: another release
reconciled:
  description:
    - What was not as it has to be around the live slot (links, owners, modes, units, the history) and is now, or would be.
      What cannot be put right here is refused by name.
  returned: success
  type: list
  elements: str
  sample: ['/opt/shop/slots/blue/socket leads to /run/other.sock, and not to /run/shop/blue.sock']
steps:
  description: What was done, in order, with the seconds that each step took.
  returned: when a rollout took place or was tried
  type: list
  elements: dict
  sample: [{step: boot, seconds: 0.31}, {step: ready, seconds: 2.04}, {step: flip, seconds: 0.001}]
commands:
  description: What the commands before and after the switch wrote, in order.
  returned: when there were any
  type: list
  elements: dict
  sample: [{command: [app-warm-cache], output: 120 pages}]
attempts:
  description: How often the ready check was asked.
  returned: when a rollout took place or was tried
  type: int
answer:
  description: The last answer of the ready check, status and body.
  returned: when a rollout took place or was tried
  type: str
journal:
  description: The end of the journal of the slot that did not come up.
  returned: when the new slot did not become ready
  type: str
"""

import os
import time
from typing import Any

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils.command import CommandError, argv
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError, locked
from ansible_collections.steadfast.asgi.plugins.module_utils.migrations import proof, was_live
from ansible_collections.steadfast.asgi.plugins.module_utils.releases import ReleaseError, find_release, no_such_application
from ansible_collections.steadfast.asgi.plugins.module_utils.rollout import Rollout, RolloutError
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import SLOTS, Layout, append_history, deployer, read_history, utc
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd, UnitError, survive_disconnect


def find_way_back(params: dict[str, Any], layout: Layout) -> None:
    """Make a whole path of the release to go back to, where one is named. Raises ReleaseError where the host has none such."""
    unknown = no_such_application(layout)
    if unknown:
        raise ReleaseError(f"{unknown}. Correct the name, or deploy it first.")
    named = params["release"] or ""
    # One that lies elsewhere is the caller's own.
    if named and os.path.dirname(named) == layout.releases:
        params["release"] = find_release(layout, os.path.basename(named))


def find_proof(params: dict[str, Any], layout: Layout) -> dict[str, Any] | None:
    """Return the line that this host's history still lacks of the release's migrations, None where nothing is missing.

    Raises RolloutError where there is no proof that they have run.
    """
    if not params["migrations"] or not params["release"]:
        return None
    release, commands = os.path.basename(params["release"]), [argv(command) for command in params["migrations"]]
    history = read_history(layout.history)
    if proof(history, release, commands) or (params["rollback"] and was_live(history, release)):
        return None
    found = proof([params["migrated"]], release, commands)
    if not found:
        raise RolloutError(
            f"the migrations of release {release} (asgi_rollout_migrate) have not run, as far as this host and this run know, so it does "
            "not go live. What is live serves on. "
            + (
                "It has never been live here: deploy it, or go back to one that was."
                if params["rollback"]
                else "Run the whole play, without --start-at-task and the like."
            )
        )
    return found


def warn(module: Module, rollout: Rollout) -> None:
    for warning in rollout.warnings:
        module.warn(warning)


def main() -> None:
    module = Module(
        argument_spec={
            "app": {"type": "str", "required": True},
            "release": {"type": "path"},
            "rollback": {"type": "bool", "default": False},
            "rollback_run": {"type": "str", "default": ""},
            "run": {"type": "str", "default": ""},
            "strategy": {"type": "str", "choices": ["auto", "reload", "rollout", "restart"], "default": "auto"},
            "bake_time": {"type": "int", "default": 0},
            "check_memory": {"type": "bool", "default": True},
            "user": {"type": "str", "default": ""},
            "ready_path": {"type": "str", "default": "/ready"},
            "ready_host": {"type": "str", "default": "localhost"},
            "ready_status": {"type": "list", "elements": "int", "default": [200]},
            "ready_successes": {"type": "int", "default": 3},
            "workers": {"type": "int", "default": 0},
            "boot_timeout": {"type": "int", "default": 60},
            "drain_timeout": {"type": "int", "default": 30},
            "migrations": {"type": "list", "elements": "raw", "default": []},
            "migrated": {"type": "dict", "default": {}},
            "before_activate": {"type": "list", "elements": "raw", "default": []},
            "after_activate": {"type": "list", "elements": "raw", "default": []},
            "command_timeout": {"type": "int", "default": 600},
            "lock_timeout": {"type": "int", "default": 0},
            "settings": {
                "type": "dict",
                "options": {
                    "directory": {"type": "path", "required": True},
                    "names": {"type": "list", "elements": "str", "required": True},
                    "fingerprint": {"type": "str", "required": True},
                },
            },
        },
        supports_check_mode=True,
        mutually_exclusive=[("release", "rollback_run")],
    )
    if module.params["rollback_run"] and not module.params["rollback"]:
        module.fail_json(msg=f"rollback_run is {module.params['rollback_run']}, but rollback is false. Set rollback to true.")
    # Directories and links are for the application's user to read, whatever the host's default is.
    os.umask(0o022)
    layout = Layout(module.params["app"])
    try:
        if module.params["rollback"]:
            find_way_back(module.params, layout)
        rollout = Rollout(module.params, layout, Systemd())
    except (CommandError, ReleaseError) as error:
        module.fail_json(msg=str(error))
    release = module.params["release"]
    try:
        if module.check_mode:
            foretold = rollout.preview()
            warn(module, rollout)
            module.exit_json(**foretold)
        migrated = find_proof(module.params, layout)
        if not os.path.isfile(f"{layout.next}/service"):
            unknown = no_such_application(layout) or f"there is no {layout.next}/service on this host"
            raise RolloutError(f"{unknown}. Apply the role asgi_service first.")
        for slot in SLOTS:
            if not os.path.lexists(f"{layout.slots}/{slot}"):
                os.makedirs(f"{layout.slots}/{slot}", mode=0o755)
        survive_disconnect()
        note = {
            "pid": os.getpid(),
            "since": utc(time.time()),
            "user": deployer(module.params["user"]),
            "release": os.path.basename(release or ""),
        }
        with locked(layout.lock, module.params["lock_timeout"], note):
            if migrated:
                append_history(layout.history, migrated)
            result = rollout.run()
    except RolloutError as error:
        warn(module, rollout)
        module.fail_json(msg=str(error), **error.details, **rollout.report())
    except (LockedError, UnitError, OSError) as error:
        module.fail_json(msg=to_native(error), **rollout.report())
    warn(module, rollout)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
