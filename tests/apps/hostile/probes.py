"""What a process of one application tries on another application of the host, and on the host.

    python3 probes.py MINE OTHER CONTEXT [NAME...]

prints a mapping of names to what succeeded ('' is nothing) as JSON: of all probes, or of those that are named. It is run as the build, as
the application in its sandbox, and as the application's user in a shell. A probe that finds nothing to try would prove nothing, so the test
looks at some as root too: at those that only look, since root's would stop the services of the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Probe = Callable[[str, str], "Iterator[str]"]
PROBES: dict[str, Probe] = {}
CONTEXT = ""


def probe(function: Probe) -> Probe:
    PROBES[function.__name__.replace("_", "-")] = function
    return function


class TimeUpError(Exception):
    pass


def _late(_signal, _frame):
    raise TimeUpError("it was held up")


def run(mine: str, other: str, context: str, *names: str) -> dict[str, str]:
    global CONTEXT
    CONTEXT = context
    report = {}
    signal.signal(signal.SIGALRM, _late)
    for name in names or PROBES:
        signal.alarm(15)
        try:
            found = sorted(set(PROBES[name](mine, other)))
            report[name] = "; ".join(found[:6])
        except TimeUpError as error:
            report[name] = str(error)
        except OSError:
            report[name] = ""
        finally:
            signal.alarm(0)
    return report


def everything(*places: str) -> Iterator[str]:
    """All paths below places that can be listed, and the places."""
    for place in places:
        for top in glob.glob(place):
            yield top
            for root, directories, files in os.walk(top):
                for name in (*directories, *files):
                    yield os.path.join(root, name)


def own(path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(path).st_uid == os.geteuid() and CONTEXT not in ("build", "root")
    return False


def of_the_build(path: str, mine: str) -> bool:
    """Whether it is uv's cache of this application, which is the build's."""
    return CONTEXT == "build" and f"{path}/".startswith(f"/opt/uv/cache/users/asgi-build-{mine}/")


def readable(paths: Iterator[str]) -> Iterator[str]:
    for path in paths:
        if os.path.isfile(path) and not own(path):
            with contextlib.suppress(OSError), open(path, "rb") as stream:
                if stream.read(1):
                    yield f"reads {path}"


def writable(paths: Iterator[str], count: int = 4000) -> Iterator[str]:
    for number, path in enumerate(paths):
        if number > count:
            return
        if own(path):
            continue
        with contextlib.suppress(OSError):
            if os.path.isdir(path):
                os.close(os.open(f"{path}/.hostile", os.O_CREAT | os.O_WRONLY, 0o600))
                os.unlink(f"{path}/.hostile")
                yield f"creates in {path}"
            elif os.path.isfile(path):
                os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
                yield f"writes to {path}"


def processes() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid != os.geteuid():
                    yield name


# -- Files


@probe
def reads_settings(mine, other):
    yield from readable(everything(f"/etc/{other}"))


@probe
def reads_credentials(mine, other):
    yield from readable(everything(f"/run/credentials/{other}*", "/etc/credstore*", "/var/lib/systemd/credential.secret"))


@probe
def reads_code(mine, other):
    yield from readable(everything(f"/opt/{other}/releases/*/app"))


@probe
def reads_state(mine, other):
    yield from readable(everything(f"/var/lib/{other}", f"/var/cache/{other}", f"/var/log/{other}"))


@probe
def reads_history(mine, other):
    yield from readable(everything(f"/opt/{other}/history.jsonl"))


@probe
def reads_caches(mine, other):
    yield from readable(
        path
        for path in everything("/opt/uv/cache", "/root/.cache", "/opt/*/cache", "/var/cache/asgi*")
        if f"/{mine}" not in path and not of_the_build(path, mine)
    )


@probe
def reads_nginx(mine, other):
    keys = everything(
        "/etc/nginx/asgi*", f"/etc/nginx/*{other}*", f"/etc/ssl/private/*{other}*", f"/etc/asgi*/{other}*", "/etc/ssl/private"
    )
    yield from readable(path for path in keys if "key" in os.path.basename(path) or path.startswith("/etc/ssl/private"))
    yield from readable(everything("/var/log/nginx"))


@probe
def reads_host(mine, other):
    yield from readable(iter(["/etc/shadow", "/etc/sudoers", "/root/.ssh/authorized_keys", "/proc/kcore", "/proc/1/environ"]))


@probe
def writes_application(mine, other):
    yield from writable(everything(f"/opt/{other}"))


@probe
def writes_own_release(mine, other):
    """A release is root's, also to the application that runs it."""
    if CONTEXT != "build":
        yield from writable(everything(f"/opt/{mine}"))


