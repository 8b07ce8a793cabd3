from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.steadfast.asgi.plugins.filter.workers import FilterModule, memory, processors, workers


def host(processors: str = "0-3", memory: int = 8 << 30, **limits: str) -> dict[str, str]:
    """What the kernel shows of a machine; `limits` are files of its control group."""
    paths = {
        "cpu_max": "/sys/fs/cgroup/cpu.max",
        "memory_max": "/sys/fs/cgroup/memory.max",
        "quota": "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
        "period": "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
        "limit": "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    }
    return {
        "/proc/self/status": f"Name:\tpython3\nCpus_allowed:\tf\nCpus_allowed_list:\t{processors}\nMems_allowed_list:\t0\n",
        "/proc/meminfo": f"MemTotal:       {memory >> 10} kB\nMemFree:         1024 kB\n",
    } | {paths[name]: f"{text}\n" for name, text in limits.items()}


@pytest.mark.parametrize(
    ("wanted", "has", "limits", "expected"),
    [
        # A number is a number, whatever the host has.
        (7, host("0"), {}, 7),
        ("1", host(), {}, 1),
        ("io", host(), {}, 9),
        ("cpu", host(), {}, 4),
        # Processors that are not in one row, as a container may be given them.
        ("cpu", host("0,2-3"), {}, 3),
        ("io", host("0"), {}, 3),
        # Never fewer than two: one alone cannot be replaced.
        ("cpu", host("0"), {}, 2),
        ("io", host(memory=64 << 20), {}, 2),
        # Control groups of version 2 and 1.
        ("io", host(cpu_max="200000 100000"), {}, 5),
        ("io", host(cpu_max="150000 100000"), {}, 4),
        ("io", host(cpu_max="max 100000"), {}, 9),
        ("io", host(cpu_max="1600000 100000"), {}, 9),
        ("cpu", host(quota="300000", period="100000"), {}, 3),
        ("cpu", host(quota="-1", period="100000"), {}, 4),
        ("io", host(memory_max=str(1 << 30)), {}, 4),
        ("io", host(memory_max="max"), {}, 9),
        ("io", host(limit=str(1 << 30)), {}, 4),
        ("io", host(limit="9223372036854771712"), {}, 9),
        # The unit's own limits.
        ("io", host(), {"cpu_quota": "150%"}, 4),
        ("io", host(), {"cpu_quota": "900%"}, 9),
        ("io", host(), {"memory_max": "512M"}, 4),
        ("io", host(), {"memory_max": "10%"}, 6),
        ("io", host(), {"total_memory_max": "2G", "worker_memory": "256M"}, 4),
        ("io", host(), {"worker_memory": "1G"}, 4),
        ("io", host(), {"memory_max": "6G", "worker_memory": "1G"}, 4),
        ("cpu", host("0-63", 4 << 30), {}, 16),
        ("cpu", host("0"), {"least": 1}, 1),
        # A kernel that tells nothing.
        ("io", {}, {}, 3),
        ("io", None, {}, 3),
    ],
)
def test_the_number(wanted: str | int, has: dict[str, str] | None, limits: dict[str, Any], expected: int) -> None:
    assert workers(wanted, has, **limits) == expected


@pytest.mark.parametrize("wanted", ["many", 0, -1, "", "2\nUser=root", 2.5, True, None, "IO"])
def test_what_is_no_number_is_refused(wanted: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="at least 1"):
        workers(wanted)


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="512M"):
        workers("io", host(), memory_max="lots")


def test_it_reads_this_machine() -> None:
    paths = ("/proc/self/status", "/proc/meminfo")
    here = {}
    for path in paths:
        with open(path, encoding="ascii") as stream:
            here[path] = stream.read()
    assert processors(here) >= 1
    assert 64 << 20 < memory(here) < 1 << 50


def test_ansible_finds_it() -> None:
    assert FilterModule().filters() == {"workers": workers}
