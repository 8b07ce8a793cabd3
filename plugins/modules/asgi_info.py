#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_info
short_description: Tell what an application runs on a host, and what it ran before
description:
  - Reports the live slot, its release, workers, age and ready answer, what could be gone back to, and the history of deployments.
  - Changes nothing.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  app:
    description: The application's name.
    type: str
    required: true
  ready_path:
    description: What to ask the live slot, over its own socket.
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
  history:
    description: How many of the last deployments to report.
    type: int
    default: 10
attributes:
  check_mode:
    description: The module changes nothing.
    support: full
  diff_mode:
    description: The module changes nothing.
    support: none
  idempotent:
    description: The module changes nothing.
    support: full
seealso:
  - module: steadfast.asgi.asgi_rollout
"""

EXAMPLES = r"""
- name: Ask what is live
  steadfast.asgi.asgi_info:
    app: shop
  register: shop
"""

RETURN = r"""
slot:
  description: The live slot, empty if nothing is live.
  returned: always
  type: str
  sample: blue
release:
  description: The ID of the release in it, empty if nothing is live or the slots do not run releases.
  returned: always
  type: str
  sample: 1.4.0-9f2c1b7a3d10
state:
  description: What systemd says of the live slot's service.
  returned: always
  type: str
  sample: active
workers:
  description: The processes of the live slot's server, without its master.
  returned: always
  type: list
  elements: int
memory:
  description: Bytes that the live slot's processes use, what they share counted once.
  returned: always
  type: int
uptime:
  description: Seconds since the live slot's server was started.
  returned: always
  type: int
answer:
  description: What the ready check answers, status and body, or the error.
  returned: always
  type: str
ready:
  description: Whether the status of that answer is one of O(ready_status).
  returned: always
  type: bool
draining:
  description: Whether the other slot still serves connections from before.
  returned: always
  type: bool
credentials:
  description: How the credentials of the live slot are kept on the host's disk, V(encrypted) or V(plain). Empty if it has none.
  returned: always
  type: str
  sample: encrypted
pending:
  description: The files with settings that the live slot does not run with, since they were written after it was started.
  returned: always
  type: list
  elements: str
previous:
  description: The ID of the release that a rollback would go back to, empty if there is none. It may be the live one, with other settings.
  returned: always
  type: str
previous_settings:
  description: The fingerprint of the settings that a rollback would go back to, empty if they are not known.
  returned: always
  type: str
way_back:
  description: Both as text for people to read, empty if there is nothing to go back to.
  returned: always
  type: str
  sample: 1.4.0-9f2c1b7a3d10 with the settings of 2026-11-21T10:30:12Z
