# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: workers
short_description: Say how many worker processes a host carries
description:
  - Returns a number that is given as it is. From a profile and what the host's kernel tells of it, works out a number.
  - V(io) is two workers for each processor and one more, as gunicorn's documentation advises for work that waits for others.
    V(cpu) is one for each processor, for work that computes.
  - Counted are the processors that a process may run on, not more than a quota of the control group that the host itself is in (a
    container's) or O(cpu_quota) allows.
  - There are never more workers than fit into the memory. For one slot that is half of what the host has (or its control group
    may use, or half of O(total_memory_max)), since two slots run side by side in a rollout, and not more than O(memory_max).
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  _input:
    description: V(io), V(cpu), or a number of at least 1.
    type: raw
    required: true
  host:
    description:
      - The texts of files of the host by their paths, as M(steadfast.asgi.asgi_files) returns them for its option O(ignore:read);
        C(/proc/self/status), C(/proc/meminfo) and, of control groups of both versions, those that there are.
      - What is not there limits nothing. Without C(/proc/self/status) one processor is assumed.
    type: dict
    default: {}
  worker_memory:
    description: What one worker needs, as systemd writes sizes (V(128M)).
    type: str
    default: 128M
  memory_max:
    description: The unit's C(MemoryMax=), a size or a share of the host's memory (V(50%)). Empty is no limit.
    type: str
    default: ""
  total_memory_max:
    description: The same of the slice that both slots are in.
    type: str
    default: ""
  cpu_quota:
    description: The unit's C(CPUQuota=), in percent of one processor (V(150%)). Empty is no limit.
    type: str
    default: ""
  least:
    description: A profile never gives fewer, for with one worker nobody serves while it is replaced.
    type: int
    default: 2
"""

EXAMPLES = r"""
- name: Ask the kernel
  steadfast.asgi.asgi_files:
    files: []
    read: [/proc/self/status, /proc/meminfo, /sys/fs/cgroup/cpu.max, /sys/fs/cgroup/memory.max]
  register: host

- name: Say how many there are to be
  ansible.builtin.debug:
    msg: "{{ 'io' | steadfast.asgi.workers(host.contents, worker_memory='256M') }}"
"""

RETURN = r"""
_value:
  description: How many workers.
  type: int
"""

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(text: str, whole: float = 0) -> float:
    """Return the bytes that a size as systemd writes it means; a percentage is one of `whole`. Raises AnsibleFilterError."""
    match = re.fullmatch(r"([0-9]+)([KMGT]?|%)", text)
    if not match:
        raise AnsibleFilterError(f"{text!r} is no size; write a number with K, M, G or T, as in 512M")
    number, unit = int(match[1]), match[2]
    return whole * number / 100 if unit == "%" else float(number * _SIZES[unit])


def processors(host: Mapping[str, str]) -> float:
    """Return how many processors the host may use: those of proc_pid_status(5), bounded by the quota of its control group."""
    allowed = re.search(r"^Cpus_allowed_list:\s*([0-9,-]+)$", host.get("/proc/self/status", ""), re.MULTILINE)
    count = 0.0
    for part in allowed[1].split(",") if allowed else ["0"]:
        first, last = (part.split("-") * 2)[:2]
        count += int(last) - int(first) + 1
    # "QUOTA PERIOD" or "max PERIOD" in version 2 (Linux, cgroup-v2.rst); two files, and -1 for none, in version 1.
    words = host.get("/sys/fs/cgroup/cpu.max", "").split() or [
        host.get(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us", "").strip() for name in ("quota", "period")
    ]
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
        count = min(count, int(words[0]) / int(words[1]))
    return count


def memory(host: Mapping[str, str]) -> float:
    """Return the bytes of memory that the host may use: those of proc_meminfo(5), bounded by the limit of its control group."""
    total = re.search(r"^MemTotal:\s+(\d+) kB$", host.get("/proc/meminfo", ""), re.MULTILINE)
    found = float(int(total[1]) << 10) if total else float("inf")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = host.get(f"/sys/fs/cgroup/{name}", "").strip()
        if limit.isdigit():
            found = min(found, float(limit))
    return found


def workers(
    wanted: str | int,
    host: Mapping[str, str] | None = None,
    worker_memory: str = "128M",
    memory_max: str = "",
    total_memory_max: str = "",
    cpu_quota: str = "",
    least: int = 2,
) -> int:
    """Return how many workers `wanted`, a number or a profile, means on a host.

    Raises AnsibleFilterError for what is neither, and for what is no size or share.
    """
    text = str(wanted)
    if re.fullmatch(r"[1-9][0-9]{0,3}", text):
        return int(text)
    if text not in ("io", "cpu"):
        raise AnsibleFilterError(f"{wanted!r} is no number of workers; write io, cpu or a number of at least 1")
    host = host or {}
    count = processors(host)
    if cpu_quota:
        count = min(count, size(cpu_quota, 1))
    by_processors = int(2 * count + 1) if text == "io" else int(count)
    whole = memory(host)
    room = min(whole, size(total_memory_max, whole) if total_memory_max else whole) / 2
    if memory_max:
        room = min(room, size(memory_max, whole))
    each = size(worker_memory)
    by_memory = int(min(room / each, 9999)) if each else 9999
    return max(least, min(by_processors, by_memory))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"workers": workers}
