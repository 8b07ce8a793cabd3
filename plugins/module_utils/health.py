# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at everything that a request passes through, instead of believing that it is as a rollout left it.

Each finding says what is wrong. It can be mended in place, or takes a new process, or is refused with what an administrator has to do.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from . import acl
from .memory import meminfo, size, used_by
from .readiness import Progress, Target
from .slots import (
    SLOTS,
    UNITS,
    Layout,
    contents,
    copy_file,
    is_complete,
    read_history,
    read_link,
    replace_link,
    settings_in,
    sync_directory,
)
from .units import Systemd

# Of a history that is larger, the oldest lines go.
HISTORY_BYTES = 4 << 20
HISTORY_LINES = 5000

# Directives that change what runs, as whom, or where requests arrive. A drop-in with one of them is worth a warning.
_WEIGHTY = re.compile(
    r"^\s*((?:Exec|Environment|LoadCredential|SetCredential|Memory|Tasks|Listen|Socket|Root|Bind)\w*|User|Group|DynamicUser|Type|Slice|"
    r"WorkingDirectory|Sockets|Service|FileDescriptorName|Accept|RuntimeDirectory)\s*=",
    re.MULTILINE,
)
_APPLY = "Move it away, and apply the role asgi_service."
_REINSTALL = "Install it again, or deploy with another interpreter (asgi_release_python)"
# What a rollout itself sets for a while (systemctl set-property --runtime).
_OWN_DROP_IN = re.compile(r"/run/systemd/system\.control/[^/]+\.d/50-CPUWeight\.conf")


@dataclass(frozen=True)
class Finding:
    """Something that is not as it has to be. `mend` puts it right; without it `remedy` says what somebody else has to do."""

    what: str
    mend: Callable[[], object] | None = None
    remedy: str = ""

    def refusal(self) -> str:
        return f"{self.what}. {self.remedy}"


def kind_of(path: str) -> str:
    """Return what is at a path: `link`, `directory`, `file`, `socket`, `nothing` or `something else`."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    tests = {"link": stat.S_ISLNK, "directory": stat.S_ISDIR, "file": stat.S_ISREG, "socket": stat.S_ISSOCK}
    return next((kind for kind, test in tests.items() if test(mode)), "something else")


def value_of(unit: bytes, name: str) -> str:
    """Return what a unit's text sets a directive to, '' if it does not."""
    found = re.findall(rf"^{name}=(.*)$".encode(), unit, re.MULTILINE)
    return found[-1].decode("utf-8", "replace").strip() if found else ""


def group_id(name: str) -> int | None:
    """Return the number of a group, None for none or one that the host does not have."""
    with contextlib.suppress(KeyError):
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid if name else None
    return None


def user_id(name: str) -> int | None:
    with contextlib.suppress(KeyError):
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid if name else None
    return None


def octal(mode: int) -> str:
    return f"{stat.S_IMODE(mode):04o}"


