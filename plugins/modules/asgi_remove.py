#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_remove
short_description: Take an application off a host
description:
  - Stops an application's units and removes them, its settings, its releases and its certificates. nginx's site is for the role
    asgi_nginx (C(asgi_nginx_state=absent)), and has to go first, since it names the certificate. The playbook C(remove) does both.
  - Only what the role asgi_account has set up is removed. It is known by the mark C(/opt/APP/.steadfast-asgi), which goes last, so that
    a run that was cut off is completed by the next one.
  - The user that builds the application and no other (C(asgi-build-APP)) goes along, with uv's cache of it. One of another name stays.
  - Whatever else is on the host is left alone, what its applications have in common among it, such as uv and the host's own authority.
    The timer that renews certificates is removed along with the last name that needs it.
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  app:
    description: The application's name.
    type: str
    required: true
  data:
    description:
      - Whether what the application itself has written goes too, C(/var/lib/APP), C(/var/cache/APP) and C(/var/log/APP), and nginx's logs
        of it.
      - Its account stays for as long as one of these directories, which would otherwise belong to whoever gets that number next.
    type: bool
    default: false
attributes:
  check_mode:
    description: Names what would be stopped and removed.
    support: full
  diff_mode:
    description: Names what is stopped and removed.
    support: full
  idempotent:
    description: A second run finds nothing to remove.
    support: full
seealso:
  - module: steadfast.asgi.asgi_info
"""

EXAMPLES = r"""
- name: Take the application off the host, and keep its data
  steadfast.asgi.asgi_remove:
    app: shop
"""

RETURN = r"""
removed:
  description: What was stopped and removed, in this order.
  returned: success
  type: list
  elements: str
  sample: [unit shop@blue.service, /etc/systemd/system/shop@blue.service, /opt/shop]
kept:
  description: What the application has written and that is still there.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/shop]
