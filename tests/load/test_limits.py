"""A limit of memory or tasks that does not hold two slots: the rollout is refused, or done, and never is a live worker killed for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Host, in_thread, lost_nothing, under_load

WORKERS = 2
# Seconds for a boot: the live slot has the processors first, and other things run on this machine too.
PATIENCE = 120
# What each worker holds beside the interpreter: more than what a boot needs for a moment.
HELD = ("import time\n", 'import time\n\nHELD = b"x" * (60 << 20)\n')
UNLIMITED = {"MemoryMax": "infinity", "TasksMax": "infinity"}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host("steadfast-limits", tmp_path_factory.mktemp("limits"), boot_seconds=1.0)
    host.set_up("one", asgi_service_workers=WORKERS, asgi_service_boot_timeout=PATIENCE)
    for name in ("two", "three"):
        host.build(name, HELD)
    done = host.roll_out("two", workers=WORKERS, boot_timeout=PATIENCE)
    assert not done["failed"], done
    host.settled(WORKERS)
    yield host
    host.remove()


def used(host: Host) -> int:
    """The MiB that the live slot uses."""
    result = host.module("asgi_info", app="plain", ready_host="plain.example.org")
    return int(result["memory"]) >> 20


def of_unit(host: Host, unit: str, name: str, value: str) -> None:
    host.execute(f"systemctl set-property --runtime {unit} {name}={value}")


def of_container(host: Host, limit: int) -> None:
    # systemd in the container takes its top for its own, and drops a limit of it when it reads its units.
    host.execute("systemctl daemon-reload")
    # More than any machine has: not every docker takes the limit off again.
    size = f"{limit or 1 << 20}m"
    subprocess.run(["docker", "update", f"--memory={size}", f"--memory-swap={size}", host.name], check=True, capture_output=True)


def in_container(host: Host) -> int:
    """The MiB that the whole container uses, without the cache of files."""
    stat = host.execute(
        "cat /sys/fs/cgroup/memory$(sed -n 's/.*:memory://p' /proc/self/cgroup)/memory.stat 2>/dev/null || cat /sys/fs/cgroup/memory.stat"
    )
    values = dict(line.split() for line in stat.splitlines())
    return int(values.get("total_rss", values.get("anon", "0"))) >> 20


def limited(host: Host, what: str) -> None:
    """Set a limit that holds one slot and a half."""
    half = used(host) // 2
    if what == "the application's slice":
        of_unit(host, "asgi-plain.slice", "MemoryMax", f"{used(host) + half}M")
    elif what == "the slice of all applications":
        of_unit(host, "asgi.slice", "MemoryMax", f"{used(host) + half}M")
    elif what == "the container":
        of_container(host, in_container(host) + half)
    else:
        tasks = len(host.execute("systemctl show --property=TasksCurrent --value asgi-plain.slice").split())
        of_unit(host, "asgi-plain.slice", "TasksMax", str(tasks + 4))


def unlimited(host: Host) -> None:
    for unit in ("asgi-plain.slice", "asgi.slice"):
        for name, value in UNLIMITED.items():
            of_unit(host, unit, name, value)
        # What was set so has a file of its own, which would count for more than the unit that the role writes.
        host.execute(f"rm -rf /run/systemd/system.control/{unit}.d")
    host.execute("systemctl daemon-reload")
    of_container(host, 0)


LIMITS = ["the application's slice", "the slice of all applications", "the container", "tasks"]


@pytest.mark.parametrize("what", LIMITS)
def test_a_rollout_that_does_not_fit_is_refused(host: Host, what: str) -> None:
    pids, live = host.worker_pids(), host.live()
    limited(host, what)
    try:

        async def act() -> None:
            done = await in_thread(host.roll_out, "three", workers=WORKERS, boot_timeout=PATIENCE, check_memory=True)
            assert done["failed"], done
            assert "a second slot does not fit" in done["msg"], done["msg"]
            assert [step["step"] for step in done["steps"]] == ["free", "memory"]

        lost_nothing(under_load(host, act, websockets=2))
    finally:
        unlimited(host)
    assert (host.worker_pids(), host.live()) == (pids, live)


@pytest.mark.parametrize("what", ["the application's slice", "the container"])
def test_where_nobody_counts_what_boots_is_killed_and_nothing_that_serves(host: Host, what: str) -> None:
    pids, live = host.worker_pids(), host.live()
    limited(host, what)
    try:

        async def act() -> None:
            done = await in_thread(host.roll_out, "three", workers=WORKERS, check_memory=False, boot_timeout=20)
            assert done["failed"], done

        lost_nothing(under_load(host, act, websockets=2))
    finally:
        unlimited(host)
    assert (host.worker_pids(), host.live()) == (pids, live)


@pytest.mark.parametrize("variables", [{"asgi_service_memory_max": "250M"}, {"asgi_service_total_memory_max": "800M"}], ids=str)
def test_a_limit_that_holds_both_slots_is_no_obstacle(host: Host, variables: dict[str, Any]) -> None:
    """Each slot has its own limit; and one of both that was raised counts as soon as it is written."""
    host.settings(asgi_service_workers=WORKERS, asgi_service_boot_timeout=PATIENCE, **variables)
    name = next(name for name in ("two", "three") if host.releases[name] != host.live())

    async def act() -> None:
        done = await in_thread(host.roll_out, name, workers=WORKERS, boot_timeout=PATIENCE, check_memory=True)
        assert not done["failed"], done

    lost_nothing(under_load(host, act, websockets=2))
    host.settled(WORKERS)


def test_a_total_limit_of_the_inventory_is_counted(host: Host) -> None:
    pids = host.worker_pids()
    limit = used(host) * 3 // 2
    host.settings(asgi_service_workers=WORKERS, asgi_service_boot_timeout=PATIENCE, asgi_service_total_memory_max=f"{limit}M")
    name = next(name for name in ("two", "three") if host.releases[name] != host.live())

    async def act() -> None:
        done = await in_thread(host.roll_out, name, workers=WORKERS, boot_timeout=PATIENCE, check_memory=True)
        assert done["failed"], done
        assert "Raise asgi_service_total_memory_max" in done["msg"], done["msg"]

    lost_nothing(under_load(host, act, websockets=2))
    assert host.worker_pids() == pids
