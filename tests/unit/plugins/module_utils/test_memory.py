"""Limits of memory and tasks, in trees of control groups of both versions; and what a rollout makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import health as health_module
from ansible_collections.steadfast.asgi.plugins.module_utils import memory
from ansible_collections.steadfast.asgi.plugins.module_utils.memory import (
    Limit,
    Room,
    controller,
    kills,
    lacking_memory,
    lacking_tasks,
    memory_limits,
    size,
    task_limits,
    tightest,
    used_by,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.rollout import RolloutError
from ansible_collections.steadfast.asgi.tests.unit.fake_host import APP, FakeSystemd, Host, Roll

MIB = 1 << 20
SLOT = f"/asgi.slice/asgi-{APP}.slice/{APP}@blue.service"
NO_LIMIT_V1 = 9223372036854771712
# The limits that can be set, each by the control group that has it; the place of those above the slot does not matter to the test.
GROUPS = {"host": "", "slice of all": "/asgi.slice", "slice": f"/asgi.slice/asgi-{APP}.slice", "slot": SLOT}


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def tree_v2(root: Path, anon: int = 50, **limits: dict[str, object]) -> str:
    """Control groups in which the live slot has so many MiB, and the given files by the names of the groups."""
    write(root, cgroup__controllers="cpu memory pids")
    for group in GROUPS.values():
        stat = f"anon {anon * MIB}\nfile {900 * MIB}\nshmem 0\nkernel_stack 0\npagetables 0\nslab_unreclaimable 0"
        write(root / group.strip("/"), memory__stat=stat, memory__max="max", memory__high="max", pids__max="max", pids__current=20)
        write(root / group.strip("/"), memory__events="low 0\nhigh 0\nmax 0\noom 0\noom_kill 0")
    for name, files in limits.items():
        write(root / GROUPS[name.replace("_", " ")].strip("/"), **files)
    return str(root)


def tree_v1(root: Path, anon: int = 50, **limits: dict[str, object]) -> str:
    for group in GROUPS.values():
        stat = f"cache {900 * MIB}\nrss 0\ntotal_cache {900 * MIB}\ntotal_rss {anon * MIB}\ntotal_shmem 0\ntotal_swap {30 * MIB}"
        place = root / "memory" / group.strip("/")
        write(place, memory__stat=stat, memory__limit_in_bytes=NO_LIMIT_V1, memory__memsw__limit_in_bytes=NO_LIMIT_V1)
        write(place, memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 0", memory__kmem__usage_in_bytes=0)
        write(root / "pids" / group.strip("/"), pids__max="max", pids__current=20)
    for name, files in limits.items():
        for file, content in files.items():
            write(root / file.partition("__")[0].replace("oom", "memory") / GROUPS[name.replace("_", " ")].strip("/"), **{file: content})
    return str(root)


TREES: dict[str, Callable[..., str]] = {"v1": tree_v1, "v2": tree_v2}
NAMES = {"v1": "memory__limit_in_bytes", "v2": "memory__max"}


@pytest.mark.parametrize("version", TREES)
@pytest.mark.parametrize(
    ("group", "limit", "needed", "lacks"),
    [
        ("slice", 90, 50, True),
        ("slice", 100, 50, False),
        ("slice", 99, 50, True),
        ("slice_of_all", 90, 50, True),
        ("slice_of_all", 110, 50, False),
        ("host", 90, 50, True),
        ("host", 200, 50, False),
        # Each slot has one of its own.
        ("slot", 60, 50, False),
    ],
)
def test_a_limit_of_each_group_counts(tmp_path: Path, version: str, group: str, limit: int, needed: int, lacks: bool) -> None:
    root = TREES[version](tmp_path, **{group: {NAMES[version]: limit * MIB}})
    limits = memory_limits(SLOT, root=root)
    what = lacking_memory(needed * MIB, limits, 4000 * MIB)
    assert bool(what) == lacks
    if lacks:
        assert f"{limit - 50} MiB are left of the {limit} MiB" in what
        assert NAMES[version].replace("__", ".") in what
    # What a reload needs it needs within the slot, too.
    assert bool(lacking_memory(needed * MIB, memory_limits(SLOT, own=True, root=root), None)) == (lacks or group == "slot")


@pytest.mark.parametrize("version", TREES)
def test_the_tightest_of_several_limits_is_named(tmp_path: Path, version: str) -> None:
    name = NAMES[version]
    root = TREES[version](tmp_path, host={name: 95 * MIB}, slice={name: 80 * MIB}, slice_of_all={name: 90 * MIB})
    found = tightest(memory_limits(SLOT, root=root))
    assert found
    assert (found.unit, found.limit, found.used, found.left) == (f"asgi-{APP}.slice", 80 * MIB, 50 * MIB, 30 * MIB)


def test_what_slows_everybody_down_is_a_limit_too(tmp_path: Path) -> None:
    assert "memory.high" in lacking_memory(50 * MIB, memory_limits(SLOT, root=tree_v2(tmp_path, slice={"memory__high": 80 * MIB})), None)


def test_a_limit_that_counts_the_swap_counts_what_is_swapped(tmp_path: Path) -> None:
    root = tree_v1(tmp_path, slice={"memory__memsw__limit_in_bytes": 110 * MIB})
    [found] = memory_limits(SLOT, root=root)
    assert found.left == 30 * MIB


@pytest.mark.parametrize("version", TREES)
def test_the_cache_of_files_is_not_used(tmp_path: Path, version: str) -> None:
    assert used_by(SLOT, TREES[version](tmp_path, anon=77)) == 77 * MIB
    assert used_by("", str(tmp_path)) == 0
    assert used_by("/there/is/none", str(tmp_path)) == 0


@pytest.mark.parametrize("version", TREES)
def test_a_group_that_is_not_to_be_seen_is_passed_over(tmp_path: Path, version: str) -> None:
    """As in a container with a namespace of its own, or where systemd was told not to account for a unit."""
    root = TREES[version](tmp_path, host={NAMES[version]: 90 * MIB})
    [found] = memory_limits("/asgi.slice/no/such.service", root=root)
    assert found.limit == 90 * MIB
    assert memory_limits("/x", root=str(tmp_path / "nothing")) == []
    assert controller("memory", str(tmp_path / "nothing")) == str(tmp_path / "nothing")


@pytest.mark.parametrize("version", TREES)
@pytest.mark.parametrize(("limit", "lacks"), [(39, True), (40, False), ("max", False)])
def test_tasks_are_limited_as_well(tmp_path: Path, version: str, limit: int | str, lacks: bool) -> None:
    limits = task_limits(SLOT, TREES[version](tmp_path, slice={"pids__max": limit}))
    assert memory.tasks(SLOT, str(tmp_path)) == 20
    assert bool(lacking_tasks(20, limits)) == lacks


@pytest.mark.parametrize("version", TREES)
def test_what_was_killed_is_counted(tmp_path: Path, version: str) -> None:
    root = TREES[version](tmp_path)
    assert kills(SLOT, root) == 0
    name = {"v1": "memory__oom_control", "v2": "memory__events"}[version]
    TREES[version](tmp_path, slot={name: "under_oom 0\noom_kill 3"})
    assert kills(SLOT, root) == 3
    assert kills("/none", root) == 0


@pytest.mark.parametrize(
    ("available", "limit", "said"),
    [
        (None, None, ""),
        (60, None, ""),
        (40, None, "40 MiB are available"),
        (40, 30, "30 MiB are left"),
        (20, 30, "20 MiB are available"),
        (100, 60, ""),
    ],
)
def test_the_host_s_memory_counts_beside_the_limits(available: int | None, limit: int | None, said: str) -> None:
    limits = [] if limit is None else [Limit("/sys/fs/cgroup/x.slice/memory.max", limit * MIB, 0)]
    told = lacking_memory(50 * MIB, limits, None if available is None else available * MIB)
    assert (said in told) if said else not told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64M", 64 * MIB),
        ("1G", 1024 * MIB),
        ("1.5K", 1536),
        ("1000", 1000),
        ("50%", 500 * MIB),
        ("infinity", None),
        ("", None),
        ("x", None),
    ],
)
def test_a_size_as_systemd_takes_it(text: str, expected: int | None) -> None:
    assert size(text, 1000 * MIB) == expected


# What a rollout makes of it


@pytest.fixture
def groups(at_rest: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the live slot control groups with these limits."""
    at_rest.state["shop@blue.service"]["ControlGroup"] = SLOT

    def make(**limits: Any) -> None:
        tree_v2(tmp_path / "cgroup", **limits)

    for name in ("memory_limits", "task_limits", "tasks", "used_by", "kills"):
        original = getattr(memory, name)
        monkeypatch.setattr(memory, name, lambda *arguments, original=original: original(*arguments, root=str(tmp_path / "cgroup")))
    monkeypatch.setattr(health_module, "used_by", memory.used_by)
    make()
    return make


