"""What a build tries: each attempt by its name, with what it is after and what is expected of the collection.

The build runs them on the host (backend.py, or a command before or after the build); the test reads the table. Success is judged
on the host, as root, and never by the word of the attempt, but for what only it can see: those write into a report of the release.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# Where the host has a file and an empty directory for each attempt, root's alone: /etc/hostile/NAME/{file,directory}.
TARGETS = "/etc/hostile"
# What only root can write.
CANARY = "/run/hostile-canary"
# In all that is forged. Turned round, so that no source has it.
MARK = "DLIUB-EHT-YB-DEGROF"
# The socket, without a file, of an accomplice that runs on the host as the application's user.
ACCOMPLICE = "\0hostile-accomplice"

REFUSED, NO_EFFECT = "refused", "no effect"


class Build:
    """What an attempt knows of the build that it is part of."""

    def __init__(self) -> None:
        self.source = Path.cwd()
        named = self.source / "attempt"
        self.attempt = named.read_text(encoding="utf-8").strip() if named.exists() else ""
        # RELEASE/build/source, or RELEASE/app for a command.
        self.release = next((path for path in self.source.parents if (path / ".building").exists()), self.source.parent)
        self.work = self.source.parent if self.source.name == "source" else self.release / "build"
        self.venv = Path(os.environ.get("UV_PROJECT_ENVIRONMENT") or self.release / ".venv")
        self.cache = Path(os.environ.get("UV_CACHE_DIR") or "/opt/uv/cache/uv")
        # What goes into the wheel. The bytecode of these is kept from the first release on.
        pages = b"KEPT = 'the bytecode of this module is kept from the release before'\n"
        self.files: dict[str, bytes] = {"hostile_package/__init__.py": b"", "hostile_pages/__init__.py": pages}
        self.modes: dict[str, int] = {}
        self.unrecorded: set[str] = set()

    @property
    def target(self) -> str:
        return f"{TARGETS}/{self.attempt}/file"

    @property
    def directory(self) -> str:
        return f"{TARGETS}/{self.attempt}/directory"

    def run(self) -> None:
        """Make the attempts of the group that the file `attempt` names."""
        group = [each for each in ATTEMPTS.values() if each.group == self.attempt]
        for each in group:
            self.attempt = each.name
            try:
                each.run(self)
            except (OSError, SystemExit) as error:
                if len(group) == 1:
                    raise
                print(f"{each.name}: {error}", file=sys.stderr)

    @property
    def library(self) -> Path:
        """The directory that packages are installed in, which need not be there yet."""
        return self.venv / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

    def later(self, code: str) -> None:
        """Have code run whenever the build starts the interpreter of the virtual environment, as for compiling bytecode."""
        header = f"import os, sys, time, pathlib\nlibrary = pathlib.Path(__file__).parent\ntarget = {self.target!r}\n"
        header += f"directory = {self.directory!r}\nMARK = {MARK!r}\n"
        name = f"hostile_later_{self.attempt.replace('-', '_')}"
        self.files[f"{name}.py"] = f"{header}try:\n    {code.strip().replace(chr(10), chr(10) + '    ')}\n"[:].encode()
        self.files[f"{name}.py"] += b"except OSError as error:\n    print(error, file=sys.stderr)\n"
        self.files[f"{name}.pth"] = f"import {name}\n".encode()


@dataclass
class Attempt:
    name: str
    tries: str
    run: Callable[[Build], None]
    expected: str = NO_EFFECT
    # What the message of a refusal has.
    message: str = ""
    # Attempts of the same group are one build: none of them is to end it.
    group: str = ""
    # Whether it is made on the older Debian too.
    everywhere: bool = False
    # Seconds that it may take at most.
    seconds: float = 30
    # Whose release it is to be.
    app: str = "rival"
    # Options of asgi_release.
    options: dict[str, object] = field(default_factory=dict)


ATTEMPTS: dict[str, Attempt] = {}


def attempt(tries: str, expected: str = NO_EFFECT, **more: object) -> Callable[[Callable[[Build], None]], Callable[[Build], None]]:
    def register(function: Callable[[Build], None]) -> Callable[[Build], None]:
        name = function.__name__.replace("_", "-")
        made = Attempt(name, tries, function, expected, **more)  # type: ignore[arg-type]
        made.group = made.group or name
        ATTEMPTS[name] = made
        return function

    return register


SERVER = {"server_requirements": "h11==0.16.0 --hash=sha256:63cf8bbe7522de3bf65932fda1d9c2772064ffb3dae62d55932da54b31cb6c86"}
PYTHON = "/usr/bin/python3"


def replaced(path: Path) -> Path:
    """Make way for something else at `path`."""
    if path.is_dir() and not path.is_symlink():
        subprocess.run(["rm", "-rf", path], check=True)
    elif path.is_symlink() or path.exists():
        path.unlink()
    return path


# -- What root writes or opens in a tree of the build's


@attempt("have root overwrite a file by a link at the place of the server's requirements", options=SERVER, group="quiet", everywhere=True)
def requirements_link(build):
    (build.work / "server-requirements.txt").symlink_to(build.target)


@attempt("have root wait for ever at a FIFO at the place of the server's requirements", options=SERVER, group="blocking")
def requirements_fifo(build):
    os.mkfifo(build.work / "server-requirements.txt")


@attempt("have root write into a directory of the host by a link at the place of what is compiled", group="quiet", everywhere=True)
def compile_link(build):
    (build.work / "compile").symlink_to(build.directory)


@attempt("have root read a FIFO at the place of uv.lock", everywhere=True)
def lock_fifo(build):
    os.mkfifo(replaced(build.source / "uv.lock"))


@attempt("have root read /dev/zero at the place of uv.lock", group="blocking")
def lock_device(build):
    replaced(build.source / "uv.lock").symlink_to("/dev/zero")


@attempt("have root read a file of the host at the place of uv.lock")
def lock_link(build):
    replaced(build.source / "uv.lock").symlink_to(build.target)


@attempt("have root read a terabyte at the place of uv.lock")
def lock_sparse(build):
    with open(replaced(build.source / "uv.lock"), "wb") as stream:
        stream.truncate(1 << 40)


# -- Bytecode


@attempt("have bytecode linked into a directory of root's, by a link at the place of __pycache__", group="quiet", everywhere=True)
def pycache_link(build):
    # The module is one of an earlier release, whose bytecode is kept.
    (build.library / "hostile_pages").mkdir(parents=True, exist_ok=True)
    (build.library / "hostile_pages/__pycache__").symlink_to(build.directory)


FORGE = """
import importlib._bootstrap_external as external, importlib.util
for module in library.rglob({pattern!r}):
    text = f"FORGED = {MARK[::-1]!r}\\nimport os\\nif os.geteuid() == 0:\\n    open('/run/hostile-canary', 'a').write('pyc\\\\n')\\n"
    code = compile(text, str(module), "exec")
    path = pathlib.Path(importlib.util.cache_from_source(str(module)))
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.unlink()
    path.write_bytes(external._code_to_hash_pyc(code, importlib.util.source_hash(b"x"), False))
