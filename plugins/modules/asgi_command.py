#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_command
short_description: Run commands as the application runs
description:
  - Runs commands as the application's user, with its environment, in its directory, and with the limits and the sandbox of its
    service. For migrations, and for whatever an administrator wants to ask of an application.
  - Each command is run by systemd, in a unit that is made from the service's. So it ends only by itself or at O(timeout), whatever
    happens to the connection.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  app:
    description: The application's name.
    type: str
    required: true
  commands:
    description:
      - What to run, in this order. The first that fails is the last.
      - Each is a list of words, or a text that is split as a shell would split it. There is no shell. A program without a slash is looked
        for in the release's virtual environment first.
      - Everybody on the host can read a command while it runs, so give no password in it.
    type: list
    elements: raw
    required: true
  release:
    description:
      - Absolute path of the release to run them in, with the settings that are in C(/etc/APP/next).
      - Without it, what is live, with its settings.
    type: path
  once:
    description:
      - Whether the commands are run only if O(release) has not had them yet. They are kept in the application's history,
        C(/opt/APP/history.jsonl), and nobody else can deploy on this host while they run.
      - A command that outlives a run that was killed ends the task with an error that names its unit.
      - Commands whose run was cut off run again, so they have to be harmless then, as migrations are.
    type: bool
    default: false
  expected:
    description:
      - With O(once), fail where the commands have not run for O(release), and run nothing. It asks a host whether it has migrated.
    type: bool
    default: false
  timeout:
    description: Seconds that each command may take. Then it is stopped.
    type: int
    default: 600
  user:
    description: Who deploys, for the history. The default is the user that the connection was made as.
    type: str
    default: ''
  lock_timeout:
    description: Seconds to wait for another deployment of the same application on this host. V(0) fails at once, and names the other.
    type: int
    default: 0
attributes:
  check_mode:
    description: Says whether the commands would be run.
    support: full
  diff_mode:
    description: Names the commands. What they do is not known.
    support: full
  idempotent:
    description: With O(once).
    support: partial
    details: Without it the commands are run each time.
seealso:
  - module: steadfast.asgi.asgi_rollout
"""

EXAMPLES = r"""
- name: Bring the database to the new release's schema
  steadfast.asgi.asgi_command:
    app: shop
    commands:
      - alembic upgrade head
    release: "{{ asgi_release_path }}"
    once: true
  run_once: true

- name: Make an account
  steadfast.asgi.asgi_command:
    app: shop
    commands:
      - [python, manage.py, createsuperuser, --noinput, --username, "{{ name }}"]
"""

RETURN = r"""
commands:
  description: The commands that were run, and what each wrote, standard output and errors in their order.
  returned: always
  type: list
  elements: dict
  sample: [{command: [alembic, upgrade, head], output: Running upgrade 3f1a -> 9c0d, seconds: 1.2}]
