"""What an application cannot do to root, to the operator who deploys it, or to the locks of the host."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import exposures, watching_units

TASKS = yaml.safe_load((Path(__file__).parents[1] / "converge.yml").read_text(encoding="utf-8"))[0]["tasks"]
PLAIN: dict[str, Any] = next(task["vars"] for task in TASKS if task["vars"]["asgi_service_app"] == "plain")

# What a terminal would do: set its title, fill the clipboard, clear the screen, go back in the line, turn the text round.
ACTS = "\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x07\x1b[2J\r\x08\x9b31m\u202e\u2066\u200b"
# A module that leaves a mark if root imports it, in the place of one that root's helpers import.
TRAP = "import os\nif os.getuid() == 0: open('/run/trapped', 'a').write(__name__ + chr(10))\n"
TRAPPED = ("argparse", "lib/__init__", "lib/boot", "socket", "sitecustomize", "usercustomize", "ssl", "http/__init__", "encodings/__init__")
# All that tells a loader, an interpreter or a program where to get something, or which process is meant.
TELLING = {
    "LD_PRELOAD": "/var/lib/plain/trap.so",
    "LD_LIBRARY_PATH": "/var/lib/plain",
    "LD_BIND_NOW": "1",
    "GCONV_PATH": "/var/lib/plain",
    "LOCPATH": "/var/lib/plain",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "PYTHONPATH": "/var/lib/plain/trap",
    "PYTHONPYCACHEPREFIX": "/var/cache/plain/x",
    "PYTHONUSERBASE": "/var/lib/plain",
    "PYTHONWARNINGS": "error",
    "PYTHONINSPECT": "1",
    "PERL5LIB": "/var/lib/plain",
    "OPENSSL_CONF": "/var/lib/plain/openssl.cnf",
    "SSL_CERT_FILE": "/var/lib/plain/ca.pem",
    "TMPDIR": "/var/lib/plain",
    "HOME": "/var/lib/plain",
    "PATH": "/var/lib/plain:/usr/bin:/bin",
    "MAINPID": "1",
    "SYSTEMD_LOG_LEVEL": "debug",
}
HARMLESS = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "PYTHONHASHSEED": "1", "PYTHONASYNCIODEBUG": "1", "MALLOC_ARENA_MAX": "2"}

HOSTILE = f"""
import os, sys
if os.environ.get("HOSTILE") == "import":
    raise RuntimeError("here: " + {ACTS!r})

async def app(scope, receive, send):
    if scope["type"] != "http":
        while (message := await receive())["type"].startswith("lifespan"):
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    status = 503 if os.environ.get("HOSTILE") == "ready" else 200
    await send({{"type": "http.response.start", "status": status, "headers": []}})
    await send({{"type": "http.response.body", "body": ("here: " + {ACTS!r}).encode()}})
