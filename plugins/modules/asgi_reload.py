#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_reload
short_description: Reload an ASGI server and prove that a new generation of workers serves
description:
  - Sends the server's master process its reload signal, and returns when every new worker has answered the ready check and every
    old worker is gone or has stopped accepting. A 200 alone proves nothing after a reload, since old workers still answer.
  - Knows gunicorn, uvicorn (0.51 or later, with more than one worker) and hypercorn. Works on any service, whoever made it.
  - Refuses where the signal cannot bring what is on disk into service, and says why. An application that is preloaded, another
    interpreter, other packages, another lock, environment or unit take a new process.
  - Whether the old workers serve on until the new ones are ready is the server's matter. gunicorn does so with the worker that the
    role asgi_service installs, uvicorn by itself; plain gunicorn and hypercorn stop first.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  unit:
    description: The systemd service whose main process is the master. Give this or O(pidfile).
    type: str
  pidfile:
    description: A file with the PID of the master.
    type: path
  signal:
    description: The signal to send.
    type: str
    default: HUP
  socket:
    description: The unix socket that the workers accept from, which the ready check is asked over. Give this or O(url).
    type: path
  url:
    description:
      - An C(http) or C(https) URL to ask instead. Where it leads to the workers' own port on this host, each answer is traced to its
        worker. Behind a proxy only the answers and the end of the old workers count.
    type: str
  validate_certs:
    description: Check the certificate of an C(https) URL.
    type: bool
    default: true
  ready_path:
    description: The path to ask over O(socket). With O(url) the path is in the URL.
    type: str
    default: /ready
  ready_host:
    description: The C(Host) header of the request over O(socket).
    type: str
    default: localhost
  ready_status:
    description: The HTTP status codes that mean ready.
    type: list
    elements: int
    default: [200]
  ready_body:
    description: A text that the answer's body must contain.
    type: str
    default: ''
  ready_json:
    description: Fields that the answer, a JSON object, must have with exactly these values; a version, for example.
    type: dict
    default: {}
  ready_successes:
    description: How many answers in a row must be good.
    type: int
    default: 3
  workers:
    description: How many new workers there must be at least. Every one that there is must be ready in any case.
    type: int
    default: 0
  timeout:
    description: Seconds from the signal until the new generation must serve.
    type: int
    default: 60
  lock_files:
    description:
      - Absolute paths of the files that say which packages the application needs. One that changed after the master was started
        makes the reload unsafe. The default is what of C(uv.lock), C(pylock.toml), C(poetry.lock), C(pdm.lock) and
        C(requirements.txt) is in the master's working directory.
    type: list
    elements: path
  when_unsafe:
    description:
      - What to do where a reload cannot do the job. V(fail) fails.
      - V(rollout) sends no signal and returns RV(rollout_needed=true), so that another task can take the other way.
      - V(ignore) reloads all the same.
    type: str
    choices: [fail, rollout, ignore]
    default: fail
attributes:
  check_mode:
    description: Runs every check and sends no signal. Reports a change where it would have sent one.
    support: full
  diff_mode:
    description: Shows the PIDs of the workers before and after.
    support: full
  idempotent:
    description: Reloads every time it runs. Use it as a handler, or with a condition.
    support: none
seealso:
  - module: steadfast.asgi.asgi_rollout
"""

EXAMPLES = r"""
- name: Reload a service of one's own, and see the new version in its answer
  steadfast.asgi.asgi_reload:
    unit: shop.service
    socket: /run/shop.sock
    ready_path: /healthz
    ready_json:
      version: "{{ shop_version }}"
    timeout: 30

- name: Reload a server that listens on a port, found by its PID file
  steadfast.asgi.asgi_reload:
    pidfile: /run/shop.pid
    url: http://127.0.0.1:8000/ready
"""

RETURN = r"""
server:
  description: What kind of server the master is.
  returned: always
  type: str
  sample: gunicorn
old_pids:
  description: The workers before the signal.
  returned: always
  type: list
  elements: int
new_pids:
  description: The workers that replaced them.
  returned: when the signal was sent
  type: list
  elements: int
draining_pids:
  description: Old workers that no longer accept, and still serve what they had accepted.
  returned: when the signal was sent
  type: list
  elements: int