ran:
  description:
    - The line of the history that says that the commands have run for the release. M(steadfast.asgi.asgi_rollout) takes it as proof on
      other hosts (O(steadfast.asgi.asgi_rollout#module:migrated)).
  returned: success, with O(once), and not in check mode before they have run
  type: dict
  sample: {time: '2026-11-21T10:30:12Z', action: commands, commands: [[alembic, upgrade, head]], release: 1.4.0-9f2c1b7a3d10, result: ok}
output:
  description: What the command that failed has written.
  returned: when a command failed
  type: str
"""

import os
import shlex
import time
from typing import Any

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils.command import CommandError, Surroundings, argv, run_in_unit
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError, locked
from ansible_collections.steadfast.asgi.plugins.module_utils.migrations import ONCE, last_failure, proof, still_running
from ansible_collections.steadfast.asgi.plugins.module_utils.releases import no_such_application
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import (
    Layout,
    append_history,
    deployer,
    is_complete,
    read_history,
    utc,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd, UnitError, survive_disconnect


def surroundings(layout: Layout, release: str) -> Surroundings:
    """Return what the commands run in. Raises CommandError where that is not on this host."""
    if release:
        if not is_complete(release):
            raise CommandError(f"{release} is not a complete release. Build it first, with the role asgi_release.")
        return Surroundings.of_next(layout, release)
    unknown = no_such_application(layout)
    if unknown:
        raise CommandError(f"{unknown}. Correct the name, or deploy it first.")
    live = layout.live_slot()
    if not live:
        raise CommandError(f"nothing of {layout.app} is live on this host, so there is nothing to run a command in. Deploy it first.")
    return Surroundings.of_slot(layout, live)


def run(params: dict[str, Any], layout: Layout, systemd: Systemd, done: list[dict[str, Any]]) -> None:
    """Run the commands, adding each that succeeded to `done`. Raises CommandError at the first that fails."""
    around = surroundings(layout, params["release"] or "")
    for command in map(argv, params["commands"]):
        began = time.monotonic()
        output = run_in_unit(systemd, layout, around, command, params["timeout"], ONCE if params["once"] else "")
        done.append({"command": command, "output": output, "seconds": round(time.monotonic() - began, 2)})


def run_once(params: dict[str, Any], layout: Layout, systemd: Systemd, done: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the commands and write that into the history, with nobody else deploying meanwhile; return the history's line.

    Raises CommandError and LockedError.
    """
    survive_disconnect()
    release, commands = os.path.basename(params["release"]), [argv(command) for command in params["commands"]]
    entry: dict[str, Any] = {
        "time": utc(time.time()),
        "user": deployer(params["user"]),
        "action": "commands",
        "commands": commands,
        "release": release,
        "previous": os.path.basename(layout.release_of(layout.live_slot())),
    }
    note = {"pid": os.getpid(), "since": entry["time"], "user": entry["user"], "release": release}
    with locked(layout.lock, params["lock_timeout"], note):
        # Whoever had the lock may have run them.
        ran = proof(read_history(layout.history), release, commands)
        if ran:
            return ran
        running = still_running(layout, systemd)
        if running:
            raise CommandError(
                f"a command of an earlier run, which was killed, still runs on this host: {running}. Nothing was started. Run this again "
                f"when it has ended, or stop it there: systemctl stop {running}"
            )
        began = time.monotonic()
        entry["result"] = "ok"
        try:
            run(params, layout, systemd, done)
        except (CommandError, UnitError, OSError) as error:
            entry["result"] = str(error).partition("\n")[0]
            raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)
            append_history(layout.history, entry)
    return entry


def unproved(params: dict[str, Any], layout: Layout, commands: list[list[str]]) -> str:
    """Say that this host has not run the commands for the release, and what to do."""
    release = os.path.basename(params["release"])
    failed = last_failure(read_history(layout.history), release, commands)
    why = f"They failed there: {failed}" if failed else "It has not run them."
    return (
        f"this host runs the migrations for all hosts of {layout.app}, and those of release {release} have not succeeded on it, so no host "
        f"goes on with that release. {why} Run the play with this host in it (--limit leaves it out, or it failed before), or name another "
        "host in asgi_rollout_migrate_host, in the first batch of the play."
    )


def main() -> None:
    module = Module(
        argument_spec={
            "app": {"type": "str", "required": True},
            "commands": {"type": "list", "elements": "raw", "required": True},
            "release": {"type": "path"},
            "once": {"type": "bool", "default": False},
            "expected": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
            "user": {"type": "str", "default": ""},
            "lock_timeout": {"type": "int", "default": 0},
        },
        required_if=[("once", True, ["release"])],
        supports_check_mode=True,
    )
    params, layout, systemd = module.params, Layout(module.params["app"]), Systemd()
    done: list[dict[str, Any]] = []
    try:
        commands = [argv(command) for command in params["commands"]]
        if params["once"]:
            ran = proof(read_history(layout.history), os.path.basename(params["release"]), commands)
            if ran:
                module.exit_json(changed=False, commands=done, ran=ran)
            if params["expected"]:
                module.fail_json(msg=unproved(params, layout, commands), commands=done)
        diff = {"prepared": "".join(f"run: {shlex.join(command)}\n" for command in commands)}
        if module.check_mode:
            module.exit_json(changed=bool(commands), commands=done, diff=diff)
        told = {}
        if params["once"]:
            told["ran"] = run_once(params, layout, systemd, done)
        else:
            run(params, layout, systemd, done)
    except CommandError as error:
        module.fail_json(msg=str(error), output=error.output, commands=done)
    except (LockedError, UnitError, OSError) as error:
        module.fail_json(msg=to_native(error), commands=done)
    module.exit_json(changed=bool(done), commands=done, diff=diff, **told)


if __name__ == "__main__":
    main()
