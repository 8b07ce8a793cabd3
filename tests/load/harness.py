"""A host in a container with the application on it, and what the load tests do to it."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from client import Load, Record, Site

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ROOT / "tests/apps/plain"
NAME = "plain.example.org"
BARE = "steadfast-asgi-test:debian13"


class FailedError(Exception):
    """A command failed. The message is its output."""


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=cwd)
    if done.returncode != 0:
        raise FailedError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


class Host:
    """A Debian container. The application's releases are copies of tests/apps/plain that differ in a few characters."""

    # The first host of a session starts bare. The next ones start as that one was after its first run, and have been booted again.
    image = BARE

    def __init__(self, name: str, work: Path, boot_seconds: float = 2.0) -> None:
        # Another checkout may load its own host on the same engine.
        name = f"{name}-{os.environ['STEADFAST_CHECKOUT']}"
        self.name = name
        self.work = work
        self.releases: dict[str, str] = {}
        self.variables: dict[str, Any] = {
            "asgi_app": "plain",
            "asgi_import_path": "plain:app",
            "asgi_domain": NAME,
            "asgi_service_workers": 4,
            "asgi_service_environment": {"PLAIN_BOOT_SECONDS": boot_seconds},
            "asgi_certificate_ca_export": str(work / "ca.pem"),
        }
        self.remove()
        run(str(ROOT / "tools/start-host"), name, self.image)
        self.inventory = work / "inventory.json"
        host = {name: {"ansible_connection": "community.docker.docker", "ansible_python_interpreter": "/usr/bin/python3"}}
        self.inventory.write_text(json.dumps({"all": {"hosts": host}}), encoding="utf-8")
        networks = json.loads(run("docker", "inspect", name))[0]["NetworkSettings"]["Networks"]
        self.address = next(iter(networks.values()))["IPAddress"]

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", "--volumes", self.name], capture_output=True, check=False)

    def site(self, port: int = 443) -> Site:
        return Site(self.address, NAME, str(self.work / "ca.pem"), port)

    def source(self, name: str, *changes: tuple[str, str]) -> Path:
        """Return a copy of the application whose version is `name`, with more texts replaced."""
        folder = self.work / name
        shutil.copytree(PLAIN, folder, dirs_exist_ok=True)
        code = (PLAIN / "plain.py").read_text(encoding="utf-8")
        for old, new in (('VERSION = "1"', f'VERSION = "{name}"'), *changes):
            assert old in code, old
            code = code.replace(old, new)
        (folder / "plain.py").write_text(code, encoding="utf-8")
        return folder

    def playbook(self, path: Path, **variables: Any) -> str:
        extra = json.dumps(self.variables | variables)
        return run("ansible-playbook", "-i", str(self.inventory), str(path), "-e", extra, cwd=ROOT)

    def set_up(self, name: str, **variables: Any) -> None:
        """Deploy the first release with site.yml."""
        self.playbook(ROOT / "playbooks/site.yml", asgi_source=str(self.source(name)), **variables)
        self.releases[name] = self.live()
        if Host.image == BARE:
            self.keep_image()

    def keep_image(self) -> None:
        """Have the hosts after this one start from what this one is now, until this process ends."""
        Host.image = run("docker", "commit", self.name).strip()
        atexit.register(subprocess.run, ["docker", "image", "rm", "--force", Host.image], capture_output=True, check=False)

    def build(self, name: str, *changes: tuple[str, str], **variables: Any) -> str:
        """Build a release and leave it at that; returns its path on the host."""
        before = set(self.execute("ls /opt/plain/releases").split())
        self.playbook(ROOT / "tests/load/build.yml", asgi_source=str(self.source(name, *changes)), **variables)
        [new] = set(self.execute("ls /opt/plain/releases").split()) - before
        self.releases[name] = f"/opt/plain/releases/{new}"
        return self.releases[name]

    def settings(self, **variables: Any) -> None:
        """Write other settings for whatever is started next."""
        self.playbook(ROOT / "tests/load/settings.yml", **variables)

    def execute(self, script: str) -> str:
        return run("docker", "exec", self.name, "sh", "-c", script)

    def live(self) -> str:
        return self.execute("readlink -f /opt/plain/slots/live/release").strip()

    def switched(self) -> float:
        """Return the time (of time.time()) at which the live link was replaced."""
        return float(self.execute("stat --format=%.Y /opt/plain/slots/live"))

    def slot(self) -> str:
        return self.execute("readlink /opt/plain/slots/live").strip()

    def module(self, module: str, **options: Any) -> dict[str, Any]:
        """Run a module of the collection on the host; returns its result, that of a failure as well."""
        done = subprocess.run(
            ["ansible", "-i", str(self.inventory), "all", "-b", "-m", f"steadfast.asgi.{module}", "-a", json.dumps(options)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true"},
        )
        head, separator, body = done.stdout.partition("=> ")
        if not separator:
            raise FailedError(done.stdout + done.stderr)
        result: dict[str, Any] = json.loads(body)
        result["failed"] = "FAILED" in head
        return result

    def roll_out(self, name: str, **options: Any) -> dict[str, Any]:
        common = {"app": "plain", "ready_host": NAME, "workers": 4, "boot_timeout": 30, "drain_timeout": 3, "check_memory": False}
        return self.module("asgi_rollout", **(common | {"release": self.releases[name]} | options))

    def reload(self, **options: Any) -> dict[str, Any]:
        common = {"unit": f"plain@{self.slot()}.service", "socket": "/run/plain/live.sock", "ready_host": NAME, "timeout": 30}
        return self.module("asgi_reload", **(common | options))

    def roll_back(self, **options: Any) -> dict[str, Any]:
        return self.module(
            "asgi_rollout", **({"app": "plain", "rollback": True, "ready_host": NAME, "workers": 4, "drain_timeout": 3} | options)
        )

    def worker_pids(self, unit: str = "") -> list[str]:
        """Return the children of the main process of a service, by default of the live slot's; a process without any itself."""
        unit = unit or f"plain@{self.slot()}"
        main = self.execute(f"systemctl show --property=MainPID --value {unit}").strip()
        return self.execute(f"cat /proc/{main}/task/*/children").split() or [main]

    def gone(self, pids: list[str], begun: float, patience: float = 20.0) -> float | None:
        """Wait until these processes have ended; returns the seconds since `begun`, or None if one of them stays."""
        until = time.monotonic() + patience
        tests = " || ".join(f"test -d /proc/{pid}" for pid in pids)
        while time.monotonic() < until:
            if self.execute(f"({tests}) && echo there || true").strip() != "there":
                return time.monotonic() - begun
            time.sleep(0.1)
        return None

    def settled(self, expected: int = 4) -> None:
        """Return when no old slot drains any more, and no old worker."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            drains = self.execute("systemctl list-units --no-legend 'plain-drain-*'").strip()
            if not drains and len(self.module("asgi_info", app="plain", ready_host=NAME)["workers"]) == expected:
                return
            time.sleep(0.2)
        raise FailedError("something of the old release still runs after 60 s")


async def in_thread(function: Any, *arguments: Any, **options: Any) -> Any:
    """Run something that blocks beside the load."""
    return await asyncio.to_thread(function, *arguments, **options)


def under_load(host: Host, act: Callable[[], Awaitable[Any]], websockets: int = 10) -> Record:
    """Run `act` under load, with a quiet second before and after it."""

    async def run() -> Record:
        # Other tests run on this machine too: a few hundred requests a second, and not all that it can.
        async with Load(host.site(), clients=16, websockets=websockets, pause=0.02) as load:
            await asyncio.sleep(1.5)
            await act()
            await asyncio.sleep(1)
        return load.record

    return asyncio.run(run())


def lost_nothing(record: Record) -> None:
    assert record.failed() == {}
    assert len(record.requests) > 500


def stayed(record: Record, version: str, switched: float) -> float:
    """Return for how long after the switch requests were still sent to be answered by the release of before."""
    return record.began + record.last[version] - switched
