"""What is told of a process is asked of real ones: children of the tests that stand for a server and its workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import processes
from ansible_collections.steadfast.asgi.plugins.module_utils.processes import Server

# Forks as many workers as WORKERS says, and tells their PIDs. Behaves so under whatever name it is started.
SERVER = """
import os, signal
workers = []
for _ in range(int(os.environ.get("WORKERS", "0"))):
    child = os.fork()
    if not child:
        signal.pause()
    workers.append(child)
print(*workers, flush=True)
signal.pause()
"""
SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

Start = Callable[..., int]


def printed(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command in a directory of the test; returns its PID when it has printed a line."""
    with contextlib.ExitStack() as stack:

        def run(*words: str | Path, cwd: Path = tmp_path, executable: str | None = None, prints: bool = True, **environment: str) -> int:
            process = stack.enter_context(
                subprocess.Popen(
                    list(map(str, words)),
                    executable=executable,
                    cwd=cwd,
                    env={"PATH": os.environ["PATH"], **environment},
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                    text=True,
                )
            )
            # With all of its children, before the stack waits for it.
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            if prints:
                assert printed(process)
            # Popen returns a moment before the kernel has put the arguments into place.
            while not processes.read(f"/proc/{process.pid}/cmdline"):
                time.sleep(0.001)
            return process.pid

        yield run


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment as far as its paths go, with the servers in it."""
    path = tmp_path / "venv"
    for name in (f"{SITE}/fastapi-1.0.dist-info", "bin"):
        (path / name).mkdir(parents=True)
    (path / "bin/python").symlink_to(os.path.realpath(sys.executable))
    for name in ("gunicorn", "uvicorn", "hypercorn", "granian", "asgi_granian.py", "daphne"):
        (path / "bin" / name).write_text(f"#!{path}/bin/python\n{SERVER}")
        (path / "bin" / name).chmod(0o755)
        (tmp_path / f"{name}.py").write_text(SERVER)
    return path


# A process


def test_a_process_that_has_ended_is_not_alive_even_if_nobody_asked_for_its_code() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert os.path.exists(f"/proc/{process.pid}")
        assert not processes.alive(process.pid)
    assert not processes.alive(process.pid)
    assert processes.alive(os.getpid())


def test_a_name_that_looks_like_the_fields_after_it_does_not_confuse() -> None:
    comm = Path("/proc/self/comm")
    before = comm.read_text()
    try:
        comm.write_text("a) Z 1 2 (")
        assert processes.alive(os.getpid())
        assert 0 < processes.start_time(os.getpid()) < time.time()
    finally:
        comm.write_text(before)


def test_the_start_of_a_process_is_known_to_a_hundredth_of_a_second(start: Start) -> None:
    before = time.time()
    pid = start("sleep", "60", prints=False)
    assert before - 0.02 <= processes.start_time(pid) <= time.time()
    assert processes.start_time(2**22 + 1) == 0


def test_children_are_the_workers_in_the_order_of_their_start(start: Start, venv: Path) -> None:
    pid = start(venv / "bin/gunicorn", WORKERS="3")
    workers = processes.children(pid)
    assert len(workers) == 3
    assert workers == sorted(workers)
    assert processes.children(workers[0]) == []
    assert processes.children(2**22 + 1) == []


def test_neither_a_zombie_nor_python_s_own_helper_is_a_worker(start: Start) -> None:
    code = """
import os, signal, subprocess, threading
if not os.fork():
    os._exit(0)
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
helper = subprocess.Popen(["sh", "-c", "sleep 60; :", "from multiprocessing.resource_tracker import main;main(5)"])
started = []
# A child belongs to the thread that forked it, and to that thread's list.
def work():
    started.append(subprocess.Popen(["sleep", "60"]))
    threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
while not started:
    pass
# Popen returns a moment before the kernel has put the arguments into place.
for process in (helper, started[0]):
    while not open(f"/proc/{process.pid}/cmdline").read():
        pass