attempts:
  description: How often the ready check was asked.
  returned: when the signal was sent
  type: int
seconds:
  description: Seconds from the signal until the new generation served, or until that was given up.
  returned: when the signal was sent
  type: float
answer:
  description: The last answer of the ready check, status and body.
  returned: when the signal was sent
  type: str
unsafe:
  description: Why a reload cannot do the job, one reason each. Empty where it can.
  returned: always
  type: list
  elements: str
rollout_needed:
  description: Whether nothing was done because the job takes a new process.
  returned: success
  type: bool
journal:
  description: The end of the unit's journal.
  returned: on failure, when O(unit) is given
  type: str
"""

import os
import re
import signal
import time
from typing import Any

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils import processes
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.pair import Pair, PairError
from ansible_collections.steadfast.asgi.plugins.module_utils.readiness import Progress, Target
from ansible_collections.steadfast.asgi.plugins.module_utils.reload import Reload, ReloadError, describe
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd, UnitError

# The unit of a slot of the role asgi_service: the application and the slot.
_SLOT = re.compile(r"([a-z][a-z0-9-]*)@(blue|green)(\.service)?")


def find_master(params: dict[str, Any], systemd: Systemd) -> int:
    """Return the PID of the master. Raises ReloadError where none runs."""
    if params["unit"]:
        state = systemd.show(params["unit"], "MainPID", "ActiveState", "LoadState")
        if state["LoadState"] == "not-found":
            raise ReloadError(f"there is no unit {params['unit']} on this host (unit)")
        if state["MainPID"] == "0":
            raise ReloadError(f"{params['unit']} is {state['ActiveState']}; a service that does not run cannot be reloaded, start it")
        return int(state["MainPID"])
    path = params["pidfile"]
    try:
        owner = os.stat(path).st_uid
        pid = int(processes.read(path, 100))
    except (OSError, ValueError) as error:
        raise ReloadError(f"{path} (pidfile) holds no PID: {error}") from error
    if not processes.alive(pid):
        raise ReloadError(f"the process {pid} of {path} (pidfile) does not run; start the service")
    if owner not in (0, os.geteuid(), os.stat(f"/proc/{pid}").st_uid):
        raise ReloadError(f"{path} (pidfile) belongs to the user {owner}, and the process {pid} that it names does not; correct the file")
    return pid


def unit_files(params: dict[str, Any], systemd: Systemd) -> tuple[list[str], list[str]]:
    """Return the environment files and the unit files that the master was started with."""
    if not params["unit"]:
        return [], []
    state = systemd.show(params["unit"], "FragmentPath", "DropInPaths")
    # One file to a line, each as "/etc/x (ignore_errors=no)".
    lines = systemd.call("show", "--property=EnvironmentFiles", "--value", params["unit"]).splitlines()
    environment = [line.rsplit(" (", 1)[0] for line in lines if line]
    # A slot of the role asgi_service reads its own by itself.
    if slot := _SLOT.fullmatch(params["unit"]):
        environment.append(f"/etc/{slot[1]}/{slot[2]}/env")
    units = [path for path in [state.get("FragmentPath", ""), *state.get("DropInPaths", "").split()] if path]
    # What `systemctl set-property` writes (systemd.unit(5)) it has applied to what runs.
    return environment, [path for path in units if "/system.control/" not in path]


def lock_files(params: dict[str, Any], master: int) -> list[str]:
    if params["lock_files"] is not None:
        return list(params["lock_files"])
    directory = os.path.realpath(f"/proc/{master}/cwd")
    return [path for path in (os.path.join(directory, name) for name in processes.LOCK_NAMES) if os.path.exists(path)]


def renew_certificate(unit: str) -> None:
    """Give a slot of the role asgi_service that speaks TLS itself what its certificate is now, as `systemctl reload` does."""
    slot = _SLOT.fullmatch(unit)
    pair = Pair.of_slot(slot[1], slot[2]) if slot else None
    try:
        if pair:
            pair.install()
    except (PairError, KeyError) as error:
        raise ReloadError(f"{error} (asgi_service_tls_certificate and its neighbours)") from error


def make_target(params: dict[str, Any]) -> Target:
    if params["socket"]:
        # The kernel knows a socket by the name that it was bound to.
        path = os.path.realpath(params["socket"])
        return Target(socket=path, path=params["ready_path"], host=params["ready_host"])
    return Target.of_url(params["url"], params["validate_certs"])


def run(module: Any, systemd: Systemd, result: dict[str, Any]) -> None:
    """Do the job and fill `result`. Raises ReloadError or ValueError."""
    params = module.params
    number = getattr(signal, f"SIG{params['signal'].upper().removeprefix('SIG')}", None)
    if not isinstance(number, signal.Signals):
        raise ReloadError(f"{params['signal']} (signal) is not the name of a signal; HUP is one")
    target = make_target(params)
    master = find_master(params, systemd)
    server = processes.identify(master)
    old = processes.children(master)
    result.update(server=server.kind, old_pids=old)

    environment, units = unit_files(params, systemd)
    result["unsafe"] = processes.obstacles(server, environment, units, lock_files(params, master))
    if server.kind == "unknown":
        result["unsafe"].append("the process is neither gunicorn nor uvicorn nor hypercorn")
    if result["unsafe"] and params["when_unsafe"] == "fail":
        raise ReloadError(f"a reload cannot do this job: {'; '.join(result['unsafe'])}. Start a new process: restart, or roll out")
    if result["unsafe"] and params["when_unsafe"] == "rollout":
        result["rollout_needed"] = True
        return
    if not old:
        raise ReloadError(f"the process {master} has no workers, so the signal would end it. Give the server workers, or restart it")

    result["changed"] = True
    result["diff"] = {"before": f"workers: {old}\n", "after": "workers: new ones\n"}
    if module.check_mode:
        return

    def main_pid() -> int:
        return int(systemd.show(params["unit"], "MainPID")["MainPID"]) if params["unit"] else master

    renew_certificate(params["unit"] or "")
    reload = Reload(
        master=master,
        target=target,
        main_pid=main_pid,
        progress=Progress(
            workers=params["workers"],
            accepted=frozenset(params["ready_status"]),
            body=params["ready_body"],
            fields=params["ready_json"],
            successes_wanted=params["ready_successes"],
        ),
        timeout=params["timeout"],
        signal=number,
    )
    try:
        reload.run()
    finally:
        result.update(describe(reload))
        result["diff"]["after"] = f"workers: {reload.new}\n"


def main() -> None:
    module = Module(
        argument_spec={
            "unit": {"type": "str"},
            "pidfile": {"type": "path"},
            "signal": {"type": "str", "default": "HUP"},
            "socket": {"type": "path"},
            "url": {"type": "str"},
            "validate_certs": {"type": "bool", "default": True},
            "ready_path": {"type": "str", "default": "/ready"},
            "ready_host": {"type": "str", "default": "localhost"},
            "ready_status": {"type": "list", "elements": "int", "default": [200]},
            "ready_body": {"type": "str", "default": ""},
            "ready_json": {"type": "dict", "default": {}},
            "ready_successes": {"type": "int", "default": 3},
            "workers": {"type": "int", "default": 0},
            "timeout": {"type": "int", "default": 60},
            "lock_files": {"type": "list", "elements": "path"},
            "when_unsafe": {"type": "str", "choices": ["fail", "rollout", "ignore"], "default": "fail"},
        },
        required_one_of=[("unit", "pidfile"), ("socket", "url")],
        mutually_exclusive=[("unit", "pidfile"), ("socket", "url")],
        supports_check_mode=True,
    )
    systemd = Systemd()
    began = time.time()
    result: dict[str, Any] = {"changed": False, "server": "unknown", "old_pids": [], "unsafe": [], "rollout_needed": False}
    try:
        run(module, systemd, result)
    except (ReloadError, UnitError, ValueError, OSError) as error:
        message = f"The reload did not take place: {to_native(error)}"
        if "new_pids" in result:
            message = f"The reload failed: {to_native(error)}"
        if module.params["unit"] and "new_pids" in result:
            result["journal"] = systemd.journal(module.params["unit"], since=began)
            message += f"\nThe journal of {module.params['unit']} ends with:\n{result['journal']}"
        module.fail_json(msg=message, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