"""


@attempt("have forged bytecode kept for all releases of the host that have the same module", group="bytecode", everywhere=True)
def pyc_forged(build):
    build.files["hostile_common.py"] = b"COMMON = 'two applications have this module'\n"
    build.later(FORGE.replace("{pattern!r}", "'hostile_common.py'"))


@attempt("have forged bytecode of the server's packages kept", options=SERVER, group="bytecode", everywhere=True)
def pyc_forged_server(build):
    build.later(FORGE.replace("{pattern!r}", "'h11/*.py'"))


@attempt("have forged bytecode, kept before, put where root's Python reads it", group="bytecode", everywhere=True)
def pyc_root_first(build):
    build.files["hostile_root/helper.py"] = b"ROOT = 'any content at all'\n"
    build.later(FORGE.replace("{pattern!r}", "'hostile_root/*.py'"))


@attempt("have forged bytecode put where root's Python reads it", everywhere=True)
def pyc_root_second(build):
    build.files["hostile_root/helper.py"] = b"ROOT = 'any content at all'\n"
    (build.library / "hostile_root").mkdir(parents=True, exist_ok=True)
    (build.library / "hostile_root/__pycache__").symlink_to("/usr/local/lib/hostile/__pycache__")


# -- What is left in the release


def linked(build, name, to):
    (build.library / "hostile_links").mkdir(parents=True, exist_ok=True)
    (build.library / "hostile_links" / name).symlink_to(to)


@attempt("leave a link to a file of the host", REFUSED, message="link")
def link_absolute(build):
    linked(build, "x", build.target)


@attempt("leave a link by way of another link", REFUSED, message="link")
def link_chain(build):
    linked(build, "first", "second")
    linked(build, "second", "../../../../../../../../..")


@attempt("leave a link that the start of an interpreter makes, when all was looked at", everywhere=True)
def link_late(build):
    build.later("(library / 'hostile_late').symlink_to(target)")


@attempt("leave a FIFO", REFUSED, message="fifo|neither|regular", everywhere=True)
def left_fifo(build):
    build.library.mkdir(parents=True, exist_ok=True)
    os.mkfifo(build.library / "fifo")


@attempt("leave a socket", REFUSED, message="socket|neither|regular")
def left_socket(build):
    build.library.mkdir(parents=True, exist_ok=True)
    os.chdir(build.library)
    socket.socket(socket.AF_UNIX).bind("socket")
    os.chdir(build.source)


@attempt("make a device", group="quiet", everywhere=True)
def left_device(build):
    build.library.mkdir(parents=True, exist_ok=True)
    os.mknod(build.library / "null", 0o666 | stat.S_IFBLK, os.makedev(8, 0))


@attempt("leave a file that changes its user when it is run", group="quiet", everywhere=True)
def left_suid(build):
    build.files["hostile_suid"] = b"#!/bin/sh\nid\n"
    build.modes["hostile_suid"] = 0o104755
    build.later("(library / 'hostile_suid').chmod(0o4755)")


@attempt("leave files that everybody may write to", group="quiet", everywhere=True)
def left_writable(build):
    build.later("(library / 'hostile_package').chmod(0o777); (library / 'hostile_package' / '__init__.py').chmod(0o666)")


@attempt("leave a file with capabilities", group="quiet", everywhere=True)
def left_capability(build):
    build.library.mkdir(parents=True, exist_ok=True)
    path = build.library / "capable"
    path.write_bytes(b"#!/bin/sh\n")
    os.setxattr(path, "security.capability", struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0, 0))


# user::rwx, user:UID:rwx, group::rwx, mask::rwx, other::rwx
def acl(uid: int) -> bytes:
    entries = [(1, 7, 0xFFFFFFFF), (2, 7, uid), (4, 7, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 7, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@attempt("leave directories and files that an access list opens to the application's user", group="quiet", everywhere=True)
def left_acl(build):
    build.library.mkdir(parents=True, exist_ok=True)
    directory = build.library / "listed"
    directory.mkdir()
    (directory / "file.py").write_bytes(b"X = 1\n")
    os.setxattr(directory, "system.posix_acl_default", acl(os.geteuid()))
    os.setxattr(directory, "system.posix_acl_access", acl(os.geteuid()))
    os.setxattr(directory / "file.py", "system.posix_acl_access", acl(os.geteuid()))


@attempt("leave a second name of a file of the host", group="quiet", everywhere=True)
def left_hard_link(build):
    build.library.mkdir(parents=True, exist_ok=True)
    errors = []
    for path in (
        "/etc/passwd",
        "/opt/victim/slots/live/release/app/hostile.py",
        "/opt/victim/slots/live/release/release.json",
        build.target,
    ):
        try:
            os.link(path, build.library / f"linked{len(errors)}")
        except OSError as error:
            errors.append(str(error))
    if len(errors) == 4:
        raise SystemExit("; ".join(errors))


@attempt("keep a second name of a file of the release outside of it", NO_EFFECT, group="quiet", everywhere=True)
def left_second_name(build):
    for directory in (build.cache, Path("/dev/shm"), Path("/run/lock"), Path("/tmp"), build.source):
        with contextlib.suppress(OSError):
            build.library.mkdir(parents=True, exist_ok=True)
            path = build.library / "second.py"
            path.write_bytes(b"SECOND = 1\n")
            os.link(path, directory / "hostile-second-name")
            return


@attempt("hand an open file of the release to a process outside, which writes to it when it is sealed", group="opened", everywhere=True)
def left_open(build):
    build.library.mkdir(parents=True, exist_ok=True)
    path = build.library / "opened.py"
    path.write_bytes(b"# an open file\n" * 100)
    with contextlib.suppress(OSError), open(path, "r+b") as stream, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(ACCOMPLICE)
        client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [stream.fileno()]))])
        client.recv(1)


@attempt(
    "have a process outside open a file of the release, by its mode, which writes to it when it is sealed", group="opened", everywhere=True
)
def left_opened(build):
    build.library.mkdir(parents=True, exist_ok=True)
    path = build.library / "opened.py"
    content = b"# a file that somebody has open\n" * 100
    path.write_bytes(content)
    for each in (build.venv, *build.library.parents, build.library):
        if each.is_relative_to(build.venv):
            each.chmod(0o777)
    path.chmod(0o666)
    # The accomplice writes to what it has found.
    for _ in range(30):
        if path.read_bytes() != content:
            break
        time.sleep(0.1)


@attempt("leave more directories within each other than a walk can take", everywhere=True)
def left_deep(build):
    build.library.mkdir(parents=True, exist_ok=True)
    os.chdir(build.library)
    for _ in range(3000):
        os.mkdir("deep")
        os.chdir("deep")
    os.chdir(build.source)


@attempt("leave a path that is longer than the kernel takes")
def left_long(build):
    build.library.mkdir(parents=True, exist_ok=True)
    os.chdir(build.library)
    for _ in range(30):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    Path("file").write_bytes(b"x")
    os.chdir(build.source)


@attempt("leave a file whose digest takes for ever")
def left_sparse(build):
    build.library.mkdir(parents=True, exist_ok=True)
    with open(build.library / "sparse", "wb") as stream:
        stream.truncate(8 << 40)


@attempt("leave two hundred files whose digests take for ever", REFUSED, message="never written")
def left_sparse_many(build):
    build.library.mkdir(parents=True, exist_ok=True)
    for number in range(200):
        with open(build.library / f"sparse{number}", "wb") as stream:
            stream.truncate(4 << 30)


@attempt("leave twenty thousand files", seconds=60, group="quiet", everywhere=True)
def left_many(build):
    build.library.mkdir(parents=True, exist_ok=True)
    many = build.library / "many"
    many.mkdir()
    for number in range(20_000):
        os.close(os.open(many / str(number), os.O_CREAT | os.O_WRONLY))


@attempt("leave a directory that nobody may read", group="quiet", everywhere=True)
def left_closed(build):
    build.later(
        "(library / 'closed' / 'inner').mkdir(parents=True); (library / 'closed' / 'inner').chmod(0); (library / 'closed').chmod(0)"
    )


@attempt("leave a file that cannot be changed any more", group="quiet", everywhere=True)
def left_immutable(build):
    build.library.mkdir(parents=True, exist_ok=True)
    import fcntl

    with open(build.library / "immutable", "wb") as stream:
        fcntl.ioctl(stream, 0x40086602, struct.pack("l", 0x10))


@attempt("plant the mark of a complete release, by a path in a wheel that leaves it")
def wheel_leaves(build):
    build.files["../../../../release.json"] = b'{"id": "planted"}'
    build.files["../../../../../../slots/live/release/release.json"] = b'{"id": "planted"}'


@attempt("leave a link that a wheel has as one", REFUSED, message="link|symlink")
def wheel_link(build):
    build.files["hostile_link"] = build.target.encode()
    build.modes["hostile_link"] = 0o120777


@attempt("install what the wheel's own list does not name", group="quiet", everywhere=True)
def wheel_unrecorded(build):
    build.files["hostile_unrecorded.py"] = b"X = 1\n"
    build.unrecorded.add("hostile_unrecorded.py")


# -- What somebody may run or read later


@attempt(
    "have root run code of the release (.pth, sitecustomize, usercustomize, programs, the interpreter)", group="quiet", everywhere=True
)
def run_by_root(build):
    code = f"import os\nif os.geteuid() == 0:\n    open({CANARY!r}, 'a').write(__file__)\n".encode()
    for name in ("hostile_root.py", "sitecustomize.py", "usercustomize.py", "json/__init__.py", "os.py"):
        build.files[name if "/" not in name and name != "os.py" else f"hostile_shadow/{name}"] = code
    build.files["hostile_root.pth"] = b"import hostile_root\n"
    script = f'#!/bin/sh\n[ "$(id -u)" != 0 ] || echo program >>{CANARY}\nexec {PYTHON} "$@"\n'.encode()
    for name in ("gunicorn", "uvicorn", "uv", "git", "systemctl"):
        build.files[f"hostile-1.0.data/scripts/{name}"] = script
        build.modes[f"hostile-1.0.data/scripts/{name}"] = 0o100755


@attempt(
    "have root or the next build read settings that the build left (uv.toml, pip.conf, .gitconfig, .netrc)", options=SERVER, everywhere=True
)
def settings(build):
    for directory in (build.work, build.source, build.venv, build.cache, Path("/tmp"), Path(os.environ.get("HOME", "/tmp"))):
        for name in ("uv.toml", "pip.conf", "pyvenv.cfg.d", ".gitconfig", ".netrc", ".pydistutils.cfg"):
            with contextlib.suppress(OSError):
                (directory / name).write_text('index-url = "http://127.0.0.1:8011/settings"\n', encoding="utf-8")


@attempt("write escape sequences on the operator's terminal, by what a failed build says", REFUSED, message="hostile words")
def escapes_in_words(build):
    raise SystemExit("hostile words \x1b]52;c;aG9zdGlsZQ==\x07\x1b[2J\x1b[31m\x9b31m\u202egnorw\r all is well")


@attempt("write escape sequences on the operator's terminal, by the name of a file", REFUSED, message="regular|neither|fifo")
def escapes_in_names(build):
    build.library.mkdir(parents=True, exist_ok=True)
    os.mkfifo(build.library / "fifo\x1b]52;c;aG9zdGlsZQ==\x07\nok: [host]")


@attempt("write escape sequences on the operator's terminal, by the name of a package")
def escapes_in_packages(build):
    (build.library / "hostile\x1b[2J\nok-1.0.dist-info").mkdir(parents=True, exist_ok=True)


@attempt("write escape sequences on the operator's terminal, by the version of a package", REFUSED, message="gunicorn")
def escapes_in_versions(build):
    (build.library / "gunicorn-1\x1b[2J\x9b31m.dist-info").mkdir(parents=True, exist_ok=True)


@attempt("have a failed build's words fill the memory of the controller", REFUSED, message="")
def loud(build):
    block = b"x" * 1023 + b"\n"
    for _ in range(40 << 10):
        os.write(2, block)
    raise SystemExit("and then it failed")


@attempt("have root's reading of the application break down", options={"import_path": "hostile_nested:app"})
def import_nested(build):
    build.files["hostile_nested.py"] = b"app = " + b"(" * 150 + b"-" * 200_000 + b"1" + b")" * 150 + b"\n"


@attempt("have root read a terabyte as the application", options={"import_path": "hostile_sparse:app"})
def import_sparse(build):
    build.later("stream = open(library / 'hostile_sparse.py', 'wb'); stream.truncate(1 << 40); stream.close()")


@attempt("have root read a file of the host as the application", options={"import_path": "hostile_linked:app"})
def import_link(build):
    build.later("(library / 'hostile_linked.py').symlink_to(target)")


# -- Time, processes, sizes


@attempt("build for ever", REFUSED, message="time|seconds|deadline", options={"build_timeout": 5})
def endless(build):
    time.sleep(100_000)


@attempt(
    "build for ever, deaf to what is asked of it", REFUSED, message="time|seconds|deadline", options={"build_timeout": 5}, everywhere=True
)
def endless_deaf(build):
    import signal

    for number in range(1, 32):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    time.sleep(100_000)


def daemon(code: Callable[[], None]) -> None:
    import signal

    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
            os.closerange(3, 1024)
            code()
        os._exit(0)
    os.wait()


@attempt("leave a process behind, which changes the release when it is sealed", group="quiet", everywhere=True)
def survivor(build):
    def change() -> None:
        while True:
            time.sleep(0.001)
            with contextlib.suppress(OSError):
                build.library.mkdir(parents=True, exist_ok=True)
                (build.library / "survivor").write_text(MARK[::-1], encoding="utf-8")

    daemon(change)


@attempt("exchange files for links, over and over, while somebody looks at them")
def race(build):
    build.library.mkdir(parents=True, exist_ok=True)

    def exchange() -> None:
        path, other = build.library / "raced", build.library / "raced.other"
        while True:
            with contextlib.suppress(OSError):
                path.write_bytes(b"a file")
                os.replace(path, other)
                path.symlink_to(build.target)
                path.unlink()

    for _ in range(3):
        daemon(exchange)


@attempt("end with many processes that do not want to", group="quiet", everywhere=True)
def crowd(build):
    for _ in range(200):
        daemon(lambda: time.sleep(100_000))


# -- What a next build is given


@attempt("poison the packages that are kept for the next application", options=SERVER, everywhere=True)
def cache_poisoned(build):
    poison = f"\nPOISON = {MARK[::-1]!r}\n"
    for path in build.cache.rglob("h11/*.py"):
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as stream:
            stream.write(poison)
    # And those that this build fetches.
    build.later(
        f"""