"""

import contextlib
import glob
import grp
import os
import pwd
import re
import shutil
import time
from collections.abc import Iterator

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils.builder import comment_of, user_of
from ansible_collections.steadfast.asgi.plugins.module_utils.checks import check_app
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError, locked
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import SLOTS, UNITS, Layout, deployer, utc
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd, UnitError, survive_disconnect

# The directories below the authorities' that are no application's.
_NO_NAMES = ("ca", "acme")


class RemoveError(Exception):
    """The application was not removed, and why."""


def present(paths: list[str]) -> list[str]:
    return [path for path in paths if os.path.lexists(path)]


def remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


class Removal:
    """One application on one host. systemd comes from outside, for the tests."""

    def __init__(self, layout: Layout, systemd: Systemd, data: bool) -> None:
        self.layout = layout
        self.systemd = systemd
        self.data = data
        app, root = layout.app, layout.root
        self.home = f"{root}/opt/{app}"
        self.mark = f"{self.home}/.steadfast-asgi"
        self.units_of_slots = [f"{app}@{slot}.{kind}" for kind in ("socket", "service") for slot in SLOTS]
        self.slice = layout.slice
        self.certificates = f"{root}/etc/asgi-certificates"
        self.written = [f"{root}/var/{place}/{app}" for place in ("lib", "cache", "log")]

    # What is there

    def account(self) -> pwd.struct_passwd | None:
        """Return the application's account, where asgi_account has made it: it says so in its comment."""
        comment = f"{self.layout.app} (ASGI application)"
        return next((entry for entry in pwd.getpwall() if entry.pw_gecos == comment), None)

    def builder(self) -> pwd.struct_passwd | None:
        """Return the account that builds this application and no other, where asgi_release has made it."""
        app = self.layout.app
        return next((entry for entry in pwd.getpwall() if (entry.pw_name, entry.pw_gecos) == (user_of(app), comment_of(app))), None)

    def is_ours(self) -> bool:
        # Empty: the mark is gone, and the power failed.
        return os.path.exists(self.mark) or self.account() is not None or (os.path.isdir(self.home) and not os.listdir(self.home))

    def units(self) -> list[str]:
        """Return the units that run or have failed, in the order in which they are to be stopped.

        Sockets first, or a connection that comes in between would start the service again; what holds them all together last.
        """
        drains = [self.layout.drain_unit(slot) for slot in SLOTS]
        commands = [os.path.basename(path) for path in self.commands()]
        sockets_first = sorted(self.layout.other_tls_units(""), key=lambda unit: not unit.endswith(".socket"))
        builds = [f"asgi-build-{self.layout.app}.service", f"asgi-build-{self.layout.app}-guard.scope"]
        all_of_them = [*drains, *sockets_first, *self.units_of_slots, *commands, *builds, self.slice]
        return [unit for unit in all_of_them if self.state(unit) != "inactive"]

    def state(self, unit: str) -> str:
        return self.systemd.show(unit, "ActiveState")["ActiveState"]

    def commands(self) -> list[str]:
        """Return the files of units in which commands of the application's are run."""
        # Another application's name may begin as these units do.
        pattern = re.compile(rf"{re.escape(self.layout.app)}-command-\d+-\d+\.service")
        paths = glob.glob(f"{glob.escape(self.layout.root)}/run/systemd/system/{self.layout.app}-command-*.service")
        return sorted(path for path in paths if pattern.fullmatch(os.path.basename(path)))

    def files_of_units(self) -> list[str]:
        root, app = self.layout.root, self.layout.app
        files = [self.layout.unit_file(slot, kind) for slot in SLOTS for kind in UNITS]
        files += [f"{root}/etc/systemd/system/{unit}" for unit in self.layout.other_tls_units("")]
        # The links that start a unit at boot. `systemctl disable` would want the unit's own file to be there.
        for unit in self.units_of_slots:
            files += sorted(glob.glob(f"{glob.escape(root)}/etc/systemd/system/*.wants/{unit}"))
        # What `systemctl set-property --runtime` leaves.
        files += [f"{root}/run/systemd/system.control/{unit}.d" for unit in self.units_of_slots]
        files += [f"{root}/etc/systemd/system/{self.slice}", f"{root}/etc/tmpfiles.d/{app}.conf"]
        return present(files) + self.commands()

    def files(self) -> list[str]:
        root, app = self.layout.root, self.layout.app
        files = [f"{self.certificates}/acme/{app}.json", f"{self.certificates}/acme/{app}.eab.ini"]
        files += [f"{self.certificates}/{app}"] if app not in _NO_NAMES else []
        files += [f"{root}/run/{app}", f"{root}/etc/{app}"]
        logs = sorted(glob.glob(f"{glob.escape(root)}/var/log/nginx/{app}.access.log*"))
        logs += sorted(glob.glob(f"{glob.escape(root)}/var/log/nginx/{app}.error.log*"))
        return present(files + (self.written + logs if self.data else []))

    def renewal(self) -> list[str]:
        """Return the files of the timer that renews certificates, if no other name needs it."""
        others = set(glob.glob(f"{glob.escape(self.certificates)}/acme/*.json")) - {f"{self.certificates}/acme/{self.layout.app}.json"}
        units = f"{self.layout.root}/etc/systemd/system"
        return [] if others else present([f"{units}/asgi-acme.timer", f"{units}/asgi-acme.service"])

    # What is done

    def steps(self, check_mode: bool) -> Iterator[str]:
        """Stop and remove what there is, and yield the name of each thing when that is done."""
        units, files, renewal = self.units(), self.files_of_units(), self.renewal()
        for unit in units:
            if not check_mode:
                if self.state(unit) != "failed":
                    self.systemd.call("stop", unit)
                with contextlib.suppress(UnitError):
                    self.systemd.call("reset-failed", unit)
            yield f"unit {unit}"
        if renewal and not check_mode:
            self.systemd.call("--quiet", "disable", "--now", "asgi-acme.timer")
        yield from self.take(files + renewal, check_mode)
        if (files or renewal) and not check_mode:
            self.systemd.call("daemon-reload")
        yield from self.take(self.files(), check_mode)
        builder = self.builder()
        if builder:
            # Its home is uv's cache.
            yield from self.take(present([f"{self.layout.root}{builder.pw_dir}"]), check_mode)
            if not check_mode:
                self.remove_account(builder)
            yield f"user {builder.pw_name}"
        account = self.account()
        if account and not (present(self.written) and not self.data):
            if not check_mode:
                self.remove_account(account)
            yield f"user {account.pw_name}"
        if os.path.lexists(self.home):
            if not check_mode:
                for name in sorted(os.listdir(self.home)):
                    if name != os.path.basename(self.mark):
                        remove(f"{self.home}/{name}")
                remove(self.home)
            yield self.home

    def take(self, paths: list[str], check_mode: bool) -> Iterator[str]:
        for path in paths:
            if not check_mode:
                remove(path)
            yield path

    def remove_account(self, account: pwd.struct_passwd) -> None:
        self.systemd.run(["userdel", account.pw_name])
        # userdel takes only a group of the user's own name.
        with contextlib.suppress(KeyError):
            group = grp.getgrgid(account.pw_gid)
            alone = not set(group.gr_mem) - {account.pw_name} and all(entry.pw_gid != account.pw_gid for entry in pwd.getpwall())
            if alone:
                self.systemd.run(["groupdel", group.gr_name])


