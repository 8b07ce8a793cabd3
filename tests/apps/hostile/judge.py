"""On the host, as root: what is there before the attempts, and what became of it."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time

TARGETS, CANARY, MARK = "/etc/hostile", "/run/hostile-canary", b"DLIUB-EHT-YB-DEGROF"[::-1]
SECRET = "fo TERCES"[::-1]


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def tree(*tops: str) -> dict[str, str]:
    """All that an application has on the host, but for what it writes by itself."""
    found = {}
    for top in tops:
        for root, directories, files in os.walk(top):
            for name in (*directories, *files):
                path = os.path.join(root, name)
                status = os.lstat(path)
                what = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
                if stat.S_ISREG(status.st_mode):
                    with open(path, "rb") as stream:
                        what += hashlib.file_digest(stream, "sha256").hexdigest()
                elif stat.S_ISLNK(status.st_mode):
                    what += f" -> {os.readlink(path)}"
                found[path] = what
    return found


def state() -> dict[str, object]:
    units = run(
        "systemctl", "show", "--property=Id,MainPID,ActiveEnterTimestampMonotonic,NRestarts", "victim@blue.service", "rival@blue.service"
    )
    places = ["/etc/victim", "/etc/rival", "/etc/nginx", "/etc/systemd", "/etc/ssl", "/opt/rival/lib", "/opt/rival/slots", "/usr/local/bin"]
    places += ["/usr/lib/python3/dist-packages", *glob.glob("/usr/lib/python3.*/__pycache__"), *glob.glob("/opt/uv/[0-9]*")]
    places += ["/opt/victim/slots", "/opt/victim/lib", "/opt/victim/static"]
    places += [os.path.realpath(f"/opt/{app}/slots/live/release") for app in ("victim", "rival")]
    return {
        "units": units,
        "tree": tree(*places),
        "passwd": tree("/etc/pam.d", "/etc/cron.d", "/etc/sudoers.d", "/var/spool"),
        "shadow": read("/etc/shadow"),
    }


def prepare(names: list[str]) -> None:
    shutil.rmtree(TARGETS, ignore_errors=True)
    shutil.rmtree("/run/hostile", ignore_errors=True)
    os.mkdir(TARGETS, 0o755)
    os.mkdir("/run/hostile", 0o700)
    for name in names:
        os.makedirs(f"{TARGETS}/{name}/directory", 0o755)
        with open(f"{TARGETS}/{name}/file", "w", encoding="utf-8") as stream:
            stream.write(f"{SECRET} {name}\n")
        os.chmod(f"{TARGETS}/{name}/file", 0o600)
    with open(f"{TARGETS}/address", "w", encoding="utf-8") as stream:
        stream.write(run("hostname", "-I").split()[0])
    # A program of the administrator's, in a directory where Python has kept bytecode.
    shutil.rmtree("/usr/local/lib/hostile", ignore_errors=True)
    os.makedirs("/usr/local/lib/hostile/__pycache__")
    for name, content in (("tool", "import helper\n"), ("helper", "")):
        with open(f"/usr/local/lib/hostile/{name}.py", "w", encoding="utf-8") as stream:
            stream.write(content)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(CANARY)
    for command in ("ip link set lo up", "ip addr add 169.254.169.254/32 dev lo", "ip -6 addr add fd00:ec2::254/128 dev lo"):
        subprocess.run(command.split(), capture_output=True, check=False)
    subprocess.run(["systemctl", "stop", "hostile-listen", "hostile-help", "hostile-client"], capture_output=True, check=False)
    with open("/run/hostile/before", "w", encoding="utf-8") as stream:
        json.dump(state(), stream)


def builders() -> list[int]:
    return [entry.pw_uid for entry in pwd.getpwall() if entry.pw_name.startswith("asgi-build")]


def processes_of_builders() -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid in builders():
                    found.append(f"{name} {read(f'/proc/{name}/cmdline')[:80]}")
    return found


def end() -> None:
    """What a time-out on the controller leaves running here."""
    for unit in run("systemctl", "list-units", "--plain", "--no-legend", "asgi-build*").splitlines():
        subprocess.run(["systemctl", "kill", "--signal=KILL", unit.split()[0]], check=False)
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                line = read(f"/proc/{name}/cmdline").encode()
                if b"asgi_release" in line or b"AnsiballZ" in line or os.stat(f"/proc/{name}").st_uid in builders():
                    os.kill(int(name), signal.SIGKILL)
    # A module that reads its code from its standard input is known by what it has locked.
    for path in ("/run/asgi-build.lock", *glob.glob("/opt/*/releases/.lock")):
        for holder in _holders(path):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(holder), signal.SIGKILL)
    time.sleep(0.5)
    for path in glob.glob("/opt/*/releases/*"):
        if os.path.isdir(path) and not os.path.exists(f"{path}/release.json"):
            subprocess.run(["rm", "-rf", path], check=False)


def _holders(path: str) -> list[str]:
    found = []
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == path:
                found.append(link.split("/")[2])
    return [each for each in found if int(each) != os.getpid()]


def sealed(release: str) -> list[str]:
    """What a complete release must not have."""
    wrong = []
    for root, directories, files in os.walk(release):
        for name in (*directories, *files):
            path = os.path.join(root, name)
            shown = os.path.relpath(path, release)[-80:]
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                real = os.path.realpath(path)
                interpreter = real.startswith(("/usr/bin/python3", "/usr/local/bin/python3", "/opt/uv/python/"))
                if not interpreter and not f"{real}/".startswith((f"{release}/", "/var/lib/victim/", "/var/lib/rival/")):
                    wrong.append(f"{shown} is a link to {real}")
            elif not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                wrong.append(f"{shown} is {stat.filemode(status.st_mode)}")
            elif status.st_uid != 0 or status.st_mode & 0o7022:
                wrong.append(f"{shown} is {status.st_uid}'s and {stat.filemode(status.st_mode)}")
            if not stat.S_ISLNK(status.st_mode):
                attributes = [each for each in os.listxattr(path, follow_symlinks=False) if not each.startswith("security.selinux")]
                if attributes:
                    wrong.append(f"{shown} has {attributes}")
            if len(wrong) > 5:
                return wrong
    return wrong


def holding(mark: bytes, *places: str) -> list[str]:
    found = []
    for place in places:
        for root, _directories, files in os.walk(place):
            for name in files:
                path = os.path.join(root, name)
                with contextlib.suppress(OSError):
                    if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 10_000_000:
                        with open(path, "rb") as stream:
                            if mark in stream.read():
                                found.append(path)
    return found


def filters() -> str:
    """Whether systemd can close addresses to a unit here, which needs BPF."""
    ask = ["curl", "--silent", "--max-time", "2", "--output", "/dev/null", "http://127.0.0.1:80/"]
    closed = ["systemd-run", "--quiet", "--wait", "--collect", "--property=IPAddressDeny=127.0.0.0/8"]
    return (
        "works"
        if subprocess.run(ask, check=False).returncode != subprocess.run([*closed, *ask], check=False).returncode
        else "does not work"
    )


def changing() -> list[str]:
    """Files of sealed releases that somebody still writes to."""
    paths = glob.glob("/opt/*/releases/*/.venv/lib/python*/site-packages/opened.py")
    first = {path: read(path) for path in paths}
    time.sleep(1)
    return [path for path in paths if read(path) != first[path]]


def poisoned() -> list[str]:
    """What all releases share is known by its content. Whoever keeps one of these files open changes them all."""
    found = []
    for path in glob.glob("/opt/uv/cache/*/[0-9a-f][0-9a-f]/*"):
        digest = os.path.basename(os.path.dirname(path)) + os.path.basename(path).removesuffix("-x")
        if len(digest) == 64:
            with open(path, "rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    found.append(path)
    return found


def judge(names: list[str]) -> dict[str, object]:
    before = json.loads(read("/run/hostile/before"))
    answers = read("/run/hostile/answers").split()
    survivors = processes_of_builders()
    locks = [
        path for path in ("/run/asgi-build.lock", *glob.glob("/run/asgi*.lock"), *glob.glob("/opt/*/releases/.lock")) if _holders(path)
    ]
    after = state()
    changed = [name for name in before if before[name] != after[name] and name != "tree"]
    old, new = before["tree"], after["tree"]
    changed += [path for path in {*old, *new} if old.get(path) != new.get(path)]
    targets: dict[str, list[str]] = {}
    for name in names:
        wrong = targets[name] = []
        path = f"{TARGETS}/{name}/file"
        status = os.lstat(path)
        if read(path) != f"{SECRET} {name}\n":
            wrong.append("the file has other content")
        if (status.st_uid, status.st_gid, status.st_mode & 0o7777, status.st_nlink) != (0, 0, 0o600, 1):
            wrong.append(f"the file is {stat.filemode(status.st_mode)} of {status.st_uid}, {status.st_nlink} names")
        wrong += [f"{each} is in the directory" for each in os.listdir(f"{TARGETS}/{name}/directory")]
        if os.listdir(f"{TARGETS}/{name}") != ["directory", "file"] and sorted(os.listdir(f"{TARGETS}/{name}")) != ["directory", "file"]:
            wrong.append("there is more in the folder")
    releases = {path: sealed(path) for path in glob.glob("/opt/*/releases/*") if os.path.exists(f"{path}/release.json")}
    traces = [
        each
        for place in ("/dev/shm", "/run/lock", "/tmp", "/var/tmp", "/dev/mqueue", "/var/spool/cron/crontabs", "/run/user")
        for each in glob.glob(f"{place}/hostile*")
    ]
    traces += [f"{kind} 0x686f7374" for kind in ("m", "q", "s") if "0x686f7374" in run("ipcs", f"-{kind}")]
    reports = {}
    for path in glob.glob("/opt/*/releases/*/.venv/lib/python*/site-packages/hostile_report.json"):
        reports[path] = json.loads(read(path))
    # Code that runs as root whenever a Python starts, or a unit.
    subprocess.run(["python3", "-B", "/usr/local/lib/hostile/tool.py"], check=False)
    subprocess.run(["systemctl", "restart", "rival@blue.service"], check=False)
    return {
        "answers": {code: answers.count(code) for code in set(answers)},
        "survivors": survivors,
        "locks": locks,
        "changed": changed[:20],
        "targets": targets,
        "releases": releases,
        "incomplete": [
            path for path in glob.glob("/opt/*/releases/*") if os.path.isdir(path) and not os.path.exists(f"{path}/release.json")
        ],
        "traces": traces,
        "reports": reports,
        "filters": filters(),
        "listener": read("/run/hostile/log").splitlines() if os.path.exists("/run/hostile/log") else [],
        "canary": read(CANARY).splitlines() if os.path.exists(CANARY) else [],
        "forged": holding(MARK, "/opt/victim", "/usr/lib/python3", "/usr/local/lib", *glob.glob("/usr/lib/python3.*"), "/opt/rival/static"),
        "tampered": changing() + poisoned(),
        "published": holding(SECRET.encode(), "/opt/victim/static", "/opt/rival/static"),
        "leaked": holding(SECRET.encode(), "/opt/rival/releases", "/opt/uv/cache"),
    }


if __name__ == "__main__":
    given = sys.argv[2].split(",") if len(sys.argv) > 2 else []
    if sys.argv[1] == "prepare":
        prepare(given)
    elif sys.argv[1] == "end":
        end()
    else:
        print(json.dumps(judge(given)))