def give(path: str, owner: int, group: int, mode: int) -> None:
    """Set the owner, the group (-1 leaves them) and the mode of something that is no link, whoever puts one there meanwhile."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        place = f"/proc/self/fd/{handle}"
        os.chown(place, owner, group)
        os.chmod(place, mode)
    finally:
        os.close(handle)


class Health:
    """What an application has on a host. `live` is the slot that serves, '' for none."""

    def __init__(self, layout: Layout, systemd: Systemd, live: str) -> None:
        self.layout = layout
        self.systemd = systemd
        self.live = live
        # root's, but in the tests.
        self.owner = os.geteuid()
        # Whether systemd may not have read any unit since it changed, which is no damage: a rollout leaves it so.
        self.outdated = False

    def look(self) -> list[Finding]:
        """Return what is wrong, in the order in which it is to be mended."""
        found = [*self.directories(), *self.history()]
        if self.live:
            found += [*self.links(), *self.sockets(), *self.settings(), *self.units(), *self.library(), *self.release()]
        return found + list(self.at_boot())

    # Directories, and who may write to them

    def directories(self) -> Iterator[Finding]:
        layout = self.layout
        home, root = os.path.dirname(layout.slots), layout.root
        yield from self.home(home)
        # nginx's user goes through these, and the application's.
        for path in (layout.slots, layout.releases, *(f"{layout.slots}/{slot}" for slot in SLOTS)):
            yield from self.directory(path, need=0o755, must_exist=path != layout.releases)
        yield from self.directory(f"{root}/run/{layout.app}", need=0o755)
        place = os.path.dirname(layout.next)
        yield from self.directory(place, need=0o700, group=self.group())
        yield from self.directory(layout.next, need=0o700)
        if self.live:
            yield from self.directory(layout.settings(self.live), need=0o700, group=self.group(), must_exist=False)
        yield from self.directory(layout.old_settings, need=0o700, forbidden=0o077, must_exist=False)

    def home(self, path: str) -> Iterator[Finding]:
        """Everybody may go through the application's directory; or its group may, and by an access list nginx's."""
        if kind_of(path) != "directory" or os.lstat(path).st_mode & 0o005 == 0o005:
            yield from self.directory(path, need=0o755)
            return
        yield from self.directory(path, need=0o750, group=self.group())
        nginx = group_id(value_of(contents(f"{self.layout.settings(self.live)}/socket") or b"", "SocketGroup")) if self.live else None
        if nginx is None:
            return
        try:
            passes = acl.lets_through(acl.read(path), nginx)
        except OSError:
            yield Finding(f"{path} does not let group {nginx} through, which nginx has", lambda: give(path, -1, -1, 0o755))
            return
        if not passes:
            yield Finding(
                f"{path} does not let group {nginx} through, which nginx has",
                lambda: acl.write(path, acl.letting_through(acl.read(path), 0o750, {nginx})),
            )

    def directory(
        self, path: str, need: int, forbidden: int = 0o022, group: int | None = None, must_exist: bool = True
    ) -> Iterator[Finding]:
        kind = kind_of(path)
        if kind == "nothing":
            if must_exist:
                yield Finding(f"{path} is missing", lambda: os.makedirs(path, mode=0o755))
            return
        if kind != "directory":
            yield Finding(f"{path} is a {kind}, and has to be a directory", remedy="Move it away, and a directory to its place.")
            return
        yield from self.access(path, need=need, forbidden=forbidden, group=group)

    def access(
        self, path: str, need: int = 0, forbidden: int = 0o022, group: int | None = None, owner: int | None = None, exact: int | None = None
    ) -> Iterator[Finding]:
        """Yield what is wrong with the owner, the group and the mode of something that is no link."""
        status = os.lstat(path)
        owner = self.owner if owner is None else owner
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != owner:
            # A change of the owner may take bits of the mode away.
            yield Finding(f"{path} belongs to user {status.st_uid}, and not to {owner}", lambda: give(path, owner, -1, mode))
        if group is not None and status.st_gid != group:
            yield Finding(f"{path} is of group {status.st_gid}, and not of {group}", lambda: give(path, -1, group, mode))
        wanted = exact if exact is not None else (mode & ~forbidden) | need
        if mode != wanted:
            yield Finding(f"{path} has mode {octal(mode)}, and not {octal(wanted)}", lambda: give(path, -1, -1, wanted))

    def group(self) -> int | None:
        """Return the group that the live slot runs with, as its unit says."""
        return group_id(value_of(self.unit_text("service"), "Group"))

    def unit_text(self, kind: str) -> bytes:
        return contents(f"{self.layout.settings(self.live)}/{kind}") or b"" if self.live else b""

    # Links and sockets: the way of a request

    def links(self) -> Iterator[Finding]:
        layout, live = self.layout, self.live
        yield from self.link(layout.live, "", live)
        yield from self.link(layout.live_socket, f"{layout.live}/socket", f"{layout.live}/socket")
        yield from self.link(layout.socket_link(live), layout.socket(live), layout.socket(live))
        link = layout.release_link(live)
        if kind_of(link) not in ("link", "nothing"):
            yield Finding(f"{link} is a {kind_of(link)}, and has to be a link to a release", remedy="Move it away.")
        elif kind_of(link) == "link":
            yield from self.owner_of_link(link)

    def link(self, path: str, wanted: str, target: str) -> Iterator[Finding]:
        """Yield what is wrong with a link that has to lead to `wanted`, '' where that is known; `target` is what it is mended with."""
        kind = kind_of(path)
        if kind == "directory":
            yield Finding(f"{path} is a directory, and has to be a link to {target}", remedy="Move it away.")
        elif kind != "link":
            what = "is missing" if kind == "nothing" else f"is a {kind}"
            yield Finding(f"{path} {what}, and has to be a link to {target}", lambda: replace_link(path, target))
        elif wanted and read_link(path) != wanted:
            yield Finding(f"{path} leads to {read_link(path)}, and not to {target}", lambda: replace_link(path, target))
        else:
            yield from self.owner_of_link(path)

    def owner_of_link(self, path: str) -> Iterator[Finding]:
        """Its owner could point it elsewhere at any time, if the directory allowed it."""
        owner = os.lstat(path).st_uid
        if owner != self.owner:
            yield Finding(
                f"{path} belongs to user {owner}, and not to {self.owner}",
                lambda: os.chown(path, self.owner, -1, follow_symlinks=False),
            )

    def sockets(self) -> Iterator[Finding]:
        """What nobody listens on takes a new process, and is found by asking it."""
        path, text = self.layout.socket(self.live), self.unit_text("socket")
        if kind_of(path) != "socket":
            return
        mode = value_of(text, "SocketMode")
        yield from self.access(
            path,
            owner=user_id(value_of(text, "SocketUser")) if value_of(text, "SocketUser") else os.lstat(path).st_uid,
            group=group_id(value_of(text, "SocketGroup")),
            exact=int(mode, 8) if re.fullmatch(r"[0-7]+", mode) else stat.S_IMODE(os.lstat(path).st_mode),
        )

    # Settings and units

    def settings(self) -> Iterator[Finding]:
        """Files among the settings of the live slot and those for the next start. That contents differ is the plan's matter."""
        for directory in (self.layout.next, self.layout.settings(self.live)):
            if kind_of(directory) != "directory":
                continue
            for name in sorted(os.listdir(directory)):
                path = f"{directory}/{name}"
                if kind_of(path) == "file":
                    yield from self.setting(path, f"{self.layout.next}/{name}")
                elif not name.startswith("."):
                    yield Finding(f"{path} is a {kind_of(path)}, and has to be a file", remedy=_APPLY)

    def setting(self, path: str, model: str) -> Iterator[Finding]:
        secret = os.path.basename(path) == "env" or os.path.basename(path).startswith("credential.")
        if path == model or kind_of(model) != "file" or contents(path) != contents(model):
            yield from self.access(path, forbidden=0o027 if secret else 0o022)
            return
        # The same text has the same readers.
        status = os.lstat(model)
        yield from self.access(path, group=status.st_gid, exact=stat.S_IMODE(status.st_mode) & ~(0o027 if secret else 0o022))

    def units(self) -> Iterator[Finding]:
        settings = self.layout.settings(self.live)
        names = [name for name in settings_in(settings) if self.layout.installed(self.live, name)]
        for name in names:
            path = self.layout.installed(self.live, name)
            if kind_of(path) == "directory":
                yield Finding(f"{path} is a directory, and has to be a file", remedy="Move it away.")
                continue
            if contents(path) != contents(f"{settings}/{name}"):
                # Somebody has changed it, or masked the unit. What runs may have been started with it, so the plan takes care of that.
                continue
            if kind_of(path) == "link":
                yield Finding(f"{path} is a link to {read_link(path)}, and has to be a file", partial(self.install, name))
                continue
            model = os.lstat(f"{settings}/{name}")
            yield from self.access(path, group=model.st_gid, exact=stat.S_IMODE(model.st_mode))
        yield from self.loaded()

    def install(self, name: str) -> None:
        os.unlink(self.layout.installed(self.live, name))
        copy_file(f"{self.layout.settings(self.live)}/{name}", self.layout.installed(self.live, name))
        self.systemd.call("daemon-reload")

    def loaded(self) -> Iterator[Finding]:
        """Yield what systemd has other than it is on the disk."""
        stale = []
        # Without a reload, `systemctl enable` has it say so of every unit, also of those that have no file.
        self.outdated = self.systemd.show("init.scope", "NeedDaemonReload").get("NeedDaemonReload") == "yes"
        for kind in UNITS:
            unit, path = f"{self.layout.app}@{self.live}.{kind}", self.layout.unit_file(self.live, kind)
            if kind_of(path) != "file" or contents(path) != contents(f"{self.layout.settings(self.live)}/{kind}"):
                continue
            shown = self.systemd.show(unit, "LoadState", "FragmentPath", "NeedDaemonReload", "DropInPaths")
            if shown.get("NeedDaemonReload") == "yes":
                stale.append(unit)
            elif shown.get("FragmentPath", path) not in ("", path):
                yield Finding(f"systemd has read {unit} from {shown['FragmentPath']}, and not from {path}", remedy="Remove that file.")
            elif shown.get("LoadState", "loaded") != "loaded":
                drop_ins = f", with {shown['DropInPaths']}" if shown.get("DropInPaths") else ""
                yield Finding(
                    f"systemd cannot use {unit}: it is {shown['LoadState']}{drop_ins}", remedy=f"See what systemctl status {unit} says."
                )
        group = self.systemd.show(self.layout.slice, "NeedDaemonReload", "ControlGroup")
        yield from self.total_limit(group.get("ControlGroup", ""))
        if group.get("NeedDaemonReload") == "yes":
            stale.append(self.layout.slice)
        if stale and not self.outdated:
            yield Finding(f"systemd has not read {' and '.join(stale)} since they changed", partial(self.systemd.call, "daemon-reload"))

    def total_limit(self, group: str) -> Iterator[Finding]:
        """The kernel would have a limit below what is used at once, by killing, as soon as systemd reads the slice."""
        text = contents(f"{self.layout.root}/etc/systemd/system/{self.layout.slice}") or b""
        limit, used = size(value_of(text, "MemoryMax"), meminfo("MemTotal") or 0), used_by(group)
        if limit is not None and limit < used:
            yield Finding(
                f"{self.layout.slice} is to be limited to {limit >> 20} MiB, and what runs in it uses {used >> 20} MiB",
                remedy="Raise asgi_service_total_memory_max, or stop the application first.",
            )

    def drop_ins(self) -> dict[str, list[str]]:
        """Return the drop-ins that change the live slot's units, with the directives in them that change what runs.

        They are an administrator's right, so they are shown and not removed.
        """
        found: dict[str, list[str]] = {}
        for kind in UNITS if self.live else ():
            shown = self.systemd.show(f"{self.layout.app}@{self.live}.{kind}", "DropInPaths")
            for path in shown.get("DropInPaths", "").split():
                if not _OWN_DROP_IN.fullmatch(path):
                    text = (contents(path) or b"").decode("utf-8", "replace")
                    found[path] = sorted(set(_WEIGHTY.findall(text)))
        return found

    def library(self) -> Iterator[Finding]:
        """The modules that root runs when a slot is started."""
        place = f"{os.path.dirname(self.layout.slots)}/lib"
        if kind_of(place) == "nothing":
            return
        yield from self.directory(place, need=0o755)
        if kind_of(place) == "directory":
            for folder, folders, names in os.walk(place):
                for name in sorted([*folders, *names]):
                    path = f"{folder}/{name}"
                    if kind_of(path) in ("file", "directory"):
                        yield from self.access(path)
                    else:
                        yield Finding(f"{path} is a {kind_of(path)}, and root would run it", remedy=_APPLY)

    # The release

    def release(self) -> Iterator[Finding]:
        release = self.layout.release_of(self.live)
        if release and is_complete(release):
            yield from self.access(release, need=0o555)
            mark = f"{release}/release.json"
            if kind_of(mark) == "file":
                yield from self.access(mark, need=0o400)

    # At boot

    def at_boot(self) -> Iterator[Finding]:
        """systemd-tmpfiles makes the directory of the sockets anew when the host starts."""
        path = f"{self.layout.root}/etc/tmpfiles.d/{self.layout.app}.conf"
        run = f"/run/{self.layout.app}"
        lines = [f"d {run} 0755 root root -", f"L+ {run}/live.sock - - - - /opt/{self.layout.app}/slots/live/socket"]
        kind = kind_of(path)
        if kind == "directory":
            yield Finding(f"{path} is a directory, and has to be a file", remedy=_APPLY)
            return
        present = (contents(path) or b"").decode("utf-8", "replace").splitlines() if kind == "file" else []
        active = [line for line in map(str.strip, present) if line and not line.startswith("#")]
        if active != lines:
            yield Finding(
                f"{path} does not make {run} at boot as it has to be", lambda: self.write(path, ("\n".join(lines) + "\n").encode())
            )
        else:
            yield from self.access(path, need=0o644)

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        temporary = f"{path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_directory(os.path.dirname(path))

    # The history

    def history(self) -> Iterator[Finding]:
        path, kind = self.layout.history, kind_of(self.layout.history)
        if kind == "nothing":
            return
        if kind != "file":
            yield Finding(
                f"{path} is a {kind}, and has to be a file; it was moved to {self.damaged()}", lambda: os.rename(path, self.damaged())
            )
            return
        yield from self.access(path, need=0o600)
        status = os.lstat(path)
        if status.st_size > HISTORY_BYTES:
            yield Finding(
                f"{path} has {status.st_size >> 20} MiB; all but its last lines were moved to {self.damaged()}", self.mend_history
            )
        elif not all(map(is_entry, (contents(path) or b"").splitlines())):
            yield Finding(f"{path} has lines that are none of a history; all of it was copied to {self.damaged()}", self.mend_history)

    def damaged(self) -> str:
        return f"{self.layout.history}.damaged"

    def mend_history(self) -> None:
        """Keep what can be read. What was there before is left beside it."""
        good = [json.dumps(entry) for entry in read_history(self.layout.history)][-HISTORY_LINES:]
        if kind_of(self.damaged()) == "directory":
            shutil.rmtree(self.damaged())
        self.write(self.damaged(), contents(self.layout.history) or b"", 0o600)
        self.write(self.layout.history, "".join(f"{line}\n" for line in good).encode(), 0o600)