print(started[0].pid, flush=True)
signal.pause()
"""
    pid = start(sys.executable, "-I", "-S", "-c", code)
    (worker,) = processes.children(pid)
    assert processes.read(f"/proc/{worker}/cmdline") == b"sleep\x0060\x00"


# Which server it is


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["{venv}/bin/python", "-m", "gunicorn", "app:app"], "gunicorn"),
        (["{venv}/bin/gunicorn", "app:app"], "gunicorn"),
        (["{venv}/bin/uvicorn", "app:app"], "uvicorn"),
        (["{venv}/bin/python", "-m", "hypercorn"], "hypercorn"),
        (["{venv}/bin/granian", "app:app"], "granian"),
        (["{venv}/bin/python", "{venv}/bin/asgi_granian.py"], "granian"),
        (["{venv}/bin/daphne", "app:app"], "unknown"),
        # What is an argument is no server.
        (["{venv}/bin/daphne", "app:app", "gunicorn"], "unknown"),
    ],
)
def test_a_server_is_known_by_its_command_line(start: Start, venv: Path, words: list[str], kind: str) -> None:
    pid = start(*[word.format(venv=venv) for word in words])
    server = processes.identify(pid)
    assert (server.pid, server.kind) == (pid, kind)
    assert server.arguments[-1] == words[-1].format(venv=venv)
    assert server.python == f"{venv}/bin/python"
    assert processes.site_packages(server) == [f"{venv}/{SITE}"]
    assert server.started == pytest.approx(processes.start_time(pid), abs=0.1)


def test_a_server_that_gave_itself_a_title_is_known_by_that(start: Start) -> None:
    server = processes.identify(start("gunicorn: master [shop.main:app]", "60", executable="/bin/sleep", prints=False))
    assert server.kind == "gunicorn"
    # The title has taken the place of the interpreter.
    assert server.python == ""
    assert processes.site_packages(server) == []
    assert processes.package_version(server, "gunicorn") is None


def test_a_process_that_is_gone_is_no_server() -> None:
    assert processes.identify(2**22 + 1) == Server(2**22 + 1, "unknown", (), 0.0)


@pytest.mark.parametrize(
    ("installed", "version"),
    [
        (["uvicorn-0.51.0.dist-info"], (0, 51, 0)),
        (["uvicorn-0.9.dist-info", "h11-1.0.dist-info"], (0, 9)),
        (["uvicorn-1.0rc1.dist-info"], (1, 0)),
        (["uvicorn_worker-0.4.0.dist-info", "uvicorn-0.54.0.dist-info"], (0, 54, 0)),
        (["uvicorn_worker-0.4.0.dist-info", "uvicorn", "uvicorn-0.54.data"], None),
        ([], None),
    ],
)
def test_the_version_of_a_package_is_that_of_the_server_s_environment(
    venv: Path, installed: list[str], version: tuple[int, ...] | None
) -> None:
    for name in installed:
        (venv / SITE / name).mkdir()
    server = Server(1, "uvicorn", (f"{venv}/bin/python", "-m", "uvicorn"), 0.0)
    assert processes.package_version(server, "uvicorn") == version


# Its socket


def test_who_holds_a_listening_socket_is_known(start: Start, short_path: Path) -> None:
    path = str(short_path / "app server.sock")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(path)
        assert processes.listening_inodes(os.getpid(), path) == set(), "bound, and nobody listens yet"
        listening.listen()
        client.connect(path)
        # An accepted connection has the name of the socket too.
        with listening.accept()[0]:
            inodes = processes.listening_inodes(os.getpid(), path)
        assert inodes == {os.fstat(listening.fileno()).st_ino}
        assert processes.listening_inodes(os.getpid(), path + "x") == set()
        with subprocess.Popen(["sleep", "60"], pass_fds=[listening.fileno()]) as worker:
            other = start("sleep", "60", prints=False)
            holders = [pid for pid in (os.getpid(), worker.pid, other, 2**22 + 1) if processes.holds(pid, inodes)]
            worker.kill()
        assert holders == [os.getpid(), worker.pid]
        assert not processes.holds(os.getpid(), set())


# Whether gunicorn loads the application once for all workers


@pytest.mark.parametrize(
    ("arguments", "environment", "configurations", "expected"),
    [
        ([], "", {}, False),
        (["--preload"], "", {}, True),
        (["--preload-app"], "", {}, True),
        ([], "--workers=4 --preload", {}, True),
        ([], "--workers=4", {}, False),
        ([], "", {"gunicorn.conf.py": "preload_app = True"}, True),
        ([], "", {"gunicorn.conf.py": "preload_app = False"}, False),
        ([], "", {"gunicorn.conf.py": "# preload_app = True\nworkers = 4"}, False),
        ([], "", {"gunicorn.conf.py": "preload_app = ("}, False),
        (["-c", "conf.py"], "", {"conf.py": "workers = 4\npreload_app = True\n"}, True),
        (["--config", "conf.py"], "", {"conf.py": "preload_app = True"}, True),
        (["--config=conf.py"], "", {"conf.py": "preload_app = True"}, True),
        (["-c", "file:conf.py"], "", {"conf.py": "preload_app = True"}, True),
        ([], "-c conf.py", {"conf.py": "preload_app = True"}, True),
        # The file that was named takes the place of the one that is looked for.
        (["-c", "conf.py"], "", {"conf.py": "", "gunicorn.conf.py": "preload_app = True"}, False),
        (["-c", "python:conf"], "", {}, False),
    ],
)
def test_preloading_is_noticed_wherever_it_is_set(
    start: Start, tmp_path: Path, arguments: list[str], environment: str, configurations: dict[str, str], expected: bool
) -> None:
    for name, text in configurations.items():
        (tmp_path / name).write_text(text)
    # A shell starts faster than Python, and the name is what counts.
    given = {"GUNICORN_CMD_ARGS": environment} if environment else {}
    (tmp_path / "gunicorn").write_text("echo up; sleep 60; :")
    pid = start("sh", "gunicorn", *arguments, **given)
    server = processes.identify(pid)
    assert server.kind == "gunicorn"
    assert processes.preloads(server) is expected


def test_a_configuration_elsewhere_is_read_where_it_is(start: Start, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/conf.py").write_text("preload_app = True")
    (tmp_path / "gunicorn").write_text("echo up; sleep 60; :")
    assert processes.preloads(processes.identify(start("sh", "gunicorn", "-c", tmp_path / "etc/conf.py")))


# Why a reload would not do


@pytest.fixture
def gunicorn(start: Start, venv: Path) -> Server:
    return processes.identify(start(venv / "bin/gunicorn", "app:app", WORKERS="1"))


Files = dict[str, Path]


@pytest.fixture
def inputs(tmp_path: Path) -> Files:
    """What was written just before the server is started. (Listed before it in the tests' arguments.)"""
    found = {name: tmp_path / name for name in ("env", "shop.service", "uv.lock")}
    for path in found.values():
        path.write_text("old")
    return found


def obstacles(server: Server, inputs: Files) -> list[str]:
    return processes.obstacles(server, [str(inputs["env"])], [str(inputs["shop.service"])], [str(inputs["uv.lock"])])


def test_where_nothing_changed_nothing_is_in_the_way(inputs: Files, gunicorn: Server) -> None:
    assert obstacles(gunicorn, inputs) == []
    # Code is what a reload is for.
    (inputs["env"].parent / "app.py").write_text("")
    inputs["uv.lock"].unlink()
    assert obstacles(gunicorn, inputs) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda inputs, _venv: inputs["env"].write_text("new"), "the environment changed: {tmp}/env"),
        (lambda inputs, _venv: inputs["shop.service"].write_text("new"), "the unit changed: {tmp}/shop.service"),
        (lambda inputs, _venv: inputs["uv.lock"].write_text("new"), "the lock changed: {tmp}/uv.lock"),
        # A copy that keeps the old times is a change all the same.
        (lambda inputs, _venv: os.utime(inputs["uv.lock"], (1, 1)), "the lock changed: {tmp}/uv.lock"),
        (lambda _inputs, venv: (venv / SITE / "h11-1.dist-info").mkdir(), "packages were installed or removed in {tmp}/venv/" + SITE),
        (lambda _inputs, venv: (venv / SITE / "fastapi-1.0.dist-info").rmdir(), "packages were installed or removed in {tmp}/venv/" + SITE),
    ],
)
def test_what_the_running_master_does_not_see_is_in_the_way(
    inputs: Files, gunicorn: Server, venv: Path, tmp_path: Path, change: Callable[[Files, Path], object], said: str
) -> None:
    time.sleep(0.03)
    change(inputs, venv)
    assert obstacles(gunicorn, inputs) == [said.format(tmp=tmp_path)]