"""

Apply = Callable[..., Any]


def put(host: Host, path: str, text: str) -> None:
    host.check_output(f"mkdir -p $(dirname {path}) && echo {base64.b64encode(text.encode()).decode()} | base64 --decode >{path}")


def here(host: Host) -> str:
    return f"--limit={host.backend.get_hostname()}"


@pytest.fixture
def trap(host: Host) -> None:
    for name in TRAPPED:
        put(host, f"/var/lib/plain/trap/{name}.py", TRAP)
    put(host, "/var/lib/plain/trap.so", "no library")
    host.check_output("chown -R keeper /var/lib/plain; rm -f /run/trapped")


@pytest.mark.usefixtures("trap")
def test_what_root_runs_gets_nothing_of_the_application_s_environment(host: Host, apply_roles: Apply) -> None:
    began = host.check_output("date +%s")
    traps = TELLING | {name: value for name, value in HARMLESS.items() if name != "PYTHONHASHSEED"}
    # The application's own interpreter is to run with them, so nothing may be in there that it could not start with.
    host.check_output("cd /var/lib/plain/trap && rm -r encodings socket.py ssl.py http argparse.py")
    done = apply_roles(["asgi_service"], PLAIN | {"asgi_service_environment": traps}, here(host))
    assert done.returncode == 0, done.stdout + done.stderr
    slot = host.check_output("readlink /opt/plain/slots/live")
    worker = host.check_output(f"pgrep --newest --full --parent $(systemctl show -p MainPID --value plain@{slot}) gunicorn")
    found = host.check_output(f"tr '\\0' '\\n' </proc/{worker}/environ").splitlines()
    assert {f"{name}={value}" for name, value in traps.items()} <= set(found)
    host.check_output(f"systemctl reload plain@{slot} && systemctl restart plain@{slot}")
    assert not host.file("/run/trapped").exists, host.file("/run/trapped").content_string
    # The loader complains of what it cannot load, in each program that has the variable.
    host.check_output("journalctl --sync")
    said = host.check_output(f"journalctl --quiet --no-pager --output=json --since=@{began} _SYSTEMD_UNIT=plain@{slot}.service")
    entries = [json.loads(line) for line in said.splitlines()]
    complaints = [entry for entry in entries if "trap.so" in str(entry.get("MESSAGE", ""))]
    assert complaints, "the application's own programs do"
    assert {entry["_UID"] for entry in complaints} == {host.check_output("id -u keeper")}
    # A command has the same environment as the application.
    told = command(host, apply_roles, "env")
    assert f"PYTHONPATH={TELLING['PYTHONPATH']}" in told


def command(host: Host, apply_roles: Apply, *commands: str, app: str = "plain") -> str:
    """Run commands as the application does, through the playbook; returns all that Ansible printed."""
    task = {"steadfast.asgi.asgi_command": {"app": app, "commands": list(commands)}, "register": "ran"}
    show = {"ansible.builtin.debug": {"msg": "{{ ran.commands | map(attribute='output') | join('\n') }}"}}
    done = apply_roles([], {}, here(host), tasks=[task, show])
    return str(done.stdout + done.stderr)


def raw(text: str) -> list[str]:
    """What a terminal would act on, in what Ansible printed without colours, or whoever reads its JSON."""
    found = [character for character in ACTS if not character.isprintable() and character not in "\r" and character in text]
    return found + [escaped for escaped in ("\\u001b", "\\u0007", "\\u009b") if escaped in text]


@pytest.mark.once
@pytest.mark.parametrize("where", ["import", "ready"])
def test_what_an_application_says_cannot_act_on_the_operator_s_terminal(host: Host, apply_roles: Apply, where: str) -> None:
    put(host, "/srv/hostile/hostile.py", HOSTILE)
    given = {
        "asgi_service_app": "hostile",
        "asgi_service_import_path": "hostile:app",
        "asgi_service_user": "keeper",
        "asgi_service_virtualenv": "/srv/plain/.venv",
        "asgi_service_directory": "/srv/hostile",
        "asgi_service_boot_timeout": 6,
        "asgi_service_environment": {"HOSTILE": where},
        "asgi_service_workers": 1,
    }
    done = apply_roles(["asgi_service"], given, here(host))
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "here: \\\\x1b]0;title\\\\x07" in said
    assert raw(said) == []


@pytest.mark.once
def test_what_a_command_writes_cannot_either(host: Host, apply_roles: Apply) -> None:
    put(host, "/srv/hostile/acts.py", f"import sys; sys.stdout.buffer.write(({ACTS!r} + 'end\\n').encode())")
    said = command(host, apply_roles, "python3 /srv/hostile/acts.py")
    assert "\\\\x1b]52;c;" in said
    assert raw(said) == []


# What the application puts in the place of a directory that the unit makes for it.
SWAPS = {
    "a link to a directory of root's": "ln -s /srv/prize {path}",
    "a link to a file of root's": "ln -s /srv/prize/file {path}",
    "a link to nothing": "ln -s /srv/prize/new {path}",
    "a FIFO": "mkfifo {path}",
}


def test_root_follows_nothing_that_the_application_has_put_somewhere(host: Host) -> None:
    slot = host.check_output("readlink /opt/native/slots/live")
    look = "find /srv/prize -printf '%p %y %U %G %m %n %l\\n' | sort"
    host.check_output("mkdir -p /srv/prize/sub && echo secret >/srv/prize/file && chmod 600 /srv/prize/file")
    before = host.check_output(look)
    for name, swap in SWAPS.items():
        host.check_output("rm -rf /var/lib/native/media")
        host.check_output(f"runuser -u keeper -- sh -c '{swap.format(path='/var/lib/native/media')}'")
        # Some keep it from starting, which is its own affair.
        host.run(f"timeout 3 systemctl restart native@{slot}.service")
        assert host.check_output(look) == before, name
    host.check_output(f"rm -rf /var/lib/native/media && systemctl restart native@{slot}.service")
    assert host.file("/var/lib/native/media").user == "keeper"


TAKE = """
import fcntl, json, os, sys
taken = []
for path in sys.argv[1:]:
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            fcntl.flock(os.open(path, flags | os.O_NONBLOCK), fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken.append(path)
        except OSError:
            pass
print(json.dumps(taken))
"""
# All files that are named as locks are, but for those that name packages.
LOCKS = (
    "find /run /opt /etc /var/lib /var/cache /var/log /var/tmp /tmp /dev/shm /usr/local -xdev -type f "
    "\\( -name '*.lock' -o -name '.lock' -o -name '*lock*.pid' \\) ! -name uv.lock ! -name poetry.lock ! -name pdm.lock"
)


def test_nobody_else_can_take_a_lock(host: Host) -> None:
    """Not as the application, in its sandbox, and not as another user."""
    locks = [path for path in host.check_output(LOCKS).splitlines() if "asgi" in path or "/opt/" in path or "uv" in path]
    assert {f"/run/asgi-{app}.lock" for app in ("plain", "native")} <= set(locks)
    # An earlier version has left one that everybody could open.
    put(host, "/run/take.py", TAKE)
    slot = host.check_output("readlink /opt/plain/slots/live")
    worker = host.check_output(f"systemctl show --property=MainPID --value plain@{slot}")
    inside = f"nsenter --target {worker} --mount -- setpriv --reuid keeper --regid keeper --clear-groups --no-new-privs"
    for who in (inside, "runuser -u nobody --", "runuser -u www-data --", "runuser -u keeper --"):
        assert json.loads(host.check_output(f"{who} python3 -I /run/take.py {' '.join(locks)}")) == [], who


def test_every_unit_has_a_sandbox(host: Host, apply_roles: Apply) -> None:
    """Also those that run for a moment: whatever comes into being while an application is deployed and a command is run."""
    with watching_units(host):
        done = apply_roles(["asgi_service"], PLAIN | {"asgi_service_environment": {"PLAIN_SECRET": "other"}}, here(host))
        assert done.returncode == 0, done.stdout + done.stderr
        command(host, apply_roles, "sleep 0.2")
    found = exposures(host)
    kinds = {"slot": r"plain@(blue|green)", "drain": r"plain-drain-\w+", "command": r"plain-command-.*"}
    if "RestartSteps" in host.check_output("cat /etc/systemd/system/plain@*.service"):
        kinds["calm"] = r"plain-calm-\w+"
    for kind, pattern in kinds.items():
        assert [name for name in found if re.fullmatch(f"{pattern}[.]service", name)], f"no {kind} among {sorted(found)}"
    # What the scenario has without a sandbox, and what is not the collection's.
    judged = {name: rating for name, rating in found.items() if not name.startswith(("bare@", "bare-command", "statsd"))}
    assert {name: rating for name, rating in judged.items() if rating > (1.3 if "@" in name else 2.0)} == {}
