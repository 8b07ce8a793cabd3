"""The short form of the benchmark, with hard assertions: under load no deployment costs a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from client import Record
from harness import Host, in_thread, lost_nothing, stayed, under_load

BROKEN = {
    "import": ('os.environ.get("PLAIN_BROKEN") == "import"', "True"),
    "lifespan": ('os.environ.get("PLAIN_BROKEN") == "lifespan"', "True"),
    "ready": ('os.environ.get("PLAIN_BROKEN") == "ready"', "True"),
    "hang": ('os.environ.get("PLAIN_BROKEN") == "hang"', "True"),
}
SAYS = {
    "import": "RuntimeError: this release cannot be imported",
    "lifespan": "this release cannot start",
    "ready": "lost its database",
    "hang": "boot_timeout",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host("steadfast-load", tmp_path_factory.mktemp("load"), boot_seconds=1.0)
    # What a reload would otherwise mostly wait for.
    host.set_up("one", asgi_service_websocket_close_window=3)
    host.build("two")
    yield host
    host.remove()


def test_rollouts(host: Host) -> None:
    async def act() -> None:
        for name in ("two", "one", "two"):
            done = await in_thread(host.roll_out, name)
            assert not done["failed"], done
            assert done["way"] == "rollout"

    record = under_load(host, act)
    lost_nothing(record)
    assert set(record.versions) == {"one", "two"}
    # nginx keeps connections, and their requests go to the slot that has them.
    assert stayed(record, "one", host.switched()) < 0.5
    host.settled()


def test_reloads(host: Host) -> None:
    async def act() -> None:
        for _ in range(3):
            done = await in_thread(host.reload)
            assert not done["failed"], done
            assert len(done["new_pids"]) == 4
            assert not set(done["new_pids"]) & set(done["old_pids"])

    record = under_load(host, act)
    lost_nothing(record)
    # Politely, and not all at once.
    codes = {code for _, code in record.websockets_cut}
    assert codes <= {1012}, record.websockets_cut
    host.settled()


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_release_by_rollout(host: Host, way: str) -> None:
    host.build(f"broken-{way}", BROKEN[way])
    live = host.live()
    [version] = [name for name, path in host.releases.items() if path == live]

    async def act() -> None:
        done = await in_thread(host.roll_out, f"broken-{way}", boot_timeout=5)
        assert done["failed"]
        assert SAYS[way] in done["msg"]

    record = under_load(host, act)
    lost_nothing(record)
    assert set(record.versions) == {version}
    assert record.websockets_cut == []
    assert host.live() == live


def test_a_release_that_fails_is_not_waited_for_because_of_its_threads(host: Host) -> None:
    """Python waits for them when a process ends."""
    thread = "import threading\nimport time\n\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    host.build("broken-thread", BROKEN["lifespan"], ("import time\n", thread))
    begun = time.monotonic()
    done = host.roll_out("broken-thread", boot_timeout=60)
    assert done["failed"]
    assert SAYS["lifespan"] in done["msg"]
    assert "its process ended while it booted" in done["msg"]
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("way", BROKEN)
def test_broken_code_by_reload(host: Host, way: str) -> None:
    """Code in place that cannot run: the reload fails, the old workers serve on, and the next good reload works."""
    code = f"{host.live()}/app/plain.py"
    old, new = BROKEN[way]
    host.execute(f"cp {code} /root/good.py && sed -i 's/{old}/{new}/' {code} && ! cmp -s {code} /root/good.py")

    async def act() -> None:
        done = await in_thread(host.reload, timeout=5)
        assert done["failed"]
        if way != "hang":
            assert SAYS[way] in done["msg"] or "answers 503" in done["msg"], done["msg"]
        host.execute(f"cp /root/good.py {code}")
        done = await in_thread(host.reload)
        assert not done["failed"], done

    record = under_load(host, act, websockets=0)
    lost_nothing(record)
    host.settled()


def check_that_only_what_was_held_is_lost(record: Record) -> None:
    """Of 16 clients each had at most one request at a worker that was killed. Those that may be repeated were.

    What was answered by half cannot be: uvicorn writes the head and the body of an answer one after the other, and nginx has passed
    the head on.
    """
    assert sum(record.failed().values()) <= 8, record.failed()
    assert all(kind.startswith("POST") or kind == "GET: connection closed" for kind in record.failed()), record.failed()


def test_a_crash_in_the_bake_time(host: Host) -> None:
    """The new release is killed after it became live: the old one is live again, and only what the killed workers held can be lost."""
    live, slot = host.live(), host.slot()

    async def act() -> None:
        async def kill() -> None:
            while await in_thread(host.slot) == slot:
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            await in_thread(host.execute, "systemctl kill --signal=KILL plain@$(readlink /opt/plain/slots/live).service")

        killer = asyncio.create_task(kill())
        name = next(name for name, path in host.releases.items() if path != live and not name.startswith("broken"))
        done = await in_thread(host.roll_out, name, bake_time=20)
        await killer
        assert done["failed"], done
        assert "in its bake time its process ended" in done["msg"], done["msg"]

    record = under_load(host, act)
    check_that_only_what_was_held_is_lost(record)
    assert (host.live(), host.slot()) == (live, slot)
    host.settled()


def test_a_killed_master(host: Host) -> None:
    """Nobody is refused: who comes waits in the socket's queue until there is a server again. Lost is what the workers held."""
    unit = f"plain@{host.slot()}.service"
    main = host.execute(f"systemctl show --property=MainPID --value {unit}")

    async def act() -> None:
        await in_thread(host.execute, f"systemctl kill --kill-whom=main --signal=KILL {unit}")
        await asyncio.sleep(8)

    record = under_load(host, act, websockets=0)
    check_that_only_what_was_held_is_lost(record)
    # It took systemd's pause and a boot.
    assert record.longest() < 10
    assert host.execute(f"systemctl show --property=MainPID --value {unit}") != main
    host.settled()