def test_another_interpreter_is_in_the_way(inputs: Files, gunicorn: Server, venv: Path) -> None:
    python = venv / "bin/python"
    python.unlink()
    (python.parent / "python3").symlink_to(os.path.realpath(sys.executable))
    python.symlink_to("python3")
    assert obstacles(gunicorn, inputs) == [], "another way to the same one is none"
    python.unlink()
    python.symlink_to(str(shutil.which("sleep")))
    (reason,) = obstacles(gunicorn, inputs)
    assert reason.startswith("the interpreter is another one")
    assert os.path.realpath(sys.executable) in reason
    python.unlink()
    assert "the interpreter is another one" in obstacles(gunicorn, inputs)[0]


def test_preloading_is_in_the_way(inputs: Files, start: Start, venv: Path) -> None:
    server = processes.identify(start(venv / "bin/gunicorn", "--preload", "app:app", WORKERS="1"))
    (reason,) = obstacles(server, inputs)
    assert "preload_app" in reason


@pytest.mark.parametrize(
    ("kind", "workers", "version", "said"),
    [
        ("uvicorn", 0, "0.54.0", "single process"),
        ("uvicorn", 2, "0.50.2", "uvicorn 0.50.2 stops each worker before the next one serves"),
        ("uvicorn", 2, "0.51.0", ""),
        ("uvicorn", 2, "", ""),
        ("hypercorn", 0, "", "single process"),
        ("hypercorn", 1, "", ""),
        ("gunicorn", 0, "", ""),
        ("granian", 2, "", "after a fixed time"),
    ],
)
def test_what_a_server_makes_of_the_signal_can_be_in_the_way(
    inputs: Files, start: Start, venv: Path, kind: str, workers: int, version: str, said: str
) -> None:
    if version:
        (venv / SITE / f"{kind}-{version}.dist-info").mkdir()
    time.sleep(0.02)
    found = obstacles(processes.identify(start(venv / "bin" / kind, "app:app", WORKERS=str(workers))), inputs)
    assert len(found) == (1 if said else 0)
    assert said in "".join(found)