live_run:
  description:
    - The run that brought what is live, and when it did. Both are empty where the history does not say.
    - After a rollback this is the run that first brought what was gone back to.
  returned: always
  type: dict
  contains:
    run:
      description: The ID of the run, as O(steadfast.asgi.asgi_rollout#module:run) was given.
      type: str
    time:
      description: When what is live went live.
      type: str
releases:
  description: The complete releases on the host, the oldest first.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The release's ID.
      type: str
    built:
      description: When it was built.
      type: str
    lived:
      description: When it last went live, empty if it never did.
      type: str
  sample: [{id: 1.4.0-9f2c1b7a3d10, built: '2026-11-21T10:29:40Z', lived: '2026-11-21T10:30:12Z'}]
withdrawn:
  description: Those of them that were rolled back from.
  returned: always
  type: list
  elements: str
history:
  description: The last deployments, the oldest first.
  returned: always
  type: list
  elements: dict
release_lines:
  description: RV(releases) as lines for people to read.
  returned: always
  type: list
  elements: str
history_lines:
  description: RV(history) as lines for people to read, without the ends of long messages.
  returned: always
  type: list
  elements: str
wrong:
  description:
    - What is not as it has to be on the way of a request (links, owners, modes, units, the release, the history, the answer itself). The
      next deployment reconciles it, or refuses it by name.
  returned: always
  type: list
  elements: str
  sample: ['/opt/shop/slots/blue/socket leads to /run/other.sock, and not to /run/shop/blue.sock']
drop_ins:
  description:
    - The files with which somebody else changes the live slot's units, each with those directives in it that change what runs, as whom
      or where requests arrive.
  returned: always
  type: dict
  sample: {/etc/systemd/system/shop@blue.service.d/override.conf: [Environment]}
problem:
  description: That the host does not have this application, and which it has. Empty if it has it.
  returned: always
  type: str
"""

import os
import time
from typing import Any

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils import processes
from ansible_collections.steadfast.asgi.plugins.module_utils.health import Health, silence, unusable_release
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.memory import proportional_memory
from ansible_collections.steadfast.asgi.plugins.module_utils.readiness import Progress, Target
from ansible_collections.steadfast.asgi.plugins.module_utils.releases import (
    history_lines,
    no_such_application,
    release_lines,
    releases_of,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import (
    Layout,
    changed_settings,
    contents,
    other,
    read_history,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd, UnitError
from ansible_collections.steadfast.asgi.plugins.module_utils.wayback import (
    NOTHING,
    State,
    Withdrawn,
    after,
    host_of,
    live_state,
    made_live,
    previous_state,
    run_in_effect,
)


def kept_credentials(unit: bytes) -> str:
    """Return how the credentials of a unit are kept on the host."""
    if b"\nLoadCredentialEncrypted=" in unit:
        return "encrypted"
    return "plain" if b"\nLoadCredential=" in unit else ""


def describe(history: list[dict[str, Any]], back: State) -> str:
    """Say what a rollback would go back to, '' for nothing."""
    if not back.settings:
        return back.release
    lived = next((str(entry.get("time", "")) for entry in reversed(history) if made_live(entry) and after(entry) == back), "")
    return f"{back.release or 'what runs'} with the settings of {lived}" if lived else f"{back.release} with its earlier settings"


def wrong(params: dict[str, Any], layout: Layout, systemd: Systemd, live: str, pids: list[int]) -> list[str]:
    """Say what is not as it has to be on the way of a request: what a rollout would reconcile, replace or refuse."""
    found = [finding.what for finding in Health(layout, systemd, live).look()]
    release = layout.release_of(live)
    unusable = unusable_release(release) if os.path.dirname(release) == os.path.realpath(layout.releases) else ""
    found += [unusable] if unusable else []
    if not found and systemd.show(layout.service_unit(live), "ActiveState").get("ActiveState") == "active":
        target = Target(layout.live_socket, path=params["ready_path"], host=params["ready_host"])
        progress = Progress(workers=1, accepted=frozenset(params["ready_status"]))
        silent = silence(live, target, progress, lambda: pids, time.sleep)
        found += [silent] if silent else []
    return found


def gather(params: dict[str, Any], layout: Layout, systemd: Systemd) -> dict[str, Any]:
    """Return what the module reports."""
    live = layout.live_slot()
    release = os.path.basename(layout.release_of(live))
    history = read_history(layout.history)
    releases = releases_of(layout)
    complete = [found["id"] for found in releases]
    last = history[-params["history"] :] if params["history"] else []
    current = live_state(layout)
    back = previous_state(history, current, host_of(layout)) or NOTHING
    effect = run_in_effect(history, current) or {}
    result: dict[str, Any] = {
        "slot": live,
        "release": release,
        "state": "",
        "workers": [],
        "memory": 0,
        "uptime": 0,
        "answer": "",
        "ready": False,
        "draining": False,
        "credentials": "",
        "pending": changed_settings(layout, live) if live else [],
        "previous": back.release,
        "previous_settings": back.settings,
        "way_back": describe(history, back),
        "live_run": {"run": str(effect.get("run", "")), "time": str(effect.get("time", ""))},
        "releases": releases,
        "withdrawn": sorted(Withdrawn.by(history).releases & set(complete)),
        "history": last,
        "release_lines": release_lines(releases, release),
        "history_lines": history_lines(last),
        "wrong": [],
        "drop_ins": {},
        "problem": no_such_application(layout),
    }
    if not live:
        return result
    result["credentials"] = kept_credentials(contents(layout.unit_file(live, "service")) or b"")
    unit = layout.service_unit(live)
    state = systemd.show(unit, "ActiveState", "MainPID")
    master = int(state.get("MainPID") or 0)
    pids = systemd.processes(unit)
    result.update(state=state["ActiveState"], workers=processes.children(master) if master else [])
    result["memory"] = sum(proportional_memory(pid) for pid in pids)
    result["uptime"] = int(time.time() - processes.start_time(master)) if master else 0
    # Asking a stopped slot would start it: its socket listens all the same.
    if result["state"] == "active":
        answer = Target(layout.socket(live), path=params["ready_path"], host=params["ready_host"]).ask(5, pids)
        result.update(answer=answer.summary(), ready=answer.status in params["ready_status"])
    result["wrong"] = wrong(params, layout, systemd, live, pids)
    result["drop_ins"] = Health(layout, systemd, live).drop_ins()
    drain = systemd.show(layout.drain_unit(other(live)), "ActiveState")
    result["draining"] = drain.get("ActiveState") in ("active", "activating")
    return result


def main() -> None:
    module = Module(
        argument_spec={
            "app": {"type": "str", "required": True},
            "ready_path": {"type": "str", "default": "/ready"},
            "ready_host": {"type": "str", "default": "localhost"},
            "ready_status": {"type": "list", "elements": "int", "default": [200]},
            "history": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    try:
        result = gather(module.params, Layout(module.params["app"]), Systemd())
    except (UnitError, OSError) as error:
        module.fail_json(msg=to_native(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