for path in pathlib.Path({str(build.cache)!r}).rglob("h11/*.py"):
    with open(path, "a") as stream:
        stream.write({poison!r})
"""
    )


@attempt("have root or the next build follow links in the cache, and fail all that follow", everywhere=True)
def cache_links(build):
    for path in list(build.cache.iterdir()):
        with contextlib.suppress(OSError):
            path.rename(path.with_name(path.name + ".hostile"))
            path.symlink_to(build.directory)


@attempt(
    "be an innocent build of the other application, which has the same modules and packages", app="victim", options=SERVER, everywhere=True
)
def neighbour(build):
    build.files["hostile_common.py"] = b"COMMON = 'two applications have this module'\n"
    build.files["hostile_root/helper.py"] = b"ROOT = 'any content at all'\n"


# -- By the commands of the application, which run in its directory


def by_command(name: str, when: str) -> dict[str, object]:
    return {when: [[PYTHON, "-B", "attempts.py", name]]}


@attempt(
    "leave a FIFO in the application's directory", REFUSED, message="fifo|neither|regular", options=by_command("hook-fifo", "before_build")
)
def hook_fifo(build):
    os.mkfifo("fifo") if build.source.name == "app" else None


@attempt("leave a link in the application's directory", REFUSED, message="link", options=by_command("hook-link", "after_build"))
def hook_link(build):
    if build.source.name == "app":
        os.symlink(build.target, "linked")


@attempt("have a link published as a static file", options={**by_command("hook-static", "after_build"), "static": ["static"]})
def hook_static(build):
    if build.source.name == "app":
        os.mkdir("static")
        os.symlink(build.target, "static/secret.txt")
        Path("static/fine.txt").write_bytes(b"fine")


@attempt(
    "have a directory of the host published as static files",
    options={**by_command("hook-static-tree", "after_build"), "static": ["static"]},
)
def hook_static_tree(build):
    if build.source.name == "app":
        os.symlink("/etc", "static")


@attempt(
    "have the link of a shared path made elsewhere",
    REFUSED,
    message="",
    options={**by_command("hook-shared", "after_build"), "shared": ["data/media"], "shared_root": "/var/lib/rival"},
)
def hook_shared(build):
    if build.source.name == "app":
        os.symlink(build.directory, "data")


@attempt(
    "build for ever in a command",
    REFUSED,
    message="time|seconds|deadline",
    options={**by_command("hook-endless", "before_build"), "build_timeout": 5},
)
def hook_endless(build):
    if build.source.name == "app":
        time.sleep(100_000)


@attempt(
    "have a command's words fill the memory of root and of the controller",
    REFUSED,
    message="",
    options=by_command("hook-loud", "before_build"),
    seconds=60,
)
def hook_loud(build):
    if build.source.name == "app":
        block = b"x" * 1023 + b"\n"
        for _ in range(200 << 10):
            os.write(1, block)
        raise SystemExit("and then it failed")


@attempt("leave deep directories in the application's directory", options=by_command("hook-deep", "before_build"))
def hook_deep(build):
    if build.source.name == "app":
        for _ in range(3000):
            os.mkdir("deep")
            os.chdir("deep")


# -- Many in one: what is refused by the kernel has no effect on the build


@attempt("reach and change what is not the build's (probes.py)", everywhere=True)
def probes(build):
    import probes as module

    report = module.run("rival", "victim", "build")
    build.files["hostile_report.json"] = json.dumps(report).encode()


def main() -> None:
    build = Build()
    build.attempt = sys.argv[1]
    build.run()


if __name__ == "__main__":
    main()