@probe
def writes_settings(mine, other):
    yield from writable(
        everything(f"/etc/{other}", f"/etc/{mine}", "/etc/systemd/system", "/etc/tmpfiles.d", "/etc/cron*", "/etc/sysctl.d")
    )


@probe
def writes_state(mine, other):
    yield from writable(everything(f"/var/lib/{other}", f"/var/cache/{other}", f"/var/log/{other}"))


@probe
def writes_static(mine, other):
    yield from writable(everything(f"/opt/{other}/static", f"/opt/{mine}/static"))


@probe
def writes_caches(mine, other):
    yield from writable(path for path in everything("/opt/uv/cache", "/var/cache/asgi*") if not of_the_build(path, mine))


@probe
def writes_programs(mine, other):
    yield from writable(everything("/opt/uv/*/bin", "/opt/uv/python", "/usr/local", "/usr/lib/python3/dist-packages"))
    yield from writable(
        iter(["/opt/uv", "/opt", "/usr/bin", "/usr/lib/python3.11", "/usr/lib/python3.13", "/usr/lib/python3.13/__pycache__"])
    )


@probe
def writes_nginx(mine, other):
    yield from writable(everything("/etc/nginx", "/var/log/nginx", "/var/lib/nginx", "/run/nginx.pid", "/var/www"))


@probe
def writes_run(mine, other):
    yield from writable(everything(f"/run/{other}", "/run/systemd/system", "/run/asgi*"))
    yield from writable(iter(["/run", "/run/systemd", "/run/credentials"]))


# -- What is shared by all of a host: visible outside only where the sandbox shares it


@probe
def leaves_traces(mine, other):
    """For the sandboxes: the test looks for these as root."""
    if CONTEXT == "shell":
        return
    for place in (
        "/dev/shm",
        "/run/lock",
        "/tmp",
        "/var/tmp",
        "/dev/mqueue",
        "/run/user",
        "/var/lib",
        "/var/cache",
        "/var/spool/cron/crontabs",
    ):
        with contextlib.suppress(OSError), open(f"{place}/hostile-trace-{mine}-{CONTEXT}", "w", encoding="utf-8") as stream:
            stream.write(place)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmget(0x686F7374, 4096, 0o1666)
    libc.msgget(0x686F7374, 0o1666)
    libc.semget(0x686F7374, 1, 0o1666)
    yield from ()


@probe
def reads_shared_memory(mine, other):
    yield from readable(path for path in everything("/dev/shm", "/dev/mqueue") if "hostile" not in path)
    for kind in ("shm", "msg", "sem"):
        with contextlib.suppress(OSError), open(f"/proc/sysvipc/{kind}", encoding="utf-8") as stream:
            if CONTEXT != "shell":
                # What leaves_traces() has made it may see; whether others do, the test asks outside.
                keys = [line.split()[0] for line in stream.readlines()[1:]]
                yield from (f"sees {kind} {key}" for key in keys if key != str(0x686F7374))


@probe
def reads_temporary_files(mine, other):
    yield from readable(everything(f"/tmp/systemd-private-*-{other}*", f"/var/tmp/systemd-private-*-{other}*"))