def test_a_slot_that_does_not_fit_under_the_total_limit_is_refused_before_it_is_started(
    at_rest: Host, roll: Roll, groups: Callable[..., None]
) -> None:
    groups(slice={"memory__max": 90 * MIB})
    with pytest.raises(RolloutError) as refused:
        roll("B", check_memory=True).run()
    said = str(refused.value)
    assert "a second slot does not fit: slot blue uses 50 MiB, and 40 MiB are left of the 90 MiB that asgi-shop.slice may use" in said
    assert "Raise asgi_service_total_memory_max, use strategy restart (asgi_rollout_strategy)" in said
    assert not any("start" in event for event in at_rest.events)
    assert at_rest.serving() == "A"
    assert roll("B", check_memory=True, strategy="restart").run()["way"] == "restart"


def test_too_few_tasks_are_refused_as_well(at_rest: Host, roll: Roll, groups: Callable[..., None]) -> None:
    groups(slice={"pids__max": 30})
    with pytest.raises(RolloutError, match=r"has 20 processes and threads, and 10 are left of the 30 that asgi-shop.slice may have"):
        roll("B", check_memory=True).run()
    assert at_rest.serving() == "A"


def test_a_rollout_in_which_the_live_slot_lost_a_process_is_taken_back(at_rest: Host, roll: Roll, groups: Callable[..., None]) -> None:
    rollout = roll("B")
    real = rollout.wait_ready

    def wait(slot: str) -> None:
        real(slot)
        groups(slot={"memory__events": "oom_kill 2"})

    rollout.wait_ready = wait  # type: ignore[method-assign]
    with pytest.raises(RolloutError, match=r"2 of slot blue's processes were killed meanwhile, because memory was short"):
        rollout.run()
    assert (at_rest.live, at_rest.serving(), at_rest.runs("green")) == ("blue", "A", False)
    assert at_rest.history()[-1]["result"] != "ok"