def is_entry(line: bytes) -> bool:
    """Return whether a line is one of a history. An empty one does no harm: it is what a cut-off line was ended with."""
    if not line.strip():
        return True
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(line), dict)
    return False


# What is live


def lost_live_slot(layout: Layout, systemd: Systemd) -> str:
    """Return the slot that was live, where the live link is missing; '' where nothing was, or where it cannot be known.

    It is the one that runs and is started at boot. The other one may still drain, but it is not started at boot.
    """
    if os.path.lexists(layout.live):
        return ""
    found = []
    for slot in SLOTS:
        if kind_of(layout.unit_file(slot, "service")) == "file" and not os.path.lexists(layout.unproven(slot)):
            unit = layout.service_unit(slot)
            if systemd.show(unit, "ActiveState").get("ActiveState") in ("active", "reloading") and systemd.enabled(unit):
                found.append(slot)
    return found[0] if len(found) == 1 else ""


def replaced_release(layout: Layout, slot: str, pid: int, cwd: Callable[[int], str]) -> str:
    """Return the release that a slot's process runs in where that is not the one that the slot's link names; '' otherwise."""
    inside = f"{os.path.realpath(layout.releases)}/"
    place = cwd(pid).removesuffix(" (deleted)") if pid else ""
    if not place.startswith(inside):
        return ""
    runs = inside + place.removeprefix(inside).split("/")[0]
    return runs if runs != layout.release_of(slot) else ""


