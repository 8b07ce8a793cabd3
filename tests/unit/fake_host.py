"""A host with real files, real links and a real ready check, but with a systemd and a clock of our own."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.steadfast.asgi.plugins.module_utils.rollout import Rollout
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd
from ansible_collections.steadfast.asgi.plugins.modules import asgi_rollout

APP = "shop"
OPTIONS = yaml.safe_load(asgi_rollout.DOCUMENTATION)["options"]
DEFAULTS = {name: option.get("default") for name, option in OPTIONS.items()}
JOURNAL = "Traceback (most recent call last):\nImportError: cannot import name 'app'"


class Cut(BaseException):
    """The process is killed, or the power fails: nothing that comes after this has an effect."""


class Clock:
    """Time that passes only while somebody sleeps. `while_asleep` is what happens meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.while_asleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.while_asleep()


class Server(socketserver.ThreadingUnixStreamServer):
    """What runs in a slot."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, status: int, seen: list[tuple[str, str]]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                seen.append((self.path, self.headers["Host"]))
                body = b"ready" if status == 200 else b"migrations are missing"
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        super().__init__(path, Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.005,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Host:
    """A host with the units of one application; its run() is what systemctl, systemd-run and journalctl would do."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root = root
        self.layout = Layout(APP, str(root))
        self.clock = clock
        self.state: dict[str, dict[str, str]] = {}
        self.enabled: set[str] = set()
        self.servers: dict[str, Server] = {}
        # What listens somewhere and is no slot's.
        self.strangers: list[Server] = []
        # A unit whose processes are not those that answer.
        self.ousted = ""
        # Whether systemd has yet to read the units.
        self.stale = False
        # Whom the kernel was to kill first, or no sooner than others.
        self.oom_score: list[tuple[list[int], int]] = []
        # The release that the process in a slot has loaded, whatever the slot's link says by now.
        self.loaded: dict[str, str] = {}
        # And its environment.
        self.environment: dict[str, str] = {}
        # What a unit was given of the processors, and what it had at its start.
        self.weight: dict[str, str] = {}
        self.weight_at_start: dict[str, str] = {}
        self.seen: dict[str, list[tuple[str, str]]] = {"blue": [], "green": []}
        self.drain_command: list[str] = []
        # The commands that were run, each with the release that was serving then; those with this word in them fail.
        self.commands: list[tuple[str, str]] = []
        self.failing = "false"
        # What runs in each slot.
        self.processes = [os.getpid()]
        self.refused: tuple[str, ...] = ()
        # How the next release behaves when it is started: a status of the ready check, or a state of its unit.
        self.status = 200
        self.boots_into: dict[str, str] = {}
        # Everything that was done to the host; the process is cut off at the event of this number.
        self.events: list[str] = []
        self.cut_at = -1
        self.dead = False
        for name in (f"opt/{APP}/slots/blue", f"opt/{APP}/slots/green", f"run/{APP}", f"etc/{APP}/next", "etc/systemd/system"):
            (root / name).mkdir(parents=True)
        self.unit_file = Path(self.layout.next) / "service"
        for name in ("service", "socket", "gunicorn.conf.py"):
            (Path(self.layout.next) / name).write_text(f"{name}\n")
        self.set_environment("a")
        # What systemd-tmpfiles makes at boot.
        tmpfiles = root / f"etc/tmpfiles.d/{APP}.conf"
        tmpfiles.parent.mkdir()
        tmpfiles.write_text(f"d /run/{APP} 0755 root root -\nL+ /run/{APP}/live.sock - - - - /opt/{APP}/slots/live/socket\n")
        (root / f"opt/{APP}/releases").mkdir()

    # What the tests want to know

    def release(self, name: str) -> str:
        path = self.root / f"opt/{APP}/releases/{name}"
        path.mkdir(parents=True, exist_ok=True)
        (path / "release.json").write_text("{}")
        return str(path)

    def set_environment(self, text: str) -> None:
        """Write the environment for the next start, as asgi_service does."""
        path = Path(self.layout.next) / "env"
        path.write_text(text)
        path.chmod(0o640)

    @property
    def live(self) -> str:
        link = Path(self.layout.live)
        return os.readlink(link) if link.is_symlink() else ""

    def runs(self, slot: str) -> bool:
        return slot in self.servers

    def listens(self, slot: str) -> bool:
        return self.active(f"{APP}@{slot}.socket") == "active"

    def starts_at_boot(self, slot: str) -> set[str]:
        return {unit.rsplit(".", 1)[1] for unit in self.enabled if f"@{slot}." in unit}

    def drains(self, slot: str) -> bool:
        return self.active(f"{APP}-drain-{slot}.service") == "active"

    def in_slot(self, slot: str) -> str:
        link = Path(self.layout.slots) / slot / "release"
        return link.resolve().name if link.is_symlink() else ""

    def serving(self) -> str:
        """The release that clients get answers from, '' if nobody answers."""
        return self.loaded[self.live] if self.live and self.runs(self.live) else ""

    def history(self) -> list[dict[str, Any]]:
        path = Path(self.layout.history)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    # What happens to it

    def event(self, what: str) -> None:
        if self.dead or len(self.events) == self.cut_at:
            self.dead = True
            raise Cut(what)
        self.events.append(what)

    def end_drain(self, slot: str) -> None:
        """The connections to the slot have ended, or their time has."""
        self.state.pop(f"{APP}-drain-{slot}.service")
        self.stop(f"{APP}@{slot}.socket")
        self.stop(f"{APP}@{slot}.service")

    def reboot(self) -> None:
        for slot in list(self.servers):
            self.stop(f"{APP}@{slot}.service")
        self.state.clear()
        shutil.rmtree(self.root / f"run/{APP}")
        (self.root / f"run/{APP}").mkdir()
        for unit in sorted(self.enabled):
            self.start(unit)

    def close(self) -> None:
        for server in self.servers.values():
            server.end()

    # systemd

    def active(self, unit: str) -> str:
        return self.state.get(unit, {}).get("ActiveState", "inactive")

    def start(self, unit: str) -> None:
        if self.active(unit) == "active":
            return
        self.state[unit] = {
            "ActiveState": "active",
            "SubState": "running",
            "MainPID": str(os.getpid()),
            "InvocationID": "1234",
        }
        if not unit.endswith(".service") or "@" not in unit:
            return
        slot = unit.split("@")[1].split(".")[0]
        assert self.listens(slot) or f"{APP}@{slot}.socket" in self.enabled, "the service requires its socket"
        assert Path(self.layout.unit_file(slot, "service")).exists()
        for socket_unit in self.layout.tls_sockets(slot):
            # Sockets= pulls them in.
            assert (self.root / "etc/systemd/system" / socket_unit).exists()
            self.start(socket_unit)
        self.weight_at_start[slot] = self.weight.get(unit, "")
        self.loaded[slot] = self.in_slot(slot)
        self.environment[slot] = (Path(self.layout.settings(slot)) / "env").read_text()
        self.state[unit].update(self.boots_into)
        if self.boots_into.get("ActiveState", "active") == "active" and not self.boots_into:
            self.servers[slot] = Server(self.layout.socket(slot), self.status, self.seen[slot])
            os.chmod(self.layout.socket(slot), 0o660)

    def stop(self, unit: str) -> None:
        self.state.pop(unit, None)
        if unit.endswith(".service") and "@" in unit:
            server = self.servers.pop(unit.split("@")[1].split(".")[0], None)
            if server:
                server.end()

    def show(self, unit: str, names: Sequence[str]) -> str:
        properties = {
            "ActiveState": "inactive",
            "SubState": "dead",
            "LoadState": "loaded",
            "MainPID": "0",
            "InvocationID": "",
            "NRestarts": "0",
            "Result": "success",
            "ExecMainStatus": "0",
            "CPUWeight": "[not set]",
            "NeedDaemonReload": "yes" if self.stale else "no",
            "FragmentPath": str(self.root / "etc/systemd/system" / unit),
            "DropInPaths": "",
            "ControlGroup": "",
            **self.state.get(unit, {}),
        }
        return "".join(f"{name}={properties[name]}\n" for name in names)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        def done(stdout: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess(list(command), code, stdout, "refused" if code else "")

        program, words = command[0], [word for word in command[1:] if not word.startswith("-")]
        options = dict(word.split("=", 1) for word in command if word.startswith("--") and "=" in word)
        if program == "journalctl":
            return done(JOURNAL)
        if program == "systemctl" and words[0] in ("show", "is-enabled", "is-active"):
            if words[0] == "show":
                return done(self.show(words[1], options["--property"].split(",")))
            there = (self.root / "etc/systemd/system" / words[1]).exists()
            on = words[1] in self.enabled and there if words[0] == "is-enabled" else self.active(words[1]) == "active"
            return done("enabled\n" if on else "disabled\n", 0 if on else 1)
        if words[0] == "start" and words[1].startswith(f"{APP}-command-"):
            line = (self.root / "run/systemd/system" / words[1]).read_text().splitlines()[-1]
            self.commands.append((line.split('"')[-2], self.serving()))
            return done(code=1 if self.failing in line else 0)
        name = " ".join(words if program == "systemctl" else [program, options["--unit"]])
        self.event(f"before {name}")
        if self.refused and all(word in command for word in self.refused):
            return done(code=1)
        if program == "systemd-run":
            self.state[options["--unit"]] = {"ActiveState": "active"}
            self.drain_command = list(command)
        else:
            assert program == "systemctl", command
            verb, units = words[0], words[1:]
            known = ("start", "stop", "restart", "enable", "disable", "reset-failed", "daemon-reload", "set-property")
            assert verb in known, command
            self.stale = self.stale and verb != "daemon-reload"
            if verb == "set-property":
                self.weight[units[0]] = units.pop()
            for unit in units:
                if verb != "reset-failed" and ("@" in unit or "-tls" in unit) and not (self.root / "etc/systemd/system" / unit).exists():
                    # What systemctl says of a unit that has no file, and that is not loaded either.
                    return done(code=5)
                if verb in ("stop", "restart"):
                    self.stop(unit)
                if verb in ("start", "restart"):
                    self.start(unit)
                elif verb in ("enable", "disable"):
                    (self.enabled.add if verb == "enable" else self.enabled.discard)(unit)
        self.event(f"after {name}")
        return done()


class FakeSystemd(Systemd):
    """systemd of the host above. What runs in its slots runs in this process."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.run)
        self._host = host

    def processes(self, unit: str) -> list[int]:
        if unit == self._host.ousted:
            return [1]
        return self._host.processes if self._host.active(unit) in ("active", "reloading") else []


Roll = Callable[..., Rollout]