@pytest.mark.parametrize(
    ("arguments", "configured", "expected"),
    [
        (["-k", "asgi"], "", True),
        (["--worker-class", "asgi"], "", True),
        ([], 'worker_class = "asgi"', True),
        ([], "worker_class = NativeWorker", True),
        ([], "worker_class = HandoverWorker", False),
        ([], "worker_class = classes.of('asgi')", False),
        ([], "", False),
        (["asgi"], "", False),
    ],
)
def test_gunicorn_s_own_workers_for_asgi_are_in_the_way(
    inputs: Files, start: Start, venv: Path, tmp_path: Path, arguments: list[str], configured: str, expected: bool
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(configured)
    server = processes.identify(start(venv / "bin/gunicorn", *arguments, "app:app", WORKERS="1"))
    assert processes.native_workers(server) is expected
    assert ("worker class asgi" in "".join(obstacles(server, inputs))) is expected


def test_every_reason_is_told(inputs: Files, start: Start, venv: Path) -> None:
    server = processes.identify(start(venv / "bin/uvicorn", "app:app"))
    time.sleep(0.03)
    for path in inputs.values():
        path.write_text("new")
    assert [reason.split(":")[0] for reason in obstacles(server, inputs)] == [
        "uvicorn runs as a single process, which a HUP kills; give it more than one worker",
        "the lock changed",
        "the environment changed",
        "the unit changed",
    ]


def test_what_an_application_may_choose_to_be_read_is_bounded(tmp_path: Path) -> None:
    """Its command line and its environment name files, and it can write both."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "deep.py").write_text("preload_app = " + "(" * 5000, encoding="utf-8")
    (tmp_path / "nul.py").write_bytes(b"preload_app = True\0")
    (tmp_path / "big").write_bytes(b"x" * 100)
    for name in ("fifo", "link", "", "nothing"):
        assert processes.read(str(tmp_path / name)) == b""
        assert processes.configured(str(tmp_path / name), "preload_app") is None
    assert processes.configured(str(tmp_path / "deep.py"), "preload_app") is None
    assert processes.configured(str(tmp_path / "nul.py"), "preload_app") is None
    assert processes.read(str(tmp_path / "big"), 10) == b"x" * 10