@probe
def takes_locks(mine, other):
    places = [
        "/run/*.lock",
        "/run/asgi*",
        "/run/lock/asgi*",
        f"/run/{other}*",
        "/opt/*/.lock",
        "/opt/*/*/.lock",
        "/opt/uv/*",
        "/opt/uv/*/*",
        "/opt/uv/python/.lock",
    ]
    places += [
        f"/opt/{other}/*",
        f"/opt/{other}/releases/*",
        f"/opt/{other}/static/.lock",
        f"/etc/{other}/*",
        "/opt/uv/cache/uv/.lock",
        "/opt",
    ]
    for path in {path for place in places for path in (*glob.glob(place), place)}:
        # A directory can be locked as well; but nobody waits for one.
        if not os.path.isfile(path) or own(path) or ".lock" not in path:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield f"holds {path}"


# -- Processes


@probe
def sends_signals(mine, other):
    for process in processes():
        with contextlib.suppress(OSError):
            os.kill(int(process), 0)
            yield f"may kill {process}"


@probe
def reads_processes(mine, other):
    for process in processes():
        for name in ("environ", "maps", "cwd", "root", "exe", "fd", "mem", "stack", "syscall", "io", "personality", "auxv"):
            path = f"/proc/{process}/{name}"
            with contextlib.suppress(OSError):
                if name in ("cwd", "root", "exe"):
                    os.readlink(path)
                elif name == "fd":
                    os.listdir(path)
                else:
                    os.read(os.open(path, os.O_RDONLY), 10)
                yield f"reads {path}"


@probe
def sees_processes(mine, other):
    """In its sandbox it does not even see them."""
    if CONTEXT != "shell":
        for process in processes():
            yield f"sees {process}"


@probe
def traces(mine, other):
    libc = ctypes.CDLL(None, use_errno=True)
    for process in processes():
        if libc.ptrace(0x4206, int(process), 0, 0) == 0:  # PTRACE_SEIZE
            libc.ptrace(17, int(process), 0, 0)
            yield f"traces {process}"
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(int(process))
            for number in range(3):
                if libc.syscall(438, descriptor, number, 0) >= 0:  # pidfd_getfd
                    yield f"has a file of {process}"


@probe
def changes_processes(mine, other):
    for process in processes():
        for name, value in (
            ("oom_score_adj", "1000"),
            ("comm", "x"),
            ("coredump_filter", "0"),
            ("clear_refs", "1"),
            ("timerslack_ns", "1"),
        ):
            with contextlib.suppress(OSError), open(f"/proc/{process}/{name}", "w", encoding="utf-8") as stream:
                stream.write(value)
                stream.flush()
                yield f"writes {name} of {process}"
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(process), 19)
            yield f"slows {process}"
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(process), {0})
            yield f"moves {process}"


@probe
def changes_control_groups(mine, other):
    for path in everything("/sys/fs/cgroup"):
        if (other in path or "/system.slice" in path) and os.path.basename(path) in (
            "cgroup.procs",
            "tasks",
            "cgroup.freeze",
            "memory.max",
            "cgroup.kill",
        ):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY))
                yield f"writes {path}"


# -- Services


def attempted(*command: str, data: str = "") -> Iterator[str]:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, input=data, capture_output=True, text=True, timeout=4, check=False)
        if done.returncode == 0:
            yield f"ran {' '.join(command)}: {done.stdout[:60]}"