@contextlib.contextmanager
def alone(layout: Layout, check_mode: bool) -> Iterator[None]:
    """Keep every deployment away. Raises LockedError while there is one."""
    building = f"{layout.releases}/.lock"
    note = {"pid": os.getpid(), "doing": f"removing {layout.app}", "since": utc(time.time()), "user": deployer("")}
    with contextlib.ExitStack() as stack:
        if os.path.exists(building):
            stack.enter_context(locked(building, 0, note, what=f"a build of a release of {layout.app}", remedy="Wait for it"))
        if not check_mode or os.path.exists(layout.lock):
            stack.enter_context(locked(layout.lock, 0, note))
        yield


def run(removal: Removal, check_mode: bool, removed: list[str]) -> None:
    """Remove the application, adding what is done to `removed`. Raises RemoveError where it is not one of this collection's."""
    layout = removal.layout
    if not removal.is_ours():
        # The mark goes last, so there is nothing left where there is none.
        strange = present([removal.home, f"{layout.root}/etc/{layout.app}", *(removal.written if removal.data else [])])
        if strange:
            raise RemoveError(
                f"{', '.join(strange)}: this host has something of that name, but no {removal.mark}, by which the collection knows what "
                "it has set up. Look whose it is, and remove it by hand."
            )
        return
    with alone(layout, check_mode):
        removed.extend(removal.steps(check_mode))


def main() -> None:
    module = Module(
        argument_spec={"app": {"type": "str", "required": True}, "data": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )
    problems = list(check_app(module.params, "app", "directories and units"))
    if problems:
        module.fail_json(msg=" ".join(problems))
    layout = Layout(module.params["app"])
    removal = Removal(layout, Systemd(), module.params["data"])
    removed: list[str] = []
    if not module.check_mode:
        # Half an application is worse than none.
        survive_disconnect()
    try:
        run(removal, module.check_mode, removed)
    except (RemoveError, LockedError, UnitError, OSError) as error:
        module.fail_json(msg=f"{layout.app} was not removed: {to_native(error)}", removed=removed)
    diff = {"prepared": "".join(f"- {what}\n" for what in removed)}
    kept = [path for path in present(removal.written) if path not in removed]
    module.exit_json(changed=bool(removed), removed=removed, kept=kept, diff=diff)


if __name__ == "__main__":
    main()
