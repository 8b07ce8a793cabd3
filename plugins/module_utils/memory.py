# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a second slot fits beside the live one, under every limit that counts for both, and what was killed because it did not.

A limit may be the slice's, any slice's above it, the container's or the host's. Where one is met the kernel kills the process that
uses most, and in the first seconds that is a worker of the live slot.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from . import processes
from .slots import SLOTS, Layout, contents
from .units import Systemd

CGROUPS = "/sys/fs/cgroup"
# proc_pid_oom_score_adj(5): a process that has this is the first to be killed.
FIRST = 1000

# What cannot be had back without a swap: everything but the page cache (the kernel's Documentation/admin-guide/cgroup-v2.rst, memory.stat).
_HELD_V2 = ("anon", "shmem", "kernel_stack", "pagetables", "percpu", "sock", "slab_unreclaimable")
_HELD_V1 = ("total_rss", "total_shmem")
# v1 says that there is no limit with the largest number of pages.
_UNLIMITED = 1 << 60
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}


@dataclass(frozen=True)
class Limit:
    """A limit of a control group: which file says so, what it is, and what of it is used by now. In bytes, or tasks."""

    path: str
    limit: int
    used: int

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)

    @property
    def unit(self) -> str:
        """The name of the control group, which is that of a unit where systemd has made it."""
        return os.path.basename(os.path.dirname(self.path))


def number(path: str) -> int | None:
    """Return the number in a file, None where there is no file, or no limit."""
    text = processes.read(path).strip()
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def table(path: str) -> dict[str, int]:
    """Return the values in a file with a name and a number in each line."""
    fields = (line.split() for line in processes.read(path).decode("ascii", "replace").splitlines())
    return {field[0]: int(field[1]) for field in fields if len(field) == 2 and field[1].isdigit()}


def controller(name: str, root: str = CGROUPS) -> str:
    """Return where the control groups of a controller are: one tree for all (v2), or one for each (v1)."""
    v1 = f"{root}/{name}"
    return v1 if os.path.isdir(v1) else root


def upwards(top: str, group: str) -> Iterator[str]:
    """Yield the directories of a control group and of those that it is in, as far as they are to be seen from here."""
    place = group.strip("/")
    while True:
        directory = f"{top}/{place}".rstrip("/")
        if os.path.isdir(directory):
            yield directory
        if not place:
            return
        place = os.path.dirname(place)


def held(directory: str) -> int:
    """Return the bytes that a control group and those in it use, without what the kernel can drop: the cache of files."""
    stat = table(f"{directory}/memory.stat")
    if "total_rss" in stat:
        return sum(stat.get(name, 0) for name in _HELD_V1) + (number(f"{directory}/memory.kmem.usage_in_bytes") or 0)
    return sum(stat.get(name, 0) for name in _HELD_V2)


def memory_limits(group: str, own: bool = False, root: str = CGROUPS) -> list[Limit]:
    """Return the limits of the control groups that `group` is in; with `own` also its own."""
    found = []
    for directory in list(upwards(controller("memory", root), group))[0 if own else 1 :]:
        used = held(directory)
        # Above memory.high nothing is killed. All that is in the group is slowed down until it is below it again.
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
            limit = number(f"{directory}/{name}")
            if limit is not None:
                swapped = table(f"{directory}/memory.stat").get("total_swap", 0) if "memsw" in name else 0
                found.append(Limit(f"{directory}/{name}", limit, used + swapped))
    return found


def task_limits(group: str, root: str = CGROUPS) -> list[Limit]:
    """Return the limits of tasks, which are processes and threads, of the control groups that `group` is in."""
    found = []
    for directory in list(upwards(controller("pids", root), group))[1:]:
        limit = number(f"{directory}/pids.max")
        if limit is not None:
            found.append(Limit(f"{directory}/pids.max", limit, number(f"{directory}/pids.current") or 0))
    return found


def tasks(group: str, root: str = CGROUPS) -> int:
    return number(f"{controller('pids', root)}/{group.strip('/')}/pids.current") or 0


def used_by(group: str, root: str = CGROUPS) -> int:
    """Return the bytes that a control group uses, 0 where it is not known."""
    return held(f"{controller('memory', root)}/{group.strip('/')}") if group else 0


def kills(group: str, root: str = CGROUPS) -> int:
    """Return how many processes of a control group were killed for want of memory since it was made."""
    directory = f"{controller('memory', root)}/{group.strip('/')}"
    for name in ("memory.events", "memory.oom_control"):
        found = table(f"{directory}/{name}").get("oom_kill")
        if found is not None:
            return found
    return 0


def lacking_memory(needed: int, limits: Iterable[Limit], available: int | None) -> str:
    """Say where there is no room for so many bytes more, '' if there is. `available` is what the host has, None if it is not known."""
    limit = tightest(limits)
    if limit and limit.left < needed and (available is None or limit.left <= available):
        return f"{limit.left >> 20} MiB are left of the {limit.limit >> 20} MiB that {limit.unit} may use ({limit.path})"
    if available is not None and available < needed:
        return f"{available >> 20} MiB are available"
    return ""