def working_directory(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def unusable_release(release: str) -> str:
    """Say why a release cannot be started, or is not what it has to be; '' if nothing is wrong with it."""
    mark = f"{release}/release.json"
    if kind_of(release) != "directory":
        return f"{release} is a {kind_of(release)}, and has to be a directory. Move it away, and deploy again"
    if kind_of(mark) != "file":
        return f"{mark} is a {kind_of(mark)}, and has to be a file. Move {release} away, and deploy again"
    try:
        content = json.loads(contents(mark) or b"")
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return f"{mark} is damaged: it is not what a build writes. Move {release} away, and deploy again"
    if str(content.get("id", "")) not in ("", os.path.basename(release)):
        return f"{mark} is that of release {content['id']}. Move {release} away, and deploy again"
    return missing_interpreter(release)


def missing_interpreter(release: str) -> str:
    """Say that a release has a virtual environment without an interpreter, as after an update of the host; '' if it is not so."""
    python = f"{release}/.venv/bin/python"
    if not os.path.lexists(f"{release}/.venv"):
        return ""
    if not os.path.isfile(python):
        return f"the interpreter of {release} is gone: {python} leads to {os.path.realpath(python)}, which is not there. {_REINSTALL}"
    if os.access(python, os.X_OK):
        return ""
    return f"the interpreter of {release}, {os.path.realpath(python)}, cannot be executed. {_REINSTALL}"


def silence(slot: str, target: Target, progress: Progress, processes: Callable[[], list[int]], sleep: Callable[[float], None]) -> str:
    """Say why requests are not answered where nginx sends them; '' if they are, by the live slot and as they have to be."""
    what = ""
    for attempt in range(3):
        if attempt:
            sleep(0.5)
        answer = target.ask(5, processes())
        if progress.expected(answer):
            if answer.pid is not None or not answer.traced:
                return ""
            what = f"somebody else than slot {slot} answers on {target.socket}"
        else:
            what = f"slot {slot} does not answer as it has to on {target.socket}: {answer.summary()}"
    return what


def mend_all(findings: list[Finding]) -> list[str]:
    """Mend what can be mended; return what that was. Raises OSError where it cannot be done after all."""
    mended = []
    for finding in findings:
        if finding.mend:
            finding.mend()
            mended.append(finding.what)
    return mended