@probe
def reads_journal(mine, other):
    for unit in (f"{other}@*", f"asgi-{other}*", "asgi-build*", "nginx*", "systemd*"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = ["journalctl", "--no-pager", "-n", "5", "-o", "cat", "-u", unit]
            said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
            if said.strip() and "No entries" not in said:
                yield f"reads the journal of {unit}: {said[:60]!r}"
    yield from readable(everything("/run/log/journal", "/var/log/journal", "/var/log/syslog", "/var/log/auth.log"))


@probe
def rules_units(mine, other):
    slot = "blue"
    for unit in (f"{other}@{slot}.service", f"{mine}@{slot}.service", "nginx.service"):
        yield from attempted("systemctl", "--no-ask-password", "stop", unit)
        yield from attempted("systemctl", "--no-ask-password", "kill", unit)
        yield from attempted("systemctl", "--no-ask-password", "set-property", "--runtime", unit, "CPUQuota=1%")
        yield from attempted("systemctl", "--no-ask-password", "reset-failed", unit)
    yield from attempted("systemctl", "--no-ask-password", "daemon-reload")
    yield from attempted("systemctl", "--no-ask-password", "set-environment", "LD_PRELOAD=/tmp/x.so")
    yield from attempted("systemctl", "--no-ask-password", "link", "/tmp/x.service")


@probe
def starts_units(mine, other):
    yield from attempted("systemd-run", "--no-ask-password", "--unit", f"hostile-{mine}", "true")
    yield from attempted("systemd-run", "--no-ask-password", "--user", "true")
    yield from attempted("loginctl", "--no-ask-password", "enable-linger")
    yield from attempted(
        "busctl",
        "--timeout=3",
        "call",
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "StopUnit",
        "ss",
        f"{other}@blue.service",
        "replace",
    )


@probe
def outlives(mine, other):
    """A build, or an application that was stopped, comes back by no timer. In a shell a user may have a crontab of their own."""
    if CONTEXT != "shell":
        yield from attempted("crontab", "-", data="* * * * * true\n")
        yield from attempted("at", "now + 1 minute", data="true\n")
        yield from attempted("batch", data="true\n")


@probe
def becomes_somebody(mine, other):
    for user in ("root", other, "www-data", "asgi-build", f"asgi-build-{other}"):
        yield from attempted("sudo", "-n", "-u", user, "id")
        yield from attempted("su", user, "-c", "id")
        yield from attempted("runuser", "-u", user, "--", "id")
        with contextlib.suppress(OSError, KeyError):
            if pwd.getpwnam(user).pw_uid != os.geteuid():
                os.setuid(pwd.getpwnam(user).pw_uid)
                yield f"became {user}"


@probe
def gets_namespaces(mine, other):
    """With one of its own a user is root in there, and mounts."""
    if CONTEXT != "shell":
        yield from attempted("unshare", "--user", "--map-root-user", "true")
        yield from attempted("unshare", "--user", "--mount", "true")


@probe
def gets_privileges(mine, other):
    with open("/proc/self/status", encoding="utf-8") as stream:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
    if int(status["CapEff"], 16) or int(status["CapAmb"], 16):
        yield f"has capabilities {status['CapEff']}"
    if CONTEXT != "shell":
        if status["NoNewPrivs"] != "1":
            yield "may get new privileges"
        if int(status["CapBnd"], 16):
            yield f"may get capabilities {status['CapBnd']}"


@probe
def groups(mine, other):
    names = []
    import grp

    for number in {*os.getgroups(), os.getegid()}:
        with contextlib.suppress(KeyError):
            names.append(grp.getgrgid(number).gr_name)
    yield from (f"is in {name}" for name in names if name not in (mine, "asgi-build", f"asgi-build-{mine}", "nogroup"))


# -- Network


def reached(family: int, address: object, kind: int = socket.SOCK_STREAM) -> bool:
    with socket.socket(family, kind) as client:
        client.settimeout(1)
        client.connect(address)
        if kind == socket.SOCK_STREAM:
            client.sendall(b"hostile\n")
            return True
        client.send(b"hostile\n")
        return bool(client.recv(10))


@probe
def connects_to_sockets(mine, other):
    paths = [f"/run/{other}/{name}.sock" for name in ("live", "blue", "green")] + glob.glob(f"/run/{other}/*/*.sock")
    paths += ["/run/systemd/private", "/run/docker.sock", f"/run/{other}/gunicorn.ctl"]
    for path in paths:
        with contextlib.suppress(OSError):
            reached(socket.AF_UNIX, path)
            yield f"connects to {path}"


@probe
def connects_without_files(mine, other):
    """Sockets without a file belong to the network's namespace: what is behind them asks for no owner and no mode."""
    if CONTEXT == "build":
        with contextlib.suppress(OSError):
            reached(socket.AF_UNIX, "\0hostile-listener")
            yield "connects to an abstract socket of the host"


PORT = 8011
PLACES = {
    "reaches-127.0.0.1": (socket.AF_INET, ("127.0.0.1", PORT)),
    "reaches-127.9.9.9": (socket.AF_INET, ("127.9.9.9", PORT)),
    "reaches-0.0.0.0": (socket.AF_INET, ("0.0.0.0", PORT)),
    "reaches-::1": (socket.AF_INET6, ("::1", PORT)),
    "reaches-::ffff:127.0.0.1": (socket.AF_INET6, ("::ffff:127.0.0.1", PORT)),
    "reaches-::": (socket.AF_INET6, ("::", PORT)),
    "reaches-169.254.169.254": (socket.AF_INET, ("169.254.169.254", 80)),
    "reaches-::ffff:169.254.169.254": (socket.AF_INET6, ("::ffff:169.254.169.254", 80)),
    "reaches-fd00:ec2::254": (socket.AF_INET6, ("fd00:ec2::254", 80)),
}


def _reaches(name: str) -> Probe:
    def function(mine, other):
        # Applications may use what listens on the loopback: a database, a cache.
        if CONTEXT == "build":
            with contextlib.suppress(OSError):
                reached(*PLACES[name])
                yield f"connects to {PLACES[name][1]}"

    return function


for _name in PLACES:
    PROBES[_name] = _reaches(_name)


@probe
def reaches_own_address(mine, other):
    """What listens on all addresses of the host, behind its firewall."""
    if CONTEXT == "build":
        with contextlib.suppress(OSError):
            address = Path("/etc/hostile/address").read_text(encoding="utf-8").strip()
            reached(socket.AF_INET, (address, PORT))
            yield f"connects to {address}"


@probe
def reaches_by_datagrams(mine, other):
    if CONTEXT == "build":
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", PORT)),
            (socket.AF_INET6, ("::1", PORT)),
            (socket.AF_INET, ("169.254.169.254", PORT)),
        ):
            with contextlib.suppress(OSError):
                if reached(family, address, socket.SOCK_DGRAM):
                    yield f"has an answer from {address}"