@pytest.mark.parametrize("what", [{"MainPID": "2"}, {"NRestarts": "1"}])
def test_a_live_server_that_ended_meanwhile_takes_the_rollout_back(at_rest: Host, roll: Roll, what: dict[str, str]) -> None:
    rollout = roll("B")
    real = rollout.wait_ready

    def wait(slot: str) -> None:
        real(slot)
        at_rest.state["shop@blue.service"].update(what)

    rollout.wait_ready = wait  # type: ignore[method-assign]
    with pytest.raises(RolloutError, match="slot blue's server ended meanwhile"):
        rollout.run()
    assert at_rest.live == "blue"


def test_a_live_server_that_was_down_may_come_up_meanwhile(at_rest: Host, roll: Roll) -> None:
    """That it was down is why it is replaced."""
    at_rest.state["shop@blue.service"].update(ActiveState="activating", SubState="auto-restart", MainPID="0")
    rollout = roll("B")
    real = rollout.wait_ready

    def wait(slot: str) -> None:
        real(slot)
        at_rest.state["shop@blue.service"].update(ActiveState="active", MainPID="7", NRestarts="1")

    rollout.wait_ready = wait  # type: ignore[method-assign]
    assert rollout.run()["changed"]


def test_what_boots_is_killed_first_until_it_is_live(at_rest: Host, roll: Roll) -> None:
    at_rest.oom_score.clear()
    at_rest.unit_file.write_text("[Service]\nOOMScoreAdjust=-5\n")
    roll("B").run()
    adjusted = [adjustment for _, adjustment in at_rest.oom_score]
    assert set(adjusted[:-1]) == {1000}
    assert adjusted[-1] == -5
    at_rest.oom_score.clear()
    # What is live is started again behind its socket, and not first to be killed at all.
    roll("B", strategy="restart").run()
    assert at_rest.oom_score == []


def test_new_workers_that_do_not_fit_into_the_slot_are_no_reload(at_rest: Host, groups: Callable[..., None]) -> None:
    groups(slot={"memory__max": 80 * MIB})
    room = Room(at_rest.layout, FakeSystemd(at_rest))
    assert room.lacking("blue") == ""
    assert "shop@blue.service may use" in room.lacking("blue", own=True)
    assert room.lacking("blue", own=True).endswith("Raise asgi_service_memory_max")


def test_a_total_limit_below_what_is_used_is_refused_before_it_is_read(at_rest: Host, roll: Roll, groups: Callable[..., None]) -> None:
    """The kernel would have it at once: by killing."""
    groups()
    at_rest.state["asgi-shop.slice"] = {"ControlGroup": GROUPS["slice"]}
    path = at_rest.root / "etc/systemd/system/asgi-shop.slice"
    path.write_text("[Slice]\nMemoryMax=40M\n")
    at_rest.stale = True
    with pytest.raises(RolloutError, match=r"asgi-shop.slice is to be limited to 40 MiB, and what runs in it uses 50 MiB"):
        roll("B").run()
    assert at_rest.events == []
    path.write_text("[Slice]\nMemoryMax=400M\n")
    result = roll("A").run()
    assert (result["way"], at_rest.stale) == ("settle", False)
    assert "asgi-shop.slice" in result["reason"]
