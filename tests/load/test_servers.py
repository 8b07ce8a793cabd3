"""Under each server that the role knows, a rollout costs no request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from bench import SERVERS, server_requirements
from client import Load
from harness import Host, in_thread


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host("steadfast-servers", tmp_path_factory.mktemp("servers"), boot_seconds=0.5)
    every = {"asgi_release_server_requirements": server_requirements()}
    host.set_up("one", **every)
    host.build("two", **every)
    yield host
    host.remove()


@pytest.mark.parametrize(("name", "server", "workers", "settings"), SERVERS)
def test_rollouts(host: Host, name: str, server: str, workers: int, settings: dict[str, str]) -> None:
    host.settings(asgi_service_server=server, asgi_service_workers=workers, **settings)
    done = host.roll_out("two", workers=0)
    assert not done["failed"], done
    # A single one is the main process itself.
    host.settled(workers if workers > 1 else 0)

    async def run() -> Load:
        async with Load(host.site(), clients=16, websockets=10) as load:
            await asyncio.sleep(1)
            for release in ("one", "two"):
                done = await in_thread(host.roll_out, release, workers=0)
                assert not done["failed"], done
            # The drain deadline, after which the old slot is stopped and closes its websockets.
            await asyncio.sleep(5)
        return load

    record = asyncio.run(run()).record
    assert record.failed() == {}, name
    assert len(record.requests) > 500
    assert set(record.versions) == {"one", "two"}
    codes = {code for _, code in record.websockets_cut}
    # granian sends no code.
    assert codes == ({1005} if server == "granian" else {1012}), record.websockets_cut
    assert all(seconds < 15 for seconds in [step["seconds"] for step in done["steps"]])