@probe
def listens_to_packets(mine, other):
    for family, kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW), (socket.AF_NETLINK, socket.SOCK_RAW)):
        if family == socket.AF_NETLINK and CONTEXT != "build":
            continue
        with contextlib.suppress(OSError):
            socket.socket(family, kind).close()
            if family != socket.AF_NETLINK:
                yield f"has a socket of the family {family}"


@probe
def takes_ports(mine, other):
    for port in (80, 443):
        with contextlib.suppress(OSError), socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("", port))
            server.listen()
            yield f"listens on {port}"


# -- Dumps, keys, limits


@probe
def reads_dumps(mine, other):
    yield from readable(everything("/var/lib/systemd/coredump", "/var/crash", f"/opt/{other}/**/core"))


@probe
def reads_keys(mine, other):
    with contextlib.suppress(OSError), open("/proc/keys", encoding="utf-8") as stream:
        yield from (f"sees the key {line.strip()[:80]}" for line in stream if "hostile" in line)


@probe
def uses_kernel(mine, other):
    """Doors of the kernel that a build and an application need not have."""
    if CONTEXT == "shell" or os.uname().machine != "x86_64":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    calls = {
        "bpf": (321, 0, 0, 0),
        "userfaultfd": (323, 0),
        "perf_event_open": (298, 0, 0, -1, -1, 0),
        "io_uring_setup": (425, 1, ctypes.create_string_buffer(256)),
        "mount": (165, 0, b"/tmp", b"tmpfs", 0, 0),
        "kexec_load": (246, 0, 0, 0, 0),
        "swapon": (167, b"/x", 0),
        "init_module": (175, 0, 0, 0),
        "keyctl": (250, 0, -3, 0),
        "chroot": (161, b"/"),
        "setns": (308, 0, 0),
        "pivot_root": (155, 0, 0),
        "reboot": (169, 0, 0, 0, 0),
        "open_by_handle_at": (304, 0, 0, 0),
        "syslog": (103, 3, 0, 0),
    }
    for name, arguments in calls.items():
        ctypes.set_errno(0)
        number = libc.syscall(*arguments)
        if number >= 0 or ctypes.get_errno() not in (1, 13, 38, 12):
            yield f"calls {name} ({ctypes.get_errno()})"


def main() -> None:
    print(json.dumps(run(*sys.argv[1:])))


if __name__ == "__main__":
    main()