def lacking_tasks(needed: int, limits: Iterable[Limit]) -> str:
    """Say where there is no room for so many processes and threads more, '' if there is."""
    limit = tightest(limits)
    if limit and limit.left < needed:
        return f"{limit.left} are left of the {limit.limit} that {limit.unit} may have ({limit.path})"
    return ""


def tightest(limits: Iterable[Limit]) -> Limit | None:
    """Return the limit that leaves least."""
    return min(limits, key=lambda limit: limit.left, default=None)


def size(text: str, total: int) -> int | None:
    """Return the bytes of a size as systemd takes it, None for no limit. A share is one of the host's memory."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[KMGTPE]?)B?", text.strip())
    if not match:
        return None
    value, unit = float(match.group(1)), match.group(2)
    return int(value * total / 100) if unit == "%" else int(value * _UNITS[unit])


def meminfo(name: str) -> int | None:
    """Return a value of /proc/meminfo in bytes (proc_meminfo(5)), None if the kernel does not say."""
    match = re.search(rb"^%s:\s+(\d+) kB" % name.encode(), processes.read("/proc/meminfo"), re.MULTILINE)
    return int(match.group(1)) << 10 if match else None


def proportional_memory(pid: int) -> int:
    """Return the bytes that a process uses, what it shares with others counted in parts (proc_pid_smaps(5), Pss)."""
    match = re.search(rb"^Pss:\s+(\d+) kB", processes.read(f"/proc/{pid}/smaps_rollup"), re.MULTILINE)
    return int(match.group(1)) << 10 if match else 0


def available_memory() -> int | None:
    """Return the bytes that can be had without swapping, None if the kernel does not say."""
    return meminfo("MemAvailable")


def first_to_be_killed(pids: Iterable[int], adjustment: int = FIRST) -> None:
    """Have the kernel kill these processes before any others where memory is short. Those that they start follow them."""
    for pid in pids:
        # A worker may have ended; and nothing but the choice of the kernel depends on it.
        with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write(str(adjustment))


class Room:
    """What an application's slots use on a host, and what is left for another one."""

    def __init__(self, layout: Layout, systemd: Systemd) -> None:
        self.layout = layout
        self.systemd = systemd

    def group(self, slot: str) -> str:
        return self.systemd.show(self.layout.service_unit(slot), "ControlGroup").get("ControlGroup", "")

    def lacking(self, live: str, own: bool = False) -> str:
        """Say what there is too little of for as much as the live slot uses once more, and who can raise it; '' if it fits.

        `own` counts the slot's own limits too.
        """
        group = self.group(live)
        # What the kernel counts, or else what the processes say.
        needed = used_by(group) or sum(map(proportional_memory, self.systemd.processes(self.layout.service_unit(live))))
        limits = memory_limits(group, own) if group else []
        what = lacking_memory(needed, limits, available_memory())
        if what:
            return f"slot {live} uses {needed >> 20} MiB, and {what}. {self.remedy(tightest(limits)) if '(' in what else 'Make room'}"
        count = tasks(group) if group else 0
        what = lacking_tasks(count, task_limits(group)) if group else ""
        return f"slot {live} has {count} processes and threads, and {what}. Raise that limit" if what else ""

    def remedy(self, limit: Limit | None) -> str:
        units = {self.layout.slice: "asgi_service_total_memory_max"}
        units |= {self.layout.service_unit(slot): "asgi_service_memory_max" for slot in SLOTS}
        return f"Raise {units.get(limit.unit if limit else '', 'that limit')}"

    def watch(self, live: str) -> Callable[[], str]:
        """Remember what runs in the live slot; the result says what was killed of it since, '' if nothing was."""
        if not live:
            return lambda: ""
        group, unit, names = self.group(live), self.layout.service_unit(live), ("ActiveState", "MainPID", "NRestarts")
        known = self.systemd.show(unit, *names)
        count = kills(group)

        def killed() -> str:
            more = kills(group) - count
            if more > 0:
                return f"{more} of slot {live}'s processes were killed meanwhile, because memory was short ({group})"
            now = self.systemd.show(unit, *names)
            # It may have been down, or on its way up, and that may be why it is to be replaced.
            ended = known["ActiveState"] == "active" and (now["MainPID"], now["NRestarts"]) != (known["MainPID"], known["NRestarts"])
            return f"slot {live}'s server ended meanwhile" if ended else ""

        return killed

    def spare(self, slot: str) -> None:
        """Have a slot's processes killed no sooner than their unit says."""
        found = re.findall(rb"^OOMScoreAdjust=(-?\d+)\s*$", contents(self.layout.unit_file(slot, "service")) or b"", re.MULTILINE)
        first_to_be_killed(self.systemd.processes(self.layout.service_unit(slot)), int(found[-1]) if found else 0)