def test_a_failing_ready_check_in_the_bake_time(host: Host) -> None:
    """The new release loses its database after it became live, and answers all else as before."""
    live, slot = host.live(), host.slot()
    host.build("sick", ('broken = os.environ.get("PLAIN_BROKEN") == "ready"', 'broken = os.path.exists("/var/lib/plain/sick")'))

    async def act() -> None:
        async def fall_sick() -> None:
            while await in_thread(host.slot) == slot:
                await asyncio.sleep(0.1)
            await in_thread(host.execute, "touch /var/lib/plain/sick")

        falling = asyncio.create_task(fall_sick())
        done = await in_thread(host.roll_out, "sick", bake_time=20)
        await falling
        assert done["failed"], done
        assert "lost its database" in done["msg"], done["msg"]

    lost_nothing(under_load(host, act))
    assert (host.live(), host.slot()) == (live, slot)
    host.execute("rm /var/lib/plain/sick")
    host.settled()


def test_a_restart_refuses_nobody(host: Host) -> None:
    """One slot at a time: whoever comes while the application boots waits in the socket's queue."""
    names = [name for name in ("one", "two") if host.releases[name] != host.live()]

    async def act() -> None:
        done = await in_thread(host.roll_out, names[0], strategy="restart")
        assert not done["failed"], done
        assert done["way"] == "restart"

    slot = host.slot()
    record = under_load(host, act)
    lost_nothing(record)
    assert (host.slot(), host.live()) == (slot, host.releases[names[0]])
    # It did boot in between.
    assert 1 < record.longest() < 10


def test_a_way_back_takes_no_name(host: Host) -> None:
    live = host.live()

    async def act() -> None:
        done = await in_thread(host.roll_back)
        assert not done["failed"], done
        assert sum(step["seconds"] for step in done["steps"]) < 10

    lost_nothing(under_load(host, act))
    assert host.live() != live
    host.settled()


def test_a_broken_configuration_by_reload(host: Host) -> None:
    """gunicorn itself leaves when it cannot read its configuration, and takes its workers with it."""
    path = f"/etc/plain/{host.slot()}/gunicorn.conf.py"
    host.execute(f"cp -p {path} /root/good.conf.py && echo 'workers = (' >>{path}")

    async def act() -> None:
        done = await in_thread(host.reload, timeout=3)
        assert done["failed"]
        assert "SyntaxError" in done["msg"]
        host.execute(f"cp -p /root/good.conf.py {path}")
        done = await in_thread(host.reload)
        assert not done["failed"], done

    lost_nothing(under_load(host, act, websockets=0))
    host.settled()


def test_two_deployments_at_once(host: Host) -> None:
    async def act() -> None:
        first, second = await asyncio.gather(in_thread(host.roll_out, "one", user="alice"), in_thread(host.roll_out, "one", user="bob"))
        failed = [done for done in (first, second) if done["failed"]]
        # Who comes too late to meet the other one finds its work done.
        if failed:
            assert len(failed) == 1
            assert "alice" in failed[0]["msg"] or "bob" in failed[0]["msg"]

    lost_nothing(under_load(host, act))
    assert host.live() == host.releases["one"]


def test_what_outlives_its_connection_is_done(host: Host) -> None:
    """For longer than a worker may be silent, and not for longer than it has for its end."""
    host.settings(asgi_service_timeout=3, asgi_service_graceful_timeout=8)
    live = next(name for name, path in host.releases.items() if path == host.live())
    assert not host.roll_out(live)["failed"]
    host.settled()
    unit = f"plain@{host.slot()}.service"
    host.execute("curl --silent --fail --unix-socket /run/plain/live.sock http://localhost/later")
    assert not host.reload()["failed"]
    host.settled()
    assert "what was for later is done" in host.execute(f"journalctl --output=cat --unit={unit}")


def test_a_stream_is_cut_off_and_not_its_worker(host: Host) -> None:
    """A stop ends streams as cancelled tasks, and then each worker's lifespan."""
    unit = f"plain@{host.slot()}.service"
    host.execute("curl --silent --no-buffer --unix-socket /run/plain/live.sock http://localhost/forever >/dev/null 2>&1 & sleep 1")
    begun = time.monotonic()
    host.execute(f"systemctl restart {unit}")
    # The graceful timeout, the last words and the boot.
    assert 8 <= time.monotonic() - begun < 8 + 5 + 10
    said = host.execute(f"journalctl --output=cat --unit={unit} --since=-{int(time.monotonic() - begun) + 1}s")
    assert "the stream was cut off" in said, said
    assert said.count("the lifespan is over") == 4, said
    assert "SIGKILL" not in said, said
