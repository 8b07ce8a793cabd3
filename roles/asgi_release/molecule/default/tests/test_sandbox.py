"""What a build sees, reaches and may take: its unit on a real host, on each of the systems."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

Play = Callable[..., subprocess.CompletedProcess[str]]

EXPOSURE = 2.0

# Run by the build. It writes down what came of each attempt: '' where it went through.
PROBE = """
import ctypes, json, os, socket, subprocess, time

def connected(address, port=8126, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.settimeout(2)
        tried.connect((address, port))

def own():
    return socket.gethostbyname(socket.gethostname())

def written(path):
    with open(path, "w") as stream:
        stream.write("x")

def detached():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for descriptor in range(3):
                os.close(descriptor)
            time.sleep(600)
        os._exit(0)

attempts = {
    "loopback": lambda: connected("127.0.0.1"),
    "loopback by another name": lambda: connected("127.8.8.8"),
    "no address at all": lambda: connected("0.0.0.0"),
    "the host's own address": lambda: connected(own()),
    "metadata": lambda: connected("169.254.169.254"),
    "sockets in files": lambda: socket.socket(socket.AF_UNIX),
    "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "/run/lock": lambda: written("/run/lock/walled"),
    "/run": lambda: written("/run/walled"),
    "/var/lib": lambda: written("/var/lib/walled"),
    "/etc": lambda: written("/etc/walled"),
    "/home": lambda: os.listdir("/home")[0],
    "the state of applications": lambda: os.listdir("/var/lib/plain"),
    "the bus": lambda: os.stat("/run/dbus/system_bus_socket"),
    "another application's release": lambda: os.listdir("/opt/plain/releases"),
    "another application's settings": lambda: os.listdir("/etc/plain"),
    "another application's cache": lambda: os.listdir("/opt/uv/cache/users/asgi-build-plain"),
    "the files of all releases": lambda: os.listdir("/opt/uv/cache/store"),
    "the release's mark": lambda: written("../release.json"),
    "what root writes for the build": lambda: written("../build/requirements.txt"),
    "the environment": lambda: written("../.venv/pyvenv.cfg"),
    "the lock": lambda: open("../../.lock"),
    "other processes": lambda: [each for each in os.listdir("/proc") if each.isdigit() and os.stat(f"/proc/{each}").st_uid == 0][0],
    "a user namespace": lambda: subprocess.run(["unshare", "-U", "true"], check=True, capture_output=True),
    "setuid": lambda: os.chmod("probe.py", 0o4755),
    "a higher priority": lambda: os.nice(-1),
    "io_uring": lambda: 1 / (ctypes.CDLL(None).syscall(425, 1, None) + 1),
    "a user's manager": lambda: subprocess.run(["systemd-run", "--user", "true"], check=True, capture_output=True),
    "a timer": lambda: subprocess.run(["crontab", "-l"], check=True, capture_output=True),
}
told = {}
for name, attempt in attempts.items():
    try:
        attempt()
        told[name] = ""
    except BaseException as error:
        told[name] = f"{type(error).__name__} {error}"
with open("/dev/shm/walled", "w") as stream:
    stream.write("its own")
ctypes.CDLL(None).msgget(0x77616C6C, 0o1666)
with open("told.json", "w") as stream:
    json.dump(told, stream)
detached()
# It goes on when the test has seen what it wants to.
for _ in range(3000):
    if os.path.exists("go"):
        break
    time.sleep(0.1)
"""


def role(source: Path, app: str, *commands: list[str], **variables: Any) -> dict[str, Any]:
    given = {
        "asgi_release_app": app,
        "asgi_release_source": str(source),
        "asgi_release_import_path": "main:app",
        "asgi_release_server_requirements": "",
        "asgi_release_before_build": list(commands),
    }
    return {"ansible.builtin.include_role": {"name": "steadfast.asgi.asgi_release"}, "vars": {**given, **variables}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walled") / "source"
    folder.mkdir()
    for name, text in {"main.py": "app = 1\n", "requirements.txt": "", "probe.py": PROBE}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def during(host: Host, play: Play, source: Path) -> dict[str, Any]:
    """A build that tries, and what could be seen of it while it was at work; then what it was told."""
    name = host.backend.get_hostname()
    host.check_output("mkdir -p /opt/walled/releases /opt/beside/releases")
    listen = "systemd-run --quiet --collect --unit=walled-listen python3 -m http.server 8126"
    assert host.run(f"systemctl is-active --quiet walled-listen || {listen}").rc == 0
    found: dict[str, Any] = {}
    first = threading.Thread(target=lambda: found.update(done=play(name, [role(source, "walled", ["python3", "probe.py"])])))
    first.start()
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and host.run("test -e /opt/walled/releases/*/app/told.json").rc != 0:
        time.sleep(0.5)
    found["security"] = host.run("systemd-analyze security --no-pager asgi-build-walled.service").stdout
    found["beside"] = play(name, [role(source, "beside", ["id", "-un"])])
    found["still"] = host.run("systemctl is-active asgi-build-walled.service").stdout.strip()
    host.check_output("for each in /opt/walled/releases/*/app; do touch $each/go; done")
    first.join(300)
    told = host.run("cat /opt/walled/releases/*/app/told.json").stdout
    found["told"] = json.loads(told) if told else {}
    return found


def test_the_exposure_of_the_unit(during: dict[str, Any]) -> None:
    rated = re.search(r"Overall exposure level for asgi-build-walled.service: ([0-9.]+)", during["security"])
    assert rated, during["security"]
    print("the unit of a build is rated", rated.group(1))
    assert float(rated.group(1)) <= EXPOSURE


def test_nothing_of_the_host_can_be_reached(during: dict[str, Any]) -> None:
    assert during["done"].returncode == 0, during["done"].stdout
    assert len(during["told"]) > 25
    assert {name: said for name, said in during["told"].items() if not said} == {}


def test_nothing_is_left_behind(host: Host, during: dict[str, Any]) -> None:
    assert during["told"]
    assert host.run("pgrep --uid asgi-build-walled").stdout == ""
    assert not host.file("/dev/shm/walled").exists
    assert "0x77616c6c" not in host.run("cat /proc/sysvipc/msg").stdout


def test_two_applications_are_built_at_the_same_time(during: dict[str, Any]) -> None:
    assert during["beside"].returncode == 0, during["beside"].stdout
    assert during["still"] == "active"


@pytest.mark.usefixtures("during")
def test_what_is_opened_is_open(host: Host, play: Play, source: Path) -> None:
    command = ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8126), 5); socket.socket(socket.AF_UNIX)"]
    allow = {"asgi_release_build_allow": ["loopback", "unix_sockets"]}
    done = play(host.backend.get_hostname(), [role(source, "walled", command, **allow)])
    assert done.returncode == 0, done.stdout
    # An address that the deployment names is open as it is.
    environment = {"asgi_release_build_environment": {"NPM_CONFIG_REGISTRY": "http://127.0.0.1:8126/"}}
    command = ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8126), 5)"]
    done = play(host.backend.get_hostname(), [role(source, "walled", command, **environment)])
    assert done.returncode == 0, done.stdout


@pytest.mark.once
def test_a_build_without_an_end_is_ended(host: Host, play: Play, source: Path) -> None:
    host.check_output("mkdir -p /opt/endless/releases")
    command = ["sh", "-c", "trap '' TERM HUP INT; sleep 600 & sleep 600"]
    done = play(host.backend.get_hostname(), [role(source, "endless", command, asgi_release_build_timeout=10)])
    assert done.returncode != 0
    assert "has taken 10 seconds and was stopped" in " ".join((done.stdout + done.stderr).split())
    assert host.run("pgrep --uid asgi-build-endless").stdout == ""
    assert host.check_output("ls /opt/endless/releases") == ""
    assert play(host.backend.get_hostname(), [role(source, "endless")]).returncode == 0


@pytest.mark.once
def test_a_build_that_waits_says_for_whom(host: Host, play: Play, source: Path) -> None:
    host.check_output("mkdir -p /opt/waiting/releases")
    code = "import fcntl, os, time; f = os.open('/opt/waiting/releases/.lock', os.O_RDWR | os.O_CREAT, 0o600); fcntl.flock(f, 2); "
    code += "os.write(f, b'the note of another'); time.sleep(60)"
    host.check_output(f'systemd-run --quiet --collect --unit=waiting-holder python3 -c "{code}"')
    done = play(host.backend.get_hostname(), [role(source, "waiting", asgi_release_build_timeout=10)])
    host.run("systemctl stop waiting-holder")
    said = " ".join((done.stdout + done.stderr).split())
    assert "another build of this application is running on this host: the note of another" in said
